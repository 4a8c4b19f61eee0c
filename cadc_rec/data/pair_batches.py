"""Steps of pairs: each positive with uniform negatives of its own.

In: the rows of a step. Out: its different users, its different items and the pairs between them,
see `cadc_rec.models.pairs`. Where a step draws so many negatives that nearly every item is among
them, it has all items instead: then nothing needs to be sorted out, what is known of the items
stays the same from step to step, and several processes can divide their tower among them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from cadc_rec.data.batches import BatchArrays, PairArrays, Step, unique
from cadc_rec.data.randomness import Purpose, positional_integers
from cadc_rec.data.shards import Examples

_NEARLY_ALL = 3  # uniform draws for each item: 1 in 20 is missing (exp(-3))


class PairBatches:
    """Positives, each with uniform negatives of its own.

    Args:
        negatives: uniform negatives for each positive, drawn afresh every epoch.
        n_items: items to draw from; held-out items are among them.
        by_example: a row of the user tower stands for an example instead of a user, for each has
            a history of its own.
        positives: of a step over all ranks; 0 always sorts out which items a step has.
    """

    def __init__(
        self, negatives: int, n_items: int, by_example: bool = False, positives: int = 0
    ) -> None:
        self.negatives, self.n_items, self.by_example = negatives, n_items, by_example
        whole = positives * negatives >= _NEARLY_ALL * n_items
        self.everything = np.arange(n_items, dtype=np.int64) if whole else None

    def __call__(self, step: Step, examples: Examples) -> BatchArrays:
        """See `Arrangement`."""
        k, rows = self.negatives, len(examples)
        drawn = positional_integers(
            step.key(Purpose.NEGATIVES), step.start * k, rows * k, self.n_items
        )
        negatives = drawn.reshape(-1, k).astype(np.int32)
        users, items = examples.users.astype(np.int32), examples.items.astype(np.int32)
        if not self.by_example:
            return self._arranged(users, items, negatives, step.positives)
        each = np.arange(rows, dtype=np.int32)
        arranged = self._arranged(each, items, negatives, step.positives)
        return replace(arranged, users=users.astype(np.int64), rows=step.rows)

    def _arranged(
        self, users: np.ndarray, items: np.ndarray, negatives: np.ndarray, positives: int
    ) -> BatchArrays:
        return arrange_pairs(users, items, negatives, self.n_items, positives, self.everything)


def arrange_pairs(
    users: np.ndarray,
    items: np.ndarray,
    negatives: np.ndarray,
    n_items: int,
    positives: int,
    everything: np.ndarray | None = None,
) -> BatchArrays:
    """Lay positives and their negatives out by unique user and unique item.

    Args:
        users: int32 ``[B]``.
        items: int32 ``[B]``, each user's positive.
        negatives: int32 ``[B, K]``.
        n_items: number of items there are.
        positives: positives of the step over all ranks.
        everything: int64 ``[n_items]``, all items, to be the step's; None takes its different ones.
    """
    order = np.argsort(users, kind="stable")
    users = users[order]
    first = np.flatnonzero(np.diff(users, prepend=-1))  # users are >= 0 and sorted
    pairs = np.concatenate([items[order][:, None], negatives[order]], 1)
    width = pairs.shape[1]
    crow = np.append(first, len(users)).astype(np.int32) * np.int32(width)
    if everything is None:
        different, col = unique(pairs.ravel(), n_items)
        step_items = different.astype(np.int64)
    else:
        step_items, col = everything, pairs.ravel()
    shape = (len(first), len(step_items))
    places = np.arange(col.size, dtype=np.int32)
    transposed = sparse.csr_array((places, col, crow), shape=shape).tocsc()
    return BatchArrays(
        users=users[first].astype(np.int64),
        items=step_items,
        positives=positives,
        whole=everything is not None,
        pattern=PairArrays(
            crow=crow,
            col=col,
            item_crow=transposed.indptr.astype(np.int32),
            item_col=transposed.indices.astype(np.int32),
            to_item_order=transposed.data.astype(np.int64),
        ),
    )
