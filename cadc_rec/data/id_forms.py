"""Ids that differ in form only: how they are made alike, and which form keeps two tables apart.

In: ids as Arrow arrays of text. Out: the same in one form; or a `Meeting`: how many rows of a table
of users or items meet an interaction and the other way round, and the likely reason where few do.

`data/tables/columns.py` has the same forms as expressions for reading; a test holds the two equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from logging import INFO, WARNING
from typing import Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from cadc_rec.config.tables import IdForm
from cadc_rec.log import log

ID_FORMS: tuple[IdForm, ...] = get_args(IdForm)
"""In the order in which they are applied, whatever the order they are named in."""
SPACES = " \t\n\r\v\f\x85\xa0\u200b\u2028\u2029\u202f\u3000\ufeff"
"""White space that stands around ids in practice, with the marks that people do not see."""
WHOLE = r"^\+?(-?)0*([0-9]+)(?:\.0*)?$"
"""A whole number however it is written; its sign and its digits are groups 1 and 2."""
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
    side: Literal["user", "item"],
    table: pa.Array | pa.ChunkedArray,
    taken: pa.Array | pa.ChunkedArray,
    rows: pa.Array | pa.ChunkedArray,
    known: pa.Array | pa.ChunkedArray | None = None,
) -> Meeting:
    """Count what meets, and where fewer than half do, find the likely reason.

    Args:
        side: whose ids.
        table: the ids of the side's table, each once.
        taken: the ids of the interactions, each once, of the same type.
        rows: how many interactions have each of these.
        known: ids that count as met on either side: those of a dataset that these tables come on
            top of.
    """
    met_table = pc.is_in(table, value_set=_one(taken))
    met_taken = pc.is_in(taken, value_set=_one(table))
    if known is not None:
        met_table = pc.or_(met_table, pc.is_in(table, value_set=_one(known)))
        met_taken = pc.or_(met_taken, pc.is_in(taken, value_set=_one(known)))
    lone_table, lone_taken = table.filter(pc.invert(met_table)), taken.filter(pc.invert(met_taken))
    alone = int(pc.sum(rows.filter(pc.invert(met_taken))).as_py() or 0)
    found = Meeting(side, len(table), len(lone_table), int(pc.sum(rows).as_py() or 0), alone)
    if not found.few or not len(lone_table) or not len(lone_taken):
        return found
    reason, examples = _reason(_text(lone_table), _text(lone_taken))
    return replace(found, reason=reason, examples=examples)


def tell(met: Meeting) -> None:
    """Say on standard error how they meet, where not all do."""
    sentence = met.sentence()
    if sentence:
        log.log(WARNING if met.examples else INFO, "%ss: %s", met.side, sentence)


def in_form(ids: pa.Array, forms: Sequence[str]) -> pa.Array:
    """Ids in the forms that are named; other text stays as it is.

    Args:
        ids: text.
        forms: some of `ID_FORMS`.
    """
    if "trim" in forms:
        ids = pc.utf8_trim(ids, characters=SPACES)
    if "nfc" in forms:
        ids = pc.utf8_normalize(ids, form="NFC")
    if "integer-like" in forms:
        ids = pc.replace_substring_regex(ids, WHOLE, r"\1\2")
        ids = pc.if_else(pc.equal(ids, "-0"), "0", ids)
    return ids


def _few(alone: int, total: int) -> bool:
    return total > 0 and total - alone < _ENOUGH * total


def _reason(table: pa.Array, taken: pa.Array) -> tuple[tuple[IdForm, ...], tuple[str, str]]:
    """The fewest forms in which most of `table` meet `taken`, and an example of each side."""
    best: tuple[IdForm, ...] = ()
    most, examples = 0, (pc.min(table).as_py(), pc.min(taken).as_py())
    for forms in _choices():
        place = pc.index_in(in_form(table, forms), value_set=in_form(taken, forms))
        met = len(place) - place.null_count
        if met > most:
            at = pc.index(pc.is_valid(place), True).as_py()
            best, most = forms, met
            examples = table[at].as_py(), taken[place[at].as_py()].as_py()
    return best, examples


def _choices() -> Iterator[tuple[IdForm, ...]]:
    """Every set of forms, the smallest first."""
    for size in range(1, len(ID_FORMS) + 1):
        yield from combinations(ID_FORMS, size)


def _text(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return _one(ids).cast(pa.string())


def _one(ids: pa.Array | pa.ChunkedArray) -> pa.Array:
    return ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
