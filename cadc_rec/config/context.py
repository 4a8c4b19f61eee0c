"""The section ``[context]``: what the user tower reads of the moment of a request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cadc_rec.config.data import DataConfig, is_only_an_order
from cadc_rec.config.types import Names, PositiveInt, Section

TIME_FEATURES = ("hour", "weekday", "gap")


class ContextConfig(Section):
    """What is known when a request is made, as an input of the user tower."""

    features: Names = ()
    """`hour` and `weekday` of the request (UTC), `gap`: the time since the user's interaction
    before it, in steps of a factor of two; and columns that `data.tables.interactions.context` or
    `.context_lagged` names. Each value has a small learned vector. The first three need the times
    of a clock. Methods without towers ignore them."""
    dim: PositiveInt = 8
    """Dimension of the vector of each feature's value."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if len(set(self.features)) < len(self.features):
            yield f"context.features = {list(self.features)} names a feature twice; name it once."

    def decisive(self) -> dict[str, Any]:
        """See `Section`; without features no setting counts."""
        return super().decisive() if self.features else {}

    @property
    def of_time(self) -> list[str]:
        """The features that are made of times."""
        return [name for name in self.features if name in TIME_FEATURES]


def broken_features(context: ContextConfig, data: DataConfig) -> Iterator[str]:
    """A sentence for each feature that the data cannot give, as far as the settings tell."""
    table = data.tables.interactions
    columns: Sequence[str] = (*table.context, *table.context_lagged)
    unknown = [name for name in context.features if name not in (*TIME_FEATURES, *columns)]
    if unknown:
        yield (
            f"context.features names {unknown[0]!r}, which is none of hour, weekday and gap and no "
            "column of data.tables.interactions.context or .context_lagged; name it there, or "
            "leave it out."
        )
    if context.of_time and not data.has_time:
        yield (
            f"context.features = {context.of_time} needs times, and the source has none; leave "
            "them out."
        )
    if context.of_time and table.timestamp_kind == "order":
        why = "data.tables.interactions.timestamp_kind says so"
        yield is_only_an_order(f"context.features = {context.of_time}", why, own_tables=True)
