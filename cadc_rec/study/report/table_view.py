"""A table before it is written out: its columns, and a text and a number to sort by for each entry.

In: what a study measured. Out: a `TableView`, which the page and the Markdown files write out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cadc_rec.evaluation.statistics import Comparison


@dataclass(frozen=True)
class Column:
    """A column's heading, and that of the smaller second line of its entries."""

    title: str
    second: str
    explanation: str


@dataclass(frozen=True)
class Tested:
    """A comparison that an entry's verdict is of, in words such as ``HR@10 against gold``."""

    what: str
    compared: Comparison


@dataclass(frozen=True)
class Entry:
    """One entry of a table.

    Attributes:
        text: the first line.
        second: the second one, smaller.
        interval: what belongs to `second` and is shown where there is no hovering.
        tip: what hovering shows.
        sort: the number the column is sorted by; None comes last.
        tone: a class for colour.
        tested: the comparison, where the entry has the verdict of one.
    """

    text: str
    second: str = ""
    interval: str = ""
    tip: str = ""
    sort: float | None = None
    tone: str = ""
    tested: Tested | None = None


@dataclass(frozen=True)
class Row:
    """One row; `apart` draws a line above it."""

    label: str
    place: int
    entries: tuple[tuple[Entry, ...], ...]
    apart: bool = False


@dataclass(frozen=True)
class TableView:
    """A table: `columns` are repeated for each of `datasets`; `notes` are lines under it."""

    corner: str
    datasets: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def tested(titles: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, Comparison]]:
    """All comparisons of a table, and what each is of.

    Args:
        titles: of its datasets.
        rows: of the table.
    """
    return [
        (f"{row.label}, {entry.tested.what}, {title}", entry.tested.compared)
        for row in rows
        for title, entries in zip(titles, row.entries, strict=True)
        for entry in entries
        if entry.tested is not None
    ]
