"""A sharded model's state: local views, whole tensors in a file that all ranks write, and back.

In: a wrapped model. Out: names and tensors that do not depend on the sharding, so that any number
of processes can read what another number wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.row_files import (
    PIECE,
    FileOfRanks,
    Run,
    Target,
    file_header,
    file_order,
    in_pieces,
)


@dataclass(frozen=True)
class LocalTensor:
    """This rank's part of one entry of the state.

    Attributes:
        name: the entry's name, the same under every sharding.
        tensor: a view of the live weights.
        shape: of the whole tensor.
        row: first row of the part.
        column: its first column.
    """

    name: str
    tensor: torch.Tensor
    shape: tuple[int, ...]
    row: int = 0
    column: int = 0

    @property
    def width(self) -> int:
        """Size of the whole tensor's last dimension."""
        return self.shape[-1] if self.shape else 1

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the part starts in the whole tensor."""
        return (self.row, self.column, *([0] * len(self.shape)))[: len(self.shape)]

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """The same part of the whole tensor."""
        if self.tensor.shape == whole.shape:
            return whole
        rows, columns = self.tensor.shape
        return whole[self.row : self.row + rows, self.column : self.column + columns]


def local_tensors(
    model: nn.Module, keep: Callable[[str], bool] = lambda _: True
) -> Iterator[LocalTensor]:
    """Views of all entries of `model`'s state on this rank whose name `keep` accepts."""
    for name, value in model.state_dict().items():
        if not keep(name):
            continue
        if isinstance(value, ShardedTensor):
            for shard in value.local_shards():
                row, column = shard.metadata.shard_offsets
                yield LocalTensor(name, shard.tensor, tuple(value.size()), row, column)
        else:
            yield LocalTensor(name, value.detach(), tuple(value.shape))


def gather_state(
    model: nn.Module, processes: Processes, keep: Callable[[str], bool] = lambda _: True
) -> dict[str, torch.Tensor]:
    """The whole state on rank 0 (CPU), for tests and comparisons; empty on the others.

    Every rank must call, and each sends all that it has.
    """
    here = [replace(each, tensor=each.tensor.cpu()) for each in local_tensors(model, keep)]
    state: dict[str, torch.Tensor] = {}
    for of_rank in processes.all_gather(here) if processes.world_size > 1 else [here]:
        for local in of_rank if processes.rank == 0 else ():
            whole = state.setdefault(local.name, local.tensor.new_empty(local.shape))
            local.of(whole).copy_(local.tensor)
    return {name: state[name] for name in model.state_dict() if name in state}


def write_state(
    target: Target,
    model: nn.Module,
    processes: Processes,
    keep: Callable[[str], bool] = lambda _: True,
    piece: int = PIECE,
) -> None:
    """Write the whole state as one safetensors file; no process holds a whole sharded table.

    Every rank must call. Each writes its rows, and rank 0 what all have. Rows that are divided by
    columns are put together first, by the ranks that have parts of them, each some of the rows.

    Args:
        target: where to.
        model: wrapped.
        processes: the ranks.
        keep: whether an entry of this name is written.
        piece: bytes of rows that are copied or sent at once.
    """
    state = {name: value for name, value in model.state_dict().items() if keep(name)}
    names = file_order({name: value.dtype for name, value in state.items()})
    runs = [run for name in names for run in _runs(name, state[name])]
    header = file_header({name: (state[name].dtype, state[name].size()) for name in names})
    sizes = [Run(run.rank, run.bytes_of(state[run.name])) for run in runs]
    file = FileOfRanks(target, header, sizes, processes.rank)

    def write() -> None:
        file.begin()
        for number, run in enumerate(runs):
            if run.rank == processes.rank and len(run.parts) <= 1:
                file.write(number, in_pieces(run.here(state[run.name]), piece))

    processes.together(write)
    for name in names:
        divided = {n: run for n, run in enumerate(runs) if run.name == name and len(run.parts) > 1}
        if divided:
            value = state[name]
            assert isinstance(value, ShardedTensor)
            _write_divided(file, value, divided, processes, piece)
    processes.barrier()


@dataclass(frozen=True)
class _Part:
    """Columns of some rows, and the shard that has them."""

    rank: int
    shard: tuple[int, int]
    columns: slice


