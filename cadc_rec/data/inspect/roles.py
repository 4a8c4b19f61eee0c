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

# Who is a user and what an item, the surest names first.
_USERS = (
    r"\buser\b|\buid\b",
    r"user|customer|member|client|reviewer|account|\bwho\b",
    r"visitor|session",
)
_ITEMS = (
    r"item|movie|film|product|sku|article|track|song|book|business|asin|\biid\b|\bwhat\b|content",
)
_USER, _ITEM = "|".join(_USERS), "|".join(_ITEMS)
_TIME = r"(?<!sen)time|(?<!up)(?<!candi)date|\bts\b|\bdt\b|\bwhen\b|created|_at\b"
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
    text_list: bool = False
    """Whether its texts are lists themselves."""


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
    times: Sequence[str] = ()
    """Other columns that look like times."""
    rating: str = ""
    users: Entities | None = None
    items: Entities | None = None
    others: Sequence[TableProfile] = field(default=())


def guess_roles(tables: Sequence[TableProfile]) -> Roles:
    """Tell the tables apart: the interactions name both a user and an item, most rows first."""
    for table in sorted(tables, key=lambda table: -table.rows):
        user = _named(table, *_USERS)
        item = _named(table, *_ITEMS, but=user)
        if user and item and table.column(user).distinct < table.rows:
            break
    else:
        return Roles(others=tables)
    rest = [other for other in tables if other is not table]
    users = _entities(rest, user, "user")
    rest = [other for other in rest if users is None or other is not users.table]
    items = _entities(rest, item, "item")
    rating = _named(table, _RATING, but=user)
    times = _times(table, (user, item, rating))
    return Roles(
        interactions=table,
        user=user,
        item=item,
        timestamp=next(iter(times), ""),
        times=times[1:],
        rating=rating,
        users=users,
        items=items,
        others=[other for other in rest if items is None or other is not items.table],
    )


def words_of(name: str) -> str:
    """A column's name as words: ``orderDate`` and ``order_date`` are ``order date``."""
    return re.sub(r"[\W_]+", " ", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)).lower()


def _named(table: TableProfile, *patterns: str, but: str = "") -> str:
    """The column whose name fits the first pattern that any fits: an id, of the fewest words."""
    names = [column.name for column in table.columns if column.name != but]
    for pattern in patterns:
        fits = [name for name in names if re.search(pattern, words_of(name))]
        if fits:
            return min(fits, key=lambda name: _named_rank(words_of(name).split()))
    return ""


def _named_rank(words: Sequence[str]) -> tuple[bool, int]:
    return "id" not in words, len(words)


def looks_like_time(column: ColumnProfile) -> bool:
    """Whether a column is called like a time."""
    return bool(re.search(_TIME, words_of(column.name).replace(" at", "_at")))


def _times(table: TableProfile, others: Sequence[str]) -> list[str]:
    """The columns that hold times: those called so first, and a single value for all rows last."""
    found = [c for c in table.columns if c.name not in others and _holds_times(c)]
    found.sort(key=lambda c: (c.distinct < 2, not looks_like_time(c)))
    return [column.name for column in found]


def _holds_times(column: ColumnProfile) -> bool:
    if re.match(r"date|timestamp", column.type):
        return True
    if column.type not in ("text", "string"):
        is_number = re.match(r"u?int|float|decimal", column.type)
        return bool(is_number) and looks_like_time(column)
    texts = max(column.timestamps, column.readings.fit if column.readings else 0)
    fits = max(column.numbers, texts) if looks_like_time(column) else texts
    return 0 < column.known * 0.9 <= fits


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
    if is_text and (column.timestamps == known or (column.readings and not column.numbers)):
        why = f"dates as text, such as {column.least!r}: numeric takes them from Parquet"
        return Guess(n, None, why)
    if column.lists is not None:
        return _listed(column, *column.lists)
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


def _listed(column: ColumnProfile, lists: int, parts: int) -> Guess:
    """A column of which nearly all texts are in square brackets."""
    if lists < column.known:
        why = f"lists as text, but {column.known - lists:,} of {column.known:,} are none"
        return Guess(column.name, None, why)
    why = f"lists as text, {parts:,} different parts"
    return Guess(column.name, "multi", why, text_list=True)


def _rare(column: ColumnProfile) -> int:
    """Values that may be no number in a column of numbers."""
    return max(0, column.known - column.numbers) if column.odd else 0


def _number(column: ColumnProfile, odd: tuple[str, ...]) -> Guess:
    if column.distinct - len(odd) <= _FEW:
        return Guess(column.name, "categorical", f"{column.distinct:,} numbers", missing=odd)
    why = f"numbers, {column.distinct - len(odd):,} different, {column.least} to {column.greatest}"
    return Guess(column.name, "numeric", why, missing=odd)
