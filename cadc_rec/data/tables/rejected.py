"""The Parquet file of the rows that were left out, each with its place and the reason."""

from __future__ import annotations

from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from cadc_rec.data.engine import stream
from cadc_rec.data.streams import ROW_GROUP_ROWS, parquet_writer, rechunk
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan

FAULT, TEXT = "__fault", "__text"
"""Columns of a checked row: why it is none (null: it is one), and what stands in it."""
_SCHEMA = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("row", pa.string())]
)


def write_rejected(backend: Backend, scan: Scan, rows: ir.Table, path: Path) -> None:
    """Write every row that is none.

    Args:
        backend: runs the expressions.
        scan: says where a row stands.
        rows: ROW, FILE, FILE_ROW, FAULT and TEXT.
        path: receives file, line (of a Parquet file: the row, from 1), reason, and the beginning
            of the row; first the rows whose columns could not be told apart, then the others.
    """
    bad = rows.filter(rows[FAULT].notnull()).order_by(ROW)
    places = bad.select(FILE, FILE_ROW).to_pyarrow()
    file = places[FILE].to_numpy()
    line = _lines(scan, file, places[FILE_ROW].to_numpy())
    names = np.array([str(name) for name in scan.files], dtype=object)
    path.parent.mkdir(parents=True, exist_ok=True)
    with parquet_writer(path, _SCHEMA) as writer:
        if scan.unreadable:
            writer.write_table(_unreadable(scan))
        start = 0
        batches = stream(backend, bad.select(FAULT, TEXT), ROW_GROUP_ROWS)
        for table in rechunk(batches, ROW_GROUP_ROWS):
            part = slice(start, start + table.num_rows)
            columns = [pa.array(names[file[part]]), pa.array(line[part]), table[FAULT], table[TEXT]]
            writer.write_table(pa.table(columns, schema=_SCHEMA))
            start += table.num_rows


def _unreadable(scan: Scan) -> pa.Table:
    rows = [
        {"file": str(scan.files[r.file]), "line": r.line, "reason": r.reason, "row": r.text}
        for r in scan.unreadable
    ]
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _lines(scan: Scan, file: NDArray[np.int32], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The line of each place; a file's rows ascend."""
    lines = np.empty(len(row), np.int64)
    for number in np.unique(file):
        here = file == number
        lines[here] = scan.lines(int(number), row[here].tolist())
    return lines
