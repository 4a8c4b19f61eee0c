"""Reads a delimited text file strictly: every row as declared, or an error that names the line.

DuckDB parses and checks in parallel; only when it has found something wrong does a plain pass over
the file look for the first bad line, to say which it is and why.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.errors import CadcError

# Columns are read as text and checked before the cast: DuckDB reads "1.5" as the integer 2, and
# "0x10" as 16, without a word.
_PATTERNS = {"int64": r"^-?[0-9]{1,18}$", "float64": r"^-?[0-9]{1,18}(\.[0-9]{1,18})?$"}
_WORDS = {"int64": "a whole number", "float64": "a number", "string": "text"}
_SHOWN = 60  # characters of a bad value worth showing


@dataclass(frozen=True)
class Column:
    """One field of a row."""

    name: str
    type: Literal["int64", "float64", "string"] = "string"
    required: bool = True
    """False: an empty field is a missing value."""


@dataclass(frozen=True)
class DelimitedFile:
    """The layout of a text file."""

    delimiter: str
    columns: tuple[Column, ...]
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    unique: str | None = None
    """A column no two rows share."""
    header: str = ""
    """The first line, where it names the columns; empty: the first line is a row."""
    quoted: bool = False
    """A field may stand in double quotes, with a delimiter in it; two of them are one."""

    def layout(self) -> str:
        """A row's shape as a person would write it, such as ``user_id::item_id``."""
        return self.delimiter.join(column.name for column in self.columns)


def read_delimited(
    backend: Backend, path: Path, layout: DelimitedFile, table: str, name: str
) -> ir.Table:
    """Load `path` into the backend's table `table`.

    Args:
        backend: runs the parse.
        path: the text file.
        layout: its columns.
        table: name of the table to make.
        name: what messages call the file.

    Returns:
        The layout's columns, and ``row``: int64, position among the file's rows, from 0.

    Raises:
        CadcError: an empty file, or a row that is not as declared; names file and line.
    """
    _check_header(path, layout, name)
    text = backend.read_csv(
        str(path),
        table_name=f"{table}_text",
        sep=layout.delimiter,
        header=bool(layout.header),
        columns={column.name: "VARCHAR" for column in layout.columns},
        encoding=layout.encoding,
        quote='"' if layout.quoted else "",
        escape='"' if layout.quoted else "",
        auto_detect=False,
    )
    typed = {column.name: _typed(text[column.name], column) for column in layout.columns}
    try:
        # Without an ORDER BY, row_number follows the scan, which DuckDB keeps in file order.
        rows = backend.create_table(table, text.select(**typed, row=ibis.row_number()))
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        _raise_first_bad_line(path, layout, name)
        reason = str(error).splitlines()[0]
        raise CadcError(f"{name}: cannot be parsed ({reason}); mend it.") from None
    _check(rows, path, layout, name)
    return rows


def _check_header(path: Path, layout: DelimitedFile, name: str) -> None:
    """Raise if the file's first line is not the header that it should have."""
    if not layout.header:
        return
    first = next((line for _, line in _lines(path)), b"")
    if first and first != layout.header.encode():
        found = first.decode(layout.encoding, "replace")[:_SHOWN]
        raise CadcError(
            f"{name}, line 1: is {found!r} and should be {layout.header!r}; get the file again."
        )


def _typed(text: ir.StringColumn, column: Column) -> ir.Column:
    """`text` as the column's type; null where it is empty or not of that type."""
    if column.type == "string":
        return text.nullif("")
    return ibis.cases((text.re_search(_PATTERNS[column.type]), text.cast(column.type)))


def _check(rows: ir.Table, path: Path, layout: DelimitedFile, name: str) -> None:
    counts = {column.name: rows[column.name].count() for column in layout.columns}
    unique = {"unique": rows[layout.unique].nunique()} if layout.unique else {}
    found = rows.aggregate(rows=rows.count(), **counts, **unique).to_pyarrow().to_pylist()[0]
    if found["rows"] == 0:
        raise CadcError(f"{name}: is empty; expected rows of {layout.layout()}.")
    # An optional column's nulls may be empty fields or bad ones: only the second pass can tell.
    nulls = [c for c in layout.columns if found[c.name] < found["rows"]]
    if any(column.required or column.type != "string" for column in nulls):
        _raise_first_bad_line(path, layout, name)
    if layout.unique and found["unique"] < found["rows"]:
        _raise_first_bad_line(path, layout, name)
    missing = [c.name for c in layout.columns if c.required and found[c.name] < found["rows"]]
    if missing:  # the two readers disagree on a line: better stop than go on without an id
        raise CadcError(f"{name}: a row lacks {missing[0]}; expected {layout.layout()}.")


def _raise_first_bad_line(path: Path, layout: DelimitedFile, name: str) -> None:
    """Raise on the first line that is not as declared; return when there is none."""
    seen: dict[str, int] = {}
    lines = _lines(path)
    if layout.header:
        next(lines, None)
    for number, line in lines:
        fault = _fault(line, layout, seen, number)
        if fault:
            raise CadcError(
                f"{name}, line {number}: {fault}; expected {layout.layout()}. "
                "Mend or remove the row, or get the file again."
            )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that are not blank (DuckDB skips blank ones too)."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            line = line.rstrip(b"\r\n")
            if line:
                yield number, line


def _fault(line: bytes, layout: DelimitedFile, seen: dict[str, int], number: int) -> str | None:
    try:
        values = _fields(line.decode(layout.encoding), layout)
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1} is not {layout.encoding}"
    except csv.Error as error:
        return f"its quotes do not match ({error})"
    if len(values) != len(layout.columns):
        return f"{len(values)} fields instead of {len(layout.columns)}"
    for column, value in zip(layout.columns, values, strict=True):
        if value == "":
            if column.required:
                return f"{column.name} is missing"
        elif column.type != "string" and not re.search(_PATTERNS[column.type], value):
            return f"{column.name} is {value[:_SHOWN]!r}, not {_WORDS[column.type]}"
        if column.name == layout.unique:
            if value in seen:
                return f"{column.name} {value} stands on line {seen[value]} already"
            seen[value] = number
    return None


def _fields(text: str, layout: DelimitedFile) -> list[str]:
    if not layout.quoted:
        return text.split(layout.delimiter)
    return next(csv.reader([text], delimiter=layout.delimiter, strict=True))
