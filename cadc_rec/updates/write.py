"""What updates and forgetting write alike of a prepare artifact: rejected rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec.data.streams import one_array, write_parquet

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
