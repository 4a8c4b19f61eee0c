"""Parquet whose bytes depend on the rows alone, not on how the batches happened to arrive."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 2**20
"""Rows of a row group, and of a logical block of D_full; only the last one may hold fewer."""


def rechunk(batches: Iterable[pa.RecordBatch | pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` each, the last one perhaps shorter.

    Args:
        batches: record batches or tables of one schema, of any sizes.
        rows: rows of each table.
    """
    waiting: list[pa.Table] = []
    count = 0
    for batch in batches:
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        while count + table.num_rows >= rows:
            head = table.slice(0, rows - count)
            yield pa.concat_tables([*waiting, head]).combine_chunks()
            table, waiting, count = table.slice(rows - count), [], 0
        if table.num_rows:
            waiting.append(table)
            count += table.num_rows
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def parquet_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer with this project's settings; close it, or use it in a ``with``."""
    # Positions, times and original ids mostly ascend: as differences they are written four times
    # as fast and take 40% of the bytes they take with the default, a dictionary.
    ascending = [field.name for field in schema if field.type == pa.int64()]
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in schema.names if name not in ascending],
        column_encoding=dict.fromkeys(ascending, "DELTA_BINARY_PACKED"),
    )


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write one small table."""
    with parquet_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)


def write_parts(
    folder: Path, schema: pa.Schema, tables: Iterable[pa.Table], groups_per_part: int
) -> int:
    """Write tables as the row groups of ``part-00000.parquet`` and on; the number of parts.

    Args:
        folder: made here.
        schema: of every table; a dataset without rows still gets one empty part.
        tables: each becomes one row group.
        groups_per_part: row groups of a part.
    """
    folder.mkdir()
    parts = 0
    writer: pq.ParquetWriter | None = None
    try:
        for index, table in enumerate(tables):
            if index % groups_per_part == 0:
                if writer is not None:
                    writer.close()
                writer = parquet_writer(folder / f"part-{parts:05d}.parquet", schema)
                parts += 1
            assert writer is not None
            writer.write_table(table.cast(schema), row_group_size=table.num_rows)
    finally:
        if writer is not None:
            writer.close()
    if parts == 0:
        write_parquet(folder / "part-00000.parquet", schema.empty_table())
        parts = 1
    return parts


def read_groups(files: Iterable[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Row group after row group of `files`, one in memory at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)
