"""What is handed to whoever splits and writes the rows, and what it says of them afterwards.

There are two that do: one stream of rows (`write_stream.py`, of DuckDB) and the tasks of a cluster
(`write_on_spark.py`). Both write the same bytes. This file also says which columns they write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ibis.expr.types as ir
import pyarrow as pa

from cadc_rec.data.prepare.cold import ColdItems
from cadc_rec.data.prepare.context import ContextCodes, context_columns
from cadc_rec.data.prepare.interactions import DenseIds, Order
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.sources.raw_tables import context_column

GROUPS_PER_PART = 16
INTERACTIONS = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])
WEIGHT = pa.field("weight", pa.float32())


@dataclass(frozen=True)
class Chosen:
    """The rows that are kept, and how they are numbered, ordered and split."""

    rows: ir.Table
    """user_id, item_id, timestamp, row, perhaps weight and columns of a context."""
    at_most: int
    """How many there are at most; a stream may still drop repeated pairs."""
    ids: DenseIds
    n_users: int
    n_items: int
    """Items to learn of; those of cold items that are not learned from are numbered after them."""
    order: Order
    cuts: tuple[int, int] | None
    """Where validation and test begin, of a split by time; None holds out each user's last two."""
    cold: ColdItems | None
    context: dict[str, ir.Table]
    """The values of each column of the context, ranked, by the column's name in `rows`."""
    per_second: int | None
    """How many of the rows' times make a second; None where there are no times."""

    @property
    def weighted(self) -> bool:
        """Whether each row has a weight."""
        return "weight" in self.rows.columns


@dataclass(frozen=True)
class Written:
    """How many rows were written as what."""

    train: int
    val: int
    test: int
    distinct: int
    """Rows without repetitions of a pair, those of cold items too."""
    unused: int
    """Of other items, rows that are neither learned from nor held out."""
    learned: ir.Table
    """The rows to learn from, in any order, on the engine that chose them; a context's values are
    numbered in some way, 0 where they are missing."""
    cold: dict[str, Any] = field(default_factory=dict)
    """What the manifest says of cold items, where there are any."""


class WriteRows(Protocol):
    """Writes D_full, its columns, the held-out rows and, where there are any, the cold items'."""

    def __call__(self, chosen: Chosen, codes: ContextCodes, folder: Path) -> Written:
        """Fill the folder of the artifact; `codes` get the order of the values of a context."""


def interactions_schema(weighted: bool, context: Iterable[str]) -> pa.Schema:
    """Columns of prepared interactions.

    Args:
        weighted: whether they have a weight.
        context: columns of what a request carries.
    """
    fields = [*INTERACTIONS, *([WEIGHT] if weighted else [])]
    return pa.schema([*fields, *(pa.field(context_column(name), pa.int32()) for name in context)])


def as_table(rows: Rows, context: Iterable[str]) -> pa.Table:
    """Rows as they are written, with a column for each name of the context."""
    names = list(context)
    columns = [rows.user, rows.item, rows.timestamp]
    columns += [] if rows.weight is None else [rows.weight]
    schema = interactions_schema(rows.weight is not None, names)
    return pa.table([*columns, *context_columns(rows, names)], schema=schema)
