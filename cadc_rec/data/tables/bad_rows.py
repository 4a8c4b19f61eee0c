"""Rows that are not as declared: an error that names the first, or a file of all of them.

In: a `Scan` and its columns converted. Out: the rows that are as declared, and how many are not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.tables.columns import Typed
from cadc_rec.data.tables.rejected import FAULT, TEXT, write_rejected
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_PLACES = (ROW, FILE, FILE_ROW)
_BEFORE = "__before"  # FILE and FILE_ROW of the row an id stood in first
_KEPT = 1000  # characters of a rejected row


def good_rows(
    backend: Backend,
    scan: Scan,
    typed: Mapping[str, Typed],
    *,
    unique: str | None = None,
    rejected: Path | None = None,
) -> tuple[ir.Table, dict[str, int]]:
    """The rows that are as declared, converted.

    Args:
        backend: runs the checks.
        scan: the rows as they stand in their files.
        typed: the columns wanted, by the name they get.
        unique: a column of `typed` that no two rows share; the first row with a value counts.
        rejected: a Parquet file that receives the other rows; None makes the first an error.

    Returns:
        The columns of `typed` and the places of `scan`; and the counts ``rows_read`` and, where
        they were asked for, ``rejected``.

    Raises:
        CadcError: there is no row, or one is not as declared; names file, line or row and column.
    """
    fault = ibis.coalesce(*(column.fault for column in typed.values()))
    rows = scan.rows.select(
        *_PLACES,
        **{name: column.value for name, column in typed.items()},
        **{FAULT: fault, TEXT: _as_text(scan.rows, typed)},
    )
    if unique:
        rows = _with_doubles(rows, unique, typed[unique].column)
    found = rows.aggregate(rows=rows.count(), faults=rows[FAULT].count())
    counts = found.to_pyarrow().to_pylist()[0]
    read = int(counts["rows"]) + len(scan.unreadable)
    bad = int(counts["faults"]) + len(scan.unreadable)
    if scan.role == "interactions" and bad == read:
        why = "has no rows" if read == 0 else f"has no good row among its {read:,}"
        raise CadcError(f"{scan.files[0]}: {why}; name a table with interactions.")
    if rejected is None:
        if bad:
            _raise_first(scan, rows)
        return rows.drop(FAULT, TEXT), {"rows_read": read}
    if bad:
        write_rejected(backend, scan, rows, rejected)
        log.warning(
            "%s: %d of %d rows are not as declared and left out; the dataset's folder lists them",
            scan.role,
            bad,
            read,
        )
    good = rows.filter(rows[FAULT].isnull()).drop(FAULT, TEXT)
    return good, {"rows_read": read, "rejected": bad}


def _as_text(raw: ir.Table, typed: Mapping[str, Typed]) -> ir.StringColumn:
    """A row's columns for a person to read: ``user_id=5; item_id=``."""
    parts = [
        ibis.literal(f"{column.column}=") + raw[column.column].cast("string").fill_null("")
        for column in typed.values()
    ]
    return ibis.literal("; ").join(parts).substr(0, _KEPT)


def _with_doubles(rows: ir.Table, unique: str, column: str) -> ir.Table:
    """A value's further rows have the first's file and row for a fault."""
    good = rows[FAULT].isnull()
    window = ibis.window(group_by=[rows[unique], good], order_by=rows[ROW])
    first = ibis.row_number().over(window) == 0
    shown = ibis.literal(f"{column} ") + rows[unique].cast("string") + " stands in an earlier row"
    return rows.mutate(**{FAULT: ibis.cases((good & ~first, shown), else_=rows[FAULT])})


def _raise_first(scan: Scan, rows: ir.Table) -> None:
    bad = rows.filter(rows[FAULT].notnull()).order_by(ROW).limit(1)
    first = bad.select(*_PLACES, FAULT).to_pyarrow().to_pylist()[0]
    place = scan.place(first[FILE], first[FILE_ROW])
    raise CadcError(
        f"{place}: {first[FAULT]}. Mend or remove the row, or set data.tables.on_bad_row = "
        "'reject'."
    )
