"""Steps of a softmax: which candidates the rows share, and which are none for a row.

In: the rows of a step. Out: its users one by one, the candidates, where each row's positive stands
among them, and the pairs of row and candidate that a row's sum leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.load.batches import BatchArrays, Negatives, Step, unique
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Purpose, positional_integers

_ABSENT = -1


@dataclass(frozen=True)
class KnownItems:
    """What each user took in training, as CSR: int64 ``[n_users + 1]``, int32 ``[rows]``."""

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]

    def of(self, users: np.ndarray) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """The items of several users, end to end, and which of the users each is of."""
        start, count = self.indptr[users], self.indptr[users + 1] - self.indptr[users]
        row = np.repeat(np.arange(len(users)), count)
        before = np.cumsum(count) - count
        place = np.arange(len(row)) + np.repeat(start - before, count)
        return row, self.items[place]

    def ascending(self) -> KnownItems:
        """The same with each user's items in ascending order."""
        items = self.items.copy()
        told = (np.zeros(len(items), np.int8), items, self.indptr)
        by_user = sparse.csr_matrix(
            told, shape=(len(self.indptr) - 1, int(items.max(initial=0)) + 1)
        )
        by_user.sort_indices()
        return KnownItems(self.indptr, by_user.indices.astype(np.int32, copy=False))


class SoftmaxBatches:
    """Positives, each among candidates that all of a step share.

    Args:
        candidates: ``all`` items; ``sampled``, each row's positive and shared uniform negatives;
            or the step's own positives (``in-batch``).
        n_items: items there are; held-out items are among them.
        negatives: how many are drawn where they are sampled; each item counts once.
        known: a user's other items here are no candidates of its rows; None bars none.
        draws: what negatives are drawn from; None is all items alike.
    """

    def __init__(
        self,
        candidates: Literal["all", "sampled", "in-batch"],
        n_items: int,
        negatives: int = 0,
        known: KnownItems | None = None,
        draws: Negatives | None = None,
    ) -> None:
        self.draws = draws
        self.candidates, self.n_items, self.negatives = candidates, n_items, negatives
        self.everything = np.arange(n_items, dtype=np.int64) if candidates == "all" else None
        self.known = known

    def __call__(self, step: Step, examples: Examples) -> BatchArrays:
        """See `Arrangement`."""
        users, items = examples.users, examples.items
        negative = None
        if self.everything is not None:
            candidates, labels = self.everything, items
        elif self.candidates == "in-batch":
            candidates, labels = unique(items, self.n_items)
        else:
            key, start = step.key(Purpose.SHARED_NEGATIVES), step.number * self.negatives
            if self.draws is None:
                drawn = positional_integers(key, start, self.negatives, self.n_items)
            else:
                drawn = self.draws.shared(key, start, self.negatives)
            candidates, place = unique(np.concatenate([items, drawn]), self.n_items)
            labels = place[: len(items)]
            negative = np.zeros(len(candidates), bool)
            negative[place[len(items) :]] = True
        return BatchArrays(
            users=users.astype(np.int64),
            items=candidates.astype(np.int64),
            positives=step.positives,
            rows=step.rows,
            labels=labels.astype(np.int64),
            negative=negative,
            barred=None if self.known is None else self._barred(self.known, examples, candidates),
            whole=self.everything is not None,
        )

    def _barred(self, known: KnownItems, examples: Examples, candidates: np.ndarray) -> np.ndarray:
        """Rows and candidates ``[2, n]``, int64: the user knows it, and it is not the positive."""
        row, item = known.of(examples.users)
        place = np.full(self.n_items, _ABSENT, np.int64)
        place[candidates] = np.arange(len(candidates))
        column = place[item]
        barred = (column != _ABSENT) & (item != examples.items[row])
        return np.stack([row[barred], column[barred]])
