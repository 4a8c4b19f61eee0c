"""CSV and TSV files as a `Scan`: every row with as many fields as the header, or an error.

DuckDB parses in parallel and notes what it cannot read. Only when a row is refused does a plain
pass over that one file look for its line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.data.tables.files import FileSet, partition_keys
from cadc_rec.data.tables.parse import FILE_NAME, Source, parse
from cadc_rec.data.tables.scan import FILE, FILE_ROW, ROW, Scan, require_columns
from cadc_rec.data.tables.unpack import unpacked
from cadc_rec.errors import CadcError


@dataclass(frozen=True)
class TextFormat:
    """How fields stand in a line."""

    delimiter: str
    """Empty: a comma, and a tab in ``.tsv`` files."""
    encoding: str

    def delimiter_of(self, file: Path) -> str:
        """Between the fields of `file`."""
        return self.delimiter or ("\t" if ".tsv" in file.suffixes else ",")

    @property
    def python_encoding(self) -> str:
        """A byte order mark is no part of the first column's name."""
        return "utf-8-sig" if self.encoding == "utf-8" else self.encoding


@dataclass(frozen=True)
class TextScan(Scan):
    """Rows of text files; every column is text, null where it is empty."""

    plain: Sequence[Path]
    """The files unpacked, by number."""
    format: TextFormat

    @property
    def is_text(self) -> bool:
        """Text does not say what it is."""
        return True

    @property
    def word(self) -> str:
        """Lines, as an editor counts them."""
        return "line"

    def lines(self, file: int, rows: Sequence[int]) -> list[int]:
        """Lines the rows begin on."""
        wanted = iter(rows)
        row = next(wanted, None)
        found = []
        delimiter = self.format.delimiter_of(self.files[file])
        skipped = {row.line for row in self.unreadable if row.file == file}
        every = record_lines(self.plain[file], delimiter, self.format)
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
    """Rows of text files with a header line.

    Args:
        backend: parses them into a table of its own.
        found: the files.
        role: which table it is.
        wanted: the setting that names each column, by column.
        layout: delimiter and encoding.
        scratch: receives what compressed files hold.
        reject: leave out rows that cannot be read, and list them.

    Raises:
        CadcError: a column that is missing or double, another header in a further file, a row that
            cannot be read; names file and line.
    """
    plain = [
        unpacked(file, scratch / role / found.name(file).with_suffix("")) for file in found.files
    ]
    headers = [_header(file, own, layout) for file, own in zip(plain, found.files, strict=True)]
    partitions = partition_keys(found)
    for header, own in zip(headers, found.files, strict=True):
        require_columns(own, [*header, *partitions], wanted, header=True)
        if header != headers[0]:
            raise CadcError(
                f"{own}, line 1: its columns are {', '.join(header)}, and those of "
                f"{found.files[0]} are {', '.join(headers[0])}; write all files alike."
            )
    source = Source(plain, found.files, headers[0], layout, bool(partitions))
    rows, unreadable = parse(backend, source, tuple(wanted), f"raw_{role}", reject=reject)
    numbered = _numbered(rows, wanted, plain)
    return TextScan(role, numbered, found.files, plain, layout, unreadable=unreadable)


def header_of(found: FileSet, layout: TextFormat, scratch: Path) -> list[str]:
    """The columns of the first file, and the partitions."""
    own = found.files[0]
    file = unpacked(own, scratch / "header" / found.name(own).with_suffix(""))
    return [*_header(file, own, layout), *partition_keys(found)]


def _numbered(rows: ir.Table, wanted: Mapping[str, str], files: Sequence[Path]) -> ir.Table:
    """The wanted columns with each row's place; a file's rows follow each other."""
    starts = rows.group_by(FILE_NAME).agg(start=rows[ROW].min()).to_pyarrow()
    start = dict(zip(starts[FILE_NAME].to_pylist(), starts["start"].to_pylist(), strict=True))
    if len(start) <= 1:
        number = next((n for n, file in enumerate(files) if str(file) in start), 0)
        return rows.select(
            *wanted, ROW, **{FILE: ibis.literal(number, "int32"), FILE_ROW: rows[ROW]}
        )
    known = ibis.memtable(
        pa.table(
            {
                "name": [str(file) for file in files if str(file) in start],
                FILE: pa.array(
                    [n for n, file in enumerate(files) if str(file) in start], pa.int32()
                ),
                "start": [start[str(file)] for file in files if str(file) in start],
            }
        )
    )
    joined = rows.join(known, [(FILE_NAME, "name")])
    return joined.select(*wanted, ROW, FILE, **{FILE_ROW: joined[ROW] - joined["start"]})


def _header(file: Path, own: Path, layout: TextFormat) -> list[str]:
    """The names on the first line."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CadcError(f"{own}: is UTF-16, by its first bytes; write it as UTF-8.")
    # Decoding runs ahead of the first line: what is wrong further on is not the header's.
    errors = "surrogateescape"
    with file.open(encoding=layout.python_encoding, errors=errors, newline="") as opened:
        try:
            header = next(csv.reader(opened, delimiter=layout.delimiter_of(own)), [])
        except csv.Error as error:
            raise CadcError(f"{own}, line 1: cannot be read as a header ({error}).") from None
    if any("\udc80" <= letter <= "\udcff" for name in header for letter in name):
        raise CadcError(
            f"{own}, line 1: is not {layout.encoding}; write it as UTF-8, or set "
            "data.tables.encoding."
        )
    if not any(name.strip() for name in header):
        raise CadcError(f"{own}: is empty; its first line has to name the columns.")
    return header


def record_lines(file: Path, delimiter: str, layout: TextFormat) -> Iterator[int]:
    """The line each row begins on, the header's aside; blank lines are none (nor to DuckDB)."""
    with file.open(encoding=layout.python_encoding, errors="replace", newline="") as opened:
        csv.field_size_limit(2**31 - 1)
        reader = csv.reader(opened, delimiter=delimiter)
        next(reader, None)
        line = reader.line_num + 1
        for record in reader:
            if record:
                yield line
            line = reader.line_num + 1
