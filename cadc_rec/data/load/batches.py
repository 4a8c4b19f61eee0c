"""One step's rows as NumPy arrays: what the loader makes and the training room turns to tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Key, Purpose

_DENSE_IDS = 4  # ids are marked in an array of all ids while that has at most this many a pair


@dataclass(frozen=True)
class PairArrays:
    """Where a step's pairs lie; see `cadc_rec.models.pairs.PairPattern`."""

    crow: np.ndarray
    col: np.ndarray
    item_crow: np.ndarray
    item_col: np.ndarray
    to_item_order: np.ndarray


@dataclass(frozen=True)
class BatchArrays:
    """One step's rows; see `cadc_rec.models.pairs.Batch` for the layout.

    Attributes:
        positives: positives of this step over all ranks.
        rows: int64 ``[users]``, where each row of the user tower stands among the rank's examples;
            None where a row is a user and not an example.
        whole: `items` are all there are, in order, in every step and on every rank.
    """

    users: np.ndarray
    items: np.ndarray
    positives: int
    pattern: PairArrays | None = None
    rows: np.ndarray | None = None
    labels: np.ndarray | None = None
    negative: np.ndarray | None = None
    barred: np.ndarray | None = None
    whole: bool = False


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

    def __call__(self, step: Step, examples: Examples) -> BatchArrays:
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
