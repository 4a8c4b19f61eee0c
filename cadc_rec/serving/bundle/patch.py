"""The difference of two versions of a file: runs of the old one, and the bytes that are new.

In: old and new bytes. Out: a patch, from which and the old bytes the new ones come back exactly.

Files are compared as words of four bytes, the size of a float32 and an int32. A row of vectors that
did not change is found wherever it stands now, so rows that were added or removed before it cost
nothing. First words are compared in their old place, then at the same distance from the end, then
by the hash of eight words, which finds them anywhere.

Arrays that count upwards (``indptr`` of a CSR) are compared as differences: one more row moves all
later numbers, but only one difference.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_WORD = 4
_BLOCK = 8  # words of a block that is searched for; a shorter run costs what it saves
_AT_ONCE = 2**20  # words whose hashes are looked up at once
_FACTOR = 0x9E3779B97F4A7C15  # odd: it has an inverse modulo 2**64
_LEVEL = 9
_HEAD = struct.Struct("<QQQ")  # words of the new file, runs, bytes at its end

Words = NDArray[np.uint32]
Counts = tuple[int, int]
"""Where int64 that count upwards begin in a file, in bytes, and how many they are."""


class BadPatchError(ValueError):
    """Bytes that are no patch of this old file."""


@dataclass(frozen=True)
class _Runs:
    """Runs of words of a new file, in order: where each stands in the old one, -1 nowhere."""

    lengths: NDArray[np.int64]
    sources: NDArray[np.int64]


def make_patch(old: bytes, new: bytes, counts: tuple[Counts | None, Counts | None]) -> bytes:
    """The patch that makes `new` of `old`.

    Args:
        old: the file that the reader has.
        new: the file it is to have.
        counts: in the old and in the new file, numbers that are compared as differences.
    """
    before, after = (_as_differences(one, at) for one, at in zip((old, new), counts, strict=True))
    was, now = _words(before), _words(after)
    runs = _runs(_sources(was, now))
    literal = np.repeat(runs.sources < 0, runs.lengths)
    tail = after[len(now) * _WORD :]
    body = b"".join(
        (
            runs.lengths.tobytes(),
            runs.sources.tobytes(),
            now[literal].tobytes(),
            tail,
        )
    )
    head = _HEAD.pack(len(now), len(runs.lengths), len(tail))
    codec = pa.Codec("zstd", _LEVEL)
    return head + struct.pack("<Q", len(body)) + codec.compress(body, asbytes=True)


def apply_patch(
    old: bytes, patch: bytes, counts: tuple[Counts | None, Counts | None], size: int
) -> bytes:
    """The new file.

    Args:
        old: the file that the patch was made from.
        patch: from `make_patch`.
        counts: those that it was made with.
        size: bytes of the new file.

    Raises:
        BadPatchError: the patch is not whole, or not of this old file.
    """
    try:
        n_words, n_runs, n_tail = _HEAD.unpack_from(patch)
        (length,) = struct.unpack_from("<Q", patch, _HEAD.size)
        most = 16 * n_runs + size
        if n_words * _WORD + n_tail != size or length > most or n_runs > n_words:
            raise BadPatchError("sizes")
        body = pa.Codec("zstd").decompress(patch[_HEAD.size + 8 :], length, asbytes=True)
    except (struct.error, pa.ArrowException, OSError) as error:
        raise BadPatchError(str(error)) from error
    if len(body) < 16 * n_runs:
        raise BadPatchError("runs")
    lengths = np.frombuffer(body, np.int64, n_runs)
    sources = np.frombuffer(body, np.int64, n_runs, 8 * n_runs)
    was = _words(_as_differences(old, counts[0]))
    kept = sources >= 0
    sound = ((lengths > 0) & (lengths <= n_words)).all() and (sources >= -1).all()
    sound = sound and int(lengths.sum()) == n_words
    if not sound or (sources[kept] > len(was) - lengths[kept]).any():
        raise BadPatchError("runs")
    literals = int(lengths[~kept].sum())
    if len(body) != 16 * n_runs + literals * _WORD + n_tail:
        raise BadPatchError("literals")
    given = np.frombuffer(body, np.uint32, literals, 16 * n_runs)
    now, place, read = np.empty(n_words, np.uint32), 0, 0
    for length, source in zip(lengths.tolist(), sources.tolist(), strict=True):
        if source >= 0:
            now[place : place + length] = was[source : source + length]
        else:
            now[place : place + length] = given[read : read + length]
            read += length
        place += length
    whole = now.tobytes() + body[len(body) - n_tail :] if n_tail else now.tobytes()
    return _from_differences(whole, counts[1])


def counts_in(contents: bytes) -> Counts | None:
    """Where a safetensors file has its ``indptr``; None where it has none."""
    try:
        (length,) = struct.unpack_from("<Q", contents)
        header = json.loads(contents[8 : 8 + length])
        entry = header["indptr"]
        start, end = entry["data_offsets"]
        known = entry["dtype"] == "I64" and end <= len(contents) - 8 - length
        return (8 + length + start, (end - start) // 8) if known else None
    except (struct.error, ValueError, KeyError, TypeError):
        return None


def _words(contents: bytes) -> Words:
    return np.frombuffer(contents, np.uint32, len(contents) // _WORD)


def _as_differences(contents: bytes, counts: Counts | None) -> bytes:
    if counts is None:
        return contents
    start, count = counts
    if start < 0 or count < 0 or start + 8 * count > len(contents):
        raise BadPatchError("counts")
    values = np.frombuffer(contents, np.int64, count, start)
    differences = np.diff(values, prepend=np.int64(0)).tobytes()
    return contents[:start] + differences + contents[start + 8 * count :]


def _from_differences(contents: bytes, counts: Counts | None) -> bytes:
    if counts is None:
        return contents
    start, count = counts
    if start < 0 or count < 0 or start + 8 * count > len(contents):
        raise BadPatchError("counts")
    values = np.cumsum(np.frombuffer(contents, np.int64, count, start)).tobytes()
    return contents[:start] + values + contents[start + 8 * count :]


def _sources(old: Words, new: Words) -> NDArray[np.int64]:
    """Where each word of `new` stands in `old`; -1 where no run of a block's length has it."""
    sources = np.full(len(new), -1, np.int64)
    _in_place(old, new, 0, sources)
    if len(old) != len(new):
        _in_place(old, new, len(old) - len(new), sources)
    _anywhere(old, new, sources)
    _extend(old, new, sources)
    return sources


