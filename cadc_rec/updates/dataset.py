"""The prepare stage of an update: a dataset and a new day become the next dataset.

In: a prepare artifact, a `Day`. Out: a prepare artifact like any other, over the union: old users
and items keep their dense ids, new ones follow; each user's last two interactions of the union are
held out, so that what was held out before and is no longer the latest is learned from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.columns import write_columns
from cadc_rec.data.dense import DESCRIBED
from cadc_rec.data.engine import open_engine
from cadc_rec.data.forgotten import Forgotten, key_of
from cadc_rec.data.meetings import meet, tell
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.prepare.context import require_few_values
from cadc_rec.data.prepare.new_rows import described_attributes, vector_widths
from cadc_rec.data.prepare.split import Rows
from cadc_rec.data.prepare.vocabulary import grown_codes
from cadc_rec.data.sources.own_tables import read_tables
from cadc_rec.data.sources.raw_tables import (
    CONTEXT_FILE,
    RawTables,
    Side,
    context_column,
)
from cadc_rec.data.streams import (
    one_array,
    write_parquet,
)
from cadc_rec.errors import CadcError
from cadc_rec.log import log, track
from cadc_rec.store.artifact import Artifact, Draft
from cadc_rec.updates.changes import SIDES
from cadc_rec.updates.day import Day, described_context, value_forms
from cadc_rec.updates.dense import described_dense, write_grown_dense
from cadc_rec.updates.entities import (
    GrownIds,
    grown_entities,
    taken_first,
    with_every_code,
)
from cadc_rec.updates.living import DayIds, MovedIds, Staying, count_of, without
from cadc_rec.updates.merge import admitted, seeded_order, times_of
from cadc_rec.updates.splice import SplicedSplit
from cadc_rec.updates.write import clock_of, without_values, write_train

SideIds = GrownIds | MovedIds
_STEPS = 4
_SHOWN = 10  # new values worth showing
_EPOCHS = 10**8  # a time above it counts seconds or less since 1970 ...
_UNIT = 100  # ... and the next unit is a thousand times as small


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
        self.backend, self.tables, self.came, self.draft = backend, tables, came, draft
        self.every: dict[Side, pa.Table] = {
            side: pq.read_table(parent.path / f"{side}s.parquet") for side in SIDES
        }
        # Without the items that nobody took yet: one that is taken now is a new one.
        self.before: dict[Side, pa.Table] = {
            side: table[: int(parent.info[f"{side}s"])] for side, table in self.every.items()
        }
        self.forgotten = Forgotten.open(parent.path)
        self.came = self._without_forgotten(came, ("user", "item"))
        self.dropped = len(came) - len(self.came)
        self.staying: Staying | None = None
        self.known_ids = {s: self._column(t, f"{s}_id") for s, t in self.every.items()}
        self.untaken = 0
        self.context = described_context(parent)
        self.new_values = 0

    def build(self, advance: Any) -> None:
        users, items, rows = self._new_rows()
        advance(note="merging")
        late = self._late(rows)
        keep = self.staying or (lambda rows: rows)
        split = SplicedSplit(self.parent.path, rows, len(users.every), self._asked, keep)
        train = write_train(self.draft.path, split, self._asked)
        counts = self._counts(split, len(rows), late, users, items)
        if not counts["interactions"]:
            raise NothingNew(counts)
        for part in ("validation", "test"):
            name = {"validation": "val"}.get(part, part)
            write_parquet(self.draft.path / f"{name}.parquet", self._table(getattr(split, part)))
        n_users, n_items = len(users.every), len(items.every)
        scratch = self.draft.path / ".scratch"
        per_second = clock_of(self.parent.info)
        write_columns(self.draft.path, n_users, n_items, scratch, per_second)
        self.forgotten.save(self.draft.path)
        advance(note="entities")
        renewed = self._write_entities({"user": users, "item": items})
        if self.tables.rejected is not None and self.tables.rejected.is_dir():
            if self.forgotten:
                without_values(self.tables.rejected)
            self.tables.rejected.rename(self.draft.path / "rejected")
        self._tell(split, train, counts | renewed, users, items)
        advance()

    def _without_forgotten(self, table: pa.Table, sides: Sequence[Side]) -> pa.Table:
        """The day's rows that name nobody who was forgotten."""
        if not self.forgotten:
            return table
        key = key_of(self.parent.path.parent.parent, self.forgotten)
        kept = np.ones(len(table), bool)
        for side in sides:
            ids = self._column(table, f"{side}_id").cast(self._kind(side))
            kept &= ~self.forgotten.among(side, ids, key)
        return table.filter(pa.array(kept))

    def _kind(self, side: Side) -> pa.DataType:
        return self.every[side].schema.field(f"{side}_id").type

    def _new_rows(self) -> tuple[SideIds, SideIds, Rows]:
        """Grown ids, and the day's rows that are admitted, by time."""
        came = self.came
        if self.parent.info["has_time"]:
            time = came["timestamp"].to_numpy()
            self._require_unit(time)
            order = np.argsort(time, kind="stable")
        else:
            # Without times the day itself is one: its rows come after what was known.
            time = np.zeros(len(came), np.int64)
            order = seeded_order(len(came), self.config.split_seed)
        came, time = came.take(pa.array(order)), time[order]
        known = {side: self._column(table, f"{side}_id") for side, table in self.before.items()}
        if self.config.ids.living:
            return self._moved_rows(known, came, time)
        grown = {s: GrownIds.of(known[s], self._column(came, f"{s}_id")) for s in known}
        dense = {s: grown[s].dense(self._column(came, f"{s}_id")) for s in known}
        kept = admitted(
            dense["user"],
            dense["item"],
            len(known["user"]),
            len(known["item"]),
            self.config.k_core,
        )
        if not kept.all():
            came, time = came.filter(pa.array(kept)), time[kept]
            grown = {s: GrownIds.of(known[s], self._column(came, f"{s}_id")) for s in known}
            dense = {s: grown[s].dense(self._column(came, f"{s}_id")) for s in known}
        context = self._context_codes(came)
        rows = Rows(dense["user"], dense["item"], time.astype(np.int64), None, context)
        return grown["user"], grown["item"], rows

    def _moved_rows(
        self, known: Mapping[Side, pa.Array], came: pa.Table, time: NDArray[np.int64]
    ) -> tuple[MovedIds, MovedIds, Rows]:
        """The same where ids come and go: items first, then users by what has an item."""
        moved: dict[Side, MovedIds] = {}
        for side in ("item", "user"):
            ids = self._column(came, f"{side}_id")
            day = DayIds(ids, time)
            moved[side] = MovedIds.of(self.config.ids, self.parent, side, known[side], day)
            kept = moved[side].dense(ids) >= 0
            came, time = came.filter(pa.array(kept)), time[kept]
            # What has no row any more is gone from the tables of users and items, too.
            self.every[side] = without(self.every[side], moved[side].gone)
            self.forgotten = self.forgotten.without_rows(side, moved[side].moves.reused)
        self._renew_catalogue(moved["item"])
        self.staying = Staying({side: ids.gone for side, ids in moved.items()})
        dense = {s: moved[s].dense(self._column(came, f"{s}_id")) for s in moved}
        context = self._context_codes(came)
        rows = Rows(dense["user"], dense["item"], time.astype(np.int64), None, context)
        return moved["user"], moved["item"], rows

    def _renew_catalogue(self, items: MovedIds) -> None:
        """Where rows are bounded, items that nobody took are those of the latest table of items.

        A catalogue that only grew would have no bound, either.
        """
        bounded = self.config.ids.item_rows and self.day.config.items.keeps_all
        if not bounded or self.tables.items is None:
            return
        every = self.every["item"]
        taken = len(items.before) - int(items.gone.sum())
        untaken = every[taken:]
        now = pc.is_in(untaken["item_id"], value_set=items.newcomers)
        self.every["item"] = pa.concat_tables([every[:taken], untaken.filter(now)])

    @staticmethod
    def _column(table: pa.Table, name: str) -> pa.Array:
        return one_array(table[name])

    def _context_codes(self, came: pa.Table) -> NDArray[np.int32] | None:
        """The codes of what the day's requests carried, ``[rows, columns]``; None without any.

        A value that is new gets the code after the last one, and counts as learned from now on,
        also where it is held out.
        """
        codes = []
        for place, entry in enumerate(self.context):
            values = self._column(came, context_column(entry["name"]))
            coded, vocabulary, new = grown_codes(values, entry["vocabulary"], entry["name"])
            require_few_values(entry["name"], len(vocabulary))
            self._say_new("interactions", entry["name"], new)
            size = len(vocabulary) + 1
            self.context[place] = {**entry, "size": size, "vocabulary": vocabulary}
            codes.append(coded.to_numpy(zero_copy_only=False))
        return np.stack(codes, 1).astype(np.int32) if codes else None

    def _say_new(self, of: str, name: str, values: list[Any]) -> None:
        if values:
            self.new_values += len(values)
            shown = ", ".join(map(repr, values[:_SHOWN])) + (", ..." * (len(values) > _SHOWN))
            log.info("%s: %s has values nobody had before: %s", of, name, shown)

    @property
    def _asked(self) -> list[str]:
        """Names of the context's columns."""
        return [entry["name"] for entry in self.context]

    def _table(self, rows: Rows) -> pa.Table:
        return as_table(rows, self._asked)

    def _require_unit(self, time: NDArray[np.int64]) -> None:
        """Refuse seconds after milliseconds and the like, which no order would survive."""
        newest = times_of(self.parent.path)[1]
        here = int(np.median(time))
        larger, smaller = max(newest, here), max(1, min(newest, here))
        if larger > _EPOCHS and larger > _UNIT * smaller:
            raise CadcError(
                f"{self.day.folder}: its times are about {here}, and the newest known one is "
                f"{newest}: they count different units; write the new ones in the same."
            )

    def _late(self, rows: Rows) -> int:
        """The day's rows that are older than the newest row known before it."""
        if not self.parent.info["has_time"]:
            return 0
        return int((rows.timestamp < times_of(self.parent.path)[1]).sum())

    def _write_entities(self, ids: dict[Side, SideIds]) -> dict[str, int]:
        """Write both sides; returns how many known entities came anew, and how many new values."""
        described, counts = described_attributes(self.parent), {}
        dense, now, dense_now = described_dense(self.parent.path), {}, {}
        for side, every in self.every.items():
            source = self.tables.users if side == "user" else self.tables.items
            described_now = None
            if source is not None:
                described_now = self._without_forgotten(source.to_pyarrow(), (side,))
            whole = self._whole(side, ids[side], described_now)
            grown = grown_entities(side, every, whole, described_now, described[side])
            # What nobody had who was taken is a value like any other from now on.
            now[side] = [with_every_code(attribute) for attribute in grown.attributes]
            counts[f"renewed_{side}s"] = grown.renewed
            for name, values in grown.new_values.items():
                self._say_new(f"{side}s", name, values)
            rows, others = taken_first(grown.rows, side, ids[side].every)
            if side == "item":
                self.untaken = others
            write_parquet(self.draft.path / f"{side}s.parquet", rows)
            key = f"{side}_id"
            dense_now[side] = write_grown_dense(
                self.config.text,
                side,
                dense.get(side, []),
                (self.parent.path, self.known_ids[side]),
                described_now,
                (self.draft.path, self._column(rows, key)),
            )
        if dense:
            text = strict_json.dumps(dense_now, indent=2, ensure_ascii=False) + "\n"
            (self.draft.path / DESCRIBED).write_text(text, "utf-8")
        text = strict_json.dumps(now, indent=2, ensure_ascii=False) + "\n"
        (self.draft.path / "attributes.json").write_text(text, "utf-8")
        if self.context:
            text = strict_json.dumps(self.context, indent=2, ensure_ascii=False) + "\n"
            (self.draft.path / CONTEXT_FILE).write_text(text, "utf-8")
        return {**counts, "new_values": self.new_values}

    def _whole(self, side: Side, taken: SideIds, day: pa.Table | None) -> GrownIds:
        """The ids of every row there will be: also of items that nobody took yet."""
        known = self._column(self.every[side], f"{side}_id")
        came = [taken.newcomers]
        if day is not None and side == "item" and self.day.config.items.keeps_all:
            came.append(self._column(day, f"{side}_id").cast(known.type))
        return GrownIds.of(known, pa.concat_arrays(came))

    def _counts(
        self, split: SplicedSplit, entered: int, late: int, users: SideIds, items: SideIds
    ) -> dict[str, int]:
        """What became of the day's rows; the split has seen them all."""
        known = sum(int(self.parent.info[part]) for part in ("train", "val", "test"))
        removed = 0 if self.staying is None else self.staying.removed
        new = split.distinct - (known - removed)
        left_out = len(self.came) - entered
        return {
            **self.tables.counts,
            **self._meetings(),
            **({"of_forgotten": self.dropped} if self.dropped else {}),
            "interactions": new,
            "duplicates": entered - new,
            "below_k_core": 0 if self.staying else left_out,
            "older_than_newest": late,
            "new_users": len(users.newcomers),
            "new_items": len(items.newcomers),
            **({} if self.staying is None else self._gone(left_out)),
        }

    def _gone(self, left_out: int) -> dict[str, int]:
        """What has no row, and what had one; the split has seen everything."""
        assert self.staying is not None
        gone = {f"evicted_{side}s": int(rows.sum()) for side, rows in self.staying.gone.items()}
        removed = self.staying.removed
        return {"without_row": left_out, **gone, "evicted_interactions": removed}

    def _meetings(self) -> dict[str, int]:
        """How the day's tables of users and items meet what is known or came; counted and told."""
        counts: dict[str, int] = {}
        entities: dict[Side, Any] = {"user": self.tables.users, "item": self.tables.items}
        for side, table in entities.items():
            if table is None:
                continue
            key = f"{side}_id"
            taken = ibis.memtable(self.came.group_by(key).aggregate([([], "count_all")]))
            known = ibis.memtable(self.every[side].select([key]))
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
        users: SideIds,
        items: SideIds,
    ) -> None:
        old, n_users = self.parent.info, len(users.every)
        left_out = counts["below_k_core"] + counts.get("without_row", 0)
        self.draft.rows = split.distinct + counts["duplicates"] + left_out
        for side, ids in (("user", users), ("item", items)):
            if isinstance(ids, MovedIds):
                ids.living.save(self.draft.path, side)
                self.draft.info.setdefault("ids", {})[side] = count_of(ids)
        self.draft.info.update(
            users=n_users,
            items=len(items.every),
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
        if self.untaken or "untaken_items" in old:
            self.draft.info["untaken_items"] = self.untaken
        if "attribute_types" in old:
            self.draft.info["attribute_types"] = old["attribute_types"]
