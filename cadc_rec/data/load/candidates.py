"""Steps of a softmax: which candidates the rows share, and which are masked for a row.

In: the rows of a step. Out: its users one by one, the candidates, where each row's positive stands
among them, and the pairs of row and candidate that a row's sum leaves out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from cadc_rec.data.load.batches import Arrays, Batch, Negatives, Step, unique
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Purpose, positional_integers
from cadc_rec.data.user_items import UserItems

_ABSENT = -1


class SoftmaxBatches:
    """Positives, each among candidates that all of a step share.

    Args:
        candidates: ``all`` items; ``sampled``, each row's positive and shared uniform negatives;
            or the step's own positives (``in-batch``).
        n_items: items there are; held-out items are among them.
        negatives: how many are drawn where they are sampled; each item counts once.
        known: a user's other items here are no candidates of its rows; None masks none.
        draws: what negatives are drawn from; None is all items alike.
    """

    def __init__(
        self,
        candidates: Literal["all", "sampled", "in-batch"],
        n_items: int,
        negatives: int = 0,
        known: UserItems | None = None,
        draws: Negatives | None = None,
    ) -> None:
        self.draws = draws
        self.candidates, self.n_items, self.negatives = candidates, n_items, negatives
        self.everything = np.arange(n_items, dtype=np.int64) if candidates == "all" else None
        self.known = known

    def __call__(self, step: Step, examples: Examples) -> Arrays:
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
        return Batch(
            users=users.astype(np.int64),
            items=candidates.astype(np.int64),
            positives=step.positives,
            rows=step.rows,
            labels=labels.astype(np.int64),
            negative=negative,
            masked=None if self.known is None else self._masked(self.known, examples, candidates),
            whole=self.everything is not None,
        )

    def _masked(self, known: UserItems, examples: Examples, candidates: np.ndarray) -> np.ndarray:
        """Rows and candidates ``[2, n]``, int64: the user knows it, and it is not the positive."""
        row, item = known.joined(examples.users)
        place = np.full(self.n_items, _ABSENT, np.int64)
        place[candidates] = np.arange(len(candidates))
        column = place[item]
        masked = (column != _ABSENT) & (item != examples.items[row])
        return np.stack([row[masked], column[masked]])
