"""A day's rows as rows of the next dataset: by dense ids and in the order of time.

In: the day's interactions, the dataset so far. Out: the ids of old and new users and items, the
rows that enter, and what leaves for them where ids come and go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.prepare.context import require_few_values
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.prepare.vocabulary import grown_codes
from cadc_rec.data.sources.raw_tables import Side, context_column
from cadc_rec.data.streams import one_array
from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.changes import SIDES
from cadc_rec.updates.day import Day, described_context
from cadc_rec.updates.entities import GrownIds
from cadc_rec.updates.living import DayIds, MovedIds, Staying, without
from cadc_rec.updates.merge import admitted, seeded_order, times_of

SideIds: TypeAlias = GrownIds | MovedIds
_SHOWN = 10  # new values worth showing
_EPOCHS = 10**8  # a time above it counts seconds or less since 1970 ...
_UNIT = 100  # ... and the next unit is a thousand times as small


@dataclass(frozen=True)
class Arrivals:
    """What a day brings to a dataset.

    Attributes:
        ids: of each side, with those that the day adds.
        rows: that enter, by time.
        tables: users and items so far, those that nobody took last, less those that are gone.
        staying: which of the old rows stay; None where ids never go.
        context: columns of the context with their vocabularies of now.
        late: rows older than the newest known one.
        new_values: values of the context that nobody had before.
    """

    ids: Mapping[Side, SideIds]
    rows: Rows
    tables: Mapping[Side, pa.Table]
    staying: Staying | None
    context: list[dict[str, Any]]
    late: int
    new_values: int

    @property
    def asked(self) -> list[str]:
        """Names of the context's columns."""
        return [entry["name"] for entry in self.context]


def arrivals(
    config: DataConfig,
    parent: Artifact,
    day: Day,
    came: pa.Table,
    tables: Mapping[Side, pa.Table],
    lists_items: bool,
) -> Arrivals:
    """The day's rows with dense ids.

    Args:
        config: k-core, ids that come and go, and the seed of an order without times.
        parent: the dataset so far.
        day: how the day's tables are read.
        came: the day's interactions, in the order of their files.
        tables: users and items so far, those that nobody took last.
        lists_items: whether the day has a table of items.

    Raises:
        CadcError: times of another unit, or too many values of a column of the context.
    """
    return _Arriving(config, parent, day, tables, lists_items).arrivals(came)


def say_new(of: str, name: str, values: list[Any]) -> int:
    """A line that shows values that nobody had before, if there are any; how many there are."""
    if values:
        shown = ", ".join(map(repr, values[:_SHOWN])) + (", ..." * (len(values) > _SHOWN))
        log.info("%s: %s has values nobody had before: %s", of, name, shown)
    return len(values)


