"""What stands on which line of a text file: the names of its columns, and where its rows begin.

In: a file in UTF-8, as `plain.py` gives it. Out: names and line numbers. Python's own reader finds
them; it reads a first line, or a file of which a row has to be named.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cadc_rec.data.tables.columns import NUMBER, TIMESTAMP
from cadc_rec.data.tables.plain import is_empty
from cadc_rec.errors import CadcError

_STAND_IN = "\x1f"  # for a delimiter of several characters, which Python's reader does not take
_LIKELY_DELIMITERS = ("\t", ";", "|", "::", ",")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class TextFormat:
    """How fields stand in a line."""

    delimiter: str
    """Empty: a comma, and a tab in ``.tsv`` files."""
    encoding: str
    columns: tuple[str, ...] = ()
    """Of files without a first line that names them."""

    def delimiter_of(self, file: Path) -> str:
        """Between the fields of `file`."""
        return self.delimiter or ("\t" if ".tsv" in file.suffixes else ",")


USUAL = TextFormat("", "utf-8")


def column_names(file: Path, own: Path, layout: TextFormat) -> list[str]:
    """The names on the first line, or those that the layout gives."""
    with file.open("rb") as opened:
        start = opened.read(4)
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise CadcError(
            f"{own}: is UTF-16, by its first bytes; set data.tables.encoding = 'utf-16', or write "
            "it as UTF-8."
        )
    try:
        line, first = next(_records(file, layout.delimiter_of(own)), (1, []))
    except csv.Error as error:
        raise CadcError(f"{own}, line 1: cannot be read as a header ({error}).") from None
    if layout.columns:
        if tuple(name.strip() for name in first) == layout.columns:
            raise CadcError(
                f"{own}, line {line}: names the columns itself; take the columns out of the config."
            )
        return list(layout.columns)
    if any("\udc80" <= letter <= "\udcff" for name in first for letter in name):
        raise CadcError(
            f"{own}, line 1: is not {layout.encoding}; write it as UTF-8, or set "
            "data.tables.encoding."
        )
    if not any(name.strip() for name in first):
        if is_empty(file):
            raise CadcError(f"{own}: is empty; its first line has to name the columns.")
        raise CadcError(
            f"{own}: line 1 is blank, as where a sheet's table begins lower; remove the lines "
            "before the names of the columns."
        )
    if first[0].lower().startswith("sep=") and not any(first[1:]):
        raise CadcError(
            f"{own}: line 1 is {first[0]!r}, which Excel writes; remove it, and set "
            "data.tables.delimiter to what the file has."
        )
    return first


def _records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Every record of a file with the line it begins on, blank ones too."""
    csv.field_size_limit(2**31 - 1)
    # A byte order mark is no part of the first column's name. Decoding runs ahead of the record:
    # what is wrong further on is not the header's.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        lines: Iterator[str] = opened
        sign = delimiter
        if len(delimiter) > 1:
            sign = _STAND_IN
            lines = (line.replace(delimiter, sign) for line in opened)
        reader = csv.reader(lines, delimiter=sign)
        line = 1
        for record in reader:
            yield line, [field.replace(sign, delimiter) for field in record]
            line = reader.line_num + 1


def record_lines(file: Path, delimiter: str, *, header: bool) -> Iterator[int]:
    """The line each row begins on, without the header's; blank lines are no rows, as for DuckDB."""
    every = (line for line, record in _records(file, delimiter) if record)
    if header:
        next(every, None)
    return every


def looks_like_values(header: Sequence[str]) -> bool:
    """Whether a first line is rather a row than names: it holds a number or a date."""
    return any(re.search(NUMBER, name) or re.search(TIMESTAMP, name) for name in header)


def likely_delimiter(header: Sequence[str]) -> str:
    """What rather separates the fields of a first line that has one; empty where nothing does."""
    found = (sign for sign in _LIKELY_DELIMITERS if sign in header[0])
    return next(found, "") if len(header) == 1 else ""


def why_missing(header: Sequence[str], layout: TextFormat, key: str) -> str:
    """A sentence on why a column may not be there, or nothing."""
    if layout.columns:
        return f" These are the names that {key} gives."
    other = likely_delimiter(header)
    if other:
        return f" If the fields are separated by {other!r}, set data.tables.delimiter to it."
    if looks_like_values(header):
        return f" If the first line is a row, name the columns in {key}."
    return ""


def lines_at(file: Path, positions: Sequence[int]) -> Iterator[int]:
    """The line each byte stands on; positions ascend."""
    line, at = 1, 0
    with file.open("rb") as opened:
        for position in positions:
            while at < position and (chunk := opened.read(min(_CHUNK, position - at))):
                line += chunk.count(b"\n")
                at += len(chunk)
            yield line
