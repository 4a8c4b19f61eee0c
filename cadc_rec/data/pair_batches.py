"""Steps of pairs: each positive with uniform negatives of its own.

In: the rows of a step. Out: its different users, its different items and the pairs between them,
see `cadc_rec.models.pairs`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from cadc_rec.data.batches import BatchArrays, PairArrays, Step, unique
from cadc_rec.data.randomness import Purpose, positional_integers
from cadc_rec.data.shards import Examples


class PairBatches:
    """Positives, each with uniform negatives of its own.

    Args:
        negatives: uniform negatives for each positive, drawn afresh every epoch.
        n_items: items to draw from; held-out items are among them.
        by_example: a row of the user tower stands for an example instead of a user, for each has
            a history of its own.
    """

    def __init__(self, negatives: int, n_items: int, by_example: bool = False) -> None:
        self.negatives, self.n_items, self.by_example = negatives, n_items, by_example

    def __call__(self, step: Step, examples: Examples) -> BatchArrays:
        """See `Arrangement`."""
        k, rows = self.negatives, len(examples)
        drawn = positional_integers(
            step.key(Purpose.NEGATIVES), step.start * k, rows * k, self.n_items
        )
        negatives = drawn.reshape(-1, k).astype(np.int32)
        users, items = examples.users.astype(np.int32), examples.items.astype(np.int32)
        if not self.by_example:
            return arrange_pairs(users, items, negatives, self.n_items, step.positives)
        each = np.arange(rows, dtype=np.int32)
        arranged = arrange_pairs(each, items, negatives, self.n_items, step.positives)
        return replace(arranged, users=users.astype(np.int64), rows=step.rows)


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
    unique_items, col = unique(pairs.ravel(), n_items)
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
