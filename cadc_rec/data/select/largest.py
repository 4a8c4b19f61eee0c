"""The largest of many keys, which no process holds: found piece by piece, by all ranks together.

In: a function that gives the keys of a piece, and how many of all are wanted. Out: a `Threshold`,
which says of any piece's keys which are among the largest; of equal ones the earlier.

Each rank counts the keys of its pieces by their first 16 bits. The counts of all ranks say with
which of these the least wanted key begins. Only keys that begin so are then kept, and counted by
their next bits, until all are known. So keys are made twice, and 8 bytes are held for each kept
one: a few in a hundred of a rank's own, if they differ, and all of them if they are equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.select.ranks import Ranks

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]
_FIRST, _DIGIT, _BITS = 16, 12, 64  # bits looked at first, then at a time, of a key


@dataclass(frozen=True)
class Threshold:
    """Which keys are the largest.

    Attributes:
        key: the least one that is taken.
        equal: how many of those equal to it are taken; the first ones.
        before: how many of these the pieces before each have ``[pieces]``.
        counts: how many keys are taken of each piece ``[pieces]``.
    """

    key: np.uint64
    equal: int
    before: Ints
    counts: Ints

    def taken(self, piece: int, keys: Keys) -> NDArray[np.bool_]:
        """Which keys of a piece are among the largest."""
        taken = keys > self.key
        if (left := self.equal - int(self.before[piece])) > 0:
            taken[np.flatnonzero(keys == self.key)[:left]] = True
        return taken


def largest(keys_of: Callable[[int], Keys], pieces: int, wanted: int, ranks: Ranks) -> Threshold:
    """The `wanted` largest keys. Every one of `ranks` must call.

    Args:
        keys_of: gives a piece's keys, the same whenever it is asked; none is 2**64 - 1.
        pieces: how many there are.
        wanted: keys, at most as many as there are.
        ranks: that look for them, each at its share of the pieces.
    """
    if not wanted:
        zeros = np.zeros(pieces, np.int64)
        return Threshold(np.uint64(2**64 - 1), 0, zeros, zeros)
    mine = ranks.share(pieces)
    shift = _BITS - _FIRST

    def by_first_bits() -> tuple[Ints, Ints]:
        found = np.zeros(1 << _FIRST, np.int64)
        for piece in mine:
            found += _digits(keys_of(piece) >> np.uint64(shift), _FIRST)
        occur = np.flatnonzero(found)
        return occur, found[occur]

    counts = np.zeros(1 << _FIRST, np.int64)
    for occur, often in ranks.all_gather(ranks.together(by_first_bits)):
        counts[occur] += often
    begin, left = _least(counts, wanted)

    def begin_so() -> tuple[Ints, list[Keys]]:
        above, kept = np.zeros(len(mine), np.int64), []
        for place, piece in enumerate(mine):
            keys = keys_of(piece)
            first = keys >> np.uint64(shift)
            above[place] = np.count_nonzero(first > begin)
            kept.append(keys[first == begin])
        return above, kept

    above, kept = ranks.together(begin_so)
    while shift:
        shift -= _DIGIT
        found = np.zeros(1 << _DIGIT, np.int64)
        for keys in kept:
            first = keys >> np.uint64(shift)
            low, digits = begin << _DIGIT, 1 << _DIGIT
            here = first[(first >= low) & (first < low + digits)] - np.uint64(low)
            found += _digits(here, _DIGIT)
        digit, left = _least(sum(ranks.all_gather(found)), left)
        begin = (begin << _DIGIT) + digit
    key = np.uint64(begin)
    above += np.array([np.count_nonzero(keys > key) for keys in kept], np.int64)
    equal = np.array([np.count_nonzero(keys == key) for keys in kept], np.int64)
    above, equal = (np.concatenate(ranks.all_gather(each)) for each in (above, equal))
    before = np.cumsum(equal) - equal
    return Threshold(key, left, before, above + np.clip(left - before, 0, equal))


def ordered(keys: NDArray[np.floating]) -> Keys:
    """Integers in the order of these numbers; zeros of either sign are equal."""
    bits = (keys.astype(np.float64) + 0.0).view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def scaled(keys: NDArray[np.integer], below: int) -> Keys:
    """Integers from 0 up to `below`, less than 2**63, moved to the first of 64 bits."""
    return keys.astype(np.uint64) << np.uint64(_BITS - max(1, (below - 1).bit_length()))


def _digits(digits: Keys, bits: int) -> Ints:
    """How often each occurs."""
    return np.bincount(digits.astype(np.int64), minlength=1 << bits)


def _least(counts: Ints, wanted: int) -> tuple[int, int]:
    """The digit of the `wanted` largest keys' least, and how many with it are among them."""
    from_largest = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_largest, wanted))
    digit = len(counts) - 1 - place
    return digit, wanted - int(from_largest[place] - counts[digit])
