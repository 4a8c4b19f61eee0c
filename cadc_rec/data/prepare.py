"""The prepare stage: raw tables become dense ids, the leave-last-two split and Parquet parts.

In: a `DataConfig` and its raw input. Out, in the artifact: ``train/part-*.parquet``,
``val.parquet`` and ``test.parquet`` (user, item, timestamp), ``users.parquet`` and
``items.parquet`` (original ids and attribute codes in dense-id order), ``attributes.json``.

The whole pipeline is Ibis expressions, run by DuckDB. Windows over interactions are partitioned by
user; only the distinct ids are numbered in one sequence. The train split is what later stages call
D_full: everything that learns reads it and nothing else.
"""

from __future__ import annotations

import json
import shutil
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
from cadc_rec.data.sources import read_source
from cadc_rec.data.sources.raw_tables import RawTables, Side
from cadc_rec.data.sources.tables import table_settings
from cadc_rec.data.vocabulary import encode_attributes
from cadc_rec.errors import CadcError
from cadc_rec.progress import track

HELD_OUT = 2
"""The last interaction of a user is the test, the one before it validation."""
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
        raw_rows = _count(tables.interactions)
        ticker.advance(note="dropping duplicates")
        distinct = backend.create_table("distinct_pairs", drop_duplicates(_with_time(tables)))
        distinct_rows = _count(distinct)
        ticker.advance(note="k-core")
        core = _k_core(backend, distinct, config.k_core)
        core_rows = _count(core)
        ticker.advance(note="dense ids")
        ids = DenseIds.of(backend, core)
        ticker.advance(note="ordering each user's interactions")
        ordered = backend.create_table(
            "ordered", order_interactions(core, ids, tables.has_time, config.split_seed)
        )
        ticker.advance()

    n_users, n_items = _count(ids.users), _count(ids.items)
    train_rows = _write_train(backend, ordered, draft.path / "train")
    val_rows = _write_held_out(ordered, from_end=1, path=draft.path / "val.parquet")
    test_rows = _write_held_out(ordered, from_end=0, path=draft.path / "test.parquet")
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
    """Dense ids, and each interaction's place among its user's.

    Returns:
        user, item (int32), timestamp (int64), place (from 0, in the user's order), from_end (0
        for the user's last) and total (the user's interactions).
    """
    if has_time:
        keys = [rows.timestamp, rows.row]
    else:
        # md5 of seed and file row: the same order on every engine and for any number of threads,
        # and one that no item id takes part in.
        keys = [(ibis.literal(f"{split_seed}:") + rows.row.cast("string")).hexdigest("md5")]
    window = ibis.window(group_by=rows.user_id, order_by=keys)
    placed = rows.mutate(
        place=ibis.row_number().over(window),
        total=rows.count().over(ibis.window(group_by=rows.user_id)),
    )
    dense = placed.join(ids.users, "user_id").join(ids.items, "item_id")
    return dense.select(
        "user",
        "item",
        "timestamp",
        "place",
        "total",
        from_end=dense.total - 1 - dense.place,
    )


def _write_train(backend: Backend, ordered: ir.Table, folder: Path) -> int:
    """Write D_full, sorted by user and then by the user's order; the number of rows."""
    is_train = (ordered.total <= HELD_OUT) | (ordered.from_end >= HELD_OUT)
    train = ordered.filter(is_train)
    rows = _count(train)
    sorted_rows = train.order_by(["user", "place"]).select(*INTERACTIONS.names)
    batches = stream(backend, sorted_rows, ROW_GROUP_ROWS)
    with track("prepare: write", rows, "rows") as ticker:

        def counted() -> Any:
            for table in rechunk(batches, ROW_GROUP_ROWS):
                yield table
                ticker.advance(table.num_rows)

        write_parts(folder, INTERACTIONS, counted(), GROUPS_PER_PART)
    return rows


def _write_held_out(ordered: ir.Table, from_end: int, path: Path) -> int:
    """Write one held-out interaction a user, sorted by user; the number of rows."""
    chosen = ordered.filter((ordered.total > HELD_OUT) & (ordered.from_end == from_end))
    table = chosen.order_by("user").select(*INTERACTIONS.names).to_pyarrow()
    write_parquet(path, table.cast(INTERACTIONS))
    return table.num_rows


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
