"""The prepare stage of an update: a dataset and a new day become the next dataset.

In: a prepare artifact, a `Day`. Out: a prepare artifact like any other, over the union: old users
and items keep their dense ids, new ones follow; each user's last two interactions of the union are
held out, so that what was held out before and is no longer the latest is learned from.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.columns import write_columns
from cadc_rec.data.engine import open_engine
from cadc_rec.data.forgotten import Forgotten, key_of
from cadc_rec.data.meetings import meet, tell
from cadc_rec.data.prepare.again import clock_of, write_train
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.prepare.new_rows import vector_widths
from cadc_rec.data.sources.own_tables import read_tables
from cadc_rec.data.sources.raw_tables import RawTables, Side
from cadc_rec.data.streams import one_array, write_parquet
from cadc_rec.log import track
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.arrivals import Arrivals, arrivals
from cadc_rec.updates.changes import SIDES
from cadc_rec.updates.day import Day, value_forms
from cadc_rec.updates.dense import described_dense
from cadc_rec.updates.living import MovedIds, count_of
from cadc_rec.updates.side_tables import write_sides
from cadc_rec.updates.splice import SplicedSplit
from cadc_rec.updates.write import without_values

_STEPS = 4


class NothingNew(Exception):
    """Every row of a day is known, or too rare to enter; nothing was written."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__(counts)
        self.counts = counts


def build_updated_dataset(config: DataConfig, parent: Artifact, day: Day, draft: Draft) -> None:
    """Fill the draft of the prepare stage.

    Args:
        config: k-core and split seed.
        parent: the dataset so far; its rows are streamed.
        day: the new tables; their rows are held in memory.
        draft: its ``info`` receives what `build_dataset` says, of the union, and under ``update``
            the counts of the day; ``rows`` the rows of old and new.

    Raises:
        CadcError: a table that cannot be read as declared, or times of another unit.
        NothingNew: no row of the day is a new interaction.
    """
    scratch = draft.path / ".scratch"
    scratch.mkdir()
    try:
        with open_engine(scratch) as backend, track("update: data", _STEPS, "steps") as ticker:
            forms = value_forms(parent)
            widths = vector_widths(described_dense(parent.path))
            tables = read_tables(day.config, day.files, backend, scratch, forms, widths)
            came = _read_rows(tables)
            ticker.advance(note="ids")
            _Builder(config, parent, day, backend, tables, came, draft).build(ticker.advance)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _read_rows(tables: RawTables) -> pa.Table:
    """The day's interactions in the order of their files."""
    return tables.interactions.order_by("row").to_pyarrow()


