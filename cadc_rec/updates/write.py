"""What updates and forgetting write alike of a prepare artifact: D_full, and rejected rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.data.prepare.chosen import GROUPS_PER_PART, as_table, interactions_schema
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.sources.raw_tables import PER_SECOND
from cadc_rec.data.streams import ROW_GROUP_ROWS, one_array, rechunk, write_parquet, write_parts

_QUOTED = (
    ("(?s)'.*'", "'...'"),
    ("(?s)^.* stands in an earlier row$", "its id stands in an earlier row"),
)
"""Values in the reason of a rejected row, and what stands in their place."""


def without_values(rejected: Path) -> None:
    """Leave of rejected rows where they stand and why, for their ids may be forgotten ones.

    A reason quotes the value that is wrong, or names an id that came before.
    """
    for file in rejected.glob("*.parquet"):
        table = pq.read_table(file)
        reason = one_array(table["reason"])
        for pattern, shown in _QUOTED:
            reason = pc.replace_substring_regex(reason, pattern=pattern, replacement=shown)
        table = table.set_column(table.schema.get_field_index("reason"), "reason", reason)
        write_parquet(file, table.drop_columns(["row"]))


def clock_of(info: Mapping[str, Any]) -> int | None:
    """How many of a dataset's times make a second; None where it has none."""
    return PER_SECOND.get(info["time_unit"], 1) if info["has_time"] else None


class Learned(Protocol):
    """A split, whole or spliced."""

    def train(self) -> Iterator[Rows]:
        """The rows to learn from, in order; only once."""


def write_train(folder: Path, split: Learned, context: Sequence[str]) -> int:
    """Write D_full's Parquet parts; the number of rows.

    Args:
        folder: the draft of the prepare stage.
        split: whose rows to learn from are taken now.
        context: names of the columns that say what a request carried.
    """
    written = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal written
        pieces = (as_table(rows, context) for rows in split.train())
        for table in rechunk(pieces, ROW_GROUP_ROWS):
            yield table
            written += table.num_rows

    write_parts(folder / "train", interactions_schema(False, context), tables(), GROUPS_PER_PART)
    return written
