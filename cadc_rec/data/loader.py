"""Batches of D_sel for one rank: shuffled every epoch, negatives drawn afresh.

In: this rank's rows, and how many rows every rank has. Out: NumPy arrays ready to become a
`cadc_rec.models.pairs.Batch`.

Every rank takes the same number of steps and cuts its own rows into that many pieces, so each row
is used once an epoch, no rank waits for one that has run out, and all know how many positives a
step has over all ranks without asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import sparse

from cadc_rec.data.randomness import Purpose, bit_generator, positional_integers
from cadc_rec.data.shards import Examples

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
    """

    users: np.ndarray
    items: np.ndarray
    positives: int
    pattern: PairArrays | None = None
    history: np.ndarray | None = None
    labels: np.ndarray | None = None
    negative: np.ndarray | None = None


class Loader:
    """What both loaders share: the order of an epoch, and how it is cut into steps.

    Args:
        examples: this rank's rows.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        batch_size: positives a step over all ranks.
        n_items: items to draw negatives from; held-out items are among them.
        seed: of order and negatives.
    """

    def __init__(
        self,
        examples: Examples,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        n_items: int,
        seed: int,
    ) -> None:
        if rows_by_rank[rank] != len(examples):
            raise ValueError(f"rank {rank} has {len(examples)} rows, expected {rows_by_rank[rank]}")
        self.users, self.items = examples.users.astype(np.int32), examples.items.astype(np.int32)
        self.history = examples.history
        self.rows_by_rank, self.rank, self.seed = list(rows_by_rank), rank, seed
        self.n_items = n_items
        self.rows = sum(self.rows_by_rank)
        self.steps = max(1, -(-sum(self.rows_by_rank) // batch_size))

    def epoch(self, epoch: int) -> Iterator[BatchArrays]:
        """The steps of epoch number `epoch`; the same every time it is asked for."""
        rows = len(self.users)
        generator = bit_generator((self.seed, Purpose.EPOCH_ORDER, epoch, self.rank))
        order = np.random.Generator(generator).permutation(rows)
        for step in range(self.steps):
            start, stop = self._piece(rows, step)
            positives = sum(
                last - first for first, last in (self._piece(n, step) for n in self.rows_by_rank)
            )
            yield self._batch(epoch, step, start, order[start:stop], positives)

    def _batch(
        self, epoch: int, step: int, start: int, picked: np.ndarray, positives: int
    ) -> BatchArrays:
        """The step of the rows `picked`, the first of which stands at `start` of the epoch."""
        raise NotImplementedError

    def _piece(self, rows: int, step: int) -> tuple[int, int]:
        return rows * step // self.steps, rows * (step + 1) // self.steps


class PairLoader(Loader):
    """Positives, each with uniform negatives of its own.

    Args:
        examples, rows_by_rank, rank, batch_size, n_items, seed: see `Loader`.
        negatives: uniform negatives for each positive.
    """

    def __init__(
        self,
        examples: Examples,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        negatives: int,
        n_items: int,
        seed: int,
    ) -> None:
        super().__init__(examples, rows_by_rank, rank, batch_size, n_items, seed)
        self.negatives = negatives

    def _batch(
        self, epoch: int, step: int, start: int, picked: np.ndarray, positives: int
    ) -> BatchArrays:
        k = self.negatives
        key = (self.seed, Purpose.NEGATIVES, epoch, self.rank)
        drawn = positional_integers(key, start * k, len(picked) * k, self.n_items)
        negatives = drawn.reshape(-1, k).astype(np.int32)
        users, items = self.users[picked], self.items[picked]
        if self.history is None:
            return arrange_pairs(users, items, negatives, self.n_items, positives)
        # Rows with a history of their own are not one user's: each stands for itself.
        each = np.arange(len(picked), dtype=np.int32)
        arranged = arrange_pairs(each, items, negatives, self.n_items, positives)
        return replace(arranged, users=users.astype(np.int64), history=self.history[picked])


class SoftmaxLoader(Loader):
    """Positives, each among candidates that all of a step share.

    Args:
        examples, rows_by_rank, rank, batch_size, n_items, seed: see `Loader`.
        candidates: ``all`` items; ``sampled``, each row's positive and shared uniform negatives;
            or the step's own positives (``in-batch``).
        negatives: how many are drawn where they are sampled; each item counts once.
    """

    def __init__(
        self,
        examples: Examples,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        n_items: int,
        seed: int,
        candidates: Literal["all", "sampled", "in-batch"],
        negatives: int = 0,
    ) -> None:
        super().__init__(examples, rows_by_rank, rank, batch_size, n_items, seed)
        self.candidates, self.negatives = candidates, negatives

    def _batch(
        self, epoch: int, step: int, start: int, picked: np.ndarray, positives: int
    ) -> BatchArrays:
        users, items = self.users[picked], self.items[picked]
        negative = None
        if self.candidates == "all":
            candidates, labels = np.arange(self.n_items), items
        elif self.candidates == "in-batch":
            candidates, labels = _unique(items, self.n_items)
        else:
            key = (self.seed, Purpose.SHARED_NEGATIVES, epoch, self.rank)
            drawn = positional_integers(key, step * self.negatives, self.negatives, self.n_items)
            candidates, place = _unique(np.concatenate([items, drawn]), self.n_items)
            labels = place[: len(items)]
            negative = np.zeros(len(candidates), bool)
            negative[place[len(items) :]] = True
        return BatchArrays(
            users=users.astype(np.int64),
            items=candidates.astype(np.int64),
            positives=positives,
            history=None if self.history is None else self.history[picked],
            labels=labels.astype(np.int64),
            negative=negative,
        )


def arrange_pairs(
    users: np.ndarray, items: np.ndarray, negatives: np.ndarray, n_items: int, positives: int
) -> BatchArrays:
    """Lay positives and their negatives out by unique user and unique item.

    Args:
        users: int32 ``[B]``.
        items: int32 ``[B]``, each user's positive.
        negatives: int32 ``[B, K]``.
        n_items: number of items there are.
        positives: positives of the step over all ranks.
    """
    order = np.argsort(users, kind="stable")
    users = users[order]
    first = np.flatnonzero(np.diff(users, prepend=-1))  # users are >= 0 and sorted
    pairs = np.concatenate([items[order][:, None], negatives[order]], 1)
    width = pairs.shape[1]
    crow = np.append(first, len(users)).astype(np.int32) * np.int32(width)
    unique_items, col = _unique(pairs.ravel(), n_items)
    shape = (len(first), len(unique_items))
    places = np.arange(col.size, dtype=np.int32)
    transposed = sparse.csr_array((places, col, crow), shape=shape).tocsc()
    return BatchArrays(
        users=users[first].astype(np.int64),
        items=unique_items.astype(np.int64),
        positives=positives,
        pattern=PairArrays(
            crow=crow,
            col=col,
            item_crow=transposed.indptr.astype(np.int32),
            item_col=transposed.indices.astype(np.int32),
            to_item_order=transposed.data.astype(np.int64),
        ),
    )


def _unique(ids: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted different values of `ids` in ``[0, n)``, and where each id is among them (int32)."""
    if n > _DENSE_IDS * len(ids):
        unique, inverse = np.unique(ids, return_inverse=True)
        return unique, inverse.astype(np.int32)
    mark = np.zeros(n, dtype=bool)  # ten times a sort's speed while the catalogue is small
    mark[ids] = True
    place = np.cumsum(mark, dtype=np.int32) - np.int32(1)
    return np.flatnonzero(mark), place[ids]
