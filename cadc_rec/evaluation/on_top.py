"""Scores that come on top of dot products: those of lists, and of what was taken just before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.ranking import Listed


@dataclass(frozen=True)
class LastItems:
    """What is known of users before a held-out item, formed for those that are asked for.

    Attributes:
        dataset: whose users.
        length: items at most.
    """

    dataset: Dataset
    length: int

    def __call__(
        self, with_validation: bool, users: NDArray[np.int64] | slice
    ) -> NDArray[np.int32]:
        """See `Dataset.last_items`."""
        return self.dataset.last_items(self.length, with_validation, users)


@dataclass(frozen=True)
class OnTop:
    """Scores on top of dot products.

    Attributes:
        lists: of transitions; None without.
        recent: of what had been taken before the held-out item was; None without.
        known: histories, for the lists.
    """

    lists: ListedScores | None = None
    recent: RecentScores | None = None
    known: LastItems | None = None

    def of_users(
        self, dataset: Dataset, sample: np.ndarray | None, with_validation: bool, items: range
    ) -> tuple[Listed | None, NDArray[np.int64] | None]:
        """Of the users of `sample`, or of all: their scores, and the order to ask for them.

        Recent popularity is counted along time, so the users are then asked for in the order of
        theirs.

        Args:
            dataset: the users' times.
            sample: rows of users; None for all.
            with_validation: whether the validation item is known by then.
            items: the items whose scores are wanted.
        """
        if self.lists is None and self.recent is None:
            return None, None
        times, order, recent, lists = np.zeros(0), None, None, None
        if self.recent is not None:
            chosen: Any = slice(None) if sample is None else sample
            times = (dataset.test_timestamp if with_validation else dataset.val_timestamp)[chosen]
            order = np.argsort(times, kind="stable")
            recent = self.recent.of_items(items)
        known = self.known
        if self.lists is not None:
            lists = self.lists.of_targets(items)

        def listed(users: NDArray[np.int64]) -> sparse.csr_array:
            parts = []
            if lists is not None:
                assert known is not None
                rows = users if sample is None else sample[users]
                parts.append(lists.of(known(with_validation, rows)))
            if recent is not None:
                # SciPy adds sorted matrices many times as fast, and sorts faster by way of columns.
                parts = [each.tocsc().tocsr() for each in parts]
                parts.append(recent.of(times[users]))
            return sum(parts[1:], parts[0])

        return listed, order

    def settings(self) -> dict[str, Any]:
        """For the manifest, which a bundle is made by."""
        found = {} if self.lists is None else {"lists": self.lists.settings()}
        if self.recent is not None:
            found["recent"] = {"window": self.recent.window, "factor": self.recent.factor}
        return found


def own_share(sample: np.ndarray | None, n_users: int, processes: Processes) -> slice | np.ndarray:
    """This rank's share of the sampled users, or of all."""
    share = processes.share(n_users if sample is None else len(sample))
    mine = slice(share.start, share.stop)
    return mine if sample is None else sample[mine]
