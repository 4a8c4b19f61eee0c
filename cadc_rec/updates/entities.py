"""Id tables that grow: old entities keep their rows and codes, new ones are appended.

In: the prepared users or items, ids that came, their table of the day. Out: the same files with
more rows. Vocabularies grow at their ends, so that no code changes its meaning; the edges of
numeric buckets stay. A known entity that the day's table describes takes the new attributes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.data.prepare.values import attribute_of_values
from cadc_rec.data.prepare.vocabulary import coded
from cadc_rec.data.streams import one_array


@dataclass(frozen=True)
class GrownIds:
    """Original ids by dense id: those of before, then the new ones in ascending order."""

    before: pa.Array
    appended: pa.Array

    @property
    def every(self) -> pa.Array:
        """All of them."""
        return pa.concat_arrays([self.before, self.appended])

    @property
    def newcomers(self) -> pa.Array:
        """Those that `before` lacks."""
        return self.appended

    @staticmethod
    def of(before: pa.Array, came: pa.Array) -> GrownIds:
        """`before` and what `came` adds to it."""
        came = pc.unique(came.cast(before.type))
        new = came.filter(pc.invert(pc.is_in(came, value_set=before)))
        return GrownIds(before, new.take(pc.array_sort_indices(new)))

    def dense(self, ids: pa.Array) -> NDArray[np.int32]:
        """The dense id of each of `ids`, all of which are among these."""
        every = self.every
        index = pc.index_in(ids.cast(every.type), value_set=every)
        return index.to_numpy(zero_copy_only=False).astype(np.int32)


@dataclass(frozen=True)
class Grown:
    """One side after a day."""

    rows: pa.Table
    """Of ``users.parquet`` or ``items.parquet``."""
    attributes: list[dict[str, Any]]
    """Name, kind, size and vocabulary, as they are now."""
    renewed: int
    """How many known entities the day describes anew."""
    new_values: dict[str, list[Any]] = field(default_factory=dict)
    """Attribute to the values that nobody had before, in the order of their codes."""


def grown_entities(
    side: str,
    before: pa.Table,
    ids: GrownIds,
    day: pa.Table | None,
    described: Sequence[dict[str, Any]],
) -> Grown:
    """One side's table after a day.

    Args:
        side: ``user`` or ``item``.
        before: the file as it was, in dense-id order.
        ids: old and new ids.
        day: ``{side}_id``, title and attributes as the day's table gives them; None where it has
            no such table.
        described: each attribute's name, kind, size and vocabulary, as they were.

    Raises:
        CadcError: an attribute's values were whole numbers, and one of the day's is none.
    """
    key = f"{side}_id"
    known = pa.nulls(0, ids.before.type) if day is None else _among(ids.before, day[key])
    wanted = pa.concat_arrays([known, ids.appended])
    columns: dict[str, pa.Array] = {key: wanted}
    place = None if day is None else pc.index_in(wanted, value_set=one_array(day[key]))
    now, new_values = [], {}
    for name in before.column_names:
        attribute = next((entry for entry in described if entry["name"] == name), None)
        if name == key:
            continue
        given = attribute_of_values(name) or name
        if day is None or place is None or given not in day.column_names:
            values = None
        else:
            values = one_array(day[given]).take(place)
        if attribute is None:  # a title, or the values of a numeric attribute
            kind = before.schema.field(name).type
            columns[name] = pa.nulls(len(wanted), kind) if values is None else values.cast(kind)
            continue
        columns[name], grown = coded(values, len(wanted), attribute)
        now.append(grown)
        if new := grown["vocabulary"][len(attribute["vocabulary"]) :]:
            new_values[name] = new
    came = pa.table({name: columns[name] for name in before.column_names}).cast(before.schema)
    index = np.arange(len(before))
    renewed = pc.index_in(known, value_set=ids.before).to_numpy(zero_copy_only=False)
    index[renewed.astype(np.int64)] = len(before) + np.arange(len(known))
    index = np.concatenate([index, len(before) + len(known) + np.arange(len(ids.appended))])
    rows = pa.concat_tables([before, came]).combine_chunks().take(pa.array(index))
    return Grown(rows, now, len(known), new_values)


def taken_first(rows: pa.Table, side: str, taken: pa.Array) -> tuple[pa.Table, int]:
    """Rows of entities in the order of dense ids, and how many of them nobody took yet.

    Args:
        rows: one for each entity.
        side: ``user`` or ``item``.
        taken: the ids that interactions name, by dense id; the others follow in ascending order.
    """
    ids = one_array(rows[f"{side}_id"])
    if ids.equals(taken):
        return rows, 0
    others = ids.filter(pc.invert(pc.is_in(ids, value_set=taken)))
    order = pa.concat_arrays([taken, others.take(pc.array_sort_indices(others))])
    return rows.take(pc.index_in(order, value_set=ids)), len(others)


def with_every_code(attribute: dict[str, Any]) -> dict[str, Any]:
    """The attribute with every value of its vocabulary among the codes that are learned."""
    if attribute["kind"] not in ("categorical", "multi"):
        return attribute
    return {**attribute, "size": len(attribute["vocabulary"]) + 1}


def _among(ids: pa.Array, of: pa.ChunkedArray) -> pa.Array:
    """Those of `ids` that are in `of`."""
    return ids.filter(pc.is_in(ids, value_set=one_array(of).cast(ids.type)))
