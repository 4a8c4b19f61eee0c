"""What every source hands to the preparation: the same three tables, whatever it read them from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import ibis.expr.types as ir

AttributeKind = Literal["categorical", "multi"]
Side = Literal["user", "item"]


@dataclass(frozen=True)
class AttributeColumn:
    """A column of the users' or items' table that the towers may use."""

    name: str
    side: Side
    kind: AttributeKind
    """``categorical``: a value or null. ``multi``: a list of values, perhaps empty or null."""


@dataclass(frozen=True)
class RawTables:
    """Ibis expressions over one source, on the backend that will run the preparation."""

    interactions: ir.Table
    """Columns user_id, item_id, row (int64, position in the file) and, where the source has time,
    timestamp (int64, seconds); further columns are ignored. No nulls."""
    users: ir.Table | None = None
    """Columns user_id (unique) and the users' attributes; None where there are none."""
    items: ir.Table | None = None
    """Columns item_id (unique), the items' attributes and, where there is one, title."""
    attributes: tuple[AttributeColumn, ...] = ()
    has_time: bool = True

    def attributes_of(self, side: Side) -> list[AttributeColumn]:
        """The declarations of one side, in their order."""
        return [attribute for attribute in self.attributes if attribute.side == side]
