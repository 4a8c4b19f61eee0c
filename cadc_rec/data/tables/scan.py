"""One table's columns as they stand in its files, with the place of every row.

In: a `FileSet` and the columns wanted. Out: a `Scan`: the rows as an Ibis expression, and how to
name a row to a person. Nothing is converted here; `columns.py` does that.
"""

from __future__ import annotations

import difflib
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ibis.expr.types as ir

from cadc_rec.errors import CadcError

FILE, ROW, FILE_ROW = "__file", "__row", "__file_row"
"""Columns beside the wanted ones: the file's number (int), the row's place among all rows and
among its file's (int64, from 0)."""


@dataclass(frozen=True)
class Unreadable:
    """A row of a text file that is none."""

    file: int
    line: int
    reason: str
    text: str
    """Its beginning."""


@dataclass(frozen=True)
class Scan(ABC):
    """The rows of one table, unconverted."""

    role: str
    """``interactions``, ``users`` or ``items``."""
    rows: ir.Table
    """The wanted columns and FILE, ROW, FILE_ROW."""
    files: Sequence[Path]
    """The user's own files, by number, whatever was unpacked of them."""
    unreadable: Sequence[Unreadable] = field(default=(), kw_only=True)
    """Rows whose columns could not be told apart, and that `rows` therefore lacks."""

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


def require_columns(
    where: Path, there: Sequence[str], wanted: Mapping[str, str], *, header: bool = False
) -> None:
    """Refuse a file that lacks a wanted column or has one twice.

    Args:
        where: the file.
        there: its columns.
        wanted: the setting that names each column, by column.
        header: whether the columns stand on a first line.

    Raises:
        CadcError: names the file and the column.
    """
    place = f"{where}, line 1" if header else f"{where}"
    # Engines take names that differ in case only for one.
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
                f"{shown}.{hint}"
            )


def first_line(error: Exception) -> str:
    """What an error says, as a part of a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def literal(path: Path) -> str:
    """A path that DuckDB takes for itself: its wildcards are made ordinary characters."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
