"""One table's rows as they stand in its files, and which of them are as declared.

In: the columns wanted of a `FileSet`. Out: a `Scan`: the rows as an Ibis expression, and how to
name a row to a person. Once `columns.py` has converted them, `good_rows` gives the rows that are as
declared; the others are an error that names the first, or a file of all of them.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from cadc_rec.data.engine import disk_is_full, stream
from cadc_rec.data.streams import ROW_GROUP_ROWS, parquet_writer, rechunk
from cadc_rec.data.tables.columns import Typed
from cadc_rec.errors import CadcError
from cadc_rec.log import log

FILE, ROW, FILE_ROW = "__file", "__row", "__file_row"
"""Columns beside the wanted ones: the file's number (int), the row's place among all rows and
among its file's (int64, from 0)."""
PATH = "__path"
"""The column of file names that an engine's reader adds. Its own name for it, filename, may be that
of a column of the user's."""
_PLACES = (ROW, FILE, FILE_ROW)
FAULT, TEXT = "__fault", "__text"
"""Columns of a checked row: why it is not as declared (null: it is), and what stands in it."""
_SCHEMA = pa.schema(
    [("file", pa.string()), ("line", pa.int64()), ("reason", pa.string()), ("row", pa.string())]
)
NAME, START = "__name", "__start"
"""Columns of a table of files: the path, and the place of the first row."""
OWN = re.compile(
    r"__(file|row|file_row|path|fault|text|name|start|object|(type|unwanted)_[0-9]+)", re.IGNORECASE
)
"""The names of columns that are used while reading: no wanted column may have one of them."""
_KEPT = 1000  # characters of a rejected row
_SHOWN = 60  # and of an unreadable one in a sentence


@dataclass(frozen=True)
class Unreadable:
    """Lines of a text file that cannot be read as a row."""

    file: int
    line: int
    reason: str
    text: str
    """Its beginning."""


@dataclass(frozen=True)
class Scan(ABC):
    """The rows of one table, before their values are converted."""

    role: str
    """``interactions``, ``users`` or ``items``."""
    rows: ir.Table
    """The wanted columns and FILE, ROW, FILE_ROW."""
    files: Sequence[Path]
    """The user's own files, by number, whatever was unpacked of them."""
    unreadable: Sequence[Unreadable] = field(default=(), kw_only=True)
    """Rows whose columns could not be told apart, and that `rows` therefore lacks."""
    empty: Collection[str] = field(default=(), kw_only=True)
    """Columns to which no file gives a type, for want of any value; `rows` has them as text."""

    @property
    @abstractmethod
    def is_text(self) -> bool:
        """Whether every column is text that says nothing of its type."""

    @abstractmethod
    def lines(self, file: int, rows: Sequence[int]) -> list[int]:
        """What a person would look for: numbers from 1 of these rows of a file.

        Args:
            file: its number.
            rows: FILE_ROW of each, ascending.
        """

    @property
    @abstractmethod
    def word(self) -> str:
        """What `lines` counts: ``line`` or ``row``."""

    def damaged(self, error: Exception) -> CadcError:
        """What to say when the engine could not read a file to its end."""
        return CadcError(f"{self.files[0]}: cannot be read ({first_line(error)}); write it again.")

    def place(self, file: int, row: int) -> str:
        """A row as a message names it, such as ``/data/ratings.csv, line 17``."""
        return f"{self.files[file]}, {self.word} {self.lines(file, [row])[0]}"


@dataclass(frozen=True)
class LineScan(Scan):
    """Rows of files of lines: columns are text, null where there is no value, or lists of text."""

    plain: Sequence[Path]
    """The files unpacked and in UTF-8, by number."""

    @property
    def is_text(self) -> bool:
        """Always: text does not say what its type is; of JSON, 5 and "5" are one value."""
        return True

    @property
    def word(self) -> str:
        """Lines, as an editor counts them."""
        return "line"


@contextlib.contextmanager
def whole(scan: Scan) -> Iterator[None]:
    """Turn the engine's error about a file it cannot read to its end into one that names it."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        if disk_is_full(error):
            raise
        raise scan.damaged(error) from None


def require_columns(
    where: Path,
    there: Sequence[str],
    wanted: Mapping[str, str],
    *,
    header: bool = False,
    remedy: str = "",
) -> None:
    """Refuse a file that lacks a wanted column or has it twice.

    Args:
        where: the file.
        there: its columns.
        wanted: the setting that names each column, by column.
        header: whether the columns stand on a first line.
        remedy: a sentence on why a column may be missing.

    Raises:
        CadcError: names the file and the column.
    """
    place = f"{where}, line 1" if header else f"{where}"
    # Engines take two names that differ only in case for the same.
    lowered = [name.lower() for name in there]
    for column, key in wanted.items():
        if lowered.count(column.lower()) > 1:
            raise CadcError(f"{place}: has the column {column} twice; rename one of them.")
        if column not in there:
            close = difflib.get_close_matches(column, there, 1, 0.5)
            hint = f" Did you mean {close[0]}?" if close else ""
            shown = ", ".join(there[:30]) + (", ..." if len(there) > 30 else "")
            raise CadcError(
                f"{place}: has no column {column!r}, which {key} names; its columns are "
                f"{shown}.{hint}{remedy}"
            )


def first_line(error: Exception) -> str:
    """What an error says, as a part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def literal(path: Path) -> str:
    """A path as DuckDB has to be given it: wildcards in it are made ordinary characters."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))


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
        if read == 0:
            raise CadcError(f"{scan.files[0]}: has no rows; name a table with interactions.")
        raise CadcError(
            f"{scan.files[0]}: has no good row among its {read:,}; the first is "
            f"{_first_bad(scan, rows)}. Correct data.tables.interactions, or name a table with "
            "interactions."
        )
    if rejected is None:
        if bad:
            raise CadcError(
                f"{_first_bad(scan, rows)}. Mend or remove the row, or set data.tables.on_bad_row "
                "= 'reject'."
            )
        return rows.drop(FAULT, TEXT), {"rows_read": read}
    if bad:
        write_rejected(backend, scan, rows, rejected)
        log.warning(
            "%s: %d of %d rows are bad and were left out; see rejected/ in the dataset's folder",
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


def _first_bad(scan: Scan, rows: ir.Table) -> str:
    """The first row that is not as declared: its place, and what is wrong with which value."""
    bad = rows.filter(rows[FAULT].notnull()).order_by(ROW).limit(1)
    found = [
        (row[FILE], scan.lines(row[FILE], [row[FILE_ROW]])[0], row[FAULT])
        for row in bad.select(*_PLACES, FAULT).to_pyarrow().to_pylist()
    ]
    found += [(r.file, r.line, f"{r.reason}: {r.text[:_SHOWN]!r}") for r in scan.unreadable]
    file, line, fault = min(found)
    return f"{scan.files[file]}, {scan.word} {line}: {fault}"


def write_rejected(backend: Backend, scan: Scan, rows: ir.Table, path: Path) -> None:
    """Write every row that is not as declared.

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
