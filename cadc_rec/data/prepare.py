"""The prepare stage: raw tables become dense ids, the leave-last-two split and Parquet parts.

In: a `DataConfig` and its raw input. Out, in the artifact: ``train/part-*.parquet``,
``val.parquet`` and ``test.parquet`` (user, item, timestamp), ``users.parquet`` and
``items.parquet`` (original ids and attribute codes in dense-id order), ``attributes.json``.

Ibis expressions, run by DuckDB, number the ids and sort the rows by user and time; the sorted rows
are streamed through `data.split`, which needs one user at a time. So there is one large sort, and
it may spill. The train split is what later stages call D_full: everything that learns reads it and
nothing else.
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

from cadc_rec.artifacts import Draft
from cadc_rec.config import DataConfig
from cadc_rec.data.archives import RawInput
from cadc_rec.data.engine import open_engine, stream
from cadc_rec.data.parquet import ROW_GROUP_ROWS, rechunk, write_parquet, write_parts
from cadc_rec.data.prefetch import prefetched
from cadc_rec.data.sources import read_source
from cadc_rec.data.sources.raw_tables import RawTables, Side
from cadc_rec.data.sources.tables import table_settings
from cadc_rec.data.split import LeaveLastTwo, Rows
from cadc_rec.data.vocabulary import encode_attributes
from cadc_rec.errors import CadcError
from cadc_rec.progress import track

GROUPS_PER_PART = 16
_STEPS = 5
INTERACTIONS = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])


def dataset_settings(config: DataConfig) -> dict[str, Any]:
    """The settings that decide what `build_dataset` writes; the raw input comes beside them."""
    settings: dict[str, Any] = {"source": config.source, "k_core": max(config.k_core, 1)}
    has_time = config.source != "epinions"
    if config.source == "tables":
        has_time = bool(config.tables.interactions.timestamp)
        settings["tables"] = table_settings(config.tables)
    if not has_time:  # else split_seed changes nothing
        settings["split_seed"] = config.split_seed
    return settings


def build_dataset(config: DataConfig, raw: RawInput, draft: Draft) -> None:
    """Fill the draft of the prepare stage. Only the rank that writes may call it.

    Args:
        config: source, k-core and split seed.
        raw: from `find_raw`.
        draft: its ``info`` receives users, items, train, val, test, duplicates_dropped,
            removed_by_k_core, users_train_only, has_time and order; ``rows`` the raw rows.

    Raises:
        CadcError: the raw input is not as published, or nothing is left of it.
    """
    # Inside the draft, so that what a killed job leaves is swept away with it.
    scratch = draft.path / ".scratch"
    scratch.mkdir()
    try:
        with open_engine(scratch) as backend:
            _build(config, raw, draft, backend, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(
    config: DataConfig, raw: RawInput, draft: Draft, backend: Backend, scratch: Path
) -> None:
    with track("prepare", _STEPS, "steps") as ticker:
        tables = read_source(config, raw, backend, scratch)
        # Read once: what a source gives is an expression over its files.
        rows = backend.create_table("raw", _with_time(tables))
        raw_rows = _count(rows)
        ticker.advance(note="dropping duplicates")
        counted_late = tables.has_time and config.k_core <= 1
        if not counted_late:
            # A k-core counts distinct pairs; and without times the order in which the stream
            # drops repetitions is not that of the file.
            rows = backend.create_table("distinct_pairs", drop_duplicates(rows))
        distinct_rows = _count(rows)
        ticker.advance(note="k-core")
        rows = _k_core(backend, rows, config.k_core)
        core_rows = _count(rows)
        ticker.advance(note="dense ids")
        ids = DenseIds.of(backend, rows)
        ticker.advance(note="ordering each user's interactions")
        in_order = order_interactions(rows, ids, tables.has_time, config.split_seed)
        split = LeaveLastTwo(map(_as_rows, stream(backend, in_order, ROW_GROUP_ROWS)))
        train_rows = _write_train(split.train(), core_rows, draft.path / "train")
        ticker.advance()
    if counted_late:
        distinct_rows = core_rows = split.distinct

    n_users, n_items = _count(ids.users), _count(ids.items)
    val_rows = _write_held_out(split.validation, draft.path / "val.parquet")
    test_rows = _write_held_out(split.test, draft.path / "test.parquet")
    attributes = {
        "user": _write_entities(ids.users, tables, "user", draft.path / "users.parquet"),
        "item": _write_entities(ids.items, tables, "item", draft.path / "items.parquet"),
    }
    text = json.dumps(attributes, indent=2, ensure_ascii=False) + "\n"
    (draft.path / "attributes.json").write_text(text, "utf-8")
    if tables.rejected is not None and tables.rejected.is_dir():
        tables.rejected.rename(draft.path / "rejected")
    draft.rows = raw_rows
    draft.info.update(
        users=n_users,
        items=n_items,
        train=train_rows,
        val=val_rows,
        test=test_rows,
        duplicates_dropped=raw_rows - distinct_rows,
        removed_by_k_core=distinct_rows - core_rows,
        users_train_only=n_users - test_rows,
        has_time=tables.has_time,
        order=("time" if tables.has_time else f"seeded random, split_seed={config.split_seed}"),
        **tables.counts,
    )


def _with_time(tables: RawTables) -> ir.Table:
    """user_id, item_id, timestamp (0 where the source has none), row."""
    rows = tables.interactions
    time = rows.timestamp if tables.has_time else ibis.literal(0, "int64")
    return rows.select("user_id", "item_id", "row", timestamp=time)


def drop_duplicates(rows: ir.Table) -> ir.Table:
    """Keep a (user, item) pair's first row, by time and then file order.

    Sorting a user's rows by item brings a pair's rows together, so the window needs no partition
    by pair.
    """
    window = ibis.window(group_by=rows.user_id, order_by=[rows.item_id, rows.timestamp, rows.row])
    marked = rows.mutate(item_before=rows.item_id.lag().over(window))
    first = marked.item_before.isnull() | (marked.item_before != marked.item_id)
    return marked.filter(first).drop("item_before")


def keep_frequent(rows: ir.Table, k: int) -> ir.Table:
    """One pass of the k-core: rows whose user and whose item both have at least `k`."""
    users = rows.group_by("user_id").having(ibis._.count() >= k).agg()
    items = rows.group_by("item_id").having(ibis._.count() >= k).agg()
    return rows.semi_join(users, "user_id").semi_join(items, "item_id")


def _k_core(backend: Backend, rows: ir.Table, k: int) -> ir.Table:
    """Repeat `keep_frequent` until it removes nothing."""
    count, passes = _count(rows), 0
    while k > 1:
        rows = backend.create_table(f"core_{passes}", keep_frequent(rows, k))
        before, count = count, _count(rows)
        if count == before:
            break
        passes += 1
    if count == 0:
        raise CadcError(f"data.k_core = {k} leaves no interaction at all; lower it.")
    return rows


@dataclass(frozen=True)
class DenseIds:
    """Original and dense ids: a dense id is the original one's rank in ascending order.

    The rank depends on which ids occur and on nothing else: not on file order, and not on which
    of a user's interactions are held out.
    """

    users: ir.Table
    """user_id, user (int32, from 0)."""
    items: ir.Table
    """item_id, item (int32, from 0)."""

    @staticmethod
    def of(backend: Backend, rows: ir.Table) -> DenseIds:
        """The ids that occur in `rows`."""
        return DenseIds(
            users=backend.create_table("user_ids", _ranked(rows, "user_id", "user")),
            items=backend.create_table("item_ids", _ranked(rows, "item_id", "item")),
        )


def _ranked(rows: ir.Table, original: str, dense: str) -> ir.Table:
    distinct = rows.select(original).distinct()
    rank = ibis.row_number().over(order_by=distinct[original]).cast("int32")
    return distinct.mutate(**{dense: rank})


def order_interactions(rows: ir.Table, ids: DenseIds, has_time: bool, split_seed: int) -> ir.Table:
    """Dense ids, sorted by user and then by the user's order.

    Returns:
        user, item (int32), timestamp (int64).
    """
    if has_time:
        keys = [rows.timestamp, rows.row]
    else:
        # md5 of seed and file row: the same order on every engine and for any number of threads,
        # and one that no item id takes part in.
        keys = [(ibis.literal(f"{split_seed}:") + rows.row.cast("string")).hexdigest("md5")]
    keyed = rows.mutate(**{f"key_{n}": key for n, key in enumerate(keys)})
    dense = keyed.join(ids.users, "user_id").join(ids.items, "item_id")
    in_order = dense.order_by(["user", *(f"key_{n}" for n in range(len(keys)))])
    return in_order.select(*INTERACTIONS.names)


def _as_rows(batch: pa.RecordBatch) -> Rows:
    return Rows(*(batch.column(name).to_numpy() for name in INTERACTIONS.names))


def _as_table(rows: Rows) -> pa.Table:
    return pa.table([rows.user, rows.item, rows.timestamp], schema=INTERACTIONS)


def _write_train(train: Iterator[Rows], at_most: int, folder: Path) -> int:
    """Write D_full as it comes; the number of rows.

    Sorting, splitting and compressing take about as long as each other; the first two run in
    threads of their own.
    """
    written = 0
    tables = rechunk(map(_as_table, train), ROW_GROUP_ROWS)
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

        write_parts(folder, INTERACTIONS, counted(), GROUPS_PER_PART)
    return written


def _write_held_out(rows: Rows, path: Path) -> int:
    """Write one held-out interaction a user; the number of rows."""
    write_parquet(path, _as_table(rows))
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


def _count(rows: ir.Table) -> int:
    return int(rows.count().to_pyarrow().as_py())
