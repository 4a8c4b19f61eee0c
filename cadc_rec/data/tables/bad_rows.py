"""Rows that are not as declared: an error that names the first of them."""

from __future__ import annotations

from collections.abc import Mapping

import ibis
import ibis.expr.types as ir

from cadc_rec.data.tables.columns import Typed
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan
from cadc_rec.errors import CadcError

_FAULT = "__fault"
_PLACES = (ROW, FILE, FILE_ROW)


def checked(
    scan: Scan, typed: Mapping[str, Typed], unique: str | None = None
) -> tuple[ir.Table, dict[str, int]]:
    """The rows converted, all of them as declared.

    Args:
        scan: the rows as they stand in their files.
        typed: the columns wanted, by the name they get.
        unique: a column of `typed` that no two rows share.

    Returns:
        The columns of `typed` and the places of `scan`; and counts, ``rows_read``.

    Raises:
        CadcError: there is no row, or one is not as declared; names file, line or row and column.
    """
    fault = ibis.coalesce(*(column.fault for column in typed.values()))
    rows = scan.rows.select(
        *_PLACES, **{name: column.value for name, column in typed.items()}, **{_FAULT: fault}
    )
    counted = {"rows": rows.count(), "faults": rows[_FAULT].count()}
    if unique:
        counted["distinct"] = rows[unique].nunique()
    found = rows.aggregate(**counted).to_pyarrow().to_pylist()[0]
    if found["rows"] == 0 and scan.role == "interactions":
        raise CadcError(f"{scan.files[0]}: has no rows; name a table with interactions.")
    if found["faults"]:
        _raise_first(scan, rows)
    if unique and found["distinct"] < found["rows"]:
        _raise_double(scan, rows, unique, typed[unique].column)
    return rows.drop(_FAULT), {"rows_read": int(found["rows"])}


def _raise_first(scan: Scan, rows: ir.Table) -> None:
    bad = rows.filter(rows[_FAULT].notnull()).order_by(ROW).limit(1)
    first = bad.select(*_PLACES, _FAULT).to_pyarrow().to_pylist()[0]
    place = scan.place(first[FILE], first[FILE_ROW])
    raise CadcError(f"{place}: {first[_FAULT]}. Mend or remove the row.")


def _raise_double(scan: Scan, rows: ir.Table, unique: str, column: str) -> None:
    window = ibis.window(group_by=rows[unique], order_by=rows[ROW])
    before = {f"{name}_before": rows[name].lag().over(window) for name in (FILE, FILE_ROW)}
    marked = rows.select(unique, *_PLACES, **before)
    again = marked.filter(marked[f"{FILE}_before"].notnull()).order_by(ROW).limit(1)
    row = again.to_pyarrow().to_pylist()[0]
    first = scan.place(row[f"{FILE}_before"], row[f"{FILE_ROW}_before"])
    raise CadcError(
        f"{scan.place(row[FILE], row[FILE_ROW])}: {column} {row[unique]!r} stands in {first} "
        "already. Remove one of the rows."
    )
