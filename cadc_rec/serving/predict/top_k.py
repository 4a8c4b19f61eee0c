"""The k best of all items, as exact as ranking is.

In: query vectors, all item vectors, the rows that are no candidates. Out: the k best rows and their
scores, formed in float64 from the float32 vectors as `cadc_rec.evaluation.ranking` forms them; of
equal scores the lower row comes first.

All scores are formed in float32 first. A few more than k are kept and formed again in float64; only
where float32's rounding could have put another row among the k best are all formed again.

A few queries go through NumPy one by one, which wakes no threads. Many go through torch
in blocks, whose products its threads share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray

from cadc_rec.compiled import compiled
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.rounding import rounding_bound

_SPARE = 6  # rows kept beyond k: the scores of nearly all users stand apart by then
_MOST = 128  # places up to which `best_few` is faster than a sort: a find moves half of them
_ONE_BY_ONE = 4  # queries; from here on one product of all is faster, woken threads included
_BLOCK_ELEMENTS = 250_000  # scores held at once: 1 MB of float32 stays near the core
_SHARED_ELEMENTS = 2_000_000  # where threads share products: few, for each wakes and awaits them

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class NotCandidates:
    """Item rows that may not be recommended.

    Attributes:
        taken: those of each query, in any order.
        blocked: those of all queries, int64.
    """

    taken: UserItems
    blocked: Rows

    def some(self, queries: Rows) -> NotCandidates:
        """The same of some of the queries."""
        if len(queries) == len(self.taken):
            return self
        lists = [self.taken.of(query) for query in queries.tolist()]
        return NotCandidates(UserItems.of_lists(lists), self.blocked)


@dataclass(frozen=True)
class Best:
    """The best candidates of each query, the best first.

    Attributes:
        rows: int64 ``[n, k]``, -1 after a query's last candidate.
        scores: float64 ``[n, k]``, minus infinity there.
    """

    rows: Rows
    scores: Doubles


class ItemVectors:
    """All item vectors, to find the best of.

    Args:
        vectors: float32 ``[n_items, d]``, finite.
    """

    def __init__(self, vectors: Floats) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
        self._longest = float(np.sqrt(squares.max(initial=0.0)))
        self._across = torch.from_numpy(self.vectors).t()

    def __len__(self) -> int:
        return len(self.vectors)

    def best(self, queries: Floats, k: int, out: NotCandidates) -> Best:
        """The k best items of each query ``[n, d]``; k is at most the number of items."""
        if len(queries) < _ONE_BY_ONE:
            found = [self._best_of_one(query, k, out, n) for n, query in enumerate(queries)]
            return _joined(found, k)
        at_once = _BLOCK_ELEMENTS if torch.get_num_threads() == 1 else _SHARED_ELEMENTS
        block = max(1, at_once // len(self))
        parts = [
            self._best_of_block(queries, slice(start, min(start + block, len(queries))), k, out)
            for start in range(0, len(queries), block)
        ]
        return _joined(parts, k)

    def best_among(self, candidates: Rows, queries: Floats, k: int, out: NotCandidates) -> Best:
        """The same among rows ``[n, c]`` of each query; -1 is no row, and no row is repeated."""
        rows = np.sort(candidates, axis=1)
        scores = self._exact(rows, queries)
        scores[rows < 0] = -np.inf
        if len(out.blocked):
            scores[np.isin(rows, out.blocked)] = -np.inf
        for n in range(len(rows)):
            scores[n, np.isin(rows[n], out.taken.of(n))] = -np.inf
        return _sorted(rows, scores, k)

    def _best_of_one(self, query: Floats, k: int, out: NotCandidates, place: int) -> Best:
        scores = self.vectors @ query
        scores[out.blocked] = -np.inf
        keep = min(k + _SPARE, len(self))
        kept = _kept(scores[None], out.taken.slice(place, place + 1), keep)
        rows, near = kept[0][0], kept[1][0]
        exact = self.vectors[rows].astype(np.float64) @ query.astype(np.float64)
        exact[near == -np.inf] = -np.inf
        best = _sorted(rows[None], exact[None], k)
        if keep < len(self) and best.scores[0, -1] <= near.min() + self._doubt(query[None])[0]:
            best = self._best_of_close(query, scores, best.scores[0, -1], k)
        return best

    def _best_of_block(self, queries: Floats, part: slice, k: int, out: NotCandidates) -> Best:
        mine = queries[part]
        scores: Floats = (torch.from_numpy(mine) @ self._across).numpy()
        scores[:, out.blocked] = -np.inf
        keep = min(k + _SPARE, len(self))
        rows, near = _kept(scores, out.taken.slice(part.start, part.stop), keep)
        exact = self._exact(rows, mine)
        exact[near == -np.inf] = -np.inf
        best = _sorted(rows, exact, k)
        if keep < len(self):
            unsure = best.scores[:, -1] <= near.min(1) + self._doubt(mine)
            for n in np.flatnonzero(unsure & (best.scores[:, -1] > -np.inf)):
                again = self._best_of_close(mine[n], scores[n], best.scores[n, -1], k)
                best.rows[n], best.scores[n] = again.rows[0], again.scores[0]
        return best

    def _best_of_close(self, query: Floats, scores: Floats, least: float, k: int) -> Best:
        """Every item that float32's rounding leaves among the k best, formed in float64."""
        doubt = self._doubt(query[None])[0]
        rows = np.flatnonzero((scores >= least - doubt) & (scores > -np.inf))
        exact = self.vectors[rows].astype(np.float64) @ query.astype(np.float64)
        return _sorted(rows[None], exact[None], k)

    def _exact(self, rows: Rows, queries: Floats) -> Doubles:
        """Scores of rows ``[n, c]`` in float64."""
        items = self.vectors[rows].astype(np.float64)
        return np.matmul(items, queries.astype(np.float64)[:, :, None])[:, :, 0]

    def _doubt(self, queries: Floats) -> Doubles:
        """How far from its float64 value float32 may put a score of each query, ``[n]``.

        Twice the bound: the comparison with it rounds as well.
        """
        length = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
        reach: Doubles = length * self._longest
        bound: Doubles = 2 * rounding_bound(queries.shape[1], reach)
        return bound


