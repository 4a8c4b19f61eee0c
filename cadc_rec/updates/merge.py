"""The old log and the new rows as one stream, in the order of users and their time.

In: a prepared dataset's files, the new rows with dense ids. Out: what the split takes. The old log
is read a row group at a time and each user's rows stay together, so that memory holds the day, the
held-out rows and one group.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.columns import train_files
from cadc_rec.data.prepare.split import Rows, whole_users
from cadc_rec.data.sources.raw_tables import context_column
from cadc_rec.data.streams import read_groups

_COLUMNS = ("user", "item", "timestamp")


def merged(
    dataset: Path,
    new: Rows,
    context: Sequence[str] = (),
    keep: Callable[[Rows], Rows] = lambda rows: rows,
) -> Iterator[Rows]:
    """Every row of the dataset, held out or not, and the new ones.

    A user's rows are ordered by time; of equal times the old ones come first, as if the new rows'
    file followed the old one.

    Args:
        dataset: a prepare artifact's folder.
        new: with dense ids; a user's rows of equal times stand in their order.
        context: names of the columns that say what a request carried.
        keep: which of the dataset's rows stay.
    """
    new = new.take(np.argsort(new.user, kind="stable"))
    others = [
        keep(rows_of(pq.read_table(dataset / f"{part}.parquet"), context))
        for part in ("val", "test")
    ]
    others.append(new)
    done = [0] * len(others)
    for block in whole_users(
        keep(rows_of(group, context)) for group in read_groups(train_files(dataset))
    ):
        ends = [int(np.searchsorted(rows.user, block.user[-1], "right")) for rows in others]
        yield in_order([block, *_between(others, done, ends)])
        done = ends
    yield in_order(list(_between(others, done, [len(rows) for rows in others])))


def _between(parts: list[Rows], starts: list[int], ends: list[int]) -> Iterator[Rows]:
    for rows, start, end in zip(parts, starts, ends, strict=True):
        yield rows.take(slice(start, end))


def in_order(parts: list[Rows]) -> Rows:
    """By user and time; rows alike in both stay in the order of the parts."""
    rows = Rows.joined(parts)
    return rows.take(np.lexsort((rows.timestamp, rows.user)))


def rows_of(table: pa.Table, context: Sequence[str] = ()) -> Rows:
    """A table's rows as columns of NumPy, with those of the context."""
    user, item, timestamp = (table[name].to_numpy() for name in _COLUMNS)
    asked = [table[context_column(name)].to_numpy() for name in context]
    return Rows(
        user.astype(np.int32),
        item.astype(np.int32),
        timestamp.astype(np.int64),
        None,
        np.stack(asked, 1).astype(np.int32) if asked else None,
    )


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
