"""The tables of users and items after a day, and what describes them.

In: the tables before, ids with those that the day adds, the day's own tables. Out: the next
``users.parquet`` and ``items.parquet``, their vocabularies, and their vectors, texts and numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cadc_rec import strict_json
from cadc_rec.config.dense import TextConfig
from cadc_rec.data.dense import DESCRIBED
from cadc_rec.data.prepare.new_rows import described_attributes
from cadc_rec.data.sources.raw_tables import CONTEXT_FILE, Side
from cadc_rec.data.streams import one_array, write_parquet
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.arrivals import Arrivals, SideIds, say_new
from cadc_rec.updates.dense import described_dense, write_grown_dense
from cadc_rec.updates.entities import GrownIds, grown_entities, taken_first, with_every_code


@dataclass(frozen=True)
class Written:
    """What was written of both sides.

    Attributes:
        counts: known users and items that came anew, and values that nobody had before.
        untaken: items that nobody took yet.
    """

    counts: Mapping[str, int]
    untaken: int


def write_sides(
    text: TextConfig,
    parent: Artifact,
    before: Mapping[Side, pa.Table],
    folder: Path,
    came: Arrivals,
    described: Callable[[Side], pa.Table | None],
    keeps_all: bool,
) -> Written:
    """Write both sides' tables and what describes them.

    Args:
        text: how texts are encoded.
        parent: the dataset before.
        before: its users and items.
        folder: the draft's.
        came: ids, and the tables so far.
        described: the day's own table of a side, without those who were forgotten; None without.
        keeps_all: whether items of it that nobody took stay.
    """
    attributes, dense = described_attributes(parent), described_dense(parent.path)
    now: dict[Side, Any] = {}
    dense_now: dict[Side, Any] = {}
    counts, new_values, untaken = {}, came.new_values, 0
    for side, every in came.tables.items():
        own, key = described(side), f"{side}_id"
        whole = _whole(side, every, came.ids[side], own if keeps_all else None)
        grown = grown_entities(side, every, whole, own, attributes[side])
        # What nobody had who was taken is a value like any other from now on.
        now[side] = [with_every_code(attribute) for attribute in grown.attributes]
        counts[f"renewed_{side}s"] = grown.renewed
        for name, values in grown.new_values.items():
            new_values += say_new(f"{side}s", name, values)
        rows, others = taken_first(grown.rows, side, came.ids[side].every)
        if side == "item":
            untaken = others
        write_parquet(folder / f"{side}s.parquet", rows)
        dense_now[side] = write_grown_dense(
            text,
            side,
            dense.get(side, []),
            (parent.path, one_array(before[side][key])),
            own,
            (folder, one_array(rows[key])),
        )
    if dense:
        _write_json(folder / DESCRIBED, dense_now)
    _write_json(folder / "attributes.json", now)
    if came.context:
        _write_json(folder / CONTEXT_FILE, came.context)
    return Written({**counts, "new_values": new_values}, untaken)


def _whole(side: Side, every: pa.Table, taken: SideIds, own: pa.Table | None) -> GrownIds:
    """The ids of every row there will be: also of items that nobody took yet."""
    known = one_array(every[f"{side}_id"])
    came = [taken.newcomers]
    if own is not None and side == "item":
        came.append(one_array(own[f"{side}_id"]).cast(known.type))
    return GrownIds.of(known, pa.concat_arrays(came))


def _write_json(file: Path, value: Any) -> None:
    file.write_text(strict_json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
