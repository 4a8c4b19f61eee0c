"""A sharded model's state: local views, whole tensors on rank 0 or in a file, and back.

In: a wrapped model. Out: names and tensors that do not depend on the sharding, so that any number
of processes can read what another number wrote.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import PIECE, file_header, file_order


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
    """The whole state on rank 0 (CPU); empty on the others. Every rank must call it."""
    state = {}
    for name, value in model.state_dict().items():  # in the same order on every rank
        if not keep(name):
            continue
        blocks = list(_row_blocks(value, processes, PIECE))
        if processes.rank == 0:
            state[name] = torch.cat(blocks).view(value.size())
    return state


def write_state(
    file: Path,
    model: nn.Module,
    processes: Processes,
    keep: Callable[[str], bool] = lambda _: True,
    piece: int = PIECE,
) -> None:
    """Write the whole state as one safetensors file; no process holds a whole sharded table.

    Every rank must call. The file has the bytes that `safetensors` would write for the gathered
    state.

    Args:
        file: the file to write, on rank 0.
        model: wrapped.
        processes: the ranks.
        keep: whether an entry of this name is written.
        piece: bytes of rows that are sent at once.
    """
    state = {name: value for name, value in model.state_dict().items() if keep(name)}
    names = file_order({name: value.dtype for name, value in state.items()})
    with contextlib.ExitStack() as opened:
        out = opened.enter_context(file.open("wb")) if processes.rank == 0 else None
        if out is not None:
            sizes = {name: (state[name].dtype, state[name].size()) for name in names}
            out.write(file_header(sizes))
        for name in names:
            for block in _row_blocks(state[name], processes, piece):
                if out is not None:
                    out.write(block.view(torch.uint8).numpy().data)


def _row_blocks(
    value: torch.Tensor | ShardedTensor, processes: Processes, piece: int
) -> Iterator[torch.Tensor]:
    """A state entry on rank 0, in flat CPU tensors, some rows each; elsewhere its rows are sent.

    Rows pass through memory of the CPU on their way, whatever device they are on, and so through
    the CPU's backend: `ShardedTensor.gather` cannot join tensors of a GPU under a backend for each
    device.
    """
    if not isinstance(value, ShardedTensor):
        if processes.rank == 0:
            whole = value.detach().reshape(-1)
            for part in whole.split(max(1, piece // whole.element_size())):
                yield part.cpu().contiguous()
        return
    rows, width = value.size()
    here = {tuple(shard.metadata.shard_offsets): shard.tensor for shard in value.local_shards()}
    step = max(1, piece // (value.dtype.itemsize * max(1, width)))
    for start in range(0, rows, step):
        block = torch.empty(min(step, rows - start), width, dtype=value.dtype)
        for shard in value.metadata().shards_metadata:
            row, column = shard.shard_offsets
            first, last = max(start, row), min(start + step, row + shard.shard_sizes[0])
            if first >= last:
                continue
            assert shard.placement is not None
            owner = shard.placement.rank()
            if owner == processes.rank:
                part = here[row, column][first - row : last - row].detach().cpu()
                if owner:
                    dist.send(part.contiguous(), dst=0)
            elif processes.rank == 0:
                part = torch.empty(last - first, shard.shard_sizes[1], dtype=value.dtype)
                dist.recv(part, src=owner)
            if processes.rank == 0:
                columns = slice(column, column + shard.shard_sizes[1])
                block[first - start : last - start, columns] = part
        if processes.rank == 0:
            yield block.flatten()


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    keep: Callable[[str], bool] = lambda _: True,
) -> None:
    """Copy a whole state into this rank's parts."""
    with torch.no_grad():
        for local in local_tensors(model, keep):
            local.tensor.copy_(local.of(state[local.name]))
