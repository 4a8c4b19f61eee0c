"""The sections of `data.source = "tables"`: your files and what their columns mean."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from cadc_rec.config.dense import DenseColumns
from cadc_rec.config.types import Names, Section

IdType = Literal["auto", "integer", "string"]
IdForm = Literal["trim", "nfc", "integer-like"]
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
    """A Parquet, CSV, TSV, JSON Lines, Arrow or Feather file, a folder of such files (hive
    partitions become columns), a zip archive or a file in it (`shop.zip/orders.csv`), or a glob. A
    relative path is looked for in the folder of `--data-dir`; without that option in
    `$CADC_REC_DATA`, then in the current folder."""
    query: str = ""
    """Instead of a path: one SELECT to run in `data.tables.database`; see
    [your-data.md](your-data.md#a-database)."""
    columns: FileColumns = ()
    """Names of all columns, in order, of text files without a first line that names them."""
    user: ColumnName = "user_id"
    """Column of the user's id."""
    item: ColumnName = "item_id"
    """Column of the item's id."""
    timestamp: str = ""
    """Column of the time. Whole numbers are kept as they are. Other numbers are seconds; they,
    dates and datetimes become microseconds since 1970 (UTC). Empty: there is no time, and each
    user's order is drawn with a seed."""
    format: str = ""
    """How that column writes a time that is not ISO, as for `strptime`: `%m/%d/%Y` is 1/31/2024,
    `%d.%m.%Y %H:%M` is 31.1.2024 14:30."""
    unit: Literal["", "s", "ms", "us", "ns"] = ""
    """Unit of the whole numbers in that column, which count from 1970. You need it only if a
    setting such as `data.since` gives a date. An error if the column holds no whole numbers."""
    timestamp_kind: Literal["", "clock", "order"] = ""
    """Whether the times are those of a `clock`, or only an `order`: each interaction's place among
    its user's, which says nothing about two users. A split by time, bounds that are dates, and
    whatever else needs a clock are refused on an order. Empty: the rows tell; see
    [your-data.md](your-data.md#a-clock-or-an-order)."""
    weight: str = ""
    """Column of an interaction's weight: a number above 0 and at most a billion, of which six
    decimals are kept. `pretrain.model = "als"` multiplies its confidence by it. Empty: every weight
    is 1."""
    rating: str = ""
    """Column of the rating that `min_rating` is compared with."""
    min_rating: float | None = None
    """Leave out rows with a lower rating; unset keeps every row."""
    context: Names = ()
    """Columns of the interaction that are known when the request is made, such as the device or the
    region; `context.features` says which of them the towers read. Every different value of the
    training rows gets its own code. See [your-data.md](your-data.md#the-moment-of-a-request)."""
    context_lagged: Names = ()
    """Columns that are known only afterwards, such as a rating: a request has the value of the
    user's interaction before it."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        section = "data.tables.interactions"
        if self.min_rating is not None and not self.rating:
            yield (
                f"{section}.min_rating = {self.min_rating:g} is about ratings, and no column holds "
                f"them; set {section}.rating, or leave min_rating out."
            )
        if self.unit and not self.timestamp:
            yield (
                f"{section}.unit = {self.unit!r} is about times, and no column holds them; set "
                f"{section}.timestamp, or leave unit out."
            )
        if self.timestamp_kind and not self.timestamp:
            yield (
                f"{section}.timestamp_kind = {self.timestamp_kind!r} is about times, and no column "
                f"holds them; set {section}.timestamp, or leave timestamp_kind out."
            )
        yield from self._of_context(section)
        key = f"{section}.format"
        if self.format and not self.timestamp:
            yield f"{key} says how a time is written, and timestamp names no column; name it."
        if self.format and self.unit:
            yield f"{key} is about dates, and unit about whole numbers; leave one of them out."
        if self.format and "%" not in self.format:
            yield f"{key} = {self.format!r} is not a form of times; write it like '%m/%d/%Y'."

    def _of_context(self, section: str) -> Iterator[str]:
        """Columns that no request could carry, or that would be two features."""
        for column in self.context:
            for role in ("rating", "weight"):
                if column == getattr(self, role):
                    yield (
                        f"{section}.context names {column!r}, the {role}, which is known only "
                        f"afterwards; name it in {section}.context_lagged, or leave it out."
                    )
        columns = (*self.context, *self.context_lagged)
        for column in columns:
            if column in (self.user, self.item, self.timestamp):
                yield (
                    f"{section}.context names {column!r}, which is the user, the item or the time "
                    "itself; leave it out (of times, context.features makes hour, weekday and gap)."
                )
            if column in ("hour", "weekday", "gap"):
                yield (
                    f"{section}.context names {column!r}, which context.features takes for a "
                    "feature of the time; rename the column, or leave it out."
                )
            if columns.count(column) > 1:
                yield f"{section}: names {column!r} as context twice; name it once."

    def decisive(self) -> dict[str, Any]:
        """See `Section`; columns of a context that are not named do not count."""
        named = {name for name in ("context", "context_lagged") if not getattr(self, name)}
        return self.model_dump(mode="json", exclude=named)


class CodedColumns(Section):
    """A table of users or items, and those of its columns whose values become codes."""

    path: str = ""
    """A file, folder or glob, written as `data.tables.interactions.path`. Without a path and a
    query there is no such table."""
    query: str = ""
    """A SELECT, written as `data.tables.interactions.query`."""
    columns: FileColumns = ()
    """Names of all columns, written as `data.tables.interactions.columns`."""
    id: ColumnName = "id"
    """Column of the id."""
    categorical: Names = ()
    """Columns with one value in a row; every different value gets its own code."""
    multi: Names = ()
    """Columns with several values in a row: lists, or text with `separator` between the values."""
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Text between the values of a `multi` column that is text."""
    lists: Names = ()
    """Columns of several values that are text of lists: `['a', 'b']`, as Python writes them, or
    JSON."""
    numeric: Names = ()
    """Columns of numbers, dates or datetimes. Each column is cut into quantile buckets, and each
    bucket gets its own code."""
    buckets: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Largest number of quantile buckets of a `numeric` column."""
    hashed: Names = ()
    """Columns with very many different values. Each value is hashed to one of `hash_codes` codes:
    no list of values is kept, and several values may share a code."""
    hash_codes: Annotated[int, Field(ge=2, le=100_000_000)] = 10_000
    """Number of codes of each `hashed` column."""
    missing: Names = ()
    """Texts that stand for a missing value, such as `["NA"]`; an empty text always does."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        yield from super().broken_rules()
        for setting, columns in (
            ("separator", "multi"),
            ("buckets", "numeric"),
            ("hash_codes", "hashed"),
        ):
            value, default = getattr(self, setting), type(self).model_fields[setting].default
            if value != default and not getattr(self, columns):
                yield (
                    f"{setting} = {value!r} is about {columns!r} columns, and none is named; name "
                    f"them in {columns}, or leave {setting} out."
                )


class EntityTable(DenseColumns, CodedColumns):
    """Attributes of users or items, at most one row for each id."""


class UsersTable(EntityTable):
    """Attributes of the users, at most one row for each user."""

    id: ColumnName = "user_id"
    """Column of the user's id."""


class ItemsTable(EntityTable):
    """Attributes of the items, at most one row for each item."""

    id: ColumnName = "item_id"
    """Column of the item's id."""
    title: str = ""
    """Column of a name for people to read; no model uses it."""
    keep: Literal["auto", "all", "taken"] = "auto"
    """Which of its rows stay in the catalogue: `all`, also items that nobody took yet, or those
    that were `taken`, as in the paper. `auto` is `all` where items have attributes. Training and
    evaluation are the same either way; see [your-data.md](your-data.md#items-that-nobody-took-yet).
    """

    @property
    def keeps_all(self) -> bool:
        """Whether items that nobody took yet stay in the catalogue."""
        attributes = (self.categorical, self.multi, self.numeric, self.hashed)
        has_some = any(attributes) or self.has_dense
        return self.keep == "all" or (self.keep == "auto" and has_some)


class TablesConfig(Section):
    """Your own tables (`data.source = "tables"`); see [your-data.md](your-data.md)."""

    database: str = ""
    """The database that the queries run in: `postgresql://user@host:5432/name` or
    `sqlite:///shop.db`. Leave the password out: libpq finds it in `$PGPASSWORD` or `~/.pgpass`."""
    driver: Literal["adbc", "duckdb"] = "adbc"
    """How PostgreSQL is read: through its ADBC driver, or through an extension of DuckDB, which
    must be made for exactly the installed DuckDB."""
    user_ids: IdType = "auto"
    """Type of the user ids. `auto` takes the type of a Parquet column; ids in text files become
    integers if all of them are whole numbers without leading zeros."""
    item_ids: IdType = "auto"
    """Type of the item ids; `auto` decides as for `user_ids`."""
    normalize_ids: Annotated[tuple[IdForm, ...], Field(strict=False)] = ()
    """What is done to ids, in every table, so that two spellings of one id meet: `trim` removes
    white space around them, `nfc` composes their accents (Unicode's normal form C), and
    `integer-like` writes `101.0`, `+101` and `0101` as `101`. The dataset, its results and what is
    served have the ids in that form; see [your-data.md](your-data.md#tables-that-do-not-meet)."""
    delimiter: Delimiter = ""
    """Text between the fields of text files, such as `;` or `::`. Empty takes a tab in `.tsv` files
    and a comma in all others."""
    encoding: Encoding = "utf-8"
    """Encoding of text files, such as `latin-1`, `windows-1252` or `utf-16`."""
    on_bad_row: Literal["error", "reject"] = "error"
    """What to do with a row that does not fit these settings. `error` stops and names the row.
    `reject` leaves the row out, counts it, and writes it with the reason to `rejected/` in the
    dataset's folder."""
    interactions: InteractionsTable = InteractionsTable()
    users: UsersTable = UsersTable()
    items: ItemsTable = ItemsTable()

    def queries(self) -> dict[str, str]:
        """What the database is asked, by table."""
        asked = {
            "interactions": self.interactions.query,
            "users": self.users.query,
            "items": self.items.query,
        }
        return {role: query for role, query in asked.items() if query}

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        for role in self.queries():
            if getattr(self, role).path:
                yield f"data.tables.{role}: has both a path and a query; take one out."
            elif not self.database:
                yield (
                    f"data.tables.{role}.query: there is no database to ask; set "
                    "data.tables.database."
                )

    def decisive(self) -> dict[str, Any]:
        """See `Section`: everything except where the tables are."""
        place = {role: {"path", "query"} for role in ("interactions", "users", "items")}
        settings = self.model_dump(mode="json", exclude={"database": True, "driver": True, **place})
        kept = self.interactions.decisive()
        settings["interactions"] = {k: v for k, v in settings["interactions"].items() if k in kept}
        for role in ("users", "items"):  # so that a dataset without such columns keeps its key
            for unset in getattr(self, role).unset():
                del settings[role][unset]
            for file in settings[role].get("vector_files", {}).values():
                del file["path"], file["ids"]
        return settings
