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
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
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
        if not folder.is_dir():
            return cls._read(train_files(dataset), rows, n_users)

        def if_there(file: Path) -> NDArray[Any] | None:
            return _mapped(file) if file.exists() else None

        return cls(
            _mapped(folder / "user.npy"),
            _mapped(folder / "item.npy"),
            if_there(folder / "weight.npy"),
            np.load(folder / "user_indptr.npy", allow_pickle=False),
            (
                np.load(folder / "item_indptr.npy", allow_pickle=False),
                _mapped(folder / "by_item.npy"),
            ),
            if_there(folder / "time.npy"),
        )

    @classmethod
    def _read(cls, files: list[Path], rows: int, n_users: int) -> Columns:
        """From Parquet parts, into memory."""
        kinds = _kinds(files)
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


def write_columns(
    dataset: Path,
    rows: int,
    n_users: int,
    n_items: int,
    scratch: Path,
    per_second: int | None = None,
) -> None:
    """Write D_full's columns beside its Parquet parts.

    Args:
        dataset: the folder that is filled.
        rows: of D_full.
        n_users: users there are.
        n_items: items there are.
        scratch: for 8 bytes a row on the way, where these do not fit into memory.
        per_second: how many of the rows' times make a second; None keeps no times.
    """
    folder = dataset / FOLDER
    folder.mkdir()
    files = train_files(dataset)
    kinds = _kinds(files)
    counts = {"user": np.zeros(n_users, np.int64), "item": np.zeros(n_items, np.int64)}
    with contextlib.ExitStack() as opened:
        out = {name: opened.enter_context((folder / f"{name}.npy").open("wb")) for name in kinds}
        for name, kind in kinds.items():
            _begin(out[name], kind, rows)
        times = per_second and opened.enter_context((folder / "time.npy").open("wb"))
        if times:
            _begin(times, np.float64, rows)
        columns = [*kinds, "timestamp"] if times else list(kinds)
        for group in read_groups(files, columns=columns):
            for name, kind in kinds.items():
                values = np.ascontiguousarray(group[name].to_numpy(), kind)
                out[name].write(values.data)
                if name in counts:
                    _count(values, counts[name])
            if times:
                times.write((group["timestamp"].to_numpy().astype(np.float64) / per_second).data)
    for side, of_side in counts.items():
        np.save(folder / f"{side}_indptr.npy", _indptr(of_side), allow_pickle=False)
    _write_by_item(folder, counts["item"], scratch)


def _kinds(files: list[Path]) -> dict[str, Any]:
    """Names and types of the columns that learning reads."""
    weighted = "weight" in pq.read_schema(files[0]).names
    kinds: dict[str, Any] = {"user": np.int32, "item": np.int32}
    return {**kinds, "weight": np.float32} if weighted else kinds


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
        _begin(out, np.int32, len(item))
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


def _begin(out: Any, kind: Any, rows: int) -> None:
    """The header of an array ``[rows]`` whose values follow as they come."""
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
