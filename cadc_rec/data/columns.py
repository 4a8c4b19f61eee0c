"""D_full as raw columns in both orders, which every process maps and none has to hold.

In: D_full's Parquet parts, in the order of users. Out, in ``columns/``: ``user.npy``, ``item.npy``
and perhaps ``weight.npy`` and ``time.npy``, a value a row; ``user_indptr.npy``, where each user's
rows begin; ``by_item.npy``, the users in the order of items, each item's ascending, and
``item_indptr.npy``.

The second order is made within bounded memory: rows are dealt to a few hundred runs of items, and
each run is sorted by counting. A process that maps a file has the pages that it reads in memory as
long as there is room, and shares them with the other processes of its machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.streams import read_groups

FOLDER = "columns"
POINTERS_BY_ITEM = f"{FOLDER}/item_indptr.npy"
_RUN_ROWS = 2**24  # of a run of items, sorted in some 400 MB; a frequent item may have more
_MOST_RUNS = 256  # each is a file that is open while rows are dealt out
_PIECE = 2**20  # rows dealt out at once


@dataclass(frozen=True)
class Columns:
    """D_full in both orders: see `write_columns`.

    Attributes:
        user: int32 ``[rows]``, ascending.
        item: int32 ``[rows]``.
        weight: float32 ``[rows]``; None where every interaction weighs 1.
        user_indptr: int64 ``[n_users + 1]``.
        by_item: where each item's rows begin, int64 ``[n_items + 1]``, and their users, int32
            ``[rows]``; None of a dataset that was prepared before there were columns.
        time: seconds, float64 ``[rows]``; None where there are no times, or they were prepared
            before there was a column of them.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    weight: NDArray[np.float32] | None
    user_indptr: NDArray[np.int64]
    by_item: tuple[NDArray[np.int64], NDArray[np.int32]] | None
    time: NDArray[np.float64] | None = None

    @classmethod
    def open(cls, dataset: Path, rows: int, n_users: int) -> Columns:
        """Those of a prepared dataset, mapped; or read, if it was prepared before there were any.

        Args:
            dataset: its folder.
            rows: of D_full.
            n_users: users there are.
        """
        folder = dataset / FOLDER
        if not has_columns(dataset):
            return cls._read(train_files(dataset), rows, n_users)

        def if_there(file: Path) -> NDArray[Any] | None:
            return _mapped(file) if file.exists() else None

        return cls(
            _mapped(folder / "user.npy"),
            _mapped(folder / "item.npy"),
            if_there(folder / "weight.npy"),
            row_starts(dataset, "user"),
            (row_starts(dataset, "item"), _mapped(folder / "by_item.npy")),
            if_there(folder / "time.npy"),
        )

    @classmethod
    def _read(cls, files: list[Path], rows: int, n_users: int) -> Columns:
        """From Parquet parts, into memory."""
        weighted = "weight" in pq.read_schema(files[0]).names
        kinds = {name: column.kind for name, column in raw_columns(weighted, None).items()}
        read = {name: np.empty(rows, kind) for name, kind in kinds.items()}
        start = 0
        for group in read_groups(files, columns=list(kinds)):
            for name, values in read.items():
                values[start : start + group.num_rows] = group[name].to_numpy()
            start += group.num_rows
        indptr = _indptr(np.bincount(read["user"], minlength=n_users))
        return cls(read["user"], read["item"], read.get("weight"), indptr, None)


def train_files(dataset: Path) -> list[Path]:
    """D_full's Parquet parts, in the order of their rows."""
    return sorted((dataset / "train").glob("part-*.parquet"))


def has_columns(dataset: Path) -> bool:
    """Whether there are columns: a dataset may have been prepared before there were any."""
    return (dataset / FOLDER).is_dir()


def row_starts(dataset: Path, side: Literal["user", "item"]) -> NDArray[np.int64]:
    """Where the rows of each user (or item) begin, int64 ``[n + 1]``, mapped."""
    return _mapped(dataset / FOLDER / f"{side}_indptr.npy")