@dataclass(frozen=True)
class _Rows:
    """Consecutive rows of a state entry, the rank that writes them, and the shards' parts of them.

    An entry that every rank has whole is one of these, without parts.
    """

    name: str
    rank: int
    rows: range
    parts: tuple[_Part, ...] = ()

    def bytes_of(self, value: torch.Tensor | ShardedTensor) -> int:
        """How many they are."""
        if not isinstance(value, ShardedTensor):
            return value.element_size() * value.numel()
        return len(self.rows) * _row_bytes(value)

    def here(self, value: torch.Tensor | ShardedTensor) -> torch.Tensor:
        """The rows, on the rank that writes them and has them whole."""
        if not isinstance(value, ShardedTensor):
            return value.detach().reshape(-1)
        (part,) = self.parts
        return _of_shard(value, part, self.rows)


def _runs(name: str, value: torch.Tensor | ShardedTensor) -> Iterator[_Rows]:
    """Who writes which rows of an entry, from the first to the last; the same on every rank."""
    if not isinstance(value, ShardedTensor):
        yield _Rows(name, 0, range(0))
        return
    shards = value.metadata().shards_metadata
    edges = ((s.shard_offsets[0], s.shard_sizes[0]) for s in shards)
    ends = {row for start, rows in edges for row in (start, start + rows)}
    for first, last in pairwise(sorted(ends)):
        parts = []
        for shard in sorted(shards, key=lambda shard: shard.shard_offsets[1]):
            row, column = shard.shard_offsets
            if row <= first and last <= row + shard.shard_sizes[0]:
                assert shard.placement is not None
                rank = shard.placement.rank()
                assert rank is not None
                columns = slice(column, column + shard.shard_sizes[1])
                parts.append(_Part(rank, (row, column), columns))
        ranks = list(dict.fromkeys(part.rank for part in parts))
        cuts = [first + (last - first) * n // len(ranks) for n in range(len(ranks) + 1)]
        for rank, rows in zip(ranks, pairwise(cuts), strict=True):
            yield _Rows(name, rank, range(*rows), tuple(parts))


def _row_bytes(value: ShardedTensor) -> int:
    return int(value.dtype.itemsize) * int(value.size()[1])


def _of_shard(value: ShardedTensor, part: _Part, rows: range) -> torch.Tensor:
    """Rows of one of this rank's shards."""
    here = {tuple(shard.metadata.shard_offsets): shard.tensor for shard in value.local_shards()}
    return here[part.shard][rows.start - part.shard[0] : rows.stop - part.shard[0]].detach()


def _write_divided(
    file: FileOfRanks,
    value: ShardedTensor,
    runs: Mapping[int, _Rows],
    processes: Processes,
    piece: int,
) -> None:
    """Write rows of which no rank has all columns: all ranks put together a piece at a time.

    Rows pass through memory of the CPU on their way, whatever device they are on, and so through
    the CPU's backend: `ShardedTensor.gather` cannot join tensors of a GPU under a backend for each
    device.

    Args:
        file: where to.
        value: the table.
        runs: its rows by the number of the run; the same on every rank.
        processes: the ranks.
        piece: bytes of a piece at most.
    """
    width, me = value.size()[1], processes.rank
    step = max(1, piece // max(1, _row_bytes(value)))
    for start in range(0, max(len(run.rows) for run in runs.values()), step):
        sent, arriving, blocks = [], [], []
        for number, run in runs.items():
            rows = run.rows[start : start + step]
            if not rows:
                continue
            block = torch.empty(len(rows), width, dtype=value.dtype) if run.rank == me else None
            for part in run.parts:
                if part.rank == me:
                    mine = _of_shard(value, part, rows).cpu()
                    if block is not None:
                        block[:, part.columns] = mine
                    else:
                        mine = mine.contiguous()
                        sent.append((_begun(dist.isend(mine, dst=run.rank)), mine))
                elif block is not None:
                    theirs = block.new_empty(len(rows), part.columns.stop - part.columns.start)
                    work = _begun(dist.irecv(theirs, src=part.rank))
                    arriving.append((work, block[:, part.columns], theirs))
            if block is not None:
                blocks.append((number, block))
        for work, columns, theirs in arriving:
            work.wait()
            columns.copy_(theirs)
        for work, _ in sent:
            work.wait()
        for number, block in blocks:
            file.write(number, [block], start * _row_bytes(value))


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None  # None is for those who are not of the group
    return work


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    keep: Callable[[str], bool] = lambda _: True,
) -> None:
    """Copy a whole state into this rank's parts."""
    with torch.no_grad():
        for local in local_tensors(model, keep):
            local.tensor.copy_(local.of(state[local.name]))
