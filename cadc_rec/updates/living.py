"""Ids that come and go: which rows a day's users and items have, and what leaves with the others.

In: a dataset, the day's interactions, `[data.ids]`. Out, for each side, what `GrownIds` says of
closed data, and which rows changed their owner; and a filter for the old log, whose interactions of
former owners are left out of the next dataset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.columns import train_files
from cadc_rec.data.ids.living import Limits, LivingIds, Moves
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.sources.raw_tables import PER_SECOND, Side
from cadc_rec.data.streams import one_array, read_groups
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact

_DAY = 86_400


@dataclass(frozen=True)
class MovedIds:
    """One side's ids after a day; has what `GrownIds` has.

    Attributes:
        before: original ids by row, as they were.
        every: by row, as they are.
        newcomers: ids of `every` that `before` lacks.
        gone: rows of `before` whose owner has none any more, bool ``[len(before)]``.
        living: the map.
        moves: what the day did to it.
    """

    before: pa.Array
    every: pa.Array
    newcomers: pa.Array
    gone: NDArray[np.bool_]
    living: LivingIds
    moves: Moves

    @staticmethod
    def of(
        config: IdsConfig, parent: Artifact, side: Side, before: pa.Array, day: DayIds
    ) -> MovedIds:
        """The map of the dataset before, moved on by a day.

        Args:
            config: whose rows are bounded, and who gets them.
            parent: the dataset before.
            side: ``user`` or ``item``.
            before: its ids by row.
            day: the ids that came.

        Raises:
            CadcError: rows go by age, and the dataset's times are not those of a clock; or a file
                is damaged.
        """
        limits, living = limits_of(config, side, parent), living_of(config, parent, side, before)
        times = day.times
        if not parent.info["has_time"]:  # an update is later than the one before it
            times = np.full(len(day.ids), int(living.last.max(initial=0)) + 1)
        moves = living.take_in(day.ids, times, limits)
        gone = np.zeros(len(before), bool)
        gone[moves.reused] = True
        return MovedIds(before, living.ids, moves.newcomers, gone, living, moves)

    def dense(self, ids: pa.Array) -> NDArray[np.int32]:
        """The row of each of `ids`; -1 without one."""
        return self.living.rows_of(ids).astype(np.int32)


def living_of(config: IdsConfig, dataset: Artifact, side: Side, ids: pa.Array) -> LivingIds:
    """The map of a side of a dataset.

    Args:
        config: whose rows are bounded, and who gets them.
        dataset: of which it is.
        side: ``user`` or ``item``.
        ids: its ids by row.

    Raises:
        CadcError: see `MovedIds.of`.
    """
    limits = limits_of(config, side, dataset)
    found = LivingIds.open(dataset.path, side, ids, limits)
    if found is None:
        seen, last = _seen(dataset.path, side, len(ids))
        found = LivingIds.of(ids, seen, last, limits)
    return found


@dataclass(frozen=True)
class DayIds:
    """One side's ids of a day's interactions, and when each was."""

    ids: pa.Array
    times: NDArray[np.int64]


@dataclass
class Staying:
    """Filters the old log: leaves out the interactions of whoever has no row any more."""

    gone: dict[Side, NDArray[np.bool_]]
    removed: int = field(default=0)
    """Interactions left out so far."""

    def __call__(self, rows: Rows) -> Rows:
        """`rows` without those of users and items that are gone."""
        left = self.gone["user"][rows.user] | self.gone["item"][rows.item]
        self.removed += int(left.sum())
        return rows.take(~left) if left.any() else rows

    def counts(self) -> dict[str, int]:
        """Who gave up rows, and with how many interactions; once the whole log has gone by."""
        gone = {f"evicted_{side}s": int(rows.sum()) for side, rows in self.gone.items()}
        return {**gone, "evicted_interactions": self.removed}


def limits_of(config: IdsConfig, side: Side, dataset: Artifact) -> Limits:
    """The side's limits, in the unit of the dataset's times; without a bound, as many as fit int32.

    Raises:
        CadcError: rows go by age, and the times are not those of a clock.
    """
    info, ttl = dataset.info, 0
    if config.eviction == "ttl":
        if info["timestamp_kind"] != "clock" or not info["time_unit"]:
            raise CadcError(
                "data.ids.eviction = 'ttl' needs the times of a clock and their unit, and this "
                "dataset's are not known to be such; set data.ids.eviction to 'lru' or 'lfu'."
            )
        ttl = int(config.ttl_days * _DAY * PER_SECOND[info["time_unit"]])
    rows = config.rows(side) or np.iinfo(np.int32).max
    bounded = bool(config.rows(side))
    return Limits(
        rows,
        config.admission if bounded else 1,
        config.eviction,
        ttl,
        config.sketch_width if bounded and config.counting == "sketch" else 0,
    )


def without(table: pa.Table, gone: NDArray[np.bool_]) -> pa.Table:
    """The rows of a side's table without those of former owners, which stand first in it."""
    if not gone.any():
        return table
    kept = np.ones(len(table), bool)
    kept[: len(gone)] = ~gone
    return table.filter(pa.array(kept))


def _seen(dataset: Path, side: Side, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each row's owner was seen in a dataset, and when last; of all its interactions."""
    seen, last = np.zeros(n, np.int64), np.zeros(n, np.int64)
    columns = [side, "timestamp"]
    held = (pq.read_table(dataset / f"{part}.parquet", columns=columns) for part in ("val", "test"))
    for table in (*read_groups(train_files(dataset), columns=columns), *held):
        rows = one_array(table[side]).to_numpy()
        seen += np.bincount(rows, minlength=n)
        np.maximum.at(last, rows, table["timestamp"].to_numpy())
    return seen, last


def count_of(moved: MovedIds) -> dict[str, int]:
    """Rows of a side and what became of them, for the manifest."""
    return {
        "rows": len(moved.every),
        "evicted": int(moved.gone.sum()),
        "admitted": len(moved.newcomers),
        "waiting": moved.moves.waiting,
        "bytes": moved.living.nbytes,
    }
