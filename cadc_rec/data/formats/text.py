"""CSV and TSV files as a `Scan`: every row with as many fields as there are columns, or an error.

DuckDB's CSV reader, kept strict, parses in parallel, takes every column as text and notes what it
cannot read. Only when it has refused a row does a plain pass over that one file look for its line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.data.formats.lines import (
    TextFormat,
    column_names,
    lines_at,
    record_lines,
    why_missing,
)
from cadc_rec.data.tables.files import FileSet, partition_keys
from cadc_rec.data.tables.plain import plain_text
from cadc_rec.data.tables.scan import (
    FILE,
    FILE_ROW,
    NAME,
    PATH,
    ROW,
    START,
    LineScan,
    Unreadable,
    literal,
    require_columns,
)
from cadc_rec.errors import CadcError

_SHOWN = 60  # characters of a bad line worth showing
_KEPT = 1000  # and worth keeping
_ENOUGH = 1000  # bad rows to know of where one of them is an error
_WORDS = {
    "MISSING COLUMNS": "has fewer fields than the {columns}",
    "TOO MANY COLUMNS": "has more fields than the {columns}",
    "UNQUOTED VALUE": "has a quote that is not closed, or closed too early",
    "INVALID ENCODING": "is not {encoding}",
    "LINE SIZE OVER MAXIMUM": "is longer than 2,000,000 bytes, as after a quote that is not closed",
}


@dataclass(frozen=True)
class TextScan(LineScan):
    """Rows of CSV and other delimited text."""

    format: TextFormat

    def lines(self, file: int, rows: Sequence[int]) -> list[int]:
        """Lines the rows begin on."""
        wanted = iter(rows)
        row = next(wanted, None)
        found = []
        delimiter = self.format.delimiter_of(self.files[file])
        skipped = {row.line for row in self.unreadable if row.file == file}
        every = record_lines(self.plain[file], delimiter, header=not self.format.columns)
        for place, line in enumerate(line for line in every if line not in skipped):
            while row == place:
                found.append(line)
                row = next(wanted, None)
            if row is None:
                break
        return found


def scan_text(
    backend: Backend,
    found: FileSet,
    role: str,
    wanted: Mapping[str, str],
    layout: TextFormat,
    scratch: Path,
    *,
    reject: bool,
) -> TextScan:
    """Rows of text files.

    Args:
        backend: parses them into a table of its own.
        found: the files.
        role: which table it is.
        wanted: the setting that names each column, by column.
        layout: delimiter, encoding and, where no first line names them, columns.
        scratch: receives what compressed files and archives hold, and what is not UTF-8.
        reject: leave out rows that cannot be read, and list them.

    Raises:
        CadcError: a column that is missing or double, another header in a further file, a row that
            cannot be read; names file and line.
    """
    plain = [
        plain_text(file, layout.encoding, scratch / role / found.name(file)) for file in found.files
    ]
    headers = [
        column_names(file, own, layout) for file, own in zip(plain, found.files, strict=True)
    ]
    partitions = partition_keys(found)
    for header, own in zip(headers, found.files, strict=True):
        remedy = why_missing(header, layout, f"data.tables.{role}.columns")
        named = not layout.columns
        require_columns(own, [*header, *partitions], wanted, header=named, remedy=remedy)
        if header != headers[0]:
            raise CadcError(
                f"{own}, line 1: its columns are {', '.join(header)}, and those of "
                f"{found.files[0]} are {', '.join(headers[0])}; write all files alike."
            )
    source = _Source(plain, found.files, headers[0], layout, bool(partitions))
    rows, unreadable = _parse(backend, source, tuple(wanted), f"raw_{role}", reject=reject)
    numbered = numbered_rows(rows, wanted, plain)
    return TextScan(role, numbered, found.files, plain, layout, unreadable=unreadable)


def header_of(found: FileSet, layout: TextFormat, scratch: Path) -> list[str]:
    """The columns of the first file, and the partitions."""
    own = found.files[0]
    file = plain_text(own, layout.encoding, scratch / "header" / found.name(own))
    return [*column_names(file, own, layout), *partition_keys(found)]


def numbered_rows(rows: ir.Table, wanted: Iterable[str], files: Sequence[Path]) -> ir.Table:
    """The wanted columns with each row's place; a file's rows follow each other.

    Args:
        rows: the wanted columns, PATH and ROW.
        wanted: columns to keep.
        files: the files, by number.
    """
    starts = rows.group_by(PATH).agg(start=rows[ROW].min()).to_pyarrow()
    start = dict(zip(starts[PATH].to_pylist(), starts["start"].to_pylist(), strict=True))
    if len(start) <= 1:
        number = next((n for n, file in enumerate(files) if str(file) in start), 0)
        return rows.select(
            *wanted, ROW, **{FILE: ibis.literal(number, "int32"), FILE_ROW: rows[ROW]}
        )
    known = ibis.memtable(
        pa.table(
            {
                NAME: [str(file) for file in files if str(file) in start],
                FILE: pa.array(
                    [n for n, file in enumerate(files) if str(file) in start], pa.int32()
                ),
                START: [start[str(file)] for file in files if str(file) in start],
            }
        )
    )
    joined = rows.join(known, [(PATH, NAME)])
    return joined.select(*wanted, ROW, FILE, **{FILE_ROW: joined[ROW] - joined[START]})


@dataclass(frozen=True)
class _Source:
    """Text files of one header."""

    plain: Sequence[Path]
    """Uncompressed."""
    files: Sequence[Path]
    """The user's own, in the same order: what messages name."""
    header: Sequence[str]
    layout: TextFormat
    partitioned: bool

    @property
    def encoding(self) -> str:
        """What the files should be, and what they often are instead."""
        named = self.layout.encoding
        return f"{named} (perhaps windows-1252)" if named == "latin-1" else named

    @property
    def fields(self) -> str:
        """How many fields a row has, and what says so."""
        return f"{len(self.header)} of the {'config' if self.layout.columns else 'header'}"