def _kept(scores: Floats, taken: UserItems, keep: int) -> tuple[Rows, Floats]:
    """Rows and scores ``[n, keep]`` of the best of ``[n, m]``, less those taken; rows ascend."""
    if keep <= _MOST:
        return best_few(scores, taken.indptr, taken.items, keep)
    scores.reshape(-1)[taken.flat(scores.shape[1])] = -np.inf
    rows: Rows = np.sort(torch.from_numpy(scores).topk(keep, sorted=False).indices.numpy(), axis=1)
    return rows, np.take_along_axis(scores, rows, 1)


def _sorted(rows: Rows, scores: Doubles, k: int) -> Best:
    """The k best of candidates ``[n, c]`` whose rows ascend, so that ties go to the lower row."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    queries = np.arange(len(rows))[:, None]  # NumPy's take_along_axis takes longer to begin
    best, found = scores[queries, order], rows[queries, order]
    found[best == -np.inf] = -1
    return Best(found, best)


def _joined(parts: list[Best], k: int) -> Best:
    """One `Best` of several, each filled up to k."""
    if not parts:
        return Best(np.zeros((0, k), np.int64), np.zeros((0, k)))
    if len(parts) == 1:
        return _filled(parts[0], k)
    filled = [_filled(part, k) for part in parts]
    rows, scores = ([getattr(part, name) for part in filled] for name in ("rows", "scores"))
    return Best(np.concatenate(rows), np.concatenate(scores))


def _filled(best: Best, k: int) -> Best:
    short = k - best.rows.shape[1]
    if not short:
        return best
    width = ((0, 0), (0, short))
    return Best(
        np.pad(best.rows, width, constant_values=-1),
        np.pad(best.scores, width, constant_values=-np.inf),
    )


# Below: the selection, compiled by numba when this module is imported, so that no request waits for
# it. torch's own `topk` reads a row several times. Here the best of each of a few chunks bound the
# worst that can be among the best few, and only chunks that reach it are looked at one by one. What
# may not be recommended is struck out on the way. numba's cache on disk would spare the second that
# compiling takes, and is a pickle.


def best_few(
    scores: NDArray[np.float32], indptr: NDArray[np.int64], rows: NDArray[np.int32], keep: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Columns and scores of the `keep` best of each row.

    Args:
        scores: ``[n, m]``, C-contiguous; those of `rows` are overwritten by minus infinity.
        indptr: ``[n + 1]``, where the columns of each row of `scores` stand in `rows`.
        rows: columns that are struck out, each from 0 to m - 1.
        keep: from 1 to `_MOST`.

    Returns:
        int64 and float32 ``[n, keep]``: columns ascend; of equal scores at the edge the lower
        columns are kept; a place without a candidate has column 0 and minus infinity.
    """
    columns = np.zeros((len(scores), keep), np.int64)
    found = np.full((len(scores), keep), -np.inf, np.float32)
    _fill(scores, indptr, rows, columns, found)
    return columns, found