class _Arriving:
    """What the steps of `arrivals` share."""

    def __init__(
        self,
        config: DataConfig,
        parent: Artifact,
        day: Day,
        tables: Mapping[Side, pa.Table],
        lists_items: bool,
    ) -> None:
        self.config, self.parent, self.day, self.lists_items = config, parent, day, lists_items
        self.tables = dict(tables)
        # Without the items that nobody took yet: one that is taken now is a new one.
        self.known: dict[Side, pa.Array] = {
            side: one_array(table[f"{side}_id"])[: int(parent.info[f"{side}s"])]
            for side, table in tables.items()
        }
        self.staying: Staying | None = None
        self.context, self.new_values = described_context(parent), 0

    def arrivals(self, came: pa.Table) -> Arrivals:
        """See the function of this name."""
        has_time = self.parent.info["has_time"]
        if has_time:
            time = came["timestamp"].to_numpy()
            self._require_unit(time)
            order = np.argsort(time, kind="stable")
        else:
            # Without times the day itself is one: its rows come after what was known.
            time = np.zeros(len(came), np.int64)
            order = seeded_order(len(came), self.config.split_seed)
        came, time = came.take(pa.array(order)), time[order]
        enter = self._moved if self.config.ids.living else self._grown
        ids, came, time = enter(came, time)
        dense = {side: ids[side].dense(one_array(came[f"{side}_id"])) for side in ids}
        codes = self._context_codes(came)
        rows = Rows(dense["user"], dense["item"], time.astype(np.int64), None, codes)
        late = int((rows.timestamp < times_of(self.parent.path)[1]).sum()) if has_time else 0
        return Arrivals(ids, rows, self.tables, self.staying, self.context, late, self.new_values)

    def _grown(
        self, came: pa.Table, time: NDArray[np.int64]
    ) -> tuple[Mapping[Side, SideIds], pa.Table, NDArray[np.int64]]:
        """The ids where none ever goes, and the rows that a k-core lets in."""
        ids = self._ids_of(came)
        dense = {side: ids[side].dense(one_array(came[f"{side}_id"])) for side in ids}
        users, items = (len(self.known[side]) for side in SIDES)
        kept = admitted(dense["user"], dense["item"], users, items, self.config.k_core)
        if not kept.all():
            came, time = came.filter(pa.array(kept)), time[kept]
            ids = self._ids_of(came)
        return ids, came, time

    def _ids_of(self, came: pa.Table) -> dict[Side, GrownIds]:
        return {
            side: GrownIds.of(known, one_array(came[f"{side}_id"]))
            for side, known in self.known.items()
        }

    def _moved(
        self, came: pa.Table, time: NDArray[np.int64]
    ) -> tuple[Mapping[Side, SideIds], pa.Table, NDArray[np.int64]]:
        """The same where ids come and go: items first, then users by what has an item."""
        moved: dict[Side, MovedIds] = {}
        sides: tuple[Side, Side] = ("item", "user")
        for side in sides:
            ids = one_array(came[f"{side}_id"])
            day = DayIds(ids, time)
            moved[side] = MovedIds.of(self.config.ids, self.parent, side, self.known[side], day)
            kept = moved[side].dense(ids) >= 0
            came, time = came.filter(pa.array(kept)), time[kept]
            # What has no row any more is gone from the tables of users and items, too.
            self.tables[side] = without(self.tables[side], moved[side].gone)
        self._renew_catalogue(moved["item"])
        self.staying = Staying({side: ids.gone for side, ids in moved.items()})
        return {side: moved[side] for side in SIDES}, came, time

    def _renew_catalogue(self, items: MovedIds) -> None:
        """Where rows are bounded, items that nobody took are those of the latest table of items.

        A catalogue that only grew would have no bound, either.
        """
        bounded = self.config.ids.item_rows and self.day.config.items.keeps_all
        if not bounded or not self.lists_items:
            return
        every = self.tables["item"]
        taken = len(items.before) - int(items.gone.sum())
        untaken = every[taken:]
        now = pc.is_in(untaken["item_id"], value_set=items.newcomers)
        self.tables["item"] = pa.concat_tables([every[:taken], untaken.filter(now)])

    def _context_codes(self, came: pa.Table) -> NDArray[np.int32] | None:
        """The codes of what the day's requests carried, ``[rows, columns]``; None without any.

        A value that is new gets the code after the last one, and counts as learned from now on,
        also where it is held out.
        """
        codes = []
        for place, entry in enumerate(self.context):
            values = one_array(came[context_column(entry["name"])])
            coded, vocabulary, new = grown_codes(values, entry["vocabulary"], entry["name"])
            require_few_values(entry["name"], len(vocabulary))
            self.new_values += say_new("interactions", entry["name"], new)
            size = len(vocabulary) + 1
            self.context[place] = {**entry, "size": size, "vocabulary": vocabulary}
            codes.append(coded.to_numpy(zero_copy_only=False))
        return np.stack(codes, 1).astype(np.int32) if codes else None

    def _require_unit(self, time: NDArray[np.int64]) -> None:
        """Refuse seconds after milliseconds and the like, which no order would survive."""
        if not len(time):  # as of a day that only names forgotten ones
            return
        newest = times_of(self.parent.path)[1]
        here = int(np.median(time))
        larger, smaller = max(newest, here), max(1, min(newest, here))
        if larger > _EPOCHS and larger > _UNIT * smaller:
            raise CadcError(
                f"{self.day.folder}: its times are about {here}, and the newest known one is "
                f"{newest}: they count different units; write the new ones in the same."
            )
