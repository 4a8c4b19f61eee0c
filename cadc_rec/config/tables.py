"""The sections of `data.source = "tables"`: which files, and what their columns are."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cadc_rec.config.types import Names, Section

IdType = Literal["auto", "integer", "string"]
ColumnName = Annotated[str, Field(min_length=1)]
_NO_CHARACTER_SETS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "utf-7")


def _one_separator(text: str) -> str:
    """A delimiter that the reader can take."""
    if len(text.encode()) > 4:  # DuckDB takes no more
        raise PydanticCustomError("delimiter", "a delimiter has at most four bytes")
    if any(sign in text for sign in '"\r\n\0'):
        raise PydanticCustomError("delimiter", "a delimiter holds no quote, line end or zero byte")
    return text


def _character_set(name: str) -> str:
    """The usual name of a character set that Python knows."""
    try:
        known = codecs.lookup(name)
    except (LookupError, ValueError):
        known = None
    if known is None or known.name in _NO_CHARACTER_SETS or not known._is_text_encoding:
        raise PydanticCustomError(
            "encoding",
            "input should be a character set, such as utf-8, latin-1, windows-1252 or utf-16",
        )
    usual = {"utf-8-sig": "utf-8", "iso8859-1": "latin-1", "cp1252": "windows-1252"}
    return usual.get(known.name, known.name)


def _different(columns: tuple[str, ...]) -> tuple[str, ...]:
    """Columns of a file, of which no two have one name."""
    if len({name.lower() for name in columns}) < len(columns):  # DuckDB knows no capitals
        raise PydanticCustomError("columns", "every column has a name of its own")
    return columns


Delimiter = Annotated[str, AfterValidator(_one_separator)]
Encoding = Annotated[str, AfterValidator(_character_set)]
FileColumns = Annotated[tuple[ColumnName, ...], Field(strict=False), AfterValidator(_different)]


class InteractionsTable(Section):
    """Who took what, and when: each row is an interaction."""

    path: str = ""
    """A Parquet, CSV, TSV, JSON Lines, Arrow or Feather file, a folder of them (hive partitions
    become columns), a zip archive or what is in it (`shop.zip/orders.csv`), or a glob. Relative to
    `--data-dir`, else to `$CADC_REC_DATA`, else to the current folder."""
    query: str = ""
    """Instead of a path: one SELECT that `data.tables.database` is asked; see
    [your-data.md](your-data.md#a-database)."""
    columns: FileColumns = ()
    """Names of all columns, in order, of text files without a first line that names them."""
    user: ColumnName = "user_id"
    """Column of the user's id."""
    item: ColumnName = "item_id"
    """Column of the item's id."""
    timestamp: str = ""
    """Column of the time: whole numbers are kept; other numbers are seconds, and they, dates and
    datetimes become microseconds since 1970, UTC. Empty: no time, so that each user's order is a
    seeded draw."""
    format: str = ""
    """How that column writes a time that is not ISO, as for `strptime`: `%m/%d/%Y` is 1/31/2024,
    `%d.%m.%Y %H:%M` is 31.1.2024 14:30."""
    unit: Literal["", "s", "ms", "us", "ns"] = ""
    """What whole numbers in that column count since 1970; wanted only where `data.since` or the
    like names a date."""
    weight: str = ""
    """Column of an interaction's weight, a number above 0 and at most a billion, kept to six
    decimals: `pretrain.model = "als"` multiplies its confidence by it. Empty: all weigh 1."""
    rating: str = ""
    """Column of the rating; read for `min_rating`."""
    min_rating: float | None = None
    """Rows rated lower are left out; unset, every row is an interaction."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        key = "data.tables.interactions.format"
        if self.format and not self.timestamp:
            yield f"{key} says how a time is written, and timestamp names no column; name it."
        if self.format and self.unit:
            yield f"{key} is of dates, and unit of whole numbers; take one of them out."
        if self.format and "%" not in self.format:
            yield f"{key} = {self.format!r} is no form of times; write it like '%m/%d/%Y'."


class EntityTable(Section):
    """What is known of one side, at most one row for each id."""

    path: str = ""
    """Written as that of the interactions; empty means that there is no such table."""
    query: str = ""
    """Written as that of the interactions."""
    columns: FileColumns = ()
    """Written as those of the interactions."""
    id: ColumnName = "id"
    """Column of the id."""
    categorical: Names = ()
    """Columns of which each value is a code of its own."""
    multi: Names = ()
    """Columns of several values: lists, or text with `separator` between them."""
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Between the values of a `multi` column that is text."""
    lists: Names = ()
    """Columns of several values that are text of lists: `['a', 'b']`, as Python writes them, or
    JSON."""
    numeric: Names = ()
    """Columns of numbers, dates or datetimes, of which each quantile bucket is a code."""
    buckets: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Quantile buckets of each `numeric` column, at most."""
    hashed: Names = ()
    """Columns of very many values, each of which is hashed to one of `hash_codes` codes; no list
    of values is kept, and several may share a code."""
    hash_codes: Annotated[int, Field(ge=2, le=100_000_000)] = 10_000
    """Codes of each `hashed` column."""
    missing: Names = ()
    """Texts that mean that nothing is known, such as `["NA"]`; an empty text always means it."""


class UsersTable(EntityTable):
    """What is known of the users, at most one row for each user."""

    id: ColumnName = "user_id"
    """Column of the user's id."""


class ItemsTable(EntityTable):
    """What is known of the items, at most one row for each item."""

    id: ColumnName = "item_id"
    """Column of the item's id."""
    title: str = ""
    """Column of a name for people to read; no model sees it."""


class TablesConfig(Section):
    """Your own tables (`data.source = "tables"`); see [your-data.md](your-data.md)."""

    database: str = ""
    """Where queries are asked: `postgresql://user@host:5432/name` (the password is libpq's to find:
    `$PGPASSWORD`, `~/.pgpass`) or `sqlite:///shop.db`."""
    driver: Literal["adbc", "duckdb"] = "adbc"
    """How a PostgreSQL is read: by its ADBC driver, or as an attachment of DuckDB, whose extension
    has to be of exactly the installed DuckDB."""
    user_ids: IdType = "auto"
    """Type of the users' ids; `auto` takes a Parquet column's own, and of text that is all whole
    numbers (without leading zeros) makes integers."""
    item_ids: IdType = "auto"
    """Type of the items' ids, likewise."""
    delimiter: Delimiter = ""
    """Between the fields of text files, such as `;` or `::`; empty is a comma, and a tab in `.tsv`
    files."""
    encoding: Encoding = "utf-8"
    """Encoding of text files, such as `latin-1`, `windows-1252` or `utf-16`."""
    on_bad_row: Literal["error", "reject"] = "error"
    """When a row is not as declared: stop and name it; or leave it out, count it, and write it with
    the reason to `rejected/` in the dataset's folder."""
    interactions: InteractionsTable = InteractionsTable()
    users: UsersTable = UsersTable()
    items: ItemsTable = ItemsTable()

    def decisive(self) -> dict[str, Any]:
        """See `Section`: everything but where the tables lie."""
        place = {role: {"path", "query"} for role in ("interactions", "users", "items")}
        return self.model_dump(mode="json", exclude={"database": True, "driver": True, **place})
