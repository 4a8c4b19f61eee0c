"""What a day changed of D_full: which rows came and went, whose rows they are.

In: two datasets, the second an update of the first. Out: masks and positions that the steps of an
update share.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.dataset import Dataset


@dataclass(frozen=True)
class Changes:
    """The train split before and after."""

    place: NDArray[np.int64]
    """``[old rows]``: where a row of the old D_full stands in the new one, -1 where it does not
    (what is held out now)."""
    came: NDArray[np.bool_]
    """``[new rows]``: rows that the old D_full had not."""
    users: NDArray[np.int64]
    """Ascending: users whose rows came or went, and new ones."""
    items: NDArray[np.int64]
    """Ascending: items likewise."""

    @staticmethod
    def between(old: Dataset, new: Dataset) -> Changes:
        """Compare two datasets; a pair stands at most once in each."""
        before = _pairs(old, new.n_items)
        after = _pairs(new, new.n_items)
        order = np.argsort(after)
        at = np.searchsorted(after, before, sorter=order)
        found = order[np.minimum(at, len(after) - 1)]
        place = np.where(after[found] == before, found, -1)
        came = np.ones(len(after), bool)
        came[place[place >= 0]] = False
        gone = place < 0
        sides = []
        for side, known, count in (
            ("user", old.n_users, new.n_users),
            ("item", old.n_items, new.n_items),
        ):
            changed = np.zeros(count, bool)
            changed[getattr(new, f"train_{side}")[came]] = True
            changed[getattr(old, f"train_{side}")[gone]] = True
            changed[known:] = True
            sides.append(np.flatnonzero(changed))
        return Changes(place, came, *sides)


def _pairs(dataset: Dataset, n_items: int) -> NDArray[np.int64]:
    return dataset.train_user.astype(np.int64) * n_items + dataset.train_item


def items_of(dataset: Dataset, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """All items that these users took in D_full, ascending."""
    theirs = np.zeros(dataset.n_users, bool)
    theirs[users] = True
    return np.unique(dataset.train_item[theirs[dataset.train_user]]).astype(np.int64)
