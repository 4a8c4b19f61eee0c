"""Steps of a softmax: which candidates the rows share, and which are masked for a row.

In: the rows of a step. Out: its users one by one, its items, where each row's positive stands among
them, which of them are candidates, and the pairs of row and candidate that a row's sum leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.load.batches import Arrays, Batch, Negatives, Step, unique
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.randomness import Purpose, positional_integers
from cadc_rec.data.user_items import UserItems

_ABSENT = -1


@dataclass(frozen=True)
class Lifetimes:
    """When items were alive, and when a rank's examples took theirs.

    Attributes:
        first: float64 ``[n_items]``, each item's first time in D_full; infinite for none.
        last: float64 ``[n_items]``, its last.
        times: float64 ``[rows]``, of this rank's examples.
    """

    first: NDArray[np.float64]
    last: NDArray[np.float64]
    times: NDArray[np.float64]

    @classmethod
    def of(
        cls, items: np.ndarray, times: NDArray[np.float64], n_items: int, rows: np.ndarray
    ) -> Lifetimes:
        """From D_full: `items` and `times` ``[interactions]``; `rows` are the examples' places."""
        first, last = np.full(n_items, np.inf), np.full(n_items, -np.inf)
        np.minimum.at(first, items, times)
        np.maximum.at(last, items, times)
        return cls(first, last, times[rows])

    def dead(self, rows: np.ndarray, candidates: np.ndarray) -> NDArray[np.int64]:
        """Pairs ``[2, n]`` of an example and a candidate that was not alive at its time.

        Args:
            rows: int64 ``[B]``, among this rank's examples.
            candidates: int64 ``[C]``, items.
        """
        now = self.times[rows][:, None]
        return np.stack(np.nonzero((self.first[candidates] > now) | (self.last[candidates] < now)))


class SoftmaxBatches:
    """Positives, each among candidates that all of a step share.

    Args:
        candidates: ``all`` items; ``sampled``, each row's positive and shared uniform negatives;
            the step's own positives (``in-batch``); or these and shared negatives (``mixed``).
        n_items: items there are; held-out items are among them.
        negatives: how many are drawn where they are sampled; each item counts once.
        known: a user's other items here are no candidates of its rows; None masks none.
        draws: what negatives are drawn from; None is all items alike.
        lifetimes: items that were not alive at a row's time are no candidates of it; None leaves
            none out.
    """

    def __init__(
        self,
        candidates: Literal["all", "sampled", "in-batch", "mixed"],
        n_items: int,
        negatives: int = 0,
        known: UserItems | None = None,
        draws: Negatives | None = None,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self.draws, self.lifetimes = draws, lifetimes
        self.candidates, self.n_items, self.negatives = candidates, n_items, negatives
        self.everything = np.arange(n_items, dtype=np.int64) if candidates == "all" else None
        self.known = known

    def __call__(self, step: Step, examples: Examples) -> Arrays:
        """See `Arrangement`."""
        users, items = examples.users, examples.items
        negatives = repeated = None
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
            if self.candidates == "sampled":
                drawn_here = np.zeros(len(candidates), bool)
                drawn_here[place[len(items) :]] = True
                negatives, repeated = np.flatnonzero(drawn_here), drawn_here[labels]
        return Batch(
            users=users.astype(np.int64),
            items=candidates.astype(np.int64),
            positives=step.positives,
            rows=step.rows,
            labels=labels.astype(np.int64),
            negatives=negatives,
            repeated=repeated,
            masked=self._masked(
                step.rows, examples, candidates if negatives is None else candidates[negatives]
            ),
            whole=self.everything is not None,
        )

    def _masked(
        self, rows: np.ndarray, examples: Examples, candidates: np.ndarray
    ) -> np.ndarray | None:
        """Rows and candidates ``[2, n]``, int64, that are left out; None where nothing can be."""
        known, lifetimes = self.known, self.lifetimes
        left_out = [] if known is None else [self._known(known, examples, candidates)]
        if lifetimes is not None:  # an example was taken while its item was alive
            left_out.append(lifetimes.dead(rows, candidates))
        if len(left_out) < 2:
            return left_out[0] if left_out else None
        return np.concatenate(left_out, axis=1)

    def _known(self, known: UserItems, examples: Examples, candidates: np.ndarray) -> np.ndarray:
        """Rows and candidates ``[2, n]``, int64: the user knows it, and it is not the positive."""
        row, item = known.joined(examples.users)
        place = np.full(self.n_items, _ABSENT, np.int64)
        place[candidates] = np.arange(len(candidates))
        column = place[item]
        masked = (column != _ABSENT) & (item != examples.items[row])
        return np.stack([row[masked], column[masked]])
