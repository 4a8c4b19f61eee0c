"""Steps of pairs: each positive with negatives of its own.

In: the rows of a step. Out: its different users, its different items and the pairs between them,
see `cadc_rec.models.sparse`. Where a step draws so many negatives that nearly every item is among
them, it has all items instead: then nothing needs to be sorted out, what is known of the items
stays the same from step to step, and several processes can divide their tower among them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import sparse

from cadc_rec.data.load.batches import Arrays, Batch, Negatives, PairPattern, Step, unique
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Purpose, positional_integers

_WORTH_COMPILING = 20_000_000  # pairs of a training; below, NumPy is done before the compiler
_NEARLY_ALL = 3  # uniform draws for each item: 1 in 20 is missing (exp(-3))


class PairBatches:
    """Positives, each with negatives of its own.

    Args:
        negatives: for each positive, drawn afresh every epoch.
        n_items: items there are; held-out items are among them.
        by_example: a row of the user tower stands for an example instead of a user, for each has
            a history of its own.
        positives: of a step on one rank, the same number on all ranks, since all must decide alike;
            0 always sorts out which items a step has.
        draws: what negatives are drawn from; None is all items alike.
        compiled: lay pairs out by compiled loops, to the same bits.
    """

    def __init__(
        self,
        negatives: int,
        n_items: int,
        by_example: bool = False,
        positives: int = 0,
        draws: Negatives | None = None,
        compiled: bool = False,
    ) -> None:
        self.negatives, self.n_items, self.by_example = negatives, n_items, by_example
        self.draws, self.compiled = draws, compiled
        whole = positives * negatives >= _NEARLY_ALL * n_items
        self.everything = np.arange(n_items, dtype=np.int64) if whole else None

    def __call__(self, step: Step, examples: Examples) -> Arrays:
        """See `Arrangement`."""
        users, items = (
            ids.astype(np.int32, copy=False) for ids in (examples.users, examples.items)
        )
        negatives = self._drawn(step, users)
        if not self.by_example:
            return self._arranged(users, items, negatives, step.positives)
        each = np.arange(len(examples), dtype=np.int32)
        arranged = self._arranged(each, items, negatives, step.positives)
        return replace(arranged, users=users.astype(np.int64), rows=step.rows)

    def _drawn(self, step: Step, users: np.ndarray) -> np.ndarray:
        if self.draws is not None:
            return self.draws.of_rows(step, users, self.negatives)
        key, start = step.key(Purpose.NEGATIVES), step.start * self.negatives
        count = len(users) * self.negatives
        if self.compiled:
            from cadc_rec.data.load.pair_kernels import uniform_negatives  # see _arranged

            return uniform_negatives(key, start, count, self.n_items).reshape(-1, self.negatives)
        drawn = positional_integers(key, start, count, self.n_items)
        return drawn.astype(np.int32).reshape(-1, self.negatives)

    def _arranged(
        self, users: np.ndarray, items: np.ndarray, negatives: np.ndarray, positives: int
    ) -> Arrays:
        arguments = (users, items, negatives, self.n_items, positives, self.everything)
        if not self.compiled:
            return arrange_pairs(*arguments)
        from cadc_rec.data.load.pair_kernels import (
            arrange_pairs_compiled,  # numba takes long to import
        )

        return arrange_pairs_compiled(*arguments)


def arrange_pairs(
    users: np.ndarray,
    items: np.ndarray,
    negatives: np.ndarray,
    n_items: int,
    positives: int,
    everything: np.ndarray | None = None,
) -> Arrays:
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
    return Batch(
        users=users[first].astype(np.int64),
        items=step_items,
        positives=positives,
        whole=everything is not None,
        pattern=PairPattern(
            crow=crow,
            col=col,
            item_crow=transposed.indptr.astype(np.int32),
            item_col=transposed.indices.astype(np.int32),
            to_item_order=transposed.data.astype(np.int64),
        ),
    )


def worth_compiling(pairs: int) -> bool:
    """Whether compiling the loops pays for a training of this many pairs on a rank."""
    return pairs >= _WORTH_COMPILING
