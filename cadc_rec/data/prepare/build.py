"""The prepare stage: raw tables become dense ids, the split and Parquet parts.

In: a `DataConfig` and its raw input. Out, in the artifact: ``train/part-*.parquet``,
``val.parquet`` and ``test.parquet`` (user, item, timestamp; of weighted interactions the first also
weight), ``users.parquet`` and ``items.parquet`` (original ids and attribute codes in dense-id
order), ``attributes.json``.

A DuckDB reads the raw input. Ibis expressions (`data.interactions`), run by it or by another engine
(`data.engines`), choose rows, number ids and sort by user and time; the sorted rows are streamed
through `data.split`, which needs one user at a time. So there is one large sort, and it may spill.
The train split is what later stages call D_full: everything that learns reads it and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.types import parse_memory
from cadc_rec.data.engine import open_engine
from cadc_rec.data.load.prefetch import prefetched
from cadc_rec.data.parquet import ROW_GROUP_ROWS, rechunk, write_parquet, write_parts
from cadc_rec.data.prepare.engines import Engine, count, open_preparation
from cadc_rec.data.prepare.interactions import (
    WEIGHT_UNIT,
    DenseIds,
    Order,
    begun_before,
    drop_duplicates,
    k_core,
    keep_latest,
    order_interactions,
    time_before_latest,
    within,
)
from cadc_rec.data.prepare.settings import dataset_settings as dataset_settings
from cadc_rec.data.prepare.split import LeaveLastTwo, Rows, Split, TimeSplit
from cadc_rec.data.prepare.vocabulary import encode_attributes
from cadc_rec.data.sources.archives import RawInput
from cadc_rec.data.sources.raw_tables import RawTables, Side
from cadc_rec.data.sources.source import read_source
from cadc_rec.data.timestamps import parse_moment
from cadc_rec.errors import CadcError
from cadc_rec.log import track
from cadc_rec.store.artifact import Draft

GROUPS_PER_PART = 16
_STEPS = 5
INTERACTIONS = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])
WEIGHT = pa.field("weight", pa.float32())


def build_dataset(config: DataConfig, raw: RawInput, draft: Draft) -> None:
    """Fill the draft of the prepare stage. Only the rank that writes may call it.

    Args:
        config: source, which rows are kept, split and engine.
        raw: from `find_raw`.
        draft: its ``info`` receives users, items, train, val, test, duplicates_dropped,
            removed_by_k_core, users_train_only, has_time and order, and what the options
            removed; ``rows`` the raw rows.

    Raises:
        CadcError: the raw input is not as published, or nothing is left of it.
    """
    # Inside the draft, so that what a killed job leaves is swept away with it.
    scratch = draft.path / ".scratch"
    scratch.mkdir()
    memory = parse_memory(config.memory) if config.memory else None
    spill = Path(config.spill).expanduser() if config.spill else None
    try:
        with (
            open_engine(scratch, memory, spill) as reader,
            open_preparation(config, reader, scratch) as engine,
        ):
            _build(config, raw, draft, reader, engine, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(
    config: DataConfig, raw: RawInput, draft: Draft, reader: Backend, engine: Engine, scratch: Path
) -> None:
    with track("prepare", _STEPS, "steps") as ticker:
        tables = read_source(config, raw, reader, scratch)
        order = Order(tables.has_time, config.split_seed)
        # Read once: what a source gives is an expression over its files.
        rows = engine.adopt(_typed(tables, summed=config.duplicates == "sum"))
        raw_rows = count(engine, rows)
        ticker.advance(note="dropping duplicates")
        kept = _choose(config, tables, engine, rows, raw_rows, order)
        ticker.advance(2, note="dense ids")
        ids = DenseIds.of(engine, kept.rows)
        ticker.advance(note="ordering each user's interactions")
        in_order = order_interactions(kept.rows, ids, order)
        stream = map(_as_rows, engine.stream(in_order, ROW_GROUP_ROWS))
        split: Split = LeaveLastTwo(stream) if kept.cuts is None else TimeSplit(stream, *kept.cuts)
        train_rows = _write_train(split, kept.at_most, tables.weighted(config), draft.path)
        ticker.advance()

    users, items = engine.to_reader(ids.users), engine.to_reader(ids.items)
    n_users, n_items = (int(side.count().to_pyarrow().as_py()) for side in (users, items))
    val_rows = _write_held_out(split.validation, draft.path / "val.parquet")
    test_rows = _write_held_out(split.test, draft.path / "test.parquet")
    attributes = {
        "user": _write_entities(users, tables, "user", draft.path / "users.parquet"),
        "item": _write_entities(items, tables, "item", draft.path / "items.parquet"),
    }
    text = json.dumps(attributes, indent=2, ensure_ascii=False) + "\n"
    (draft.path / "attributes.json").write_text(text, "utf-8")
    if tables.rejected is not None and tables.rejected.is_dir():
        tables.rejected.rename(draft.path / "rejected")
    draft.rows = raw_rows
    late = kept.at_most - split.distinct  # repeated pairs that the stream dropped
    removed = {"duplicates_dropped": 0, "removed_by_k_core": 0} | kept.removed
    removed["duplicates_dropped"] += late
    draft.info.update(
        users=n_users,
        items=n_items,
        train=train_rows,
        val=val_rows,
        test=test_rows,
        **removed,
        users_train_only=n_users - test_rows,
        has_time=tables.has_time,
        order=("time" if tables.has_time else f"seeded random, split_seed={config.split_seed}"),
        **tables.counts,
    )
    if kept.cuts is not None:
        draft.info.update(
            validation_from=kept.cuts[0], test_from=kept.cuts[1], after_held_out=split.unused
        )


@dataclass(frozen=True)
class _Kept:
    """The interactions, and what was no interaction."""

    rows: ir.Table
    at_most: int
    """How many; fewer, where the stream is still to drop repeated pairs."""
    removed: dict[str, int]
    """Rows that were left out, by why."""
    cuts: tuple[int, int] | None
    """Where validation and test begin, of a split by time."""


def _choose(
    config: DataConfig,
    tables: RawTables,
    engine: Engine,
    rows: ir.Table,
    raw_rows: int,
    order: Order,
) -> _Kept:
    """Window, repeated pairs, cap, k-core and, of a split by time, users that begin in time."""
    removed: dict[str, int] = {}
    before = raw_rows

    def left(kept: ir.Table, why: str, key: str) -> ir.Table:
        """Count what `kept` lacks."""
        nonlocal before
        now = count(engine, kept)
        removed[why] = before - now
        if now == 0:
            raise CadcError(f"{key} leaves no interaction at all; change it.")
        before = now
        return kept

    since, until = (
        parse_moment(text, f"data.{key}", tables.time_unit)
        for key, text in (("since", config.since), ("until", config.until))
    )
    by_time = [k for k in ("since", "until") if getattr(config, k)]
    by_time += ["split = 'time'"] if config.split == "time" else []
    if by_time and not tables.has_time:
        raise CadcError(f"data.{by_time[0]} needs times, and the source has none; leave it out.")
    if since is not None or until is not None:
        rows = left(within(rows, since, until), "outside_window", "data.since and data.until")
    # A k-core counts distinct pairs, as does a cap; and without times the order in which the
    # stream drops repetitions is not that of the file.
    late = order.has_time and config.duplicates == "first"
    if not (late and config.k_core <= 1 and not config.max_per_user and config.split != "time"):
        rows = engine.keep("distinct_pairs", drop_duplicates(rows, config.duplicates))
        rows = left(rows, "duplicates_dropped", "data.duplicates")
    if config.max_per_user:
        rows = engine.keep("latest", keep_latest(rows, config.max_per_user, order))
        rows = left(rows, "removed_by_cap", "data.max_per_user")
    rows = k_core(engine, rows, config.k_core)
    rows = left(rows, "removed_by_k_core", "data.k_core")
    cuts = _cuts(config, tables, engine, rows)
    if cuts is not None:
        rows = engine.keep("begun", begun_before(rows, cuts[0]))
        rows = left(rows, "removed_by_late_start", "data.validation_from")
    return _Kept(rows, before, removed, cuts)


def _cuts(
    config: DataConfig, tables: RawTables, engine: Engine, rows: ir.Table
) -> tuple[int, int] | None:
    """Where validation and test begin; None where the split is not by time."""
    if config.split != "time":
        return None
    first, second = (
        parse_moment(text, f"data.{key}", tables.time_unit)
        for key, text in (
            ("validation_from", config.validation_from),
            ("test_from", config.test_from),
        )
    )
    validation, test = config.time_shares
    if first is None or second is None:
        if first is not None or second is not None or validation + test >= 1:
            raise CadcError(
                "data.split = 'time' needs both data.validation_from and data.test_from, or two "
                "data.time_shares whose sum is below 1."
            )
        first = time_before_latest(engine, rows, validation + test)
        second = time_before_latest(engine, rows, test)
    if first >= second:
        raise CadcError(
            f"data.split = 'time': validation begins at {first} and test at {second}; it has to "
            "begin later."
        )
    return first, second


def _typed(tables: RawTables, *, summed: bool) -> ir.Table:
    """user_id, item_id, timestamp (0 where the source has none), row, perhaps weight."""
    rows = tables.interactions
    columns = {
        "timestamp": rows.timestamp if tables.has_time else ibis.literal(0, "int64"),
    }
    if "weight" in rows.columns:
        columns["weight"] = (rows.weight * WEIGHT_UNIT).round().cast("int64")
    elif summed:
        columns["weight"] = ibis.literal(WEIGHT_UNIT, "int64")
    return rows.select("user_id", "item_id", "row", **columns)


def _as_rows(batch: pa.RecordBatch) -> Rows:
    return Rows(*(column.to_numpy() for column in batch.columns))


def _as_table(rows: Rows) -> pa.Table:
    columns = [rows.user, rows.item, rows.timestamp]
    if rows.weight is None:
        return pa.table(columns, schema=INTERACTIONS)
    return pa.table([*columns, rows.weight], schema=INTERACTIONS.append(WEIGHT))


def _write_train(split: Split, at_most: int, weighted: bool, folder: Path) -> int:
    """Write D_full as it comes; the number of rows.

    Sorting, splitting and compressing take about as long as each other; the first two run in
    threads of their own.
    """
    written = 0
    schema = INTERACTIONS.append(WEIGHT) if weighted else INTERACTIONS
    tables = rechunk(map(_as_table, split.train()), ROW_GROUP_ROWS)
    with (
        track("prepare: write", at_most, "rows") as ticker,
        contextlib.closing(prefetched(tables, depth=2)) as ready,
    ):

        def counted() -> Iterator[pa.Table]:
            nonlocal written
            for table in ready:
                yield table
                written += table.num_rows
                ticker.advance(table.num_rows)

        write_parts(folder / "train", schema, counted(), GROUPS_PER_PART)
    return written


def _write_held_out(rows: Rows, path: Path) -> int:
    """Write one held-out interaction a user; the number of rows."""
    write_parquet(path, _as_table(rows.without_weight()))
    return len(rows)


def _write_entities(
    ids: ir.Table, tables: RawTables, side: Side, path: Path
) -> list[dict[str, Any]]:
    """Write one side's original ids, titles and attribute codes; describe the attributes."""
    entities = tables.users if side == "user" else tables.items
    declared = tables.attributes_of(side)
    columns = [f"{side}_id"]
    joined = ids
    if entities is not None:
        columns += [name for name in ("title",) if name in entities.columns]
        wanted = entities.select(*columns, *(attribute.name for attribute in declared))
        joined = ids.left_join(wanted, f"{side}_id")
    rows = joined.order_by(side).select(*columns, *(a.name for a in declared)).to_pyarrow()
    table, described = encode_attributes(rows, declared)
    write_parquet(path, table)
    return described
