"""What a task of a cluster writes: a part of D_full with its columns, or a piece of a column.

In: files of sorted rows, which any machine of the cluster reads, and which of their rows are the
task's. Out: one Parquet part, and the values of its rows at their places in the raw columns. A task
may be run twice, at one time too: it writes the same bytes at the same places.

The code of this file and of `cadc_rec.data.streams` is sent to the machines, which need Python with
NumPy and pyarrow and not this package. So nothing else of the package is imported here.
"""

from __future__ import annotations

import os
import socket
import uuid
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.streams import part_name, rechunk, write_part

_BATCH = 2**16  # rows that are decoded at once


@dataclass(frozen=True)
class SortedRows:
    """Rows in the order of their files."""

    files: Sequence[str]
    starts: Sequence[int]
    """The place of each file's first row, and last the number of rows."""

    @property
    def rows(self) -> int:
        """How many there are."""
        return self.starts[-1]

    def batches(self, first: int, last: int) -> Iterator[pa.RecordBatch]:
        """Those of the places ``first .. last - 1``; a batch of them is in memory at a time."""
        for number in range(bisect_right(self.starts, first) - 1, len(self.files)):
            place = self.starts[number]
            if place >= last:
                return
            with pq.ParquetFile(self.files[number]) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if place + rows > first and place < last:
                        yield from _between(file, group, first - place, last - place)
                    place += rows


def _between(file: pq.ParquetFile, group: int, first: int, last: int) -> Iterator[pa.RecordBatch]:
    """The rows ``first .. last - 1`` of a row group; either may lie outside it."""
    place = 0
    for batch in file.iter_batches(_BATCH, row_groups=[group]):
        low, high = max(first - place, 0), min(last - place, batch.num_rows)
        if low < high:
            yield batch.slice(low, high - low)
        place += batch.num_rows


@dataclass(frozen=True)
class Array:
    """A raw column, whose header is written and whose values are written at their places."""

    path: str
    kind: str
    """The type of a value, such as ``<f8``."""
    header: int
    """Bytes before the first value."""

    def write(self, first: int, values: NDArray[Any]) -> None:
        """Write values from the place `first` on."""
        data = np.ascontiguousarray(values, self.kind).view(np.uint8).data
        opened = os.open(self.path, os.O_WRONLY)
        try:
            at = self.header + first * np.dtype(self.kind).itemsize
            while data:
                done = os.pwrite(opened, data, at)
                data, at = data[done:], at + done
        finally:
            os.close(opened)


@dataclass(frozen=True)
class WritePart:
    """Writes one part of D_full, and its rows' values in the columns by user.

    Attributes:
        rows: of D_full, in order; of a context they have ranks of values.
        schema: of the part.
        codes: of a column of a context, the code of each rank.
        columns: by the name of a column of the part; of `timestamp`, times in seconds.
        per_second: how many of the rows' times make a second.
        folder: receives the parts.
        scratch: for a part while it is written; on the same file system.
        group_rows: rows of a row group.
        groups: row groups of a part.
        pyarrow: the version that writes the bytes of every part.
    """

    rows: SortedRows
    schema: pa.Schema
    codes: Mapping[str, NDArray[np.int32]]
    columns: Mapping[str, Array]
    per_second: int
    folder: str
    scratch: str
    group_rows: int
    groups: int
    pyarrow: str

    def __call__(self, part: int) -> None:
        """Write a part, by its number."""
        require_machine(self.folder, self.pyarrow)
        first = part * self.groups * self.group_rows
        last = min(first + self.groups * self.group_rows, self.rows.rows)

        def groups() -> Iterator[pa.Table]:
            place = first
            for group in rechunk(self.rows.batches(first, last), self.group_rows):
                self._write_columns(place, group)
                yield coded(group, self.codes)
                place += group.num_rows

        draft = Path(self.scratch, f"{part_name(part)}-{uuid.uuid4().hex}")
        write_part(draft, self.schema, groups())
        draft.replace(Path(self.folder, part_name(part)))

    def _write_columns(self, place: int, group: pa.Table) -> None:
        for name, column in self.columns.items():
            values = group[name].to_numpy()
            if name == "timestamp":
                values = values.astype(np.float64) / self.per_second
            column.write(place, values)


def coded(group: pa.Table, codes: Mapping[str, NDArray[np.int32]]) -> pa.Table:
    """Rows with codes in place of ranks, in the columns that `codes` has."""
    columns = [
        pa.array(codes[name][column.to_numpy()]) if name in codes else column
        for name, column in zip(group.schema.names, group.columns, strict=True)
    ]
    return pa.table(columns, names=group.schema.names)


@dataclass(frozen=True)
class WriteColumn:
    """Writes one piece of a column of sorted rows.

    Attributes:
        rows: in the order of the column.
        name: theirs.
        column: receives the values.
        piece: rows of a piece.
        pyarrow: see `WritePart`.
    """

    rows: SortedRows
    name: str
    column: Array
    piece: int
    pyarrow: str

    def __call__(self, number: int) -> None:
        """Write a piece, by its number."""
        require_machine(self.column.path, self.pyarrow)
        place = number * self.piece
        for batch in self.rows.batches(place, min(place + self.piece, self.rows.rows)):
            self.column.write(place, batch[self.name].to_numpy())
            place += batch.num_rows


UNFIT = "cadc-rec:"
"""How a task's error begins that says what is wrong with its machine."""


def require_machine(path: str, pyarrow: str) -> None:
    """Refuse a machine that does not see the files, or would write other bytes.

    Raises:
        RuntimeError: says which and why; begins with `UNFIT`.
    """
    if not Path(path).exists():
        raise RuntimeError(
            f"{UNFIT} {socket.gethostname()} does not see {path}; every machine of the cluster "
            "must see the work folder under the same path"
        )
    if pa.__version__ != pyarrow:
        raise RuntimeError(
            f"{UNFIT} {socket.gethostname()} has pyarrow {pa.__version__}, and parts are written "
            f"by pyarrow {pyarrow}; install that one in the Python of PYSPARK_PYTHON there"
        )