def _parse(
    backend: Backend, source: _Source, wanted: Sequence[str], table: str, *, reject: bool
) -> tuple[ir.Table, list[Unreadable]]:
    """Load the wanted columns into the backend's table `table`.

    Args:
        backend: parses.
        source: the files.
        wanted: columns to keep.
        table: name of the table to make.
        reject: leave out a row that cannot be read, where it is known to end with its line.

    Returns:
        The columns as text, PATH, and ROW: int64, the place among all rows read; and the
        rows that could not be.

    Raises:
        CadcError: a row that cannot be read; names file and line.
    """
    text = backend.read_csv(
        [literal(file) for file in source.plain],
        table_name=f"{table}_text",
        sep=source.layout.delimiter_of(source.files[0]),
        header=not source.layout.columns,
        columns=dict.fromkeys(_names(source.header, wanted), "VARCHAR"),
        encoding="utf-8",
        quote='"',
        escape='"',
        auto_detect=False,
        strict_mode=True,
        compression="none",
        store_rejects=True,
        rejects_limit=0 if reject else _ENOUGH,  # 0 is no limit
        rejects_table=f"{table}_rejects",
        rejects_scan=f"{table}_rejects_scan",
        filename=PATH,
        hive_partitioning=source.partitioned,
        hive_types_autocast=False,
    )
    try:
        # Without an ORDER BY, row_number follows the scan, which DuckDB keeps in file order.
        placed = text.select(*wanted, PATH, **{ROW: ibis.row_number()})
        rows = backend.create_table(table, placed)
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise _unreadable_file(source, error) from None
    unreadable = list(_unreadable(backend, source, table))
    for row in unreadable:
        # After an open quote it is unknown which of the lines that follow belong to the row.
        if not reject or "\n" in row.text:
            raise CadcError(
                f"{source.files[row.file]}, line {row.line}: {row.reason}: "
                f"{row.text.splitlines()[0][:_SHOWN]!r}. Mend or remove the row, or set "
                "data.tables.delimiter or data.tables.encoding to what the file has."
            )
    return rows, unreadable


def _names(header: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The header, with unwanted names, perhaps empty or double, replaced by unique ones."""
    return [name if name in wanted else f"__unwanted_{n}" for n, name in enumerate(header)]


def _unreadable(backend: Backend, source: _Source, table: str) -> Iterator[Unreadable]:
    """What DuckDB could not read, in the order of files and lines; one finding a row."""
    query = f"""
        SELECT DISTINCT ON (scan.file_path, line_byte_position)
            scan.file_path AS path, line_byte_position - 1 AS byte, error_type AS kind,
            csv_line[:{_KEPT}] AS text
        FROM {table}_rejects JOIN {table}_rejects_scan scan USING (scan_id, file_id)
        ORDER BY scan.file_path, line_byte_position, error_type
    """
    found = backend.con.sql(query).to_arrow_table().to_pylist()
    for number, file in enumerate(source.plain):
        here = [row for row in found if row["path"] == str(file)]
        lines = lines_at(file, [row["byte"] for row in here])
        for row, line in zip(here, lines, strict=True):
            text = row["text"] or ""
            blank = len(text) - len(text.lstrip("\r\n"))
            blank_lines = text[:blank].count("\n")  # before it, taken for its beginning
            reason = _WORDS.get(row["kind"], f"cannot be read ({row['kind'].lower()})").format(
                columns=source.fields, encoding=source.encoding
            )
            yield Unreadable(number, line + blank_lines, reason, text.strip("\r\n"))


def _unreadable_file(source: _Source, error: Exception) -> CadcError:
    """Why DuckDB could not parse a file at all: as far as we know, because of mixed line ends."""
    for plain, own in zip(source.plain, source.files, strict=True):
        first = None
        with plain.open("rb") as opened:
            for number, line in enumerate(opened, start=1):
                end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
                first = first or end
                if end != first and line.endswith(b"\n"):
                    return CadcError(
                        f"{own}, line {number}: ends in {end!r}, and the lines before it in "
                        f"{first!r}; write the file with one kind of line end."
                    )
    reason = str(error).splitlines()[0].rstrip(".")
    return CadcError(f"{source.files[0]}: cannot be parsed ({reason}); mend it.")
