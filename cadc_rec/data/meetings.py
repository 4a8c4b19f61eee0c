"""How a table of users or items and the interactions meet by their ids, and why few do.

In: ids as tables of DuckDB. Out: a `Meeting`: how many rows of the table meet an interaction and
the other way round, and the likely reason where few do. DuckDB joins them, within its memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from logging import INFO, WARNING
from typing import Any, Literal

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from cadc_rec.config.tables import IdForm
from cadc_rec.data.engine import Engine
from cadc_rec.data.id_forms import ID_FORMS
from cadc_rec.data.sources.raw_tables import RawTables, Side
from cadc_rec.data.tables.columns import in_id_form
from cadc_rec.log import log

_ENOUGH = 0.5  # the share that meets, below which a reason is sought


@dataclass(frozen=True)
class Meeting:
    """How a table of users or items and the interactions meet by their ids."""

    side: Literal["user", "item"]
    table_rows: int
    table_alone: int
    """Rows of the table that meet no interaction."""
    interactions: int
    interactions_alone: int
    """Interactions that meet no row of the table."""
    reason: tuple[IdForm, ...] = ()
    """The forms in which the ids of both would meet; empty where none is known, or enough meet."""
    examples: tuple[str, str] | None = None
    """Where fewer than half meet: an id of the table and one of the interactions; with a reason,
    two that differ by it."""

    def counts(self) -> dict[str, int]:
        """What the manifest says of it."""
        return {
            f"{self.side}_rows": self.table_rows,
            f"{self.side}_rows_without_interactions": self.table_alone,
            f"interactions_without_{self.side}_row": self.interactions_alone,
        }

    @property
    def few(self) -> bool:
        """Whether fewer than half of either meet the other."""
        return _few(self.table_alone, self.table_rows) or _few(
            self.interactions_alone, self.interactions
        )

    def sentence(self) -> str:
        """Both counts in one line, with the likely reason and its remedy; empty where all meet."""
        if not self.table_alone and not self.interactions_alone:
            return ""
        said = (
            f"{self.table_alone:,} of {self.table_rows:,} rows of the {self.side}s' table meet no "
            f"interaction, and {self.interactions_alone:,} of {self.interactions:,} interactions "
            f"meet no row of it"
        )
        if self.examples is None:
            return f"{said}."
        if self.reason:
            forms = ", ".join(f'"{form}"' for form in self.reason)
            return f"{said}; {self.why()}: set data.tables.normalize_ids = [{forms}]."
        table, taken = self.examples
        said = f"{said}; the table alone has {table!r}, and the interactions alone have {taken!r}"
        if self.table_alone < self.table_rows:
            return f"{said}."
        return f"{said}: check that data.tables.{self.side}s.id names the right column."

    def why(self) -> str:
        """An example of the reason, where there is one."""
        assert self.examples is not None
        # Two normal forms of one text look alike: their signs are spelt.
        spelt = ascii if "nfc" in self.reason else repr
        table, taken = map(spelt, self.examples)
        return f"{table} in the table is written {taken} in the interactions"


def meet(
    backend: Backend,
    side: Literal["user", "item"],
    table: ir.Table,
    taken: ir.Table,
    known: ir.Table | None = None,
) -> Meeting:
    """Count what meets, and where fewer than half do, find the likely reason.

    Args:
        backend: carries it out.
        side: whose ids they are.
        table: `id`: the ids of the side's table, each once.
        taken: `id`, of the same type: the ids of the interactions, each once; `rows`: how many
            interactions have it.
        known: `id`: ids that count as met on either side: those of a dataset that these tables come
            on top of.
    """
    lone_table, lone_taken = table.anti_join(taken, "id"), taken.anti_join(table, "id")
    if known is not None:
        lone_table, lone_taken = (one.anti_join(known, "id") for one in (lone_table, lone_taken))

    def number(value: ir.Scalar) -> int:
        return int(backend.to_pyarrow(value).as_py() or 0)

    found = Meeting(
        side,
        number(table.count()),
        number(lone_table.count()),
        number(taken["rows"].sum()),
        number(lone_taken["rows"].sum()),
    )
    if not (found.few and found.table_alone and found.interactions_alone):
        return found
    # Several joins read them, and those above would be done again for each.
    alone = [
        backend.create_table(f"{side}_{name}_alone", ids.select(id=ids["id"].cast("string")))
        for name, ids in (("table", lone_table), ("taken", lone_taken))
    ]
    reason, examples = _reason(backend, *alone)
    return replace(found, reason=reason, examples=examples)


def tell(met: Meeting) -> None:
    """Say on standard error how they meet, where not all do."""
    sentence = met.sentence()
    if sentence:
        log.log(WARNING if met.examples else INFO, "%ss: %s", met.side, sentence)


def _few(alone: int, total: int) -> bool:
    return total > 0 and total - alone < _ENOUGH * total


def _reason(
    backend: Backend, table: ir.Table, taken: ir.Table
) -> tuple[tuple[IdForm, ...], tuple[str, str]]:
    """The fewest forms in which most of `table` meet `taken`, and an example of each side."""

    def row(values: ir.Table) -> dict[str, Any]:
        (found,) = backend.to_pyarrow(values).to_pylist()
        return dict(found)

    first, second = (row(ids.aggregate(id=ids["id"].min()))["id"] for ids in (table, taken))
    best: tuple[IdForm, ...] = ()
    most, examples = 0, (first, second)
    for forms in _choices():
        left, right = (ids.mutate(form=in_id_form(ids["id"], forms)) for ids in (table, taken))
        met = left.semi_join(right, "form")
        least = met.aggregate(n=met.count(), id=met["id"].min(), form=met["form"].argmin(met["id"]))
        found = row(least)
        if found["n"] > most:
            same = right.filter(right["form"] == found["form"])
            best, most = forms, found["n"]
            examples = found["id"], row(same.aggregate(id=same["id"].min()))["id"]
    return best, examples


def _choices() -> Iterator[tuple[IdForm, ...]]:
    """Every set of forms, the smallest first."""
    for size in range(1, len(ID_FORMS) + 1):
        yield from combinations(ID_FORMS, size)


def meetings(tables: RawTables, reader: Backend, engine: Engine, rows: ir.Table) -> dict[str, int]:
    """How the tables of users and items meet the interactions, counted and told."""
    counts: dict[str, int] = {}
    entities: dict[Side, ir.Table | None] = {"user": tables.users, "item": tables.items}
    for side, table in entities.items():
        if table is None:
            continue
        key = f"{side}_id"
        counted = rows.group_by(id=rows[key]).agg(rows=ibis._.count())
        taken = engine.to_reader(engine.keep(f"{side}_counts", counted))
        found = meet(reader, side, table.select(id=table[key]), taken)
        tell(found)
        counts |= found.counts()
    return counts
