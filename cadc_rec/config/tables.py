"""The sections of `data.source = "tables"`: which files, and what their columns are."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.types import Names, Section

IdType = Literal["auto", "integer", "string"]
IdForm = Literal["trim", "nfc", "integer-like"]
ColumnName = Annotated[str, Field(min_length=1)]


class InteractionsTable(Section):
    """Who took what, and when: each row is an interaction."""

    path: str = ""
    """A Parquet, CSV, TSV, Arrow or Feather file, a folder of them (hive partitions become
    columns), or a glob. Relative to `--data-dir`, else to `$CADC_REC_DATA`, else to the current
    folder."""
    query: str = ""
    """Instead of a path: one SELECT that `data.tables.database` is asked; see
    [your-data.md](your-data.md#a-database)."""
    user: ColumnName = "user_id"
    """Column of the user's id."""
    item: ColumnName = "item_id"
    """Column of the item's id."""
    timestamp: str = ""
    """Column of the time: whole numbers are kept; other numbers are seconds, and they, dates and
    datetimes become microseconds since 1970, UTC. Empty: no time, so that each user's order is a
    seeded draw."""
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


class EntityTable(Section):
    """What is known of one side, at most one row for each id."""

    path: str = ""
    """Written as that of the interactions; empty means that there is no such table."""
    query: str = ""
    """Written as that of the interactions."""
    id: ColumnName = "id"
    """Column of the id."""
    categorical: Names = ()
    """Columns of which each value is a code of its own."""
    multi: Names = ()
    """Columns of several values: lists, or text with `separator` between them."""
    separator: Annotated[str, Field(min_length=1)] = "|"
    """Between the values of a `multi` column that is text."""
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
    keep: Literal["auto", "all", "taken"] = "auto"
    """Which of its rows stay in the catalogue: `all`, also items that nobody took yet, or those
    that were `taken`, as in the paper. `auto` is `all` where items have attributes. Training and
    evaluation are the same either way; see [your-data.md](your-data.md#items-that-nobody-took-yet).
    """

    @property
    def keeps_all(self) -> bool:
        """Whether items that nobody took yet stay in the catalogue."""
        attributes = (self.categorical, self.multi, self.numeric, self.hashed)
        return self.keep == "all" or (self.keep == "auto" and any(attributes))


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
    normalize_ids: Annotated[tuple[IdForm, ...], Field(strict=False)] = ()
    """What is done to ids, in every table, so that two spellings of one id meet: `trim` removes
    white space around them, `nfc` composes their accents (Unicode's normal form C), and
    `integer-like` writes `101.0`, `+101` and `0101` as `101`. The dataset, its results and what is
    served have the ids in that form; see [your-data.md](your-data.md#tables-that-do-not-meet)."""
    delimiter: Annotated[str, Field(max_length=1)] = ""
    """Between the fields of text files; empty is a comma, and a tab in `.tsv` files."""
    encoding: Literal["utf-8", "latin-1"] = "utf-8"
    """Encoding of text files."""
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
