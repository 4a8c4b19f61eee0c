"""Splits a stream of rows into what is learned from and what is held out.

In: dense rows, sorted by user and then by the user's own order. Out: the rows to
learn from, without repeated pairs, and at most two rows of each user that are held out. Only one
user's rows have to be in memory together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

VALIDATION, TEST = 1, 2
"""How a row of a cold item is held out; 0 stands for neither."""
HELD_OUT = 2
"""The last interaction of a user is the test, the one before it validation."""


@dataclass(frozen=True)
class Rows:
    """Interactions as columns of one length."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    timestamp: NDArray[np.int64]
    weight: NDArray[np.float32] | None = None
    """None where all weigh the same."""
    context: NDArray[np.int32] | None = None
    """``[rows, columns]``, what each row's request carried; None without such columns."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_] | slice) -> Rows:
        """Some of the rows."""
        weight = None if self.weight is None else self.weight[at]
        context = None if self.context is None else self.context[at]
        return Rows(self.user[at], self.item[at], self.timestamp[at], weight, context)

    def without_weight(self) -> Rows:
        """The same rows, which weigh the same."""
        return Rows(self.user, self.item, self.timestamp, None, self.context)

    @staticmethod
    def joined(parts: Iterable[Rows]) -> Rows:
        """Parts end to end."""
        parts = list(parts)
        if not parts:
            return Rows(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
        weights = [part.weight for part in parts if part.weight is not None]
        contexts = [part.context for part in parts if part.context is not None]
        return Rows(
            np.concatenate([part.user for part in parts]),
            np.concatenate([part.item for part in parts]),
            np.concatenate([part.timestamp for part in parts]),
            np.concatenate(weights) if weights else None,
            np.concatenate(contexts) if contexts else None,
        )


Parts: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]
"""Which rows are learned from, and the places of those held out as validation and as test."""


class Split(ABC):
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
        self.unused = 0
        """Of these, rows that are neither learned from nor held out."""

    @property
    def validation(self) -> Rows:
        """At most one row of each user, ascending."""
        return Rows.joined(self._validation)

    @property
    def test(self) -> Rows:
        """Likewise, later ones."""
        return Rows.joined(self._test)

    def train(self) -> Iterator[Rows]:
        """The rows to learn from, in order; only once."""
        for rows in whole_users(self._rows):
            distinct = first_of_pairs(rows)
            self.distinct += len(distinct)
            learned, validation, test = self._of_whole_users(distinct)
            self._validation.append(distinct.take(validation))
            self._test.append(distinct.take(test))
            train = distinct.take(learned)
            self.unused += len(distinct) - len(train) - len(validation) - len(test)
            yield train

    @abstractmethod
    def _of_whole_users(self, rows: Rows) -> Parts:
        """Which of the rows are learned from, and the places of those that are held out."""

    def _of_cold_items(self, rows: Rows) -> Parts:
        """The same of rows of cold items alone, of which nothing has to be learned."""
        return self._of_whole_users(rows)


class LeaveLastTwo(Split):
    """Holds out the last two rows of each user that has more than two."""

    def _of_whole_users(self, rows: Rows) -> Parts:
        ends, counts = _ends_of_users(rows)
        ends = ends[counts > HELD_OUT]
        kept = np.ones(len(rows), bool)
        kept[ends - 2] = kept[ends - 1] = False
        return kept, ends - 2, ends - 1

    def _of_cold_items(self, rows: Rows) -> Parts:
        """The last one is the test and one before it validation, however few there are."""
        ends, counts = _ends_of_users(rows)
        validation, test = ends[counts > 1] - 2, ends - 1
        kept = np.ones(len(rows), bool)
        kept[validation] = kept[test] = False
        return kept, validation, test


class TimeSplit(Split):
    """Learns from what comes before a time; holds out the first that a user has after it.

    Args:
        sorted_rows: by user, and within a user by time; a user's first row is learned from.
        validation_from: the first row of each user at this time or later is validation ...
        test_from: ... unless it is at this time or later: the first such row is the test.
    """

    def __init__(self, sorted_rows: Iterable[Rows], validation_from: int, test_from: int) -> None:
        super().__init__(sorted_rows)
        self._cuts = validation_from, test_from

    def _of_whole_users(self, rows: Rows) -> Parts:
        span = np.searchsorted(self._cuts, rows.timestamp, side="right")  # 0, 1 or 2
        first = np.ones(len(rows), bool)  # of its user and span
        first[1:] = (rows.user[1:] != rows.user[:-1]) | (span[1:] != span[:-1])
        return span == 0, *(np.flatnonzero(first & (span == place)) for place in (1, 2))


class ColdSplit(Split):
    """Splits the rows of warm items as `split` does, as if there were no others.

    Rows of cold items are held out beside them, by the same rule, and what is left of these is
    learned from only where `learned` says so.

    Args:
        split: of the whole stream; not read so far.
        is_cold: ``[n_items]``.
        learned: whether rows of cold items that are not held out are learned from.
    """

    def __init__(self, split: Split, is_cold: NDArray[np.bool_], learned: bool) -> None:
        super().__init__(split._rows)
        self._split, self._is_cold, self._learned = split, is_cold, learned
        self._cold: list[tuple[Rows, NDArray[np.int8]]] = []

    def cold(self) -> tuple[Rows, NDArray[np.int8]]:
        """All rows of cold items, and whether each is validation (1), test (2) or neither (0)."""
        held = [each for _, each in self._cold]
        return (
            Rows.joined([rows for rows, _ in self._cold]),
            np.concatenate(held) if held else np.zeros(0, np.int8),
        )

    def _of_whole_users(self, rows: Rows) -> Parts:
        cold = self._is_cold[rows.item]
        (warm_at,), (cold_at,) = np.nonzero(~cold), np.nonzero(cold)
        learned = np.zeros(len(rows), bool)
        learned[warm_at], validation, test = self._split._of_whole_users(rows.take(warm_at))
        of_cold = rows.take(cold_at)
        left, *held_out = self._split._of_cold_items(of_cold)
        held = np.zeros(len(of_cold), np.int8)
        for name, places in zip((VALIDATION, TEST), held_out, strict=True):
            held[places] = name
        self._cold.append((of_cold.without_weight(), held))
        self.unused -= len(of_cold)  # counted apart
        if self._learned:
            learned[cold_at] = left
            self.unused += int(left.sum())
        return learned, warm_at[validation], warm_at[test]


def _ends_of_users(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each user's rows end, and how many they are."""
    starts = np.flatnonzero(np.diff(rows.user, prepend=-1))  # users are >= 0
    counts = np.diff(starts, append=len(rows))
    return starts + counts, counts


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
