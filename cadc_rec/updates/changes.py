"""What a day changed of D_full.

In: two datasets, the second an update of the first. Out: masks and positions that the steps of an
update share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.sources.raw_tables import Side

SIDES: tuple[Side, Side] = ("user", "item")


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
    reused: Mapping[Side, NDArray[np.int64]] = field(default_factory=dict)
    """Ascending rows of each side that had another owner before; none where ids do not go. Their
    old interactions are gone from D_full, which alone does not count as a change of the users and
    items on the other side: their vectors keep what they learned of whoever left."""

    @staticmethod
    def between(old: Dataset, new: Dataset) -> Changes:
        """Compare two datasets; a pair stands at most once in each."""
        before = _pairs(old, new.n_items)
        after = _pairs(new, new.n_items)
        order = np.argsort(after)
        at = np.searchsorted(after, before, sorter=order)
        found = order[np.minimum(at, len(after) - 1)]
        place = np.where(after[found] == before, found, -1)
        reused = {side: reused_rows(old, new, side) for side in SIDES}
        left = _of_rows(old, reused)  # pairs of others, whatever the same rows mean now
        place[left] = -1
        came = np.ones(len(after), bool)
        came[place[place >= 0]] = False
        gone = (place < 0) & ~left
        sides = []
        counts = (old.n_users, new.n_users), (old.n_items, new.n_items)
        for side, (known, count) in zip(SIDES, counts, strict=True):
            changed = np.zeros(count, bool)
            changed[getattr(new, f"train_{side}")[came]] = True
            changed[getattr(old, f"train_{side}")[gone]] = True
            changed[known:] = True
            changed[reused[side]] = True
            sides.append(np.flatnonzero(changed))
        return Changes(place, came, sides[0], sides[1], reused)


def reused_rows(old: Dataset, new: Dataset, side: Side) -> NDArray[np.int64]:
    """Rows that mean another user or item in `new` than in `old`, ascending."""
    before, after = old.generation(side), new.generation(side)
    return np.flatnonzero(before != after[: len(before)])


def _of_rows(dataset: Dataset, rows: Mapping[Side, NDArray[np.int64]]) -> NDArray[np.bool_]:
    """Which rows of D_full have one of these users or items."""
    found = np.zeros(len(dataset.train_item), bool)
    for side in SIDES:
        if len(rows[side]):
            mine = np.zeros(dataset.n_users if side == "user" else dataset.n_items, bool)
            mine[rows[side]] = True
            found |= mine[getattr(dataset, f"train_{side}")]
    return found


def _pairs(dataset: Dataset, n_items: int) -> NDArray[np.int64]:
    return dataset.train_user.astype(np.int64) * n_items + dataset.train_item


def items_of(dataset: Dataset, users: NDArray[np.int64]) -> NDArray[np.int64]:
    """All items that these users took in D_full, ascending."""
    theirs = np.zeros(dataset.n_users, bool)
    theirs[users] = True
    return np.unique(dataset.train_item[theirs[dataset.train_user]]).astype(np.int64)
