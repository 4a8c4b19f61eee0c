"""Batches of D_sel for one rank: shuffled every epoch, negatives drawn afresh.

In: this rank's rows, and how many rows every rank has. Out: NumPy arrays ready to become a
`cadc_rec.models.pairs.Batch`.

Every rank takes the same number of steps and cuts its own rows into that many pieces, so each row
is used once an epoch, no rank waits for one that has run out, and all know how many positives a
step has over all ranks without asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from cadc_rec.data.randomness import Purpose, bit_generator, positional_integers

_DENSE_IDS = 4  # ids are marked in an array of all ids while that has at most this many a pair


@dataclass(frozen=True)
class PairArrays:
    """One step's pairs; see `cadc_rec.models.pairs` for the layout.

    Attributes:
        positives: positives of this step over all ranks.
    """

    users: np.ndarray
    items: np.ndarray
    crow: np.ndarray
    col: np.ndarray
    item_crow: np.ndarray
    item_col: np.ndarray
    to_item_order: np.ndarray
    positives: int


class PairLoader:
    """Yields one epoch's steps for one rank.

    Args:
        users: int ``[n]``, users of this rank's rows.
        items: int ``[n]``, their items.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        batch_size: positives a step over all ranks.
        negatives: uniform negatives for each positive.
        n_items: items to draw them from; held-out items are among them.
        seed: of order and negatives.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        negatives: int,
        n_items: int,
        seed: int,
    ) -> None:
        if rows_by_rank[rank] != len(users):
            raise ValueError(f"rank {rank} has {len(users)} rows, expected {rows_by_rank[rank]}")
        self.users, self.items = users.astype(np.int32), items.astype(np.int32)
        self.rows_by_rank, self.rank, self.seed = list(rows_by_rank), rank, seed
        self.negatives, self.n_items = negatives, n_items
        self.rows = sum(self.rows_by_rank)
        self.steps = max(1, -(-sum(self.rows_by_rank) // batch_size))

    def epoch(self, epoch: int) -> Iterator[PairArrays]:
        """The steps of epoch number `epoch`; the same every time it is asked for."""
        rows, k = len(self.users), self.negatives
        generator = bit_generator((self.seed, Purpose.EPOCH_ORDER, epoch, self.rank))
        order = np.random.Generator(generator).permutation(rows)
        for step in range(self.steps):
            start, stop = self._piece(rows, step)
            drawn = positional_integers(
                (self.seed, Purpose.NEGATIVES, epoch, self.rank),
                start * k,
                (stop - start) * k,
                self.n_items,
            )
            picked = order[start:stop]
            positives = sum(
                last - first for first, last in (self._piece(n, step) for n in self.rows_by_rank)
            )
            yield arrange_pairs(
                self.users[picked],
                self.items[picked],
                drawn.reshape(-1, k).astype(np.int32),
                self.n_items,
                positives,
            )

    def _piece(self, rows: int, step: int) -> tuple[int, int]:
        return rows * step // self.steps, rows * (step + 1) // self.steps


def arrange_pairs(
    users: np.ndarray, items: np.ndarray, negatives: np.ndarray, n_items: int, positives: int
) -> PairArrays:
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
    return PairArrays(
        users=users[first].astype(np.int64),
        items=unique_items.astype(np.int64),
        crow=crow,
        col=col,
        item_crow=transposed.indptr.astype(np.int32),
        item_col=transposed.indices.astype(np.int32),
        to_item_order=transposed.data.astype(np.int64),
        positives=positives,
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