_GIVEN = [types.Array(kind, 1, "C", readonly=True) for kind in (types.int64, types.int32)]
_SIGNATURE = types.void(types.float32[:, ::1], *_GIVEN, types.int64[:, ::1], types.float32[:, ::1])
_CHUNKS = 4  # for each place; then about as many chunks as places hold one of the best
_LEAST = 16  # columns of a chunk, below which looking at its best first is no gain


# Scores are finite or minus infinity: without NaN the maximum of a chunk is a vector instruction.
@compiled(types.float32(types.float32[::1]), nogil=True, fastmath={"nnan", "nsz", "reassoc"})
def _highest(part):  # type: ignore[no-untyped-def] # see the decorator
    highest = np.float32(-np.inf)
    for column in range(part.shape[0]):
        highest = max(highest, part[column])
    return highest


@compiled(nogil=True, inline="always")
def _put(kept, places, score, column):  # type: ignore[no-untyped-def] # compiled into its callers
    """Put a score that is better than the last one in its place; the last one falls out."""
    place = kept.shape[0] - 1
    while place > 0 and score > kept[place - 1]:
        kept[place], places[place] = kept[place - 1], places[place - 1]
        place -= 1
    kept[place], places[place] = score, column


@compiled(_SIGNATURE, nogil=True)
def _fill(scores, indptr, rows, columns, found):  # type: ignore[no-untyped-def] # see _SIGNATURE
    keep, width = found.shape[1], scores.shape[1]
    last, chunks = keep - 1, _CHUNKS * keep
    size = -(-width // chunks)
    if size < _LEAST:
        chunks, size = 1, width
    best = np.empty(chunks, np.float32)
    bounds, chosen = np.empty(keep, np.float32), np.empty(keep, np.int64)
    for n in range(scores.shape[0]):
        line, kept, places = scores[n], found[n], columns[n]
        for entry in range(indptr[n], indptr[n + 1]):
            line[rows[entry]] = -np.inf
        # As many scores as there are places are no worse than the last bound.
        bounds[:] = -np.inf
        for chunk in range(chunks):
            best[chunk] = _highest(line[chunk * size : (chunk + 1) * size])
            if chunks > 1 and best[chunk] > bounds[last]:
                _put(bounds, chosen, best[chunk], chunk)
        least = bounds[last]
        for chunk in range(chunks):
            if best[chunk] >= least:
                part = line[chunk * size : (chunk + 1) * size]
                for offset in range(part.shape[0]):
                    score = part[offset]
                    if score >= least and score > kept[last]:
                        _put(kept, places, score, chunk * size + offset)
        for end in range(1, keep):  # by column
            score, column, place = kept[end], places[end], end
            while place > 0 and column < places[place - 1]:
                kept[place], places[place] = kept[place - 1], places[place - 1]
                place -= 1
            kept[place], places[place] = score, column
