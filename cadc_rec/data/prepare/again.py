"""A prepared dataset's rows once more, as one stream, and what is written of such a stream.

In: a prepared dataset's files, perhaps new rows with dense ids. Out: what a split takes, all rows
in the order of users and their time; and the Parquet parts of the next D_full. The old log is read
a row group at a time and each user's rows stay together, so that memory holds the new rows, the
held-out rows and one group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cadc_rec.data.columns import train_files
from cadc_rec.data.prepare.chosen import GROUPS_PER_PART, as_table, interactions_schema
from cadc_rec.data.prepare.split import Rows, whole_users
from cadc_rec.data.sources.raw_tables import PER_SECOND, context_column
from cadc_rec.data.streams import ROW_GROUP_ROWS, read_groups, rechunk, write_parts

NO_ROWS = Rows(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int64))
_COLUMNS = ("user", "item", "timestamp")


def merged(
    dataset: Path,
    new: Rows = NO_ROWS,
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


def clock_of(info: Mapping[str, Any]) -> int | None:
    """How many of a dataset's times make a second; None where it has none."""
    return PER_SECOND.get(info["time_unit"], 1) if info["has_time"] else None


def write_train(folder: Path, rows: Iterable[Rows], context: Sequence[str]) -> int:
    """Write D_full's Parquet parts; the number of rows.

    Args:
        folder: the draft of the prepare stage.
        rows: to learn from, in order; they are taken now.
        context: names of the columns that say what a request carried.
    """
    written = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal written
        pieces = (as_table(some, context) for some in rows)
        for table in rechunk(pieces, ROW_GROUP_ROWS):
            yield table
            written += table.num_rows

    write_parts(folder / "train", interactions_schema(False, context), tables(), GROUPS_PER_PART)
    return written
