"""Sets of rows with a bit a row: two million rows are 250 KB, and two sets are joined in 10 us.

In: rows in some order, such as that of a number. Out: the rows of any piece of this order as a
`Bitmap`, in a time that does not grow with the piece.

Single bits are changed by a compiled loop; NumPy does the same until `compile_ahead` has made it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
Mask = NDArray[np.bool_]
Packed = NDArray[np.uint8]

_MARKS = 64  # pieces of the order between which bitmaps are kept, where each row stands once in it
_LEAST_STEP = 1024  # rows of such a piece at least: so many bits are flipped at once

_change: Callable[..., Any] | None = None


def compile_ahead() -> None:
    """Compile the loop, which takes a second."""
    global _change
    from cadc_rec.serving.predict.bitmaps_compiled import change

    _change = change


@dataclass(frozen=True)
class Bitmap:
    """A set of the rows from 0 to n - 1; a `cadc_rec.serving.predict.conditions.Condition`.

    Attributes:
        packed: row r is bit ``r % 8`` of byte ``r // 8``, as FAISS has it; whole words of 8 bytes,
            with zeros after row n - 1.
        n: how many rows there are.
    """

    packed: Packed
    n: int

    @classmethod
    def of(cls, rows: NDArray[Any], n: int) -> Bitmap:
        """Of some rows, in any order."""
        packed = nothing(n)
        put(packed, rows)
        return cls(packed, n)

    @cached_property
    def _count(self) -> int:
        return int(np.bitwise_count(self.packed.view(np.uint64)).sum())

    @property
    def least(self) -> int:
        """See `Condition`."""
        return self._count

    @property
    def most(self) -> int:
        """See `Condition`."""
        return self._count

    def rows(self) -> Rows:
        """See `Condition`."""
        return np.flatnonzero(self.mask()).astype(np.int32)

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        bits = self.packed[rows >> 3] >> (rows & 7).astype(np.uint8)
        found: Mask = (bits & 1).view(np.bool_)
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        return self

    def mask(self) -> Mask:
        """Whether each row is in the set, ``[n]``."""
        return np.unpackbits(self.packed, count=self.n, bitorder="little").view(np.bool_)

    def __and__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.packed & other.packed, self.n)

    def __or__(self, other: Bitmap) -> Bitmap:
        return Bitmap(self.packed | other.packed, self.n)

    def __invert__(self) -> Bitmap:
        packed = ~self.packed
        packed[-(-self.n // 8) :] = 0
        if self.n % 8:
            packed[self.n // 8] &= (1 << self.n % 8) - 1
        return Bitmap(packed, self.n)


class InOrder:
    """Rows in some order, in which one may stand several times.

    A bitmap is kept at every `step` rows: of the rows that stand an odd number of times before it.
    Two of them differ in the rows between, and the rows beside them are flipped one by one.

    Args:
        rows: int32 ``[m]``, each from 0 to n - 1.
        n: how many different rows there may be.
        step: rows between two bitmaps; default: few enough, and yet at most 64 bits an entry.
    """

    def __init__(self, rows: Rows, n: int, step: int | None = None) -> None:
        self.rows, self.n = rows, n
        self.step = step or max(_LEAST_STEP, -(-n // _MARKS))
        self._marks = np.zeros((len(rows) // self.step + 1, len(nothing(n))), np.uint8)
        for mark in range(1, len(self._marks)):
            self._marks[mark] = self._marks[mark - 1]
            flip(self._marks[mark], rows[(mark - 1) * self.step : mark * self.step])

    def add(self, packed: Packed, start: int, stop: int) -> None:
        """Put the rows from place `start` to `stop`, where each stands once, into a set."""
        if stop - start <= self.step:
            put(packed, self.rows[start:stop])
        else:
            packed |= self._piece(start, stop)

    def _piece(self, start: int, stop: int) -> Packed:
        before, after = self._nearest(start), self._nearest(stop)
        packed: Packed = self._marks[before] ^ self._marks[after]
        for mark, place in ((before, start), (after, stop)):
            edge = sorted((mark * self.step, place))
            flip(packed, self.rows[slice(*edge)])
        return packed

    def _nearest(self, place: int) -> int:
        return min((place + self.step // 2) // self.step, len(self._marks) - 1)


def nothing(n: int) -> Packed:
    """An empty set of the rows from 0 to n - 1."""
    return np.zeros(-(-n // 64) * 8, np.uint8)


def put(packed: Packed, rows: NDArray[Any]) -> None:
    """Put rows into a set."""
    if _change is None:
        np.bitwise_or.at(packed, rows >> 3, (1 << (rows & 7)).astype(np.uint8))
    else:
        _change(packed, np.ascontiguousarray(rows, np.int32), False)


def flip(packed: Packed, rows: NDArray[Any]) -> None:
    """Put rows into a set that were not there, and take out those that were."""
    if _change is None:
        np.bitwise_xor.at(packed, rows >> 3, (1 << (rows & 7)).astype(np.uint8))
    else:
        _change(packed, np.ascontiguousarray(rows, np.int32), True)
