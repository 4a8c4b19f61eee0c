"""Runs the preparation's Ibis expressions within bounds of memory.

A DuckDB in this process reads raw input, whatever the engine. An `Engine` then filters, numbers and
sorts the typed rows: that same DuckDB, or Spark (`prepare/spark.py`). The expressions are the same
for every engine.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.errors import CadcError
from cadc_rec.machine import memory_bytes

MEMORY_SHARE = 0.5
_PACKAGES = "duckdb_extension_"  # of the package index, with the extension's name behind it
MEMORY_CEILING = 3 << 30  # leaves a 4 GiB process room for Arrow's batches and Python
# DuckDB 2.0 folds isnan and comparisons from the least and greatest value that a Parquet file
# states, and writers leave NaN out of both (duckdb/duckdb#25521). Without the first, projections
# are right; a filter that is pushed into the scan is right without the second only.
_TRUSTING_FILES = "statistics_propagation,filter_pushdown"


@contextlib.contextmanager
def open_engine(
    scratch: Path, memory_bytes: int | None = None, spill: Path | None = None
) -> Iterator[Backend]:
    """A DuckDB whose tables live in a file under `scratch`, and which spills there.

    It does not trust the statistics of the files that it reads.

    Args:
        scratch: an existing folder; the caller removes it.
        memory_bytes: DuckDB's own limit; default: half of the memory, at most 3 GiB.
        spill: another folder to spill to, made where it is not there.

    Raises:
        CadcError: the work did not fit into the memory limit.
        OSError: the disk is full (ENOSPC).
    """
    limit = memory_bytes or memory_limit()
    backend = ibis.duckdb.connect(
        str(scratch / "work.duckdb"),
        memory_limit=f"{limit >> 20}MiB",
        temp_directory=str(spill or scratch / "spill"),
        # file order breaks ties of time, so the scan has to keep it
        preserve_insertion_order=True,
    )
    backend.raw_sql(f"SET disabled_optimizers = '{_TRUSTING_FILES}'")
    try:
        yield backend
    except (duckdb.OutOfMemoryException, duckdb.IOException) as error:
        if disk_is_full(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch)) from None
        if not isinstance(error, duckdb.OutOfMemoryException):
            raise
        reason = str(error).splitlines()[0]
        raise CadcError(
            f"{scratch}: preparing the data did not fit into {limit >> 20} MiB of memory with "
            f"spilling ({reason}); raise data.memory, or free memory or disk, and run again."
        ) from None
    finally:
        backend.disconnect()


def disk_is_full(error: duckdb.Error) -> bool:
    """Whether DuckDB stopped because the disk had no space left."""
    # Neither duckdb.IOException nor OutOfMemoryException has an errno: only the system's words.
    return os.strerror(errno.ENOSPC) in str(error)


def load_installed(connection: duckdb.DuckDBPyConnection, extension: str) -> bool:
    """Load an extension of DuckDB from its Python package or from DuckDB's own folder.

    Returns:
        Whether there is one of exactly this DuckDB; nothing is downloaded.
    """
    connection.execute("SET autoinstall_known_extensions = false")
    found = importlib.util.find_spec(f"{_PACKAGES}{extension}")
    places = found.submodule_search_locations if found is not None else None
    for place in places or []:
        folder = Path(place, "extensions", f"v{duckdb.__version__}")
        file = folder / f"{extension}.duckdb_extension"
        if file.is_file():
            quoted = str(file).replace("'", "''")
            connection.execute(f"LOAD '{quoted}'")
            return True
    try:
        connection.execute(f"LOAD {extension}")
    except duckdb.Error:
        return False
    return True


def stream(backend: Backend, rows: ir.Table, batch_rows: int) -> pa.RecordBatchReader:
    """The rows of an expression, batch after batch, never all in memory.

    Ibis 12's own `to_pyarrow_batches` calls a method that DuckDB 1.5 deprecated and 2.0 removed.
    """
    return backend.con.sql(backend.compile(rows)).to_arrow_reader(batch_rows)


def memory_limit() -> int:
    """Bytes of memory that an engine takes where the configuration names none."""
    return min(int(MEMORY_SHARE * memory_bytes()), MEMORY_CEILING)


class Engine(Protocol):
    """Runs expressions and keeps their results as tables."""

    def adopt(self, rows: ir.Table) -> ir.Table:
        """The rows of an expression on the reader's DuckDB, read once; a table of this engine."""

    def keep(self, name: str, rows: ir.Table) -> ir.Table:
        """The rows of an expression, computed now and kept as the table `name`."""

    def only_row(self, rows: ir.Table) -> dict[str, Any]:
        """The values of a table with one row, by column."""

    def ranked(self, name: str, rows: ir.Table, original: str, dense: str) -> ir.Table:
        """The distinct values of a column and their ranks, kept as the table `name`.

        Returns:
            `original`, and `dense`: int32, the rank in ascending order, from 0.
        """

    def to_reader(self, kept: ir.Table) -> ir.Table:
        """A table that was kept, on the reader's DuckDB."""


class DuckdbEngine:
    """The reader's own DuckDB."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def adopt(self, rows: ir.Table) -> ir.Table:
        """See `Engine`."""
        kept = self.keep("raw", rows)
        # From here on all rows are in DuckDB's own tables, whose statistics know of NaN.
        self._backend.raw_sql("RESET disabled_optimizers")
        return kept

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

    def to_reader(self, kept: ir.Table) -> ir.Table:
        """See `Engine`."""
        return kept


def count(engine: Engine, rows: ir.Table) -> int:
    """How many rows an expression has."""
    return int(engine.only_row(rows.aggregate(rows=rows.count()))["rows"])
