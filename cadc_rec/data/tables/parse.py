"""DuckDB's CSV reader, strict: all columns as text, and a sentence for the first row it refuses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.data.tables.scan import ROW, Unreadable, literal
from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    from cadc_rec.data.tables.text import TextFormat

FILE_NAME = "filename"  # what DuckDB calls it
_SHOWN = 60  # characters of a bad line worth showing
_KEPT = 1000  # and worth keeping
_ENOUGH = 1000  # bad rows to know of where one of them is an error
_CHUNK = 1 << 20
_WORDS = {
    "MISSING COLUMNS": "has fewer fields than the {columns} of the header",
    "TOO MANY COLUMNS": "has more fields than the {columns} of the header",
    "UNQUOTED VALUE": "has a quote that is not closed, or closed too early",
    "INVALID ENCODING": "is not {encoding}",
    "LINE SIZE OVER MAXIMUM": "is longer than 2,000,000 bytes, as after a quote that is not closed",
}


@dataclass(frozen=True)
class Source:
    """Text files of one header."""

    plain: Sequence[Path]
    """Uncompressed."""
    files: Sequence[Path]
    """The user's own, in the same order: what messages name."""
    header: Sequence[str]
    layout: TextFormat
    partitioned: bool


def parse(
    backend: Backend, source: Source, wanted: Sequence[str], table: str, *, reject: bool
) -> tuple[ir.Table, list[Unreadable]]:
    """Load the wanted columns into the backend's table `table`.

    Args:
        backend: parses.
        source: the files.
        wanted: columns to keep.
        table: name of the table to make.
        reject: leave out a row that cannot be read, where it is known to end with its line.

    Returns:
        The columns as text, ``filename``, and ROW: int64, the place among all rows read; and the
        rows that could not be.

    Raises:
        CadcError: a row that cannot be read; names file and line.
    """
    text = backend.read_csv(
        [literal(file) for file in source.plain],
        table_name=f"{table}_text",
        sep=source.layout.delimiter_of(source.files[0]),
        header=True,
        columns=dict.fromkeys(_names(source.header, wanted), "VARCHAR"),
        encoding=source.layout.encoding,
        quote='"',
        escape='"',
        auto_detect=False,
        strict_mode=True,
        compression="none",
        store_rejects=True,
        rejects_limit=0 if reject else _ENOUGH,  # 0 is no limit
        rejects_table=f"{table}_rejects",
        rejects_scan=f"{table}_rejects_scan",
        filename=True,
        hive_partitioning=source.partitioned,
        hive_types_autocast=False,
    )
    try:
        # Without an ORDER BY, row_number follows the scan, which DuckDB keeps in file order.
        placed = text.select(*wanted, FILE_NAME, **{ROW: ibis.row_number()})
        rows = backend.create_table(table, placed)
    except duckdb.OutOfMemoryException:
        raise
    except (duckdb.InvalidInputException, duckdb.ConversionException) as error:
        raise _unreadable_file(source, error) from None
    unreadable = list(_unreadable(backend, source, table))
    for row in unreadable:
        # After an open quote nobody knows which of the lines that follow it swallowed.
        if not reject or "\n" in row.text:
            raise CadcError(
                f"{source.files[row.file]}, line {row.line}: {row.reason}: "
                f"{row.text.splitlines()[0][:_SHOWN]!r}. Mend or remove the row, or set "
                "data.tables.delimiter or data.tables.encoding to what the file has."
            )
    return rows, unreadable


def _names(header: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The header with names that nobody asked for, perhaps empty or double, made harmless."""
    return [name if name in wanted else f"__unwanted_{n}" for n, name in enumerate(header)]


def _unreadable(backend: Backend, source: Source, table: str) -> Iterator[Unreadable]:
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
        lines = _lines_at(file, [row["byte"] for row in here])
        for row, line in zip(here, lines, strict=True):
            text = row["text"] or ""
            blank = len(text) - len(text.lstrip("\r\n"))
            blank_lines = text[:blank].count("\n")  # before it, taken for its beginning
            reason = _WORDS.get(row["kind"], f"cannot be read ({row['kind'].lower()})").format(
                columns=len(source.header), encoding=source.layout.encoding
            )
            yield Unreadable(number, line + blank_lines, reason, text.strip("\r\n"))


def _lines_at(file: Path, positions: Sequence[int]) -> Iterator[int]:
    """The line each byte stands on; positions ascend."""
    line, at = 1, 0
    with file.open("rb") as opened:
        for position in positions:
            while at < position and (chunk := opened.read(min(_CHUNK, position - at))):
                line += chunk.count(b"\n")
                at += len(chunk)
            yield line


def _unreadable_file(source: Source, error: Exception) -> CadcError:
    """Why DuckDB gave up on a whole file: mixed line ends, as far as we know."""
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
