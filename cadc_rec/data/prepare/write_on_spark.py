"""Splits and writes the rows by the tasks of a Spark cluster, to the bytes that a stream writes.

In: the rows that are kept, as an expression. Out: the parts of D_full and its columns in both
orders, written by the machines of the cluster; the held-out rows, written here. Through this
process pass the rows that are held out, a few for each user, and how many rows each user and each
item has: blocks of either, but for the counts' own arrays.

1. Window functions say which rows are learned from and which are held out (`split_windows.py`).
2. Spark sorts the first by user and time, by ranges into files; and their users by item.
3. From the files' sizes it is known which rows stand in which part, and each value's place in its
   column. So each part and each piece of a column is a task of its own (`part_tasks.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.cold_items import FILE as COLD_FILE
from cadc_rec.data.columns import FOLDER, begin_array, raw_columns, write_row_starts
from cadc_rec.data.prepare.chosen import GROUPS_PER_PART, Chosen, Written, interactions_schema
from cadc_rec.data.prepare.cold import COLD_ROWS
from cadc_rec.data.prepare.context import ContextCodes
from cadc_rec.data.prepare.interactions import DenseIds, dense_rows
from cadc_rec.data.prepare.part_tasks import Array, SortedRows, WriteColumn, WritePart, coded
from cadc_rec.data.prepare.spark import PLACE, SparkEngine
from cadc_rec.data.prepare.split import TEST, VALIDATION
from cadc_rec.data.prepare.split_windows import COLD, LEFT, PART, UNUSED, with_part
from cadc_rec.data.sources.raw_tables import context_column
from cadc_rec.data.streams import (
    ROW_GROUP_ROWS,
    part_name,
    rechunk,
    write_blocks,
    write_parquet,
)

_PYARROW = pa.__version__


class SparkWriter:
    """See `cadc_rec.data.prepare.chosen.WriteRows`.

    Args:
        engine: that chose the rows.
        scratch: every machine of the cluster sees it, as it sees the artifact's folder.
    """

    def __init__(self, engine: SparkEngine, scratch: Path) -> None:
        self._engine, self._scratch = engine, scratch.absolute()

    def __call__(self, chosen: Chosen, codes: ContextCodes, folder: Path) -> Written:
        """Split, sort, and have the parts written."""
        folder = folder.absolute()
        rows, keys = self._split(chosen)
        self._engine.keep_only(rows, chosen.ids.users, chosen.ids.items)
        warm = rows.filter(~rows[COLD])
        learned = rows.filter(rows[PART] == LEFT)
        if chosen.cold is None or not chosen.cold.control:
            learned = learned.filter(~learned[COLD])
        held_out = {
            name: warm.filter(warm[PART] == part)
            for name, part in (("val", VALIDATION), ("test", TEST))
        }
        columns = interactions_schema(chosen.weighted, codes.values).names
        in_order = self._engine.sort("in_order", learned.order_by(["user", *keys]).select(*columns))
        self._order_values(codes, held_out)
        (folder / FOLDER).mkdir()
        (folder / "train").mkdir()
        self._write_parts(in_order, chosen, codes, folder)
        self._engine.drop("in_order")
        self._write_by_item(learned, folder)
        for side, size in (("user", chosen.n_users), ("item", chosen.n_items)):
            write_row_starts(folder, side, self._counts(learned, side, size))
        sizes = {
            name: self._write_held_out(name, held, codes, folder / f"{name}.parquet")
            for name, held in held_out.items()
        }
        counts = self._engine.only_row(
            rows.aggregate(
                distinct=rows.count(),
                unused=((rows[PART] == UNUSED) & ~rows[COLD]).sum(),
            )
        )
        return Written(
            train=in_order.rows,
            val=sizes["val"],
            test=sizes["test"],
            distinct=int(counts["distinct"]),
            unused=int(counts["unused"]),
            learned=learned,
            cold={} if chosen.cold is None else self._write_cold(rows, keys, folder / COLD_FILE),
        )

    def _split(self, chosen: Chosen) -> tuple[ir.Table, list[str]]:
        """Dense rows with their part and whether their item is cold; what sorts a user's rows."""
        items = chosen.ids.items
        marked = items.mutate(**{COLD: False}) if chosen.cold is None else chosen.cold.marked(items)
        ids = DenseIds(chosen.ids.users, marked)
        dense, keys = dense_rows(chosen.rows, ids, chosen.order, chosen.context)
        return self._engine.keep("split", with_part(dense, keys, chosen.cuts)), keys

    def _order_values(self, codes: ContextCodes, held_out: dict[str, ir.Table]) -> None:
        """Number the values of a context in the order in which the rows have them first."""
        for number, name in enumerate(codes.values):
            column = context_column(name)
            learned = self._first_places(self._engine.placed("in_order"), column, PLACE)
            held = [self._first_places(rows, column, "user") for rows in held_out.values()]
            codes.take(number, learned, [rank for ranks in held for rank in ranks])

    def _first_places(self, rows: ir.Table, column: str, place: str) -> list[int]:
        """The ranks that rows have in a column, in the order of their first places."""
        there = rows.filter(rows[column] > 0)
        found = there.group_by(column).agg(place=there[place].min())
        return [int(row[column]) for row in self._engine.few_rows(found.order_by("place"))]

    def _write_parts(
        self, rows: SortedRows, chosen: Chosen, codes: ContextCodes, folder: Path
    ) -> None:
        schema = interactions_schema(chosen.weighted, codes.values)
        columns = raw_columns(chosen.weighted, chosen.per_second)
        task = WritePart(
            rows=rows,
            schema=schema,
            codes=dict(zip(map(context_column, codes.values), codes.code_of_rank, strict=True)),
            columns={
                name: _begun(folder / FOLDER / f"{column.file}.npy", column.kind, rows.rows)
                for name, column in columns.items()
            },
            per_second=chosen.per_second or 1,
            folder=str(folder / "train"),
            scratch=str(self._scratch),
            group_rows=ROW_GROUP_ROWS,
            groups=GROUPS_PER_PART,
            pyarrow=_PYARROW,
        )
        self._engine.each(task, -(-rows.rows // (ROW_GROUP_ROWS * GROUPS_PER_PART)))
        if not rows.rows:
            write_parquet(folder / "train" / part_name(0), schema.empty_table())

    def _write_by_item(self, learned: ir.Table, folder: Path) -> None:
        by_item = self._engine.sort("by_item", learned.order_by(["item", "user"]).select("user"))
        column = _begun(folder / FOLDER / "by_item.npy", np.int32, by_item.rows)
        piece = GROUPS_PER_PART * ROW_GROUP_ROWS
        task = WriteColumn(by_item, "user", column, piece, _PYARROW)
        self._engine.each(task, -(-by_item.rows // piece))
        self._engine.drop("by_item")

    def _counts(self, learned: ir.Table, side: str, size: int) -> NDArray[np.int64]:
        """Rows of each user or item, ``[size]``."""
        counts = np.zeros(size, np.int64)
        found = learned.group_by(side).agg(n=ibis._.count())
        counted = self._engine.sort(f"rows_of_{side}s", found)  # in any order
        for batch in counted.batches(0, counted.rows):
            counts[batch[side].to_numpy()] = batch["n"].to_numpy()
        return counts

    def _write_held_out(self, name: str, rows: ir.Table, codes: ContextCodes, path: Path) -> int:
        """Write at most one row of each user; the number of rows."""
        columns = interactions_schema(False, codes.values)
        found = self._engine.sort(name, rows.order_by("user").select(*columns.names))
        code = dict(zip(map(context_column, codes.values), codes.code_of_rank, strict=True))
        blocks = rechunk(found.batches(0, found.rows), ROW_GROUP_ROWS)
        write_blocks(path, columns, (coded(block, code) for block in blocks))
        return found.rows

    def _write_cold(self, rows: ir.Table, keys: list[str], path: Path) -> dict[str, Any]:
        """Write the rows of cold items; what the manifest says of them."""
        cold = rows.filter(rows[COLD])
        held = ibis.cases((cold[PART] == UNUSED, LEFT), else_=cold[PART]).cast("int8")
        in_order = cold.mutate(held_out=held).order_by(["user", *keys]).select(*COLD_ROWS.names)
        found = self._engine.sort("cold", in_order)
        write_blocks(path, COLD_ROWS, rechunk(found.batches(0, found.rows), ROW_GROUP_ROWS))
        counts = cold.aggregate(
            cold_items=cold["item"].nunique(),
            cold_interactions=cold.count(),
            cold_val=(cold[PART] == VALIDATION).sum(),
            cold_test=(cold[PART] == TEST).sum(),
        )
        return {name: int(value) for name, value in self._engine.only_row(counts).items()}


def _begun(path: Path, kind: Any, rows: int) -> Array:
    """A raw column of `rows` values that are still to be written."""
    with path.open("wb") as out:
        begin_array(out, kind, rows)
        header = out.tell()
        out.truncate(header + rows * np.dtype(kind).itemsize)
    return Array(str(path), np.dtype(kind).str, header)
