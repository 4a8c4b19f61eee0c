"""A table of which each rank has a contiguous share of the rows: joined, fetched, written.

In: this rank's share of the rows. Out: all of them on every rank, with gradients (`join_shares`);
some rows (`fetch_rows`, `RowExchange`); or one file of all (`write_rows`). Files are in the
safetensors format, written piece by piece.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cadc_rec.distributed.exchange import exchanging_rows
from cadc_rec.distributed.processes import Processes

PIECE = 2**26  # bytes of rows sent at once
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


class _JoinShares(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, n: int, processes: Processes) -> torch.Tensor:
        ctx.processes, ctx.n = processes, n
        return processes.all_gather_rows(rows.contiguous(), n)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        processes: Processes = ctx.processes
        gradient = gradients[0].contiguous()
        mine = len(processes.share(ctx.n))
        world = processes.world_size
        # All-to-all and a sum, not a reduce-scatter: shares may differ by a row.
        received = gradient.new_empty(world * mine, *gradient.shape[1:])
        sizes = [len(processes.share_of(rank, ctx.n)) for rank in range(world)]
        dist.all_to_all_single(received, gradient, [mine] * world, sizes)
        return received.view(world, mine, *gradient.shape[1:]).sum(0), None, None


def join_shares(rows: torch.Tensor, n: int, processes: Processes) -> torch.Tensor:
    """Every rank's ``processes.share(n)`` of rows as ``[n, d]``, on every rank, differentiable.

    On the way back each rank is given the sum of all ranks' gradients of its own rows.

    Args:
        rows: ``[share, d]``, this rank's.
        n: rows of all shares together.
        processes: the ranks; all of them must call, and all must run backward or none.
    """
    if processes.world_size == 1:
        return rows
    joined: torch.Tensor = _JoinShares.apply(rows, n, processes)
    return joined


def fetch_rows(
    local: torch.Tensor, ids: torch.Tensor, n: int, processes: Processes
) -> torch.Tensor:
    """Rows `ids` of the whole table, by two all-to-alls: which rows, and the rows.

    Every rank must call, even if it needs no rows.

    Args:
        local: ``[share, d]``, rows ``processes.share(n)`` of the table.
        ids: int64 ``[m]``, ascending, each at most once.
        n: rows of the whole table.
        processes: the ranks.

    Returns:
        ``[m, d]``.
    """
    if processes.world_size == 1:
        return local[ids]
    starts = [processes.share_of(rank, n).start for rank in range(processes.world_size)]
    return _exchanged(local, ids, [*starts, n], processes.rank, None)


@dataclass(frozen=True)
class Exchange:
    """Which rows the ranks want of one another.

    Attributes:
        wanted: int64, of this rank's own rows those that the ranks asked for, rank by rank.
        owed: how many of these each rank asked for.
        asked: how many rows this rank asked each rank for.
        group: of the ranks.
    """

    wanted: torch.Tensor
    owed: list[int]
    asked: list[int]
    group: dist.ProcessGroup | None = None

    def send(self, rows: torch.Tensor) -> torch.Tensor:
        """Give the others their `wanted` rows ``[m, d]``; returns those asked for, in order."""
        received = rows.new_empty(sum(self.asked), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), self.asked, self.owed, group=self.group)
        return received

    def send_back(self, rows: torch.Tensor) -> torch.Tensor:
        """The other way: something for each row asked for; returns that of the `wanted` ones."""
        received = rows.new_empty(sum(self.owed), *rows.shape[1:])
        dist.all_to_all_single(received, rows.contiguous(), self.owed, self.asked, group=self.group)
        return received


def ask(
    ids: torch.Tensor, bounds: Sequence[int], rank: int, group: dist.ProcessGroup | None = None
) -> Exchange:
    """Tell the ranks which rows this one wants; every rank must call.

    Args:
        ids: int64 ``[m]``, ascending.
        bounds: rank r holds rows ``bounds[r] .. bounds[r + 1]``.
        rank: this one.
        group: of the ranks; default: all.
    """
    ends = torch.searchsorted(ids, torch.tensor(bounds[1:], device=ids.device)).tolist()
    asked = [end - begin for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    counts = torch.empty(len(asked), dtype=torch.int64, device=ids.device)
    dist.all_to_all_single(counts, torch.tensor(asked, device=ids.device), group=group)
    owed: list[int] = counts.tolist()
    wanted = ids.new_empty(sum(owed))
    dist.all_to_all_single(wanted, ids.contiguous(), owed, asked, group=group)
    return Exchange(wanted - bounds[rank], owed, asked, group)


def _exchanged(
    local: torch.Tensor,
    ids: torch.Tensor,
    bounds: Sequence[int],
    rank: int,
    group: dist.ProcessGroup | None,
) -> torch.Tensor:
    """Rows `ids`, ascending, of a table whose rank r holds rows ``bounds[r] .. bounds[r + 1]``."""
    with exchanging_rows():
        exchange = ask(ids, bounds, rank, group)
        return exchange.send(local[exchange.wanted])


class RowExchange:
    """Fetches rows of a table of which each rank holds a run: each different row once.

    Every rank must call, even if it needs no rows.

    Args:
        local: ``[rows here, d]``, on the device; never changes.
        starts: the first row of each rank's run, ascending.
        n: rows of the whole table.
        rank: whose.
        group: of the ranks; one of its own, so that rows can be fetched beside other exchanges.
    """

    def __init__(
        self,
        local: torch.Tensor,
        starts: Sequence[int],
        n: int,
        rank: int,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.local, self.bounds, self.rank, self.group = local, [*starts, n], rank, group

    def different(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows of the different ids, ``[m, d]``, and the place of each id's among them."""
        once, place = ids.long().unique(return_inverse=True)
        return _exchanged(self.local, once, self.bounds, self.rank, self.group), place

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``[n, d]`` of ids ``[n]``."""
        rows, place = self.different(ids)
        return rows[place]


def write_rows(file: Path, name: str, local: torch.Tensor, n: int, processes: Processes) -> None:
    """Write a table as one safetensors file of float32; no process holds the whole table.

    Every rank must call. Rank 0 writes its own rows, then receives and writes the others' in
    pieces; the file has the same bytes as `safetensors` would write for the whole table.

    Args:
        file: the file to write, on rank 0.
        name: name of the one tensor in it.
        local: ``[share, d]``, rows ``processes.share(n)``.
        n: rows of the whole table.
        processes: the ranks.
    """
    width = local.shape[1]
    step = max(1, PIECE // (4 * max(1, width)))
    mine = (local[at : at + step].detach().float().cpu() for at in range(0, len(local), step))
    if processes.rank:
        for piece in mine:
            dist.send(piece.contiguous(), dst=0)
        return
    with file.open("wb") as out:
        out.write(file_header({name: (torch.float32, (n, width))}))
        for piece in mine:
            out.write(piece.contiguous().numpy().data)
        for rank in range(1, processes.world_size):
            rows = len(processes.share_of(rank, n))
            for at in range(0, rows, step):
                piece = torch.empty(min(step, rows - at), width)
                dist.recv(piece, src=rank)
                out.write(piece.numpy().data)


def write_joined(file: Path, tensors: Mapping[str, torch.Tensor], processes: Processes) -> None:
    """Write tensors of which each rank has a part, end to end, as one safetensors file.

    Every rank must call. Rank 0 writes its own parts, then receives and writes the others' in
    pieces.

    Args:
        file: the file to write, on rank 0.
        tensors: by name, parts ``[n, ...]`` of any lengths.
        processes: the ranks.
    """
    lengths = processes.all_gather({name: len(part) for name, part in tensors.items()})
    order = file_order({name: part.dtype for name, part in tensors.items()})

    def pieces(name: str, rows: int) -> Iterator[slice]:
        step = max(1, PIECE // max(1, tensors[name].element_size() * _width(tensors[name])))
        return (slice(at, min(at + step, rows)) for at in range(0, rows, step))

    if processes.rank:
        for name in order:
            for piece in pieces(name, len(tensors[name])):
                dist.send(tensors[name][piece].detach().cpu().contiguous(), dst=0)
        return
    with file.open("wb") as out:
        whole = {name: sum(of_rank[name] for of_rank in lengths) for name in order}
        shapes = {name: (whole[name], *tensors[name].shape[1:]) for name in order}
        out.write(file_header({name: (tensors[name].dtype, shapes[name]) for name in order}))
        for name in order:
            part = tensors[name].detach().cpu()
            for piece in pieces(name, len(part)):
                out.write(part[piece].contiguous().numpy().data)
            for rank in range(1, processes.world_size):
                for piece in pieces(name, lengths[rank][name]):
                    received = part.new_empty(piece.stop - piece.start, *part.shape[1:])
                    dist.recv(received, src=rank)
                    out.write(received.numpy().data)


def _width(part: torch.Tensor) -> int:
    return math.prod(part.shape[1:])


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
