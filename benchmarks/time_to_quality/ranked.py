"""How models that score by tables are ranked: as `cadc_rec.evaluation` ranks all models.

In: scores of users with all items, as vectors or as rows of a sparse matrix. Out: HR@10 and NDCG@10
of the validation and the test items. A clock counts what a model learns, and nothing of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.time_to_quality.contenders import KS, Reached
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import Listed, held_out_ranks

_CHOSEN_BY = f"ndcg@{KS[0]}"
Metrics = tuple[dict[str, float], dict[str, float]]


@dataclass(frozen=True)
class Scores:
    """Of some users with all items: dot products of vectors, and what is added to them.

    Attributes:
        users: ``[n, d]``.
        items: ``[n_items, d]``.
        added: scores of users by their place among the n, float32 ``[asked for, n_items]``.
    """

    users: torch.Tensor
    items: torch.Tensor
    added: Listed | None = None

    @staticmethod
    def of_rows(
        rows: Callable[[NDArray[np.int64]], sparse.csr_array], n: int, n_items: int
    ) -> Scores:
        """Scores that are no dot products: `rows` gives those of some of the n users."""
        return Scores(torch.zeros(n, 1), torch.zeros(n_items, 1), rows)


def metrics(
    dataset: Dataset,
    sample: NDArray[np.int64] | None,
    scores: Callable[[bool, NDArray[np.int64]], Scores],
) -> Metrics:
    """Of the validation and the test items, each over all items that its user has not taken.

    Args:
        dataset: whose held-out items are ranked.
        sample: the users whose validation items are ranked; None for all.
        scores: whether the validation item is known, and rows of users, to their scores.
    """
    known = UserItems(dataset.user_indptr, dataset.train_item)
    everybody = np.arange(dataset.n_users)
    found = []
    for with_validation, targets, users in (
        (False, dataset.val_item, everybody if sample is None else sample),
        (True, dataset.test_item, everybody),
    ):
        excluded = known.and_one_each(dataset.val_item) if with_validation else known
        of, mine = scores(with_validation, users), targets[users]
        taken = excluded.some(users)
        ranks = held_out_ranks(of.users, of.items, mine, taken, listed=of.added, enough=max(KS))
        found.append(ranking_metrics(ranks[mine >= 0], KS))
    return found[0], found[1]


def interactions(dataset: Dataset, with_validation: bool = False) -> sparse.csr_matrix:
    """D_full as a matrix of ones, float32 ``[n_users, n_items]``.

    Args:
        dataset: a pair that stands there twice is one entry.
        with_validation: whether the validation items are entries too.
    """
    known = UserItems(dataset.user_indptr, dataset.train_item)
    if with_validation:
        known = known.and_one_each(dataset.val_item)
    ones = np.ones(len(known.items), np.float32)
    shape = (dataset.n_users, dataset.n_items)
    # Copied: SciPy sorts each user's items in place, and their order is the dataset's.
    matrix = sparse.csr_matrix((ones, known.items, known.indptr), shape=shape, copy=True)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def best_so_far(points: Iterable[Reached]) -> Iterator[Reached]:
    """At each point what is best by validation until then: several settings as one curve."""
    best: Reached | None = None
    for point in points:
        if best is None or point.validation[_CHOSEN_BY] > best.validation[_CHOSEN_BY]:
            best = point
        yield replace(point, validation=best.validation, test=best.test)


class Watch:
    """Adds up the seconds that are spent within it.

    Args:
        clock: of these seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.seconds, self._clock = 0.0, clock
        self._started: float | None = None

    def __enter__(self) -> Watch:
        self.resume()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def resume(self) -> None:
        """Count from here on."""
        self._started = self._clock()

    def now(self) -> float:
        """What was spent until now, while it counts."""
        return self.seconds + (0.0 if self._started is None else self._clock() - self._started)

    def pause(self) -> None:
        """Count no further."""
        self.seconds, self._started = self.now(), None
