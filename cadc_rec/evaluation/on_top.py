"""Scores that come on top of dot products: those of lists, and of what was taken just before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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


class KeptScores:
    """Scores before their factors, of users who are ranked again and again.

    From one validation to the next only the factors change: lists and log stay, and so does what
    was known of a user before the validation item.

    Args:
        most: bytes to keep; blocks beyond them are formed anew each time.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._kept: dict[tuple[str, bytes], sparse.csr_array] = {}

    def of(
        self,
        name: str,
        users: NDArray[np.int64],
        factor: float,
        form: Callable[[], sparse.csr_array],
    ) -> sparse.csr_array:
        """The scores of some users, float32 ``[users, n_items]``.

        Args:
            name: of the scores.
            users: of a block.
            factor: of the scores, which may differ each time.
            form: makes them, without the factor.
        """
        key = name, users.tobytes()
        found = self._kept.get(key)
        if found is None:
            found = form()
            parts = (found.data, found.indices, found.indptr)
            size = sum(part.nbytes for part in parts)
            if size > self._left:
                found.data *= np.float32(factor)
                return found
            self._left -= size
            self._kept[key] = found
            for part in parts:  # what is returned has the same places, which sorting would change
                part.setflags(write=False)
        scores = found.data * np.float32(factor)
        return sparse.csr_array((scores, found.indices, found.indptr), shape=found.shape)


@dataclass(frozen=True)
class OnTop:
    """Scores on top of dot products.

    Attributes:
        lists: of transitions; None without.
        recent: of what had been taken before the held-out item was; None without.
        known: histories, for the lists.
        kept: of the same users, as they were ranked before; None keeps nothing.
    """

    lists: ListedScores | None = None
    recent: RecentScores | None = None
    known: LastItems | None = None
    kept: KeptScores | None = None

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
        kept = KeptScores(0) if self.kept is None else self.kept
        if self.recent is not None:
            chosen: Any = slice(None) if sample is None else sample
            times = (dataset.test_timestamp if with_validation else dataset.val_timestamp)[chosen]
            order = np.argsort(times, kind="stable")
            recent = replace(self.recent, factor=1.0).of_items(items)
        known = self.known
        if self.lists is not None:
            lists = replace(self.lists, factor=1.0).of_targets(items)

        def of_lists(users: NDArray[np.int64]) -> sparse.csr_array:
            assert lists is not None
            assert known is not None
            found = lists.of(known(with_validation, users if sample is None else sample[users]))
            # SciPy adds sorted matrices many times as fast, and sorts faster by way of columns.
            return found if recent is None else found.tocsc().tocsr()

        def listed(users: NDArray[np.int64]) -> sparse.csr_array:
            parts = []
            if self.lists is not None:
                factor = self.lists.factor
                parts.append(kept.of("lists", users, factor, lambda: of_lists(users)))
            if self.recent is not None:
                assert recent is not None
                counted, factor = recent, self.recent.factor
                parts.append(kept.of("recent", users, factor, lambda: counted.of(times[users])))
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
