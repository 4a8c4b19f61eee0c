"""Guesses which table is which and what its columns are, each guess with its reason.

In: profiles. Out: `Roles`. Names decide who is a user and what an item; counts decide how an
attribute is coded. A guess is shown and written into a file that a person corrects; it is never
used unseen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from cadc_rec.data.inspect.profile import ColumnProfile, TableProfile
from cadc_rec.data.sources.raw_tables import AttributeKind, Side

_USER = r"user|customer|member|visitor|client|reviewer|account|session|\buid\b|\bwho\b"
_ITEM = (
    r"item|movie|film|product|sku|article|track|song|book|business|asin|\biid\b|\bwhat\b|content"
)
_TIME = r"time|date|\bts\b|\bwhen\b|created|_at\b"
_RATING = r"rating|stars?\b|score"
_TITLE = r"title|name"
_FEW = 20
"""Numbers of so few different values are codes."""
_FEW_NAMES = 50
_ODD = 5
_MANY = 100_000
"""From so many different values on, they are hashed: most of a table's rows would be rare ones."""


@dataclass(frozen=True)
class Guess:
    """What an attribute column is taken for."""

    column: str
    kind: AttributeKind | None
    """None: it is left out."""
    why: str
    separator: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entities:
    """A table of users or items."""

    table: TableProfile
    id: str
    title: str
    guesses: Sequence[Guess]


@dataclass(frozen=True)
class Roles:
    """What every table was taken for."""

    interactions: TableProfile | None = None
    user: str = ""
    item: str = ""
    timestamp: str = ""
    rating: str = ""
    users: Entities | None = None
    items: Entities | None = None
    others: Sequence[TableProfile] = field(default=())


def guess_roles(tables: Sequence[TableProfile]) -> Roles:
    """Tell the tables apart: the interactions name both a user and an item, most rows first."""
    for table in sorted(tables, key=lambda table: -table.rows):
        user, item = _named(table, _USER), _named(table, _ITEM, but=_named(table, _USER))
        if user and item and table.column(user).distinct < table.rows:
            break
    else:
        return Roles(others=tables)
    rest = [other for other in tables if other is not table]
    users = _entities(rest, user, "user")
    rest = [other for other in rest if users is None or other is not users.table]
    items = _entities(rest, item, "item")
    return Roles(
        interactions=table,
        user=user,
        item=item,
        timestamp=_timestamp(table, (user, item)),
        rating=_named(table, _RATING, but=user),
        users=users,
        items=items,
        others=[other for other in rest if items is None or other is not items.table],
    )


def _named(table: TableProfile, pattern: str, but: str = "") -> str:
    """The first column whose name fits, one that says ``id`` before others."""
    spaced = {c.name: re.sub(r"[\W_]+", " ", c.name.lower()) for c in table.columns}
    fits = [name for name, words in spaced.items() if name != but and re.search(pattern, words)]
    return next((name for name in fits if "id" in spaced[name].split()), fits[0] if fits else "")


def _timestamp(table: TableProfile, ids: Sequence[str]) -> str:
    for column in table.columns:
        words = re.sub(r"[\W_]+", " ", column.name.lower()).replace(" at", "_at")
        if column.name in ids or not re.search(_TIME, words):
            continue
        if column.type != "text" and not column.type.startswith("string"):
            return column.name
        if column.known and max(column.numbers, column.timestamps) == column.known:
            return column.name
    return ""


def _entities(tables: Sequence[TableProfile], id_name: str, side: Side) -> Entities | None:
    """The table with one row for each id.

    The id has the name it has in the log, or is called id in a file of the side's name.
    """
    for table in tables:
        names = [column.name for column in table.columns]
        of_side = re.search(_USER if side == "user" else _ITEM, _file_words(table))
        plain = next((n for n in names if n.lower() in ("id", side)), "") if of_side else ""
        found = id_name if id_name in names else plain
        if found and table.rows and table.column(found).distinct == table.rows:
            title = _title(table, found) if side == "item" else ""
            guesses = [guess_attribute(c) for c in table.columns if c.name not in (found, title)]
            return Entities(table, found, title, guesses)
    return None


def _file_words(table: TableProfile) -> str:
    """What the table's first file and folder are called."""
    file = table.files.files[0]
    return (
        f"{table.files.base.name} {file.name}".lower() if len(table.files.files) > 1 else file.name
    )


def _title(table: TableProfile, but: str) -> str:
    name = _named(table, _TITLE, but=but)
    column = table.column(name) if name else None
    if column is None or column.is_list or column.distinct * 2 < column.known:
        return ""
    return name


def guess_attribute(column: ColumnProfile) -> Guess:
    """How a column of users or items is best coded."""
    n, known, distinct = column.name, column.known, column.distinct
    if known == 0 or distinct < 2:
        return Guess(n, None, "one value or none")
    if column.is_list:
        return Guess(n, "multi", "lists")
    if column.type == "boolean":
        return Guess(n, "categorical", "true or false")
    is_text = column.type in ("text", "string")
    if not is_text and re.match(r"u?int|float|decimal", column.type):
        return _number(column, ())
    if not is_text and re.match(r"date|timestamp", column.type):
        return Guess(n, "numeric", f"times, {distinct:,} different")
    if is_text and column.timestamps == known:
        return Guess(n, "numeric", f"times, {distinct:,} different")
    numbers = column.numbers - column.padded
    if is_text and numbers and numbers + _rare(column) >= known and len(column.odd) <= _ODD:
        return _number(column, column.odd)
    # A space also stands in plain names, so that few values with spaces are values.
    signs = [found for found in column.separated if found[0] != " " or distinct > _FEW_NAMES]
    best = min(signs, key=lambda found: found[2], default=None)
    if best and best[2] * 3 <= distinct * 2:
        words = f"{best[1]:,} of {known:,} hold {best[0]!r}; {best[2]:,} parts"
        return Guess(n, "multi", words, separator=best[0])
    if distinct * 5 <= known and distinct > _MANY:
        return Guess(n, "hashed", f"{distinct:,} values in {known:,} rows")
    if distinct * 5 <= known:
        return Guess(n, "categorical", f"{distinct:,} values in {known:,} rows")
    return Guess(n, None, f"{distinct:,} values in {known:,} rows: a name or a code")


def _rare(column: ColumnProfile) -> int:
    """Values that may be no number in a column of numbers."""
    return max(0, column.known - column.numbers) if column.odd else 0


def _number(column: ColumnProfile, odd: tuple[str, ...]) -> Guess:
    if column.distinct - len(odd) <= _FEW:
        return Guess(column.name, "categorical", f"{column.distinct:,} numbers", missing=odd)
    why = f"numbers, {column.distinct - len(odd):,} different, {column.least} to {column.greatest}"
    return Guess(column.name, "numeric", why, missing=odd)
