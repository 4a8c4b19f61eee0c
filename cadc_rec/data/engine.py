"""The DuckDB that runs the preparation's Ibis expressions, in this process and within bounds."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.errors import CadcError

MEMORY_SHARE = 0.5
MEMORY_CEILING = 3 << 30  # leaves a 4 GiB process room for Arrow's batches and Python
_NO_SPACE = "No space left on device"


@contextlib.contextmanager
def open_engine(
    scratch: Path, memory_bytes: int | None = None, spill: Path | None = None
) -> Iterator[Backend]:
    """A DuckDB whose tables live in a file under `scratch`, and which spills there.

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
    try:
        yield backend
    except duckdb.OutOfMemoryException as error:
        if _NO_SPACE in str(error):
            raise OSError(errno.ENOSPC, _NO_SPACE, str(scratch)) from None
        reason = str(error).splitlines()[0]
        raise CadcError(
            f"{scratch}: preparing the data did not fit into {limit >> 20} MiB of memory with "
            f"spilling ({reason}); raise data.memory, or free memory or disk, and run again."
        ) from None
    except duckdb.IOException as error:
        if _NO_SPACE in str(error):
            raise OSError(errno.ENOSPC, _NO_SPACE, str(scratch)) from None
        raise
    finally:
        backend.disconnect()


def stream(backend: Backend, rows: ir.Table, batch_rows: int) -> pa.RecordBatchReader:
    """The rows of an expression, batch after batch, never all in memory.

    Ibis 12's own `to_pyarrow_batches` calls a method that DuckDB 1.5 deprecated and 2.0 removed.
    """
    return backend.con.sql(backend.compile(rows)).to_arrow_reader(batch_rows)


def memory_limit() -> int:
    """What an engine may take where nobody says: bytes."""
    return min(int(MEMORY_SHARE * _physical_memory()), MEMORY_CEILING)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
