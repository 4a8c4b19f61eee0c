"""What a filter asks of items, as sets of rows that cost what they match.

In: posting lists of attributes (`cadc_rec.serving.predict.catalogue`) and rows that are named. Out:
a `Condition`, which bounds how many rows match before it looks at any, lists those that match where
they are few, and is a bitmap where they are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cadc_rec.serving.predict.bitmaps import Bitmap, Mask, Rows


class Condition(Protocol):
    """A set of the rows from 0 to n - 1."""

    @property
    def least(self) -> int:
        """No fewer rows match; found without looking at any."""

    @property
    def most(self) -> int:
        """No more rows match; found without looking at any."""

    def rows(self) -> Rows:
        """The rows that match, ascending, each once. It takes as long as there are rows to find."""

    def holds(self, rows: NDArray[Any]) -> Mask:
        """Whether each of these rows ``[m]`` matches. It takes as long as there are rows here."""

    def bitmap(self) -> Bitmap:
        """The rows that match, with a bit each; it tells their number exactly."""


@dataclass(frozen=True)
class Named:
    """Rows that are named.

    Attributes:
        listed: ascending, each once.
        n: how many rows there are.
    """

    listed: Rows
    n: int

    @classmethod
    def of(cls, rows: NDArray[Any], n: int) -> Named:
        """Of rows in any order; negative ones are none."""
        return cls(np.unique(rows[rows >= 0]).astype(np.int32), n)

    @property
    def least(self) -> int:
        """See `Condition`."""
        return len(self.listed)

    @property
    def most(self) -> int:
        """See `Condition`."""
        return len(self.listed)

    def rows(self) -> Rows:
        """See `Condition`."""
        return self.listed

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        return among(rows, self.listed)

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        return Bitmap.of(self.listed, self.n)


@dataclass(frozen=True)
class Every:
    """The rows that match all of some conditions, of which there is one at least."""

    of: Sequence[Condition]

    @property
    def least(self) -> int:
        """See `Condition`."""
        return self.of[0].least if len(self.of) == 1 else 0

    @property
    def most(self) -> int:
        """See `Condition`."""
        return min(each.most for each in self.of)

    def rows(self) -> Rows:
        """See `Condition`."""
        first, *others = sorted(self.of, key=lambda each: each.most)
        found = first.rows()
        for other in others:
            found = found[other.holds(found)]
        return found

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        found = np.ones(len(rows), np.bool_)
        for each in self.of:
            found &= each.holds(rows)
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        return reduce(and_, [each.bitmap() for each in self.of])


@dataclass(frozen=True)
class Some:
    """The rows that match one of some conditions, of which there is one at least."""

    of: Sequence[Condition]
    n: int

    @property
    def least(self) -> int:
        """See `Condition`."""
        return max(each.least for each in self.of)

    @property
    def most(self) -> int:
        """See `Condition`."""
        return min(self.n, sum(each.most for each in self.of))

    def rows(self) -> Rows:
        """See `Condition`."""
        return union([each.rows() for each in self.of])

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        found = np.zeros(len(rows), np.bool_)
        for each in self.of:
            found |= each.holds(rows)
        return found

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        return reduce(or_, [each.bitmap() for each in self.of])


@dataclass(frozen=True)
class Without:
    """The rows that do not match a condition."""

    of: Condition
    n: int

    @property
    def least(self) -> int:
        """See `Condition`."""
        return self.n - self.of.most

    @property
    def most(self) -> int:
        """See `Condition`."""
        return self.n - self.of.least

    def rows(self) -> Rows:
        """See `Condition`."""
        return self.bitmap().rows()

    def holds(self, rows: NDArray[Any]) -> Mask:
        """See `Condition`."""
        return ~self.of.holds(rows)

    def bitmap(self) -> Bitmap:
        """See `Condition`."""
        return ~self.of.bitmap()


def union(lists: Sequence[Rows]) -> Rows:
    """The rows of some lists, each of which ascends; ascending, each once."""
    if len(lists) == 1:
        return lists[0]
    every = np.sort(np.concatenate(lists), kind="stable")  # merges what ascends already
    return every[np.diff(every, prepend=-1) > 0]


def among(rows: NDArray[Any], listed: NDArray[Any]) -> Mask:
    """Whether each of `rows` is in `listed`, which ascends."""
    if not len(listed):
        return np.zeros(len(rows), np.bool_)
    places = np.searchsorted(listed, rows)
    places[places == len(listed)] = 0
    found: Mask = listed[places] == rows
    return found


def with_few(many: NDArray[np.int64], few: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of both, each once, ascending as in either.

    A request has a millisecond for it where a million items are sold out: nothing is sorted.
    """
    new = few[~among(few, many)]
    return np.insert(many, np.searchsorted(many, new), new) if len(new) else many
