"""Leave-last-two over a stream of rows: what is learned from, and what is held out.

In: dense rows, sorted by user and then by the user's own order. Out: the same rows without
repetitions of a pair, less the last two of every user with more than two; those two apart. A user's
rows need to be in memory together, and no more than that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

HELD_OUT = 2
"""The last interaction of a user is the test, the one before it validation."""


@dataclass(frozen=True)
class Rows:
    """Interactions as columns: int32 users and items, int64 timestamps, of one length."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Rows:
        """Some of the rows."""
        return Rows(self.user[at], self.item[at], self.timestamp[at])

    @staticmethod
    def joined(parts: Iterable[Rows]) -> Rows:
        """Parts end to end."""
        parts = list(parts)
        if not parts:
            return Rows(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
        return Rows(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in Rows.__annotations__)
        )


class LeaveLastTwo:
    """Splits a sorted stream; the held-out rows are here when the stream has ended.

    Args:
        sorted_rows: by user, and within a user in order.
    """

    def __init__(self, sorted_rows: Iterable[Rows]) -> None:
        self._rows = sorted_rows
        self._validation: list[Rows] = []
        self._test: list[Rows] = []
        self.distinct = 0
        """Rows without repetitions of a pair, so far."""

    @property
    def validation(self) -> Rows:
        """One row of each user that has more than two, ascending."""
        return Rows.joined(self._validation)

    @property
    def test(self) -> Rows:
        """Likewise, the last."""
        return Rows.joined(self._test)

    def train(self) -> Iterator[Rows]:
        """The rows to learn from, in order; only once."""
        for rows in whole_users(self._rows):
            distinct = first_of_pairs(rows)
            self.distinct += len(distinct)
            starts = np.flatnonzero(np.diff(distinct.user, prepend=-1))  # users are >= 0
            counts = np.diff(starts, append=len(distinct))
            ends = (starts + counts)[counts > HELD_OUT]
            self._validation.append(distinct.take(ends - 2))
            self._test.append(distinct.take(ends - 1))
            kept = np.ones(len(distinct), bool)
            kept[ends - 2] = kept[ends - 1] = False
            yield distinct.take(kept)


def whole_users(sorted_rows: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows, cut where one user ends and another begins."""
    waiting: list[Rows] = []
    for rows in sorted_rows:
        if not len(rows):
            continue
        last = int(np.searchsorted(rows.user, rows.user[-1]))  # where its last user begins
        if last or (waiting and waiting[-1].user[-1] != rows.user[0]):
            yield Rows.joined([*waiting, rows.take(slice(0, last))])
            waiting = []
        waiting.append(rows.take(slice(last, None)))
    if waiting:
        yield Rows.joined(waiting)


def first_of_pairs(rows: Rows) -> Rows:
    """`rows` in their order, each (user, item) pair only where it comes first."""
    if not len(rows):
        return rows
    width = int(rows.item.max()) + 1
    pair = (rows.user - rows.user[0]).astype(np.int64) * width + rows.item
    in_order = np.sort(pair)  # values alone sort ten times as fast as with their places
    if not (in_order[1:] == in_order[:-1]).any():
        return rows
    _, first = np.unique(pair, return_index=True)
    return rows.take(np.sort(first))
