"""Splits and writes the rows as one stream, in the order of users, in this process.

Only a few blocks of rows are in memory at a time. Sorting (DuckDB), splitting and compressing take
about as long as each other; the first two run in threads of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.data.columns import columns_beside
from cadc_rec.data.engine import stream
from cadc_rec.data.prepare.chosen import (
    GROUPS_PER_PART,
    Chosen,
    Written,
    as_table,
    interactions_schema,
)
from cadc_rec.data.prepare.cold import write_cold
from cadc_rec.data.prepare.context import ContextCodes
from cadc_rec.data.prepare.interactions import order_interactions
from cadc_rec.data.prepare.split import ColdSplit, LeaveLastTwo, Rows, Split, TimeSplit
from cadc_rec.data.streams import ROW_GROUP_ROWS, prefetched, rechunk, write_parquet, write_parts
from cadc_rec.log import track


class StreamWriter:
    """See `cadc_rec.data.prepare.chosen.WriteRows`.

    Args:
        backend: sorts the rows.
        scratch: for what does not fit into memory.
    """

    def __init__(self, backend: Backend, scratch: Path) -> None:
        self._backend, self._scratch = backend, scratch

    def __call__(self, chosen: Chosen, codes: ContextCodes, folder: Path) -> Written:
        """Write the rows as they come."""
        cold = chosen.cold  # asked before the stream is open: DuckDB answers one at a time
        is_cold = None if cold is None else cold.among(chosen.ids.items)
        in_order = order_interactions(chosen.rows, chosen.ids, chosen.order, chosen.context)
        rows = map(_as_rows, stream(self._backend, in_order, ROW_GROUP_ROWS))
        split: Split = LeaveLastTwo(rows) if chosen.cuts is None else TimeSplit(rows, *chosen.cuts)
        if cold is not None and is_cold is not None:
            split = ColdSplit(split, is_cold, cold.control)
        sizes = chosen.n_users, chosen.n_items
        kinds = chosen.weighted, chosen.per_second
        with columns_beside(folder, *sizes, self._scratch, *kinds) as add:
            train = _write_train(split, chosen, folder, codes, add)
        return Written(
            train=train,
            val=_write_held_out(split.validation, folder / "val.parquet", codes),
            test=_write_held_out(split.test, folder / "test.parquet", codes),
            distinct=split.distinct,
            unused=split.unused,
            learned=self._backend.read_parquet(str(folder / "train" / "*.parquet")),
            cold=write_cold(*split.cold(), folder) if isinstance(split, ColdSplit) else {},
        )


def _as_rows(batch: pa.RecordBatch) -> Rows:
    columns = {name: batch[name].to_numpy() for name in batch.schema.names}
    asked = [columns.pop(name) for name in batch.schema.names if name.startswith("context_")]
    context = np.stack(asked, 1) if asked else None
    ids, times = (columns["user"], columns["item"]), columns["timestamp"]
    return Rows(*ids, times, columns.get("weight"), context)


def _write_train(
    split: Split,
    chosen: Chosen,
    folder: Path,
    codes: ContextCodes,
    add_to_columns: Callable[[pa.Table], None],
) -> int:
    """Write D_full as it comes; the number of rows."""
    written = 0
    schema = interactions_schema(chosen.weighted, codes.values)
    coded = (as_table(codes.of_training(rows), codes.values) for rows in split.train())
    tables = rechunk(coded, ROW_GROUP_ROWS)
    with (
        track("prepare: write", chosen.at_most, "rows") as ticker,
        contextlib.closing(prefetched(tables, depth=2)) as ready,
    ):

        def counted() -> Iterator[pa.Table]:
            nonlocal written
            for table in ready:
                add_to_columns(table)
                yield table
                written += table.num_rows
                ticker.advance(table.num_rows)

        write_parts(folder / "train", schema, counted(), GROUPS_PER_PART)
    return written


def _write_held_out(rows: Rows, path: Path, codes: ContextCodes) -> int:
    """Write one held-out interaction a user; the number of rows."""
    coded = codes.of_held_out(rows.without_weight())
    write_parquet(path, as_table(coded, codes.values))
    return len(rows)
