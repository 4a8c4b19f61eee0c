"""What a day changed of D_full, and the uniform sample of it, carried on.

In: two datasets, the second an update of the first. Out: masks and positions that the steps of an
update share; and a sample that is still uniform over the new D_full and has mostly the same rows.

Of N' rows, n' are wanted. A of them stood in the old D_full, B = N' - A did not. In a uniform
sample of n' the number a of old rows is hypergeometric(A, B, n'), and given a they are any a of A
alike. The old sample, less the rows that D_full lost, is a uniform sample of the A rows whatever
its size; taking rows away from it at random, or adding some of the others at random, until there
are a, leaves it one. The rest is drawn from the B. So the result is distributed exactly as a fresh
draw of n' from N' would be, and only about sqrt(n') old rows change beside what must.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose, bit_generator
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


def sampled_rows(selection: Path) -> NDArray[np.int64]:
    """The rows of D_full that a select artifact holds, ascending."""
    files = sorted(selection.glob("shard-*.parquet"))
    rows = [pq.read_table(file, columns=["row"])["row"].to_numpy() for file in files]
    return np.sort(np.concatenate(rows))


def refreshed_sample(
    sample: NDArray[np.int64], changes: Changes, wanted: int, key: tuple[int, ...]
) -> NDArray[np.int64]:
    """A uniform sample of the new D_full that keeps what it can of the old one.

    Args:
        sample: rows of the old D_full, each once: a uniform sample of it.
        changes: from the old D_full to the new one.
        wanted: rows of the new sample.
        key: (seed, place...) of the draw: another one for every update.

    Returns:
        Ascending rows of the new D_full, int64 ``[wanted]``.
    """
    draw = np.random.Generator(bit_generator((key[0], Purpose.REFRESHED_SELECTION, *key[1:])))
    kept = changes.place[sample]
    kept = kept[kept >= 0]
    old, new = np.flatnonzero(~changes.came), np.flatnonzero(changes.came)
    of_old = wanted if not len(new) else int(draw.hypergeometric(len(old), len(new), wanted))
    if len(kept) >= of_old:
        kept = draw.choice(kept, of_old, replace=False, shuffle=False)
    else:
        taken = np.zeros(len(changes.came), bool)
        taken[kept] = True
        others = old[~taken[old]]
        more = draw.choice(others, of_old - len(kept), replace=False, shuffle=False)
        kept = np.concatenate([kept, more])
    fresh = draw.choice(new, wanted - of_old, replace=False, shuffle=False)
    return np.sort(np.concatenate([kept, fresh]))