def write_columns(
    dataset: Path,
    n_users: int,
    n_items: int,
    scratch: Path,
    per_second: int | None = None,
) -> None:
    """Write D_full's columns beside its Parquet parts, which are read for it.

    Args:
        dataset: the folder that is filled.
        n_users: users there are.
        n_items: items there are.
        scratch: for 8 bytes a row on the way, where these do not fit into memory.
        per_second: how many of the rows' times make a second; None keeps no times.
    """
    files = train_files(dataset)
    weighted = "weight" in pq.read_schema(files[0]).names
    names = list(raw_columns(weighted, per_second))
    with columns_beside(dataset, n_users, n_items, scratch, weighted, per_second) as add:
        for group in read_groups(files, columns=names):
            add(group)


@contextlib.contextmanager
def columns_beside(
    dataset: Path,
    n_users: int,
    n_items: int,
    scratch: Path,
    weighted: bool,
    per_second: int | None = None,
) -> Iterator[Callable[[pa.Table], None]]:
    """Write D_full's columns while its rows come by; the order by item is made at the end.

    Args:
        dataset: the folder that is filled.
        n_users: users there are.
        n_items: items there are.
        scratch: for 8 bytes a row on the way, where these do not fit into memory.
        weighted: whether rows have a weight.
        per_second: how many of the rows' times make a second; None keeps no times.

    Yields:
        What takes the next rows, as they stand in D_full's parts.
    """
    folder = dataset / FOLDER
    folder.mkdir()
    columns = raw_columns(weighted, per_second)
    counts = {"user": np.zeros(n_users, np.int64), "item": np.zeros(n_items, np.int64)}
    with contextlib.ExitStack() as opened:
        out = {
            name: opened.enter_context((folder / f"{column.file}.npy").open("wb"))
            for name, column in columns.items()
        }
        for name, column in columns.items():
            begin_array(out[name], column.kind, 0)

        def add(table: pa.Table) -> None:
            for name in columns:
                values = table[name].to_numpy()
                if name == "timestamp":
                    values = values.astype(np.float64) / per_second
                out[name].write(np.ascontiguousarray(values, columns[name].kind).data)
                if name in counts:
                    _count(values, counts[name])

        yield add
        rows = int(counts["user"].sum())
        for name, column in columns.items():  # a header is equally long for any number of rows
            out[name].seek(0)
            begin_array(out[name], column.kind, rows)
    for side, of_side in counts.items():
        write_row_starts(dataset, side, of_side)
    _write_by_item(folder, counts["item"], scratch)


class RawColumn(NamedTuple):
    """What becomes of a column of the rows."""

    file: str
    kind: Any


def raw_columns(weighted: bool, per_second: int | None) -> dict[str, RawColumn]:
    """What becomes of the columns that learning reads, by their names in the rows."""
    found = {"user": RawColumn("user", np.int32), "item": RawColumn("item", np.int32)}
    if weighted:
        found["weight"] = RawColumn("weight", np.float32)
    if per_second:
        found["timestamp"] = RawColumn("time", np.float64)
    return found


def write_row_starts(dataset: Path, side: str, counts: NDArray[np.int64]) -> None:
    """Write where the rows of each user (or item) begin, of how many each has."""
    np.save(dataset / FOLDER / f"{side}_indptr.npy", _indptr(counts), allow_pickle=False)


def _count(values: NDArray[np.int32], into: NDArray[np.int64]) -> None:
    """Add how often each value occurs."""
    first = int(values.min(initial=len(into)))
    span = int(values.max(initial=first)) + 1 - first
    if span > 4 * len(values):  # few of many
        np.add.at(into, values, 1)
    elif len(values):
        into[first : first + span] += np.bincount(values - np.int32(first), minlength=span)


