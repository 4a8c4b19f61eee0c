"""What a person should know of tables before a config made of them is used: a sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from cadc_rec.data.formats.lines import likely_delimiter, looks_like_values
from cadc_rec.data.inspect.profile import ColumnProfile, TableProfile
from cadc_rec.data.inspect.roles import Roles, looks_like_time

_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_LISTED = 5


def table_warnings(tables: Sequence[TableProfile], roles: Roles) -> list[str]:
    """What looks wrong in the tables, and why one of them is not used."""
    found: list[str] = []
    for table in tables:
        found += _of_header(table, roles)
    log = roles.interactions
    if log is None:
        return found
    place = name_of(log)
    for column in (roles.user, roles.item):
        found += _of_ids(place, log.column(column))
    for entities in (roles.users, roles.items):
        if entities is not None:
            found += _of_ids(name_of(entities.table), entities.table.column(entities.id))
    found += _of_time(place, log, roles)
    for other in roles.others:
        found += _of_unused(other, roles)
    return found


def left_files(empty: Sequence[Path], others: Sequence[Path]) -> list[str]:
    """Files that were passed over.

    Args:
        empty: tables in which nothing stands.
        others: files that are no tables, or are read only where they are named.
    """
    found = [f"{file}: is empty; it was passed over" for file in empty]
    if others:
        shown = ", ".join(file.name for file in others[:_LISTED])
        more = f" and {len(others) - _LISTED:,} more" if len(others) > _LISTED else ""
        found.append(
            f"not looked at: {shown}{more} (no format that is known, or one to be named itself)"
        )
    return found


def name_of(table: TableProfile) -> str:
    """What a table's file or, of several, their folder is called."""
    files = table.files.files
    return str(files[0]) if len(files) == 1 else str(table.files.base)


def _of_header(table: TableProfile, roles: Roles) -> Iterator[str]:
    names = [column.name for column in table.columns]
    unused = table is not roles.interactions
    other = likely_delimiter(names) if names and table.files.format == "text" else ""
    if other:
        yield (
            f"{name_of(table)}: has one column, {names[0]}; if {other!r} separates the fields, "
            "name it (--delimiter)"
        )
        return
    if table.files.format == "text" and unused and looks_like_values(names):
        yield (
            f"{name_of(table)}: its first line, {', '.join(names[:_LISTED])}, looks like a row; if "
            "no line names the columns, give their names (--columns, or columns in the config)"
        )


def _of_ids(place: str, column: ColumnProfile) -> Iterator[str]:
    if column.nothings:
        rows = " and ".join(f"{n:,} {text!r}" for text, n in column.nothings)
        yield (
            f"{place}: {column.name} is an id, and holds {rows}; if an id is missing there, remove "
            "these rows or empty the field, or it counts as an id like any other"
        )


def _of_time(place: str, log: TableProfile, roles: Roles) -> Iterator[str]:
    if not roles.timestamp:
        for column in log.columns:
            ids = column.name in (roles.user, roles.item, roles.rating)
            if column.known and not ids and looks_like_time(column):
                yield (
                    f"{place}: {column.name} looks like a time, and is in no form that is known, "
                    f"such as {column.least!r}; without a time the order is drawn at random. Name "
                    "the form by format in the config"
                )
        return
    column = log.column(roles.timestamp)
    reading = column.readings
    if reading is not None and len(reading.forms) > 1:
        yield (
            f"{place}: {column.name} is {' or '.join(reading.forms)}: all values can be read as "
            f"either, such as {reading.example!r}; the first was written to the config"
        )
    if len(column.units) > 1:
        parts = " and ".join(f"{_NAMES[unit]} in {n:,} rows" for unit, n in column.units)
        yield (
            f"{place}: {column.name} mixes units: by their size it counts {parts}; write all times "
            "in one unit"
        )
    fits = max(column.numbers, column.timestamps, reading.fit if reading else 0)
    is_text = column.type in ("text", "string")
    if is_text and fits < column.known:
        yield (
            f"{place}: {column.known - fits:,} values of {column.name} are no times like the "
            "others; prepare names the first"
        )


def _of_unused(table: TableProfile, roles: Roles) -> Iterator[str]:
    """Why a table is neither the interactions nor one of users or items."""
    names = [column.name for column in table.columns]
    for side, key in (("items", roles.item), ("users", roles.user)):
        if key in names and table.column(key).distinct < table.rows:
            ids = table.column(key).distinct
            yield (
                f"{name_of(table)}: is no table of {side}, which has a row for each: its {key} has "
                f"{ids:,} values in {table.rows:,} rows, as in a log. Make one row of each to use "
                "it"
            )
            return
    yield f"{name_of(table)}: is not used; no column is called {roles.user} or {roles.item}"
