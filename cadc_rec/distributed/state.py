"""A sharded model's state: local views, whole tensors on rank 0, and back.

In: a wrapped model. Out: names and tensors that do not depend on the sharding, so that any number
of processes can read what another number wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from cadc_rec.distributed.processes import Processes


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
    for (
        name,
        value,
    ) in model.state_dict().items():  # the same order on every rank, since gathers must match
        if not keep(name):
            continue
        if isinstance(value, ShardedTensor):
            whole = torch.empty(value.size()) if processes.rank == 0 else None
            if whole is not None:
                whole = whole.to(processes.device)
            value.gather(dst=0, out=whole)
        else:
            whole = value.detach()
        if processes.rank == 0:
            assert whole is not None
            state[name] = whole.cpu().clone()
    return state


def load_state(
    model: nn.Module,
    state: Mapping[str, torch.Tensor],
    keep: Callable[[str], bool] = lambda _: True,
) -> None:
    """Copy a whole state into this rank's parts."""
    with torch.no_grad():
        for local in local_tensors(model, keep):
            local.tensor.copy_(local.of(state[local.name]))