class _Builder:
    """What the steps of `build_updated_dataset` share."""

    def __init__(
        self,
        config: DataConfig,
        parent: Artifact,
        day: Day,
        backend: Backend,
        tables: RawTables,
        came: pa.Table,
        draft: Draft,
    ) -> None:
        self.config, self.parent, self.day = config, parent, day
        self.backend, self.tables, self.draft = backend, tables, draft
        self.before: dict[Side, pa.Table] = {
            side: pq.read_table(parent.path / f"{side}s.parquet") for side in SIDES
        }
        self.forgotten = Forgotten.open(parent.path)
        self.came = self._without_forgotten(came, ("user", "item"))
        self.dropped = len(came) - len(self.came)

    def build(self, advance: Any) -> None:
        lists_items = self.tables.items is not None
        came = arrivals(self.config, self.parent, self.day, self.came, self.before, lists_items)
        for side, ids in came.ids.items():
            if isinstance(ids, MovedIds):  # a forgotten one's row may be a newcomer's now
                self.forgotten = self.forgotten.without_rows(side, ids.moves.reused)
        advance(note="merging")
        n = {side: len(came.ids[side].every) for side in SIDES}
        keep = came.staying or (lambda rows: rows)
        folder = self.draft.path
        split = SplicedSplit(self.parent.path, came.rows, n["user"], came.asked, keep)
        train = write_train(folder, split.train(), came.asked)
        counts = self._counts(split, came)
        if not counts["interactions"]:
            raise NothingNew(counts)
        for name, rows in (("val", split.validation), ("test", split.test)):
            write_parquet(folder / f"{name}.parquet", as_table(rows, came.asked))
        scratch = folder / ".scratch"
        write_columns(folder, n["user"], n["item"], scratch, clock_of(self.parent.info))
        self.forgotten.save(folder)
        advance(note="entities")
        keeps_all = self.day.config.items.keeps_all
        written = write_sides(
            self.config.text, self.parent, self.before, folder, came, self._described, keeps_all
        )
        if self.tables.rejected is not None and self.tables.rejected.is_dir():
            if self.forgotten:
                without_values(self.tables.rejected)
            self.tables.rejected.rename(folder / "rejected")
        self._tell(split, train, {**counts, **written.counts}, came, written.untaken)
        advance()

    def _without_forgotten(self, table: pa.Table, sides: Sequence[Side]) -> pa.Table:
        """The day's rows that name nobody who was forgotten."""
        if not self.forgotten:
            return table
        key = key_of(self.parent.path.parent.parent, self.forgotten)
        kept = np.ones(len(table), bool)
        for side in sides:
            known = self.before[side].schema.field(f"{side}_id").type
            ids = one_array(table[f"{side}_id"]).cast(known)
            kept &= ~self.forgotten.among(side, ids, key)
        return table.filter(pa.array(kept))

    def _described(self, side: Side) -> pa.Table | None:
        """The day's own table of a side; None without."""
        source = self.tables.users if side == "user" else self.tables.items
        return None if source is None else self._without_forgotten(source.to_pyarrow(), (side,))

    def _counts(self, split: SplicedSplit, came: Arrivals) -> dict[str, int]:
        """What became of the day's rows; the split has seen them all."""
        known = sum(int(self.parent.info[part]) for part in ("train", "val", "test"))
        entered, staying = len(came.rows), came.staying
        removed = 0 if staying is None else staying.removed
        new = split.distinct - (known - removed)
        left_out = len(self.came) - entered
        return {
            **self.tables.counts,
            **self._meetings(came),
            **({"of_forgotten": self.dropped} if self.dropped else {}),
            "interactions": new,
            "duplicates": entered - new,
            "below_k_core": 0 if staying else left_out,
            "older_than_newest": came.late,
            "new_users": len(came.ids["user"].newcomers),
            "new_items": len(came.ids["item"].newcomers),
        } | ({} if staying is None else {"without_row": left_out, **staying.counts()})

    def _meetings(self, came: Arrivals) -> dict[str, int]:
        """How the day's tables of users and items meet what is known or came; counted and told."""
        counts: dict[str, int] = {}
        entities: dict[Side, Any] = {"user": self.tables.users, "item": self.tables.items}
        for side, table in entities.items():
            if table is None:
                continue
            key = f"{side}_id"
            taken = ibis.memtable(self.came.group_by(key).aggregate([([], "count_all")]))
            known = ibis.memtable(came.tables[side].select([key]))
            found = meet(
                self.backend,
                side,
                table.select(id=table[key]),
                taken.select(id=taken[key], rows=taken["count_all"]),
                known.select(id=known[key].cast(table[key].type())),
            )
            tell(found)
            counts |= found.counts()
        return counts

    def _tell(
        self,
        split: SplicedSplit,
        train: int,
        counts: dict[str, int],
        came: Arrivals,
        untaken: int,
    ) -> None:
        old, n_users = self.parent.info, len(came.ids["user"].every)
        left_out = counts["below_k_core"] + counts.get("without_row", 0)
        self.draft.rows = split.distinct + counts["duplicates"] + left_out
        for side, ids in came.ids.items():
            if isinstance(ids, MovedIds):
                ids.living.save(self.draft.path, side)
                self.draft.info.setdefault("ids", {})[side] = count_of(ids)
        self.draft.info.update(
            users=n_users,
            items=len(came.ids["item"].every),
            train=train,
            val=len(split.validation),
            test=len(split.test),
            duplicates_dropped=int(old["duplicates_dropped"]) + counts["duplicates"],
            removed_by_k_core=int(old["removed_by_k_core"]) + counts["below_k_core"],
            users_train_only=n_users - len(split.test),
            has_time=old["has_time"],
            timestamp_kind=old["timestamp_kind"],
            time_unit=old["time_unit"],
            order=old["order"],
            update=counts,
        )
        if untaken or "untaken_items" in old:
            self.draft.info["untaken_items"] = untaken
        if "attribute_types" in old:
            self.draft.info["attribute_types"] = old["attribute_types"]
