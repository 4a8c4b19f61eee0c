"""The held-out interactions of cold items, as a prepared dataset with ``data.cold_items`` has them.

In: ``cold.parquet`` of the prepare stage. Out: which items are cold, who took them, and which of
these interactions are ranked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.dataset import NOT_HELD_OUT, Dataset
from cadc_rec.data.prepare.split import TEST, VALIDATION
from cadc_rec.data.user_items import UserItems

FILE = "cold.parquet"


@dataclass(frozen=True)
class ColdItems:
    """Cold items and their interactions.

    Attributes:
        items: int32, ascending.
        taken: every user's.
        val_item: ``[n_users]``, the one that is ranked on validation; -1 where there is none.
        test_item: likewise.
    """

    items: NDArray[np.int32]
    taken: UserItems
    val_item: NDArray[np.int32]
    test_item: NDArray[np.int32]

    @classmethod
    def of(cls, dataset: Dataset) -> ColdItems | None:
        """Those of a dataset; None if it was prepared without ``data.cold_items``."""
        file = dataset.path / FILE
        if not file.exists():
            return None
        columns = pq.read_table(file)
        user, item, held = (columns[name].to_numpy() for name in ("user", "item", "held_out"))

        def held_out(name: int) -> NDArray[np.int32]:
            found = np.full(dataset.n_users, NOT_HELD_OUT, np.int32)
            found[user[held == name]] = item[held == name]
            return found

        counts = np.bincount(user, minlength=dataset.n_users)
        taken = UserItems(np.concatenate([[0], np.cumsum(counts)]), item)
        return cls(np.unique(item), taken, held_out(VALIDATION), held_out(TEST))

    def excluded(self, dataset: Dataset, target: NDArray[np.int32]) -> UserItems:
        """All that each user took but for the target, which is what is no candidate.

        Args:
            dataset: the same.
            target: ``[n_users]``, -1 where there is none.
        """
        every = UserItems(dataset.user_indptr, dataset.train_item)
        every = every.and_one_each(dataset.val_item).and_one_each(dataset.test_item)
        user, item = every.joined(np.arange(len(every)))
        cold_user, cold_item = self.taken.joined(np.arange(len(every)))
        user, item = np.concatenate([user, cold_user]), np.concatenate([item, cold_item])
        kept = item != target[user]
        order = np.argsort(user[kept], kind="stable")
        counts = np.bincount(user[kept], minlength=len(every))
        return UserItems(np.concatenate([[0], np.cumsum(counts)]), item[kept][order])