def _in_place(old: Words, new: Words, shift: int, sources: NDArray[np.int64]) -> None:
    """Words that stand in `old` at their own place plus `shift`, in runs of a block and more."""
    first, last = max(0, -shift), min(len(new), len(old) - shift)
    if last - first < _BLOCK:
        return
    same = new[first:last] == old[first + shift : last + shift]
    edges = np.flatnonzero(np.diff(same, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= _BLOCK
    inside = np.zeros(last - first + 1, np.int8)
    inside[starts[long]] += 1
    inside[ends[long]] -= 1
    covered = np.cumsum(inside[:-1]).astype(bool)
    at = first + np.flatnonzero(covered)
    free = at[sources[at] < 0]
    sources[free] = free + shift


def _anywhere(old: Words, new: Words, sources: NDArray[np.int64]) -> None:
    """Blocks of `old` that stand anywhere among what is left of `new`."""
    if len(old) < _BLOCK or len(new) < _BLOCK or (sources >= 0).all():
        return
    blocks = old[: len(old) // _BLOCK * _BLOCK].reshape(-1, _BLOCK)
    hashes = _hash(blocks)
    known, place = np.unique(hashes, return_index=True)
    windows = np.lib.stride_tricks.sliding_window_view(new, _BLOCK)
    left = np.flatnonzero(sources[: len(windows)] < 0)
    for start in range(0, len(left), _AT_ONCE):
        at = left[start : start + _AT_ONCE]
        wanted = _hash(windows[at])
        found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        hit = known[found] == wanted
        at, of = at[hit], place[found[hit]] * _BLOCK
        equal = (windows[at] == blocks[of // _BLOCK]).all(1)
        at, of = at[equal], of[equal]
        for step in range(_BLOCK):
            words = at + step
            free = sources[words] < 0
            sources[words[free]] = of[free] + step


def _hash(blocks: Words) -> NDArray[np.uint64]:
    """A number of 64 bits of each row of ``[n, block]``."""
    found = np.zeros(len(blocks), np.uint64)
    for word in range(_BLOCK):
        found = (found + blocks[:, word]) * np.uint64(_FACTOR)
        found ^= found >> np.uint64(29)
    return found


def _extend(old: Words, new: Words, sources: NDArray[np.int64]) -> None:
    """Let runs grow by the equal words beside them, up to a block each way."""
    for step in (1, -1):
        for _ in range(_BLOCK):
            if step > 0:
                at = np.flatnonzero((sources[1:] < 0) & (sources[:-1] >= 0)) + 1
            else:
                at = np.flatnonzero((sources[:-1] < 0) & (sources[1:] >= 0))
            of = sources[at - step] + step
            fits = (of >= 0) & (of < len(old))
            at, of = at[fits], of[fits]
            equal = new[at] == old[of]
            if not equal.any():
                break
            sources[at[equal]] = of[equal]


def _runs(sources: NDArray[np.int64]) -> _Runs:
    """Consecutive words that stand together in the old file, or nowhere."""
    if not len(sources):
        return _Runs(np.zeros(0, np.int64), np.zeros(0, np.int64))
    nowhere = sources < 0
    goes_on = np.where(nowhere[1:], nowhere[:-1], sources[1:] == sources[:-1] + 1)
    goes_on &= nowhere[1:] == nowhere[:-1]
    starts = np.concatenate([[0], np.flatnonzero(~goes_on) + 1])
    return _Runs(np.diff(starts, append=len(sources)), sources[starts])
