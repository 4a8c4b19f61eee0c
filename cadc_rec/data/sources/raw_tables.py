"""What every source hands to the preparation: the same three tables, whatever it read them from.

And what their timestamps count: times of the configuration become whole numbers in that unit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from cadc_rec.config.experiment import DataConfig
from cadc_rec.errors import CadcError

if TYPE_CHECKING:  # Ibis takes long to import, and a training process needs none of it
    import ibis.expr.types as ir

AttributeKind = Literal["categorical", "multi", "numeric", "hashed"]
DenseKind = Literal["vector", "text", "continuous"]
Side = Literal["user", "item"]
TimeUnit = Literal["", "s", "ms", "us", "ns"]
"""What a source's whole numbers count since 1970; empty where that is not known."""
TimestampKind = Literal["clock", "order", "none"]
"""Times of the world; places in each user's own order; or no times."""
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
"""How many of each unit a second has."""
_TAKEN = ("user", "item", "user_id", "item_id", "title")  # columns of every prepared dataset
CONTEXT_FILE = "context.json"
"""Of a prepared dataset with columns of what a request carries: what their codes stand for."""
_WHOLE = re.compile(r"-?[0-9]+")
_INT64 = range(-(2**63), 2**63)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class AttributeColumn:
    """A column of the users' or items' table that the towers may use."""

    name: str
    side: Side
    kind: AttributeKind
    """``categorical``: a value or null. ``multi``: a list of values, perhaps empty or null.
    ``numeric``: a finite number or null. ``hashed``: a value or null, as text."""
    buckets: int = 0
    """``numeric``: how many quantile buckets there may be; ``hashed``: how many codes there are."""
    type: str = ""
    """Of the values as they stand in the source, such as ``float64``; empty where it is not known.
    A later day's values are compared with these as values."""

    def of_type(self, type_: str) -> AttributeColumn:
        """The same, of values of this type."""
        return replace(self, type=type_)


@dataclass(frozen=True)
class DenseColumn:
    """A column of the users' or items' table whose numbers the towers read as numbers."""

    name: str
    side: Side
    kind: DenseKind
    """``vector``: a list of `width` finite numbers, not all 0, or null. ``text``: text or null.
    ``continuous``: a finite number or null."""
    column: str
    """What the source calls it."""
    width: int = 1


@dataclass(frozen=True)
class RawTables:
    """Ibis expressions over one source, on the backend that will run the preparation."""

    interactions: ir.Table
    """Columns user_id, item_id (int64 or text), row (int64, position in the file), where the
    source has time, timestamp (int64), and where rows weigh differently, weight (float64, above 0
    and at most a billion); further columns are ignored. No nulls."""
    users: ir.Table | None = None
    """Columns user_id (unique) and the users' attributes; None where there are none."""
    items: ir.Table | None = None
    """Columns item_id (unique), the items' attributes and, where there is one, title."""
    attributes: tuple[AttributeColumn, ...] = ()
    dense: tuple[DenseColumn, ...] = ()
    context: tuple[str, ...] = ()
    """Columns of what a request carries; the interactions have each as ``context_NAME``, a value or
    null."""
    has_time: bool = True
    time_unit: TimeUnit = ""
    """What timestamps count since 1970, where that is known."""
    timestamp_kind: TimestampKind | Literal[""] = ""
    """What the source says of its times; empty: its rows tell (see `times.py`)."""
    why_order: str = ""
    """Why the times were taken for an order, where the source found out itself."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many rows were read and not kept, by reason; the manifest repeats them."""
    rejected: Path | None = None
    """A folder with the rows that were left out, which the dataset keeps; it may not exist."""

    def weighted(self, config: DataConfig) -> bool:
        """Whether prepared interactions have a weight each."""
        return config.duplicates == "sum" or "weight" in self.interactions.columns

    def attributes_of(self, side: Side) -> list[AttributeColumn]:
        """The declarations of one side, in their order."""
        return [attribute for attribute in self.attributes if attribute.side == side]

    def dense_of(self, side: Side) -> list[DenseColumn]:
        """The columns of one side that stay numbers, in their order."""
        return [column for column in self.dense if column.side == side]


def attribute_name(column: str) -> str:
    """What the dataset calls a column: letters, digits and _, as the models' tables want it."""
    name = re.sub(r"\W", "_", column)
    return f"{name}_" if name in _TAKEN else name


def context_column(name: str) -> str:
    """What tables and files call a column of what a request carries."""
    return f"context_{name}"


def guess_unit(least: int, greatest: int) -> TimeUnit:
    """The unit in which both lie between 1973 and 2286; empty where there is none."""
    for unit, per_second in PER_SECOND.items():
        if 10**8 * per_second <= least <= greatest < 10**10 * per_second:
            return cast(TimeUnit, unit)
    return ""


def parse_time(text: str, key: str, unit: TimeUnit) -> int | None:
    """A time as the source counts it; None where the text is empty.

    Args:
        text: a whole number in that unit; or a date or datetime, UTC where it names no zone.
        key: the setting it comes from, for messages.
        unit: the source's.

    Raises:
        CadcError: the text is neither, or is a date and the source's unit is not known.
    """
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        if int(text) not in _INT64:
            raise CadcError(
                f"{key} = {text} does not fit into 64 bits; no time is beyond "
                f"{_INT64[0]} or {_INT64[-1]}."
            )
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise CadcError(
            f"{key} = {text!r} is not a time; write a date (2024-01-31), a datetime, or a whole "
            "number in the source's unit."
        ) from None
    if not unit:
        raise CadcError(
            f"{key} = {text!r} is a date, and the unit of the interactions' times is not "
            "known; set data.tables.interactions.unit, or write a whole number."
        )
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
    micros = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    return micros * PER_SECOND[unit] // 10**6
