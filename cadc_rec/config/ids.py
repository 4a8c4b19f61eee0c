"""The section ``[data.ids]``: how many rows users and items have, where their ids come and go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.types import PositiveFloat, PositiveInt, Section

Rows = Annotated[int, Field(ge=0)]


class IdsConfig(Section):
    """Tables of a fixed number of rows, for ids that come and go over updates.

    See [updates.md](updates.md#ids-that-come-and-go).
    """

    user_rows: Rows = 0
    """Rows of the users' tables, at most; 0 sets no bound: every user gets a row and keeps it."""
    item_rows: Rows = 0
    """Rows of the items' tables, likewise."""
    admission: PositiveInt = 1
    """A newcomer gets a row once it was seen in this many interactions. Those before are not
    learned from."""
    counting: Literal["exact", "sketch"] = "exact"
    """How ids without a row are counted. `exact` keeps as many of them as there are rows, those
    seen latest; `sketch` is a count-min sketch, whose memory is fixed and which may let an id in
    too early."""
    sketch_width: PositiveInt = 2**20
    """`counting = "sketch"`: counters of each of the sketch's four lines, four bytes each."""
    eviction: Literal["lru", "lfu", "ttl"] = "lru"
    """Whose row a newcomer gets when all are taken; nobody's who was seen in the same update.
    `lru`: who was not seen for longest. `lfu`: who was seen least often, if less often than the
    newcomer. `ttl`: who was not seen for `ttl_days`; if there is nobody, the newcomer waits."""
    ttl_days: PositiveFloat = 30.0
    """`eviction = "ttl"`: after how many days a row may be given away."""

    @property
    def living(self) -> bool:
        """Whether any side's rows are bounded."""
        return bool(self.user_rows or self.item_rows)

    def rows(self, side: str) -> int:
        """Of ``user`` or ``item``; 0 without a bound."""
        return self.user_rows if side == "user" else self.item_rows

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: settings that nothing would read."""
        rules = self.model_dump(exclude={"user_rows", "item_rows"})
        set_here = [k for k, v in rules.items() if v != type(self).model_fields[k].default]
        if set_here and not self.living:
            yield (
                f"data.ids.{set_here[0]} is about rows of a fixed number, and there are none; set "
                "data.ids.user_rows or data.ids.item_rows, or leave it out."
            )
        for key, setting, value in (
            ("sketch_width", "counting", "sketch"),
            ("ttl_days", "eviction", "ttl"),
        ):
            if key in set_here and getattr(self, setting) != value:
                yield (
                    f"data.ids.{key} is read with data.ids.{setting} = {value!r} alone; set it, or "
                    f"leave {key} out."
                )

    def decisive(self) -> dict[str, Any]:
        """See `Section`: what decides which ids a first run has. An update reads all of it."""
        return self.model_dump(mode="json", include={"user_rows", "item_rows", "admission"})
