"""What every source hands to the preparation: the same three tables, whatever it read them from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.timestamps import TimeUnit

if TYPE_CHECKING:  # a training worker reads no raw table, and Ibis takes a second to load
    import ibis.expr.types as ir

AttributeKind = Literal["categorical", "multi", "numeric", "hashed"]
Side = Literal["user", "item"]


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
    has_time: bool = True
    time_unit: TimeUnit = ""
    """What timestamps count since 1970, where that is known."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Rows that were read and are no interactions, by why; the manifest repeats them."""
    rejected: Path | None = None
    """A folder with the rows that were left out, perhaps not there; the dataset keeps it."""

    def weighted(self, config: DataConfig) -> bool:
        """Whether prepared interactions have a weight each."""
        return config.duplicates == "sum" or "weight" in self.interactions.columns

    def attributes_of(self, side: Side) -> list[AttributeColumn]:
        """The declarations of one side, in their order."""
        return [attribute for attribute in self.attributes if attribute.side == side]
