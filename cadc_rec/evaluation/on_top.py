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


class LastItems:
    """What is known of each user before a held-out item; what was asked for last is kept.

    Args:
        dataset: whose users.
        length: items at most.
    """

    def __init__(self, dataset: Dataset, length: int) -> None:
        self.dataset, self.length = dataset, length
        self._kept: tuple[bool, NDArray[np.int32]] | None = None

    def __call__(self, with_validation: bool) -> NDArray[np.int32]:
        """See `Dataset.last_items`."""
        if self._kept is None or self._kept[0] != with_validation:
            self._kept = with_validation, self.dataset.last_items(self.length, with_validation)
        return self._kept[1]


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
        chosen: Any = slice(None) if sample is None else sample
        times, order, recent, lists = np.zeros(0), None, None, None
        if self.recent is not None:
            times = (dataset.test_timestamp if with_validation else dataset.val_timestamp)[chosen]
            order = np.argsort(times, kind="stable")
            recent = self.recent.of_items(items)
        history = np.zeros((0, 0), np.int32)
        if self.lists is not None:
            assert self.known is not None
            history = self.known(with_validation)[chosen]
            lists = self.lists.of_targets(items)

        def listed(users: NDArray[np.int64]) -> sparse.csr_array:
            parts = [] if lists is None else [lists.of(history[users])]
            if recent is not None:
                for each in parts:
                    each.sort_indices()  # SciPy adds sorted matrices many times as fast
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
