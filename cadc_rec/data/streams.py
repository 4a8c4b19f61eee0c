"""Rows as streams: cut to size, made ahead in a thread, written to Parquet and read from it.

The bytes written depend on the rows alone, not on how the batches happened to arrive.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 2**20
"""Rows of a row group, and of a logical block of D_full; only the last one may hold fewer."""
SHARD_GROUP_ROWS = 2**18
"""Rows that are written at once: row groups end at their multiples, and where a shard does."""
_MOST_TEXT = 2**31 - 1  # bytes of an array of text: its offsets have 32 bits
T = TypeVar("T")
_WAIT_SECONDS = 0.2  # a thread that waits at a full queue looks this often whether it may end


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


def one_array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column in one piece; 2 GiB of text and more with offsets of 64 bits."""
    if isinstance(column, pa.Array):
        return column
    if column.nbytes > _MOST_TEXT:
        column = column.cast(_wide(column.type))
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type with offsets of 64 bits, where it has any."""
    if pa.types.is_string(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return kind


class _End:
    """Put after the last value, with what ended the iterator early."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def prefetched(values: Iterator[T], depth: int) -> Generator[T, None, None]:
    """`values`, up to `depth` of them made ahead, in their order.

    An error of the iterator is raised where its value would have come. Closing this one, as
    leaving a loop early does, ends the thread.

    Args:
        values: only the thread touches it.
        depth: at least 1.
    """
    ready: queue.Queue[T | _End] = queue.Queue(depth)
    left = threading.Event()

    def put(value: T | _End) -> None:
        while not left.is_set():
            try:
                return ready.put(value, timeout=_WAIT_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        error: BaseException | None = None
        try:
            for value in values:
                put(value)
                if left.is_set():
                    return
        except BaseException as caught:  # raised again where it belongs
            error = caught
        put(_End(error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(value := ready.get(), _End):
            yield value
        if value.error is not None:
            raise value.error
    finally:
        left.set()
        thread.join()


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


def write_blocks(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write the file that `write_parquet` writes of all tables end to end, one after the other.

    Args:
        path: of the file.
        schema: of every table.
        tables: of `ROW_GROUP_ROWS` rows each, the last one perhaps of fewer.
    """
    tables = iter(tables)
    first = next(tables, schema.empty_table())
    with parquet_writer(path, schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP_ROWS)


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
    tables, parts = iter(tables), 0
    while (first := next(tables, None)) is not None:
        groups = chain([first], islice(tables, groups_per_part - 1))
        write_part(folder / part_name(parts), schema, groups)
        parts += 1
    if parts == 0:
        write_parquet(folder / part_name(0), schema.empty_table())
        parts = 1
    return parts


def part_name(part: int) -> str:
    """The name of a part, by its number."""
    return f"part-{part:05d}.parquet"


def write_part(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write tables of a schema, each as one row group."""
    with parquet_writer(path, schema) as writer:
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=table.num_rows)


def read_groups(files: Iterable[Path], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Row group after row group of `files`, one in memory at a time."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns)


class RowGroups:
    """The rows of Parquet files end to end, of which any run can be read.

    Args:
        files: in the order of their rows.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._groups: list[tuple[Path, int]] = []
        rows = []
        for path in files:
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                rows.append(metadata.row_group(group).num_rows)
        self._ends = np.cumsum(rows, dtype=np.int64)

    def read(self, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """The rows from `start` up to `stop`, of which there is one at least."""
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        read = []
        for path, group in self._groups[first : last + 1]:
            with pq.ParquetFile(path) as file:
                read.append(file.read_row_group(group, columns=columns))
        before = int(self._ends[first - 1]) if first else 0
        return pa.concat_tables(read).slice(start - before, stop - start).combine_chunks()


class ShardWriter:
    """Deals a stream of rows out to shards as they come; use it in a ``with``.

    A selection's shards are ``shard-00000-of-00008.parquet`` and on: contiguous runs of the rows.
    Their bytes depend on the rows and the shards' sizes alone, not on who writes which.

    Args:
        folder: receives the files.
        sizes: rows of each shard.
        schema: of the rows.
        mine: the shards that are written here; together, exactly the rows that will come. None
            writes all.
    """

    def __init__(
        self, folder: Path, sizes: list[int], schema: pa.Schema, mine: range | None = None
    ) -> None:
        self.folder, self.sizes, self.schema = folder, sizes, schema
        self._mine = range(len(sizes)) if mine is None else mine
        self._waiting: list[pa.Table] = []
        self._rows = 0  # that wait
        # Groups are cut as if all rows came by here.
        self._room = SHARD_GROUP_ROWS - sum(sizes[: self._mine.start]) % SHARD_GROUP_ROWS
        self._shard = self._mine.start - 1
        self._missing = 0  # rows of the present shard
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def add(self, rows: pa.Table) -> None:
        """The next rows; what makes no whole group yet stays in memory."""
        while self._rows + rows.num_rows >= self._room:
            head = rows.slice(0, self._room - self._rows)
            self._write(pa.concat_tables([*self._waiting, head]).combine_chunks())
            rows = rows.slice(head.num_rows)
            self._waiting, self._rows, self._room = [], 0, SHARD_GROUP_ROWS
        if rows.num_rows:
            self._waiting.append(rows)
            self._rows += rows.num_rows

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                if self._waiting:
                    self._write(pa.concat_tables(self._waiting).combine_chunks())
                while self._shard < self._mine.stop - 1:  # empty ones
                    self._next_shard()
        finally:
            if self._writer is not None:
                self._writer.close()

    def _write(self, rows: pa.Table) -> None:
        while rows.num_rows:
            while not self._missing:
                self._next_shard()
            head = rows.slice(0, self._missing)
            assert self._writer is not None
            self._writer.write_table(head.cast(self.schema), row_group_size=SHARD_GROUP_ROWS)
            self._missing -= head.num_rows
            rows = rows.slice(head.num_rows)

    @property
    def written(self) -> list[Path]:
        """The files that are written here."""
        return [self._file(shard) for shard in self._mine]

    def _file(self, shard: int) -> Path:
        return self.folder / f"shard-{shard:05d}-of-{len(self.sizes):05d}.parquet"

    def _next_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._shard += 1
        self._writer = parquet_writer(self._file(self._shard), self.schema)
        self._missing = self.sizes[self._shard]
