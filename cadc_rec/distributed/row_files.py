"""One file of rows that lie on several ranks: each writes its own, at their place.

In: this rank's rows. Out: a file in the safetensors format, with the bytes that `safetensors` would
write for the whole tensors. No row passes through another rank, but for tables that are divided by
columns (`cadc_rec.distributed.state`). Where ranks have no folder in common each writes its
*slices*, files of their own, which `cadc_rec.store.remote.slices` joins.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch

from cadc_rec.distributed.processes import Processes

PIECE = 2**26  # bytes of rows that are copied to the host, or sent, at once
_ALIGNMENT = 8  # of the tensor's first byte, as the format has it
_DTYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
"""Their names in the format, in the order that `safetensors` gives them."""


@dataclass(frozen=True)
class Run:
    """Consecutive bytes of a file that one rank writes."""

    rank: int
    size: int


@dataclass(frozen=True)
class Target:
    """Where a file goes.

    Attributes:
        path: of the file.
        sliced: ranks may have no folder in common, so each writes slices; the folder of `path` is
            this rank's own.
    """

    path: Path
    sliced: bool = False


class FileOfRanks:
    """A file that consists of a header, which rank 0 writes, and of runs.

    It must not be there before. It is whole once every rank has written all of its runs.

    Args:
        target: where to.
        header: its first bytes.
        runs: what follows, in order; the same on every rank.
        rank: this one.
    """

    def __init__(self, target: Target, header: bytes, runs: Sequence[Run], rank: int) -> None:
        self.rank, self.runs, self._header = rank, runs, header
        every = [Run(0, len(header)), *runs]
        # A rank's neighbouring runs are one slice; without slices the file is the only one.
        groups = [[*group] for _, group in groupby(range(len(every)), lambda n: every[n].rank)]
        if not target.sliced:
            groups = [[*range(len(every))]]
        self._places: list[tuple[Path, int]] = []
        self._sizes = [run.size for run in every]
        for number, group in enumerate(groups):
            path, offset = target.path, 0
            if target.sliced:
                path = slice_path(target.path, number, len(groups))
            for n in group:
                self._places.append((path, offset))
                offset += every[n].size

    def begin(self) -> None:
        """Make what this rank writes to; rank 0 writes the header."""
        for run, (path, _) in zip(self.runs, self._places[1:], strict=True):
            if run.rank == self.rank:
                path.touch()
        if self.rank == 0:
            self._write(0, 0, [memoryview(self._header)])

    def write(self, run: int, pieces: Iterable[torch.Tensor], offset: int = 0) -> None:
        """Write into a run of this rank.

        Args:
            run: its number among the `runs`.
            pieces: contiguous tensors on the CPU, end to end.
            offset: bytes of the run before them.
        """
        assert self.runs[run].rank == self.rank
        self._write(run + 1, offset, (_bytes_of(piece) for piece in pieces))

    def _write(self, place: int, offset: int, pieces: Iterable[memoryview]) -> None:
        path, start = self._places[place]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "wb") as file:  # by a descriptor, nothing is cut off
            _lock(descriptor, start, self._sizes[place])
            file.seek(start + offset)
            for piece in pieces:
                file.write(piece)


def _lock(descriptor: int, start: int, size: int) -> None:
    """Lock a rank's own bytes until the file is closed; where there are no locks, do nothing.

    No rank writes another's bytes. But without a lock, a client of NFS writes whole pages, and
    fills with zeros what it does not know: its neighbour's bytes on the page where the two meet.
    """
    if not size:  # would be all that follows
        return
    with contextlib.suppress(OSError):
        fcntl.lockf(descriptor, fcntl.LOCK_EX, size, start)


def slice_path(path: Path, number: int, of: int) -> Path:
    """The file of one of a file's slices."""
    return path.with_name(f"{path.name}.slice-{number:05}-of-{of:05}")


def _elements(rows: torch.Tensor) -> int:
    """Of a row."""
    return math.prod(rows.shape[1:])


def _bytes_of(piece: torch.Tensor) -> memoryview:
    return piece.reshape(-1).view(torch.uint8).numpy().data


def in_pieces(rows: torch.Tensor, most: int) -> Iterator[torch.Tensor]:
    """`rows` ``[n, ...]`` in contiguous pieces on the CPU, of so many bytes or one row at most."""
    step = max(1, most // max(1, rows.element_size() * _elements(rows)))
    for start in range(0, len(rows), step):
        yield rows[start : start + step].detach().cpu().contiguous()


def write_rows(
    target: Target, name: str, local: torch.Tensor, n: int, processes: Processes
) -> None:
    """Write a table as one file of float32. Every rank must call.

    Args:
        target: where to.
        name: name of the one tensor in it.
        local: ``[share, d]``, rows ``processes.share(n)``.
        n: rows of the whole table.
        processes: the ranks.
    """
    width = local.shape[1]
    header = file_header({name: (torch.float32, (n, width))})
    ranks = range(processes.world_size)
    runs = [Run(rank, 4 * width * len(processes.share_of(rank, n))) for rank in ranks]
    file = FileOfRanks(target, header, runs, processes.rank)

    def write() -> None:
        file.begin()
        file.write(processes.rank, (piece.float() for piece in in_pieces(local, PIECE)))

    processes.together(write)
    processes.barrier()  # fails where a rank was lost on the way


def write_joined(target: Target, tensors: Mapping[str, torch.Tensor], processes: Processes) -> None:
    """Write tensors of which each rank has a part, end to end, as one file. Every rank must call.

    Args:
        target: where to.
        tensors: by name, parts ``[n, ...]`` of any lengths.
        processes: the ranks.
    """
    lengths = processes.all_gather({name: len(part) for name, part in tensors.items()})
    order = file_order({name: part.dtype for name, part in tensors.items()})
    whole = {name: sum(of_rank[name] for of_rank in lengths) for name in order}
    header = file_header(
        {name: (tensors[name].dtype, (whole[name], *tensors[name].shape[1:])) for name in order}
    )
    sizes = {name: part.element_size() * _elements(part) for name, part in tensors.items()}
    runs = [
        Run(rank, of_rank[name] * sizes[name])
        for name in order
        for rank, of_rank in enumerate(lengths)
    ]
    file = FileOfRanks(target, header, runs, processes.rank)

    def write() -> None:
        file.begin()
        for place, name in enumerate(order):
            run = place * processes.world_size + processes.rank
            file.write(run, in_pieces(tensors[name], PIECE))

    processes.together(write)
    processes.barrier()  # fails where a rank was lost on the way


def file_order(dtypes: Mapping[str, torch.dtype]) -> list[str]:
    """Names of tensors in the order in which `safetensors` writes them to a file."""
    kinds = list(_DTYPES)
    return sorted(dtypes, key=lambda name: (-kinds.index(dtypes[name]), name))


def file_header(tensors: Mapping[str, tuple[torch.dtype, Sequence[int]]]) -> bytes:
    """What precedes the tensors in a safetensors file: the length of a JSON text, and the text.

    Args:
        tensors: elements and shape by name, in `file_order`.
    """
    entries: dict[str, dict[str, object]] = {}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, end = end, end + dtype.itemsize * math.prod(shape)
        entries[name] = {
            "dtype": _DTYPES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text
