"""One step's rows: what the loader makes as NumPy arrays and the model reads as tensors.

This file knows no torch; `Batch.each` makes the one of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Key, Purpose

A = TypeVar("A")
B = TypeVar("B")

_DENSE_IDS = 4  # ids are marked in an array of all ids while that has at most this many a pair


@dataclass(frozen=True)
class PairPattern(Generic[A]):
    """Where the pairs of a batch lie between its different users and its different items.

    A sparse matrix in CSR, and its transpose. Pairs are ordered by user; each positive is followed
    by its negatives.

    Attributes:
        crow: int32 ``[users + 1]``, row pointers.
        col: int32 ``[pairs]``, place in the batch's items.
        item_crow: int32 ``[items + 1]``, row pointers of the transposed pattern.
        item_col: int32 ``[pairs]``, place in the batch's users, in transposed order.
        to_item_order: int64 ``[pairs]``, the pair at each place of the transposed order.
    """

    crow: A
    col: A
    item_crow: A
    item_col: A
    to_item_order: A


@dataclass(frozen=True)
class Batch(Generic[A]):
    """One step's rows: NumPy arrays as the loader makes them, tensors as the model reads them.

    Attributes:
        users: int64 ``[n_u]``: the batch's different users, ascending; with a history, or without
            pairs, the user of each example.
        items: int64 ``[n_i]``, its different items, ascending.
        positives: positives of this step over all ranks.
        pattern: its pairs; None scores every user with every item.
        rows: int64 ``[n_u]``, where each row of the user tower stands among the rank's examples;
            None where a row is a user and not an example.
        labels: int64 ``[n_u]``, the place of each example's positive in `items`; with pairs None.
        negatives: int64 ``[k]``, places in `items` of every row's candidates, ascending; None makes
            all of them candidates, a row's positive included.
        repeated: bool ``[n_u]``, with `negatives`: the row's positive is one of them.
        masked: int64 ``[2, n]``, rows, and places among the candidates, that are left out; no
            row's positive. None is none.
        whole: `items` are all there are, in order, in every step and on every rank.
        outside: bool ``[n_u, candidates]`` or ``[1, candidates]``, what is left out as a matrix; of
            steps that are made on the device. None is nothing.
        real: bool ``[positives of this rank]``, in the order of the pairs or of `users`; the others
            only fill a step up to a fixed size and have no part in its loss. None is all.
    """

    users: A
    items: A
    positives: int = 0
    pattern: PairPattern[A] | None = None
    rows: A | None = None
    labels: A | None = None
    negatives: A | None = None
    repeated: A | None = None
    masked: A | None = None
    whole: bool = False
    outside: A | None = None
    real: A | None = None

    def each(self, change: Callable[[A], B]) -> Batch[B]:
        """The same batch with every array changed, as by ``torch.from_numpy``."""

        def changed(array: A | None) -> B | None:
            return None if array is None else change(array)

        pattern = self.pattern
        return Batch(
            users=change(self.users),
            items=change(self.items),
            positives=self.positives,
            pattern=None
            if pattern is None
            else PairPattern(**{name: change(array) for name, array in vars(pattern).items()}),
            rows=changed(self.rows),
            labels=changed(self.labels),
            negatives=changed(self.negatives),
            repeated=changed(self.repeated),
            masked=changed(self.masked),
            whole=self.whole,
            outside=changed(self.outside),
            real=changed(self.real),
        )


Arrays = Batch[np.ndarray]
"""A batch as the loader makes it."""


@dataclass(frozen=True)
class Step:
    """Which step it is, on which rank; it names what is drawn for it.

    Attributes:
        seed: of the training.
        epoch: from 1.
        rank: whose.
        number: of the step in its epoch, from 0.
        start: rows that the rank's steps before it had, since `first`.
        rows: int64 ``[n]``, this step's among the rank's examples.
        positives: rows of this step over all ranks.
        first: number of the step at which this number of ranks took the epoch over, see
            `data.position`; 0 where they began it.
    """

    seed: int
    epoch: int
    rank: int
    number: int
    start: int
    rows: np.ndarray
    positives: int
    first: int = 0

    def key(self, purpose: Purpose) -> Key:
        """Names a stream of random numbers of this rank's epoch."""
        taken_over = (self.first,) if self.first else ()
        return (self.seed, purpose, self.epoch, self.rank, *taken_over)


class Arrangement(Protocol):
    """How examples become a step: with which negatives or candidates."""

    def __call__(self, step: Step, examples: Examples) -> Arrays:
        """The rows of `step`.

        Args:
            step: which.
            examples: the rows themselves, in the order of ``step.rows``.
        """


class Negatives(Protocol):
    """What negatives are drawn from, where that is not all items alike; see `data.negatives`."""

    def of_rows(self, step: Step, users: np.ndarray, k: int) -> np.ndarray:
        """Each row's own negatives, int32 ``[B, k]``."""

    def shared(self, key: Key, start: int, count: int) -> np.ndarray:
        """Elements ``start .. start + count`` of the stream `key`, int64, for all rows."""


def unique(ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted different values of `ids` in ``[0, n)``, and where each id is among them (int32)."""
    if not is_dense(n, len(ids)):
        different, inverse = np.unique(ids, return_inverse=True)
        return different, inverse.astype(np.int32)
    mark = np.zeros(n, dtype=bool)  # ten times a sort's speed while the catalogue is small
    mark[ids] = True
    place = np.cumsum(mark, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(mark), place[ids]


def is_dense(n: int, ids: int) -> bool:
    """Whether an array of all `n` ids costs less than sorting this many of them."""
    return n <= _DENSE_IDS * ids