def _write_by_item(folder: Path, counts: NDArray[np.int64], scratch: Path) -> None:
    user, item = _mapped(folder / "user.npy"), _mapped(folder / "item.npy")
    bounds = _runs(_indptr(counts), max(_RUN_ROWS, -(-len(item) // _MOST_RUNS)))
    with (folder / "by_item.npy").open("wb") as out:
        begin_array(out, np.int32, len(item))
        if len(bounds) <= 2:
            out.write(_sorted_users(user, item, 0, len(counts)).data)
            return
        files = [scratch / f"items-{run}.bin" for run in range(len(bounds) - 1)]
        _deal(user, item, bounds, files)
        for file, (first, last) in zip(files, pairwise(bounds.tolist()), strict=True):
            pairs = np.fromfile(file, np.int32).reshape(-1, 2)
            file.unlink()
            out.write(_sorted_users(pairs[:, 0], pairs[:, 1], first, last).data)


def _runs(indptr: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Where runs of whole items begin, and the number of items; each of about `rows` rows."""
    cuts = np.searchsorted(indptr, np.arange(rows, int(indptr[-1]), rows))
    return np.unique(np.concatenate([[0], cuts, [len(indptr) - 1]]))


def _deal(
    user: NDArray[np.int32], item: NDArray[np.int32], bounds: NDArray[np.int64], files: list[Path]
) -> None:
    """Append each row, as a pair of user and item, to the file of its run of items."""
    run_of = np.repeat(np.arange(len(files), dtype=np.uint8), np.diff(bounds))
    with contextlib.ExitStack() as opened:
        runs = [opened.enter_context(file.open("wb")) for file in files]
        for start in range(0, len(item), _PIECE):
            piece = slice(start, start + _PIECE)
            pairs = np.stack([user[piece], item[piece]], 1)
            run = run_of[item[piece]]
            order = np.argsort(run, kind="stable")  # linear for a byte
            ends = np.cumsum(np.bincount(run, minlength=len(runs)))
            for out, part in zip(runs, np.split(pairs[order], ends[:-1]), strict=True):
                out.write(part.data)


def _sorted_users(
    user: NDArray[np.int32], item: NDArray[np.int32], first: int, last: int
) -> NDArray[np.int32]:
    """The users of rows whose items are ``first .. last``, by item, then in the rows' order."""
    one_row = sparse.csr_array(
        (np.ascontiguousarray(user), item - np.int32(first), [0, len(item)]),
        shape=(1, last - first),
    )
    return one_row.tocsc().data.astype(np.int32, copy=False)  # a counting sort, stable


def begin_array(out: BinaryIO, kind: Any, rows: int) -> None:
    """Write the header of an array ``[rows]`` whose values follow as they come."""
    descr = np.lib.format.dtype_to_descr(np.dtype(kind))
    header = {"descr": descr, "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(out, header)


def _mapped(file: Path) -> NDArray[Any]:
    """The array of a file; copy on write, for torch takes no array that it could not write to."""
    return np.asarray(np.load(file, mmap_mode="c", allow_pickle=False))


def _indptr(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def rows_of_items(item: NDArray[np.int32], items: range) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The rows of D_full whose items are `items`: by item, and each item's in their order.

    Args:
        item: of every row; read piece by piece, twice, so it may be mapped.
        items: consecutive ones.

    Returns:
        Where each item's rows begin, int64 ``[items + 1]``, and the rows: int32, or int64 where
        there are 2**31 and more in all.
    """
    counts = np.zeros(len(items), np.int64)
    for _, of in _pieces_of_items(item, items):
        counts += np.bincount(of, minlength=len(items))
    indptr = _indptr(counts)
    rows = np.empty(indptr[-1], np.int32 if len(item) < 2**31 else np.int64)
    free = indptr[:-1].copy()  # where each item's next row goes
    for found, of in _pieces_of_items(item, items):
        one_row = sparse.csr_array((found, of, [0, len(of)]), shape=(1, len(items)))
        by_item = one_row.tocsc()  # a counting sort, stable
        each = np.diff(by_item.indptr)
        rows[np.repeat(free - by_item.indptr[:-1], each) + np.arange(len(of))] = by_item.data
        free += each
    return indptr, rows


def _pieces_of_items(
    item: NDArray[np.int32], items: range
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32]]]:
    """Piece by piece, the rows whose items are `items`, and which of these each has."""
    for start in range(0, len(item), _PIECE):
        piece = item[start : start + _PIECE]
        found = np.flatnonzero((piece >= items.start) & (piece < items.stop))
        yield found + start, piece[found] - np.int32(items.start)
