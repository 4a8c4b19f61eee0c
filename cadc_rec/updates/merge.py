"""Which rows of a day enter the log, and in what order where it has no times."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.columns import train_files


def admitted(
    user: NDArray[np.int32], item: NDArray[np.int32], n_users: int, n_items: int, k: int
) -> NDArray[np.bool_]:
    """Which new rows enter under a k-core.

    What the dataset has stays in it. A new user or item needs `k` different partners among the
    rows that enter. What an earlier k-core removed is not remembered.

    Args:
        user: dense ids of the rows, new users from `n_users` on.
        item: likewise.
        n_users: users known before.
        n_items: items known before.
        k: 0 and 1 admit everything.
    """
    kept = np.ones(len(user), bool)
    if k <= 1 or not len(user):
        return kept
    pair = user.astype(np.int64) * (int(item.max()) + 1) + item
    first = np.zeros(len(user), bool)
    first[np.unique(pair, return_index=True)[1]] = True
    while True:
        counted = kept & first
        enough = np.ones(len(user), bool)
        for ids, known in ((user, n_users), (item, n_items)):
            partners = np.bincount(ids[counted], minlength=int(ids.max()) + 1)
            enough &= (ids < known) | (partners[ids] >= k)
        if (enough | ~kept).all():
            return kept
        kept &= enough


def seeded_order(count: int, split_seed: int) -> NDArray[np.int64]:
    """The order of `count` rows that have no time, as the preparation draws one."""
    keys = [hashlib.md5(f"{split_seed}:{row}".encode()).hexdigest() for row in range(count)]
    return np.argsort(np.array(keys), kind="stable")


def times_of(dataset: Path) -> tuple[int, int]:
    """The oldest and newest timestamp of a prepared dataset, from its files' statistics."""
    files = [*train_files(dataset), dataset / "val.parquet", dataset / "test.parquet"]
    found: list[int] = []
    for file in files:
        metadata = pq.read_metadata(file)
        column = metadata.schema.names.index("timestamp")
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(column).statistics
            if metadata.row_group(group).num_rows and statistics and statistics.has_min_max:
                found += [int(statistics.min), int(statistics.max)]
    return min(found), max(found)
