"""Writes the columns that stay numbers (`cadc_rec.data.dense`) of both sides.

In: the sources' tables, and the prepared ids and training rows. Out: ``dense.json`` and
``dense/*.npy``. Vectors are streamed and written where they belong, so that no process holds them
all; what scales numbers is fitted on users and items of training rows alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.config.data import DataConfig
from cadc_rec.config.tables import EntityTable
from cadc_rec.data.columns import row_starts
from cadc_rec.data.dense import (
    DESCRIBED,
    FOLDER,
    NUMBERS,
    open_table,
    write_numbers,
    write_vectors,
)
from cadc_rec.data.engine import stream
from cadc_rec.data.prepare.text import encoded, open_encoder
from cadc_rec.data.sources.raw_input import cache_folder
from cadc_rec.data.sources.raw_tables import DenseColumn, RawTables, Side
from cadc_rec.data.streams import one_array
from cadc_rec.data.tables.matrices import MatrixFile
from cadc_rec.errors import CadcError
from cadc_rec.log import log, track

SIDES: tuple[Side, ...] = ("user", "item")
_ROW = "__number"
Rows = tuple[NDArray[np.int64], pa.Array]
"""Row numbers, and a value for each."""
_BATCH = 8192  # vectors, or texts, at once


def write_dense(
    config: DataConfig,
    tables: RawTables,
    matrices: Sequence[MatrixFile],
    reader: Backend,
    folder: Path,
) -> None:
    """Write the tables of both sides; nothing where no column is named.

    Args:
        config: how columns are stored and scaled, and text is encoded.
        tables: the source.
        matrices: vectors in files of their own.
        reader: runs its expressions.
        folder: has ``users.parquet``, ``items.parquet`` and ``columns``, and receives the rest.
    """
    if not (tables.dense or matrices):
        return
    described = {}
    for side in SIDES:
        described[side] = _write_side(config, tables, reader, side, folder)
        described[side] += [
            _write_matrix(config, matrix, folder) for matrix in matrices if matrix.side == side
        ]
    text = strict_json.dumps(described, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIBED).write_text(text, "utf-8")


def _write_side(
    config: DataConfig, tables: RawTables, reader: Backend, side: Side, folder: Path
) -> list[dict[str, Any]]:
    columns, key = tables.dense_of(side), f"{side}_id"
    own_table: EntityTable = config.tables.users if side == "user" else config.tables.items
    if not columns:
        return []
    entities = tables.users if side == "user" else tables.items
    assert entities is not None
    ids = pq.read_table(folder / f"{side}s.parquet", columns=[key])
    rows = ids.num_rows
    reader.con.register(f"numbered_{side}s", ids.append_column(_ROW, pa.array(np.arange(rows))))
    numbered = reader.table(f"numbered_{side}s")
    joined = entities.inner_join(numbered, key)
    described = []
    for column in (c for c in columns if c.kind != "continuous"):
        batches = stream(reader, joined.select(_ROW, column.name), _BATCH)
        given: Iterator[Rows] = ((batch[_ROW].to_numpy(), batch[column.name]) for batch in batches)
        with contextlib.ExitStack() as opened:
            width = column.width
            if column.kind == "text":
                encoder = opened.enter_context(open_encoder(config.text, cache_folder()))
                ticker = opened.enter_context(track(f"encode {column.column}", rows, "texts"))
                given, width = encoded(given, encoder, ticker), encoder.width
            file = folder / FOLDER / f"{side}_{column.name}.npy"
            table = open_table(file, rows, width, own_table.vector_precision == "float16")
            known = write_vectors(given, table, width)
        others = entities.anti_join(numbered, key)[column.name].count()
        lone = int(reader.to_pyarrow(others).as_py())
        _tell(side, column.column, rows, known, lone)
        met = {f"{side}s_without_vector": rows - known, f"vectors_without_{side}": lone}
        own: dict[str, Any] = {"name": column.name, "kind": "vector", "width": width}
        described.append({**own, **_stored(table), **met})
    numbers = [column for column in columns if column.kind == "continuous"]
    if numbers:
        table = open_table(folder / FOLDER / f"{side}_{NUMBERS}.npy", rows, 2 * len(numbers))
        values = _numbers(reader, joined, numbers, rows)
        logs = [column.column in own_table.log for column in numbers]
        fitted_on = _in_training(folder, side, rows)
        scales = write_numbers(values, table, fitted_on, own_table.scale, logs)
        of_columns = [
            {"name": column.name, "log": scale.log, "knots": list(scale.knots)}
            for column, scale in zip(numbers, scales, strict=True)
        ]
        own = {"name": NUMBERS, "kind": "numbers", "columns": of_columns}
        described.append({**own, **_stored(table)})
    return described


def _write_matrix(config: DataConfig, matrix: MatrixFile, folder: Path) -> dict[str, Any]:
    """Write the vectors of a file to the rows of their ids."""
    side = matrix.side
    own_table: EntityTable = config.tables.users if side == "user" else config.tables.items
    key = pq.read_table(folder / f"{side}s.parquet", columns=[f"{side}_id"])[f"{side}_id"]
    known_ids = one_array(key)
    ids = matrix.read_ids(known_ids.type, config.id_forms)
    # Where each row of the file belongs; -1 where the dataset has no such id.
    places = pc.index_in(ids, value_set=known_ids).fill_null(-1).to_numpy()
    half = own_table.vector_precision == "float16"
    table = open_table(folder / FOLDER / f"{side}_{matrix.name}.npy", len(key), matrix.width, half)

    def belonging() -> Iterator[Rows]:
        for start, block in matrix.blocks():
            here = places[start : start + len(block)]
            flat = pa.array(block[here >= 0].ravel())
            yield here[here >= 0], pa.FixedSizeListArray.from_arrays(flat, matrix.width)

    known = write_vectors(belonging(), table, matrix.width)
    if not known:
        raise CadcError(
            f"{matrix.ids}: none of its ids (the first is {matrix.first_id!r}) is one of the "
            f"{side}s'; write the ids as the tables do."
        )
    lone = int((places < 0).sum())
    _tell(side, matrix.name, len(key), known, lone)
    met = {f"{side}s_without_vector": len(key) - known, f"vectors_without_{side}": lone}
    own: dict[str, Any] = {"name": matrix.name, "kind": "vector", "width": matrix.width}
    return {**own, **_stored(table), **met}


def _stored(table: NDArray[Any]) -> dict[str, Any]:
    """What a table takes; it is all on disk then."""
    assert isinstance(table, np.memmap)
    table.flush()
    return {"table_width": table.shape[1], "precision": str(table.dtype)}


def _numbers(
    reader: Backend, joined: ir.Table, columns: list[DenseColumn], rows: int
) -> NDArray[np.float64]:
    """``[rows, columns]``, NaN where nothing is known."""
    values = np.full((rows, len(columns)), np.nan)
    for batch in stream(reader, joined.select(_ROW, *(c.name for c in columns)), _BATCH):
        for place, column in enumerate(columns):
            known = batch[column.name].cast(pa.float64()).to_numpy(zero_copy_only=False)
            values[batch[_ROW].to_numpy(), place] = known
    return values


def _in_training(folder: Path, side: Side, rows: int) -> NDArray[np.bool_]:
    """Which users or items a training row has."""
    found = np.zeros(rows, bool)  # items that nobody took yet come last, and have no column
    taken = np.diff(row_starts(folder, side)) > 0
    found[: len(taken)] = taken
    return found


def _tell(side: Side, name: str, rows: int, known: int, lone: int) -> None:
    """Say how vectors and ids meet, where they do not all."""
    if known < rows or lone:
        log.info(
            "%s: %s of %s %ss have no vector, and %s vectors are of no %s that the dataset has",
            name,
            f"{rows - known:,}",
            f"{rows:,}",
            side,
            f"{lone:,}",
            side,
        )
