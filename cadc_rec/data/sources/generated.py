"""The generated source: a `World`'s tables, written as Parquet and read back like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import GeneratedConfig
from cadc_rec.data.sources.raw_tables import AttributeColumn, RawTables
from cadc_rec.data.sources.world import GENRES, World
from cadc_rec.data.streams import ROW_GROUP_ROWS, parquet_writer, rechunk, write_parquet
from cadc_rec.log import track

_INTERACTIONS = pa.schema(
    [(name, pa.int64()) for name in ("user_id", "item_id", "timestamp", "row")]
)
_ATTRIBUTES = (
    AttributeColumn("segment", "user", "categorical"),
    AttributeColumn("age_group", "user", "categorical"),
    AttributeColumn("genres", "item", "multi"),
    AttributeColumn("decade", "item", "categorical"),
)


def read_generated(config: GeneratedConfig, backend: Backend, scratch: Path) -> RawTables:
    """Write the world's tables under `scratch` and read them as raw tables."""
    folder = scratch / "generated"
    write_generated(config, folder)

    def table(name: str) -> ir.Table:
        return backend.read_parquet(folder / f"{name}.parquet", table_name=f"raw_{name}")

    return RawTables(
        interactions=table("interactions"),
        users=table("users"),
        items=table("items"),
        attributes=_ATTRIBUTES,
        time_unit="s",
        timestamp_kind="clock",
    )


def write_generated(config: GeneratedConfig, out: Path) -> None:
    """Write a latent-factor world as Parquet tables with attributes and timestamps.

    Args:
        config: sizes and seed.
        out: a folder, made here, that receives ``interactions.parquet`` (user_id, item_id,
            timestamp, row), ``users.parquet`` (user_id, segment, age_group) and
            ``items.parquet`` (item_id, title, genres, decade). Ids count from 1.

    Raises:
        CadcError: the sizes do not fit together.
    """
    world = World(config)
    out.mkdir(parents=True)
    write_parquet(out / "items.parquet", _items(world))
    write_parquet(out / "users.parquet", pa.concat_tables(_users(world)).combine_chunks())
    with (
        track("generate", config.interactions, "rows") as ticker,
        parquet_writer(out / "interactions.parquet", _INTERACTIONS) as writer,
    ):
        for table in rechunk(_interactions(world, ticker.advance), ROW_GROUP_ROWS):
            writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def _items(world: World) -> pa.Table:
    item_id = np.arange(1, len(world.decade) + 1)
    names = pa.array([f"genre-{genre:02d}" for genre in range(GENRES)])
    offsets = np.concatenate([[0], np.cumsum(world.genres.sum(axis=1))]).astype(np.int32)
    codes = np.nonzero(world.genres)[1]
    year = world.decade + (item_id * 7) % 10  # any year of the decade will do
    return pa.table(
        {
            "item_id": item_id,
            "title": [f"Item {i} ({y})" for i, y in zip(item_id, year, strict=True)],
            "genres": pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(codes))),
            "decade": world.decade,
        }
    )


def _users(world: World) -> Iterator[pa.Table]:
    for number in range(world.blocks()):
        block = world.user_block(number)
        yield pa.table(
            {
                "user_id": np.asarray(block.users, dtype=np.int64) + 1,
                "segment": [f"segment-{segment}" for segment in block.segment],
                "age_group": 10 * (block.age_group + 1),
            }
        )


def _interactions(world: World, advance: Callable[[int], None]) -> Iterator[pa.Table]:
    first = 0
    for number in range(world.blocks()):
        rows = world.rows(number)
        n = len(rows.user)
        columns = [rows.user + 1, rows.item + 1, rows.timestamp, np.arange(first, first + n)]
        yield pa.table(columns, schema=_INTERACTIONS)
        advance(n)
        first += n
