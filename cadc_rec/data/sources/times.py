"""What the times of a source are: a clock, only an order, or not there.

In: what the source says, and its rows. Out: the kind and the unit of its times.

Some published logs hold, in place of a time, the interaction's place in its user's order: 0, 1, 2,
or a start plus a minute for each place. Such numbers order one user's interactions and say nothing
about two users. Their mark: from first to last, nearly every user's have the same mean gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import ibis
import ibis.expr.types as ir

from cadc_rec.config.data import DataConfig, is_only_an_order
from cadc_rec.data.engine import Engine
from cadc_rec.data.sources.raw_tables import RawTables, TimestampKind, TimeUnit, guess_unit
from cadc_rec.errors import CadcError
from cadc_rec.log import log

_ROWS = 3  # two rows have one gap, and many users may share that by chance
_USERS = 20  # fewer tell nothing
_MOST = 0.95
_SAFE = 2**62  # the difference of smaller numbers fits into 64 bits


@dataclass(frozen=True)
class Gaps:
    """What one pass over all rows says about their times."""

    least: int
    greatest: int
    users: int
    """Users with three rows or more."""
    alike: int
    """How many of them have the most common mean gap; 0 does not count, nor one that is not
    whole."""
    gap: int
    """That gap; 0 where there is none."""

    @staticmethod
    def of(engine: Engine, rows: ir.Table) -> Gaps:
        """Count.

        Args:
            engine: runs the expression.
            rows: user_id, timestamp (int64).
        """
        time = rows.timestamp
        users = rows.group_by("user_id").agg(n=ibis._.count(), low=time.min(), high=time.max())
        safe = (users.n >= _ROWS) & (users.low >= -_SAFE) & (users.high < _SAFE)
        users = users.mutate(span=ibis.cases((safe, users.high - users.low)))
        whole = (users.span > 0) & (users.span % (users.n - 1) == 0)
        gap = (users.span / (users.n - 1)).round().cast("int64")
        users = users.mutate(gap=ibis.cases((whole, gap)))
        gaps = users.group_by("gap").agg(
            users=(ibis._.n >= _ROWS).sum(), low=ibis._.low.min(), high=ibis._.high.max()
        )
        known = gaps.gap.notnull()
        found = engine.only_row(
            gaps.aggregate(
                least=gaps.low.min(),
                greatest=gaps.high.max(),
                users=gaps.users.sum(),
                alike=gaps.users.max(where=known),
                gap=gaps.gap.argmax(gaps.users, where=known),
            )
        )
        return Gaps(**{name: int(value or 0) for name, value in found.items()})

    @property
    def kind(self) -> TimestampKind:
        """An order, if nearly all users have one gap."""
        same = self.users >= _USERS and self.alike >= _MOST * self.users
        return "order" if same else "clock"

    @property
    def why(self) -> str:
        """The reason for the kind."""
        if self.users < _USERS:
            return f"fewer than {_USERS} users have {_ROWS} rows, which tell too little"
        if self.kind == "clock":
            return "users' gaps differ, as those of a clock do"
        return f"{self.alike:,} of {self.users:,} users have times {self.gap:,} apart on average"


@dataclass(frozen=True)
class Times:
    """What is known of a source's times."""

    kind: TimestampKind
    unit: TimeUnit
    """Empty where it is not known."""


def times_of(config: DataConfig, tables: RawTables, engine: Engine, rows: ir.Table) -> Times:
    """The kind and the unit of the times.

    Args:
        config: what has to be a clock.
        tables: what the source says.
        engine: runs the expressions.
        rows: user_id, timestamp; of all interactions that were read.

    Raises:
        CadcError: a setting needs a clock, and the rows have only an order.
    """
    if not tables.has_time:
        return Times("none", "")
    gaps = Gaps.of(engine, rows)
    kind, why = tables.timestamp_kind or gaps.kind, tables.why_order or gaps.why
    if kind == "order" and config.by_clock:
        raise CadcError(
            is_only_an_order(config.by_clock[0], why, own_tables=config.source == "tables")
        )
    if kind == "order" and not config.tables.interactions.timestamp_kind:
        log.info("the times are taken for an order, not for a clock: %s", why)
    return Times(kind, tables.time_unit or guess_unit(gaps.least, gaps.greatest))
