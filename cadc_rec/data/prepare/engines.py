"""What carries the preparation's Ibis expressions out, whichever engine it is.

In: the reader's DuckDB, which turns raw input into typed rows. Out: an `Engine` that filters,
numbers and sorts them. The expressions of `data.prepare` and `data.interactions` are the same for
every engine; what differs between engines is said here and in `data.spark`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.engine import stream


class Engine(Protocol):
    """Carries expressions out and keeps tables."""

    def adopt(self, rows: ir.Table) -> ir.Table:
        """The rows of an expression on the reader's DuckDB, read once; a table of this engine."""

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """The rows of an expression, carried out now and kept as the table `name`."""

    def only_row(self, rows: ir.Table) -> dict[str, Any]:
        """The values of a table with one row, by column."""

    def ranked(self, name: str, rows: ir.Table, original: str, dense: str) -> ir.Table:
        """The distinct values of a column and their ranks, kept as the table `name`.

        Returns:
            `original`, and `dense`: int32, the rank in ascending order, from 0.
        """

    def stream(self, in_order: ir.Table, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """The rows of a sorted expression, batch after batch, never all in memory."""

    def to_reader(self, kept: ir.Table) -> ir.Table:
        """A table that was kept, on the reader's DuckDB."""


class DuckdbEngine:
    """The reader's own DuckDB."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def adopt(self, rows: ir.Table) -> ir.Table:
        """See `Engine`."""
        return self.keep("raw", rows)

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """See `Engine`."""
        return self._backend.create_table(name, rows)

    def only_row(self, rows: ir.Table) -> dict[str, Any]:
        """See `Engine`."""
        found: dict[str, Any] = rows.to_pyarrow().to_pylist()[0]
        return found

    def ranked(self, name: str, rows: ir.Table, original: str, dense: str) -> ir.Table:
        """See `Engine`."""
        distinct = rows.select(original).distinct()
        rank = ibis.row_number().over(order_by=distinct[original]).cast("int32")
        return self.keep(name, distinct.mutate(**{dense: rank}))

    def stream(self, in_order: ir.Table, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """See `Engine`."""
        yield from stream(self._backend, in_order, batch_rows)

    def to_reader(self, kept: ir.Table) -> ir.Table:
        """See `Engine`."""
        return kept


@contextlib.contextmanager
def open_preparation(config: DataConfig, reader: Backend, scratch: Path) -> Iterator[Engine]:
    """The engine that ``data.engine`` names.

    Args:
        config: names the engine, and Spark's address and settings.
        reader: the DuckDB that reads the raw input.
        scratch: an existing folder for what is kept; the caller removes it.

    Raises:
        CadcError: Spark cannot be started, or failed.
    """
    if config.engine == "duckdb":
        yield DuckdbEngine(reader)
        return
    from cadc_rec.data.prepare.spark import open_spark  # a dependency that not everybody has

    with open_spark(config, reader, scratch) as engine:
        yield engine


def count(engine: Engine, rows: ir.Table) -> int:
    """How many rows an expression has."""
    return int(engine.only_row(rows.aggregate(rows=rows.count()))["rows"])
