"""The prepare stage: raw tables become dense ids, the split and Parquet parts.

In: a `DataConfig` and its raw input. Out, in the artifact: ``train/part-*.parquet``, ``columns/``,
``val.parquet`` and ``test.parquet`` (user, item, timestamp; of weighted interactions the first also
weight), ``users.parquet`` and ``items.parquet`` (original ids and attribute codes in dense-id
order; last of all the items that nobody took yet), ``attributes.json``; of vectors and numbers
``dense.json`` and ``dense/``; with ``data.cold_items`` ``cold.parquet``, the rows of cold items.

A DuckDB reads the raw input. Ibis expressions (`interactions.py`), run by it or by another engine
(`data/engine.py`), choose rows, number ids and sort by user and time. Of DuckDB the sorted rows are
a stream that is split and written here (`write_stream.py`): there is one large sort, and it may
spill. Of Spark the tasks of its machines split and write (`write_on_spark.py`), to the same bytes.
The train split is what later stages call D_full: everything that learns reads it and nothing else.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec import strict_json
from cadc_rec.config.experiment import DataConfig
from cadc_rec.config.types import parse_memory
from cadc_rec.data.engine import DuckdbEngine, Engine, count, open_engine
from cadc_rec.data.meetings import meetings
from cadc_rec.data.prepare.chosen import Chosen, WriteRows
from cadc_rec.data.prepare.cold import ColdItems
from cadc_rec.data.prepare.context import ContextCodes, check_context, require_few_values
from cadc_rec.data.prepare.dense import write_dense
from cadc_rec.data.prepare.interactions import (
    WEIGHT_UNIT,
    DenseIds,
    Order,
    choose_interactions,
)
from cadc_rec.data.prepare.values import with_values
from cadc_rec.data.prepare.vocabulary import encode_attributes
from cadc_rec.data.prepare.write_stream import StreamWriter
from cadc_rec.data.sources.generated import read_generated
from cadc_rec.data.sources.own_tables import read_tables
from cadc_rec.data.sources.public_datasets import READERS
from cadc_rec.data.sources.raw_input import RawInput
from cadc_rec.data.sources.raw_tables import PER_SECOND, RawTables, Side, context_column
from cadc_rec.data.sources.times import times_of
from cadc_rec.data.streams import write_parquet
from cadc_rec.log import track
from cadc_rec.store.artifact import Draft

_STEPS = 5


def build_dataset(config: DataConfig, raw: RawInput, draft: Draft) -> None:
    """Fill the draft of the prepare stage. Only the rank that writes may call it.

    Args:
        config: source, which rows are kept, split and engine.
        raw: from `find_raw`.
        draft: its ``info`` receives users, items, train, val, test, duplicates_dropped,
            removed_by_k_core, users_train_only, has_time, timestamp_kind, time_unit and order, what
            the options removed, which rows meet nothing, and how many untaken_items there are;
            ``rows`` the raw rows.

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
            _preparing_engine(config, reader, scratch) as (engine, write_rows),
        ):
            _build(config, raw, draft, reader, engine, write_rows, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build(
    config: DataConfig,
    raw: RawInput,
    draft: Draft,
    reader: Backend,
    engine: Engine,
    write_rows: WriteRows,
    scratch: Path,
) -> None:
    with track("prepare", _STEPS, "steps") as ticker:
        tables = _read_source(config, raw, reader, scratch)
        order = Order(tables.has_time, config.split_seed)
        # Read once: what a source gives is an expression over its files.
        rows = engine.adopt(_typed(tables, summed=config.duplicates == "sum"))
        raw_rows = count(engine, rows)
        cold = None
        every_row, n_rows = rows, raw_rows
        if config.cold_items:
            cold = ColdItems.of(config, tables, engine, rows)
            rows, n_rows = cold.others, count(engine, cold.others)
        times = times_of(config, tables, engine, rows)
        met = meetings(tables, reader, engine, every_row) if config.source == "tables" else {}
        ticker.advance(note="dropping duplicates")
        late_duplicates = isinstance(write_rows, StreamWriter)
        kept = choose_interactions(
            config, tables, engine, rows, n_rows, order, late_duplicates=late_duplicates
        )
        ticker.advance(2, note="dense ids")
        ids, n_items, taken = DenseIds.of(engine, kept.rows), 0, kept.rows
        if cold is not None:
            cold = cold.chosen(config, tables, engine, kept.rows)
            taken = cold.with_others(kept.rows)
            ids, n_items = cold.ids(engine, ids, taken)
        users, items = engine.to_reader(ids.users), engine.to_reader(ids.items)
        n_users, every_item = (int(side.count().to_pyarrow().as_py()) for side in (users, items))
        n_items = n_items or every_item
        ticker.advance(note="ordering each user's interactions")
        ranked = _ranked_context(tables, engine, taken if config.cold_control else kept.rows)
        codes = _context_codes(tables, engine, ranked)
        at_most = kept.at_most + (0 if cold is None else count(engine, cold.rows))
        written = write_rows(
            Chosen(
                rows=taken,
                at_most=at_most,
                ids=ids,
                n_users=n_users,
                n_items=n_items,
                order=order,
                cuts=kept.cuts,
                cold=cold,
                context=ranked,
                per_second=PER_SECOND.get(times.unit, 1) if tables.has_time else None,
            ),
            codes,
            draft.path,
        )
        ticker.advance()

    if tables.context:
        check_context(engine, written.learned, config.tables.interactions)
        codes.write(draft.path, config.tables.interactions.context_lagged)
    keep_all = config.source == "tables" and config.tables.items.keeps_all
    files = {side: draft.path / f"{side}s.parquet" for side in ("user", "item")}
    attributes = {
        "user": _write_entities(users, tables, "user", files["user"], n_users),
        "item": _write_entities(items, tables, "item", files["item"], n_items, keep_all),
    }
    text = strict_json.dumps(attributes, indent=2, ensure_ascii=False) + "\n"
    (draft.path / "attributes.json").write_text(text, "utf-8")
    matrices = () if raw.tables is None else raw.tables.matrices
    write_dense(config, tables, matrices, reader, draft.path)
    if tables.rejected is not None and tables.rejected.is_dir():
        tables.rejected.rename(draft.path / "rejected")
    draft.rows = raw_rows
    late = at_most - written.distinct  # repeated pairs that a stream dropped
    removed = {"duplicates_dropped": 0, "removed_by_k_core": 0} | kept.removed
    removed["duplicates_dropped"] += late
    draft.info.update(
        users=n_users,
        items=n_items,
        train=written.train,
        val=written.val,
        test=written.test,
        **removed,
        users_train_only=n_users - written.test,
        has_time=tables.has_time,
        timestamp_kind=times.kind,
        time_unit=times.unit,
        order=("time" if tables.has_time else f"seeded random, split_seed={config.split_seed}"),
        **tables.counts,
        **met,
    )
    if config.source == "tables" and tables.items is not None:
        untaken = int(tables.items.anti_join(items, "item_id").count().to_pyarrow().as_py())
        draft.info["untaken_items" if keep_all else "untaken_items_left_out"] = untaken
    draft.info |= written.cold
    if cold is not None and every_item > n_items:
        untaken = int(draft.info.get("untaken_items", 0))
        draft.info["untaken_items"] = untaken + every_item - n_items
    if any(attribute.type for attribute in tables.attributes):  # a later day's are compared
        draft.info["attribute_types"] = {
            side: {a.name: a.type for a in tables.attributes_of(side)} for side in ("user", "item")
        }
    if kept.cuts is not None:
        draft.info.update(
            validation_from=kept.cuts[0], test_from=kept.cuts[1], after_held_out=written.unused
        )


@contextlib.contextmanager
def _preparing_engine(
    config: DataConfig, reader: Backend, scratch: Path
) -> Iterator[tuple[Engine, WriteRows]]:
    """The engine that ``data.engine`` names, and what writes its rows.

    It keeps what it has to under `scratch`.
    """
    if config.engine == "duckdb":
        yield DuckdbEngine(reader), StreamWriter(reader, scratch)
        return
    from cadc_rec.data.prepare.spark import open_spark  # a dependency that not everybody has
    from cadc_rec.data.prepare.write_on_spark import SparkWriter

    with open_spark(config, reader, scratch) as engine:
        yield engine, SparkWriter(engine, scratch)


def _read_source(config: DataConfig, raw: RawInput, backend: Backend, scratch: Path) -> RawTables:
    """The raw tables of `config.source`; `scratch` keeps files until the tables were used."""
    if config.source == "generated":
        return read_generated(config.generated, backend, scratch)
    if config.source == "tables":
        assert raw.tables is not None
        return read_tables(config.tables, raw.tables, backend, scratch)
    assert raw.path is not None
    return READERS[config.source](backend, raw.path, scratch)


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
    return rows.select("user_id", "item_id", "row", *map(context_column, tables.context), **columns)


def _ranked_context(tables: RawTables, engine: Engine, rows: ir.Table) -> dict[str, ir.Table]:
    """The values of each column of the context, ranked, by the column's name in `rows`."""
    found: dict[str, ir.Table] = {}
    for column in tables.context:
        name = context_column(column)
        there = rows.filter(rows[name].notnull())
        found[name] = engine.ranked(f"values_of_{len(found)}", there, name, "rank")
        require_few_values(column, count(engine, found[name]))
    return found


def _context_codes(tables: RawTables, engine: Engine, ranked: dict[str, ir.Table]) -> ContextCodes:
    values = {}
    for column in tables.context:
        name = context_column(column)
        in_order = engine.to_reader(ranked[name]).order_by("rank").select(name).to_pyarrow()
        values[column] = in_order[name].combine_chunks()
    return ContextCodes(values)


def _write_entities(
    ids: ir.Table, tables: RawTables, side: Side, path: Path, learned: int, keep_all: bool = False
) -> list[dict[str, Any]]:
    """Write one side's original ids, titles and attribute codes; describe the attributes.

    Of items also the values of numeric attributes, which a service filters by. The first `learned`
    decide the codes. With `keep_all`, entities without an interaction follow those of `ids`, in
    ascending order.
    """
    entities = tables.users if side == "user" else tables.items
    declared, key = tables.attributes_of(side), f"{side}_id"
    columns = [key]
    joined = ids
    if entities is not None:
        columns += [name for name in ("title",) if name in entities.columns]
        wanted = entities.select(*columns, *(attribute.name for attribute in declared))
        joined = ids.left_join(wanted, key)
    names = [*columns, *(a.name for a in declared)]
    rows = joined.order_by(side).select(*names).to_pyarrow()
    if entities is not None and keep_all:
        others = entities.anti_join(ids, key).order_by(key).select(*names).to_pyarrow()
        rows = pa.concat_tables([rows, others.cast(rows.schema)])
    table, described = encode_attributes(rows, declared, learned)
    if side == "item":
        table = with_values(table, rows, declared)
    write_parquet(path, table)
    return described
