"""Shards of a selection, written as its rows come.

In: tables of any sizes. Out: ``shard-00000-of-00008.parquet`` and on, contiguous runs of the rows,
whose bytes depend on the rows and the shards' sizes alone.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq

from cadc_rec.data.parquet import parquet_writer

SHARD_GROUP_ROWS = 2**18
"""Rows that are written at once: row groups end at their multiples, and where a shard does."""
LEAST_SHARDS = 8
"""Shards of a selection whose number is left to us."""


class ShardWriter:
    """Deals a stream of rows out to shards; use it in a ``with``.

    Args:
        folder: receives the files.
        sizes: rows of each shard; together, exactly the rows that will come.
        schema: of the rows.
    """

    def __init__(self, folder: Path, sizes: list[int], schema: pa.Schema) -> None:
        self.folder, self.sizes, self.schema = folder, sizes, schema
        self._waiting: list[pa.Table] = []
        self._rows = 0  # that wait
        self._shard = -1
        self._missing = 0  # rows of the present shard
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def add(self, rows: pa.Table) -> None:
        """The next rows; what makes no whole group yet stays in memory."""
        while self._rows + rows.num_rows >= SHARD_GROUP_ROWS:
            head = rows.slice(0, SHARD_GROUP_ROWS - self._rows)
            self._write(pa.concat_tables([*self._waiting, head]).combine_chunks())
            rows = rows.slice(head.num_rows)
            self._waiting, self._rows = [], 0
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
                while self._shard < len(self.sizes) - 1:  # empty ones
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

    def _next_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._shard += 1
        name = f"shard-{self._shard:05d}-of-{len(self.sizes):05d}.parquet"
        self._writer = parquet_writer(self.folder / name, self.schema)
        self._missing = self.sizes[self._shard]


def shard_sizes(rows: int, shards: int) -> list[int]:
    """Rows of each shard: sizes differ by at most one, the larger ones first."""
    return [rows // shards + (shard < rows % shards) for shard in range(shards)]


def shard_count(rows: int, readers: int, rows_per_shard: int) -> int:
    """How many shards suit `rows` and the processes that read them.

    At least `LEAST_SHARDS`, so that a job of another size finds enough of them; as many as keep
    each within `rows_per_shard`; a multiple of `readers`, so that all read equally much.
    """
    enough = max(LEAST_SHARDS, -(-rows // rows_per_shard))
    return -(-enough // readers) * readers
