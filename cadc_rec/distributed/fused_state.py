"""The state of optimizers that are fused into a table's backward pass.

In: a wrapped model. Out: its live parts on this rank. Adam's moments have the shape of the weights,
and are divided as these are. Row-wise Adagrad's momentum is one number a row; under column-wise
sharding every group of columns has its own number for a row: the sum over the steps of the mean
square of the gradient over the group's columns.

So if groups are joined, the new number is exactly the mean of theirs, weighted by columns. If a
group is divided, only its mean is known, and both parts start with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed._shard.sharded_tensor.api import ShardedTensor

from cadc_rec.distributed.state import LocalTensor

_MOMENTUM = ".momentum1"
Columns = tuple[int, int]
"""A group's first column, and the column after its last."""


@dataclass(frozen=True)
class Momentum:
    """This rank's part of a table's momentum: a range of rows of one group of columns.

    Attributes:
        name: of the table's state entry.
        tensor: ``[rows]``, a view of the live state.
        row: first row.
        rows: of the whole table.
        group: which group of columns.
        groups: columns of all groups, in order.
    """

    name: str
    tensor: torch.Tensor
    row: int
    rows: int
    group: int
    groups: tuple[Columns, ...]


def local_momenta(model: nn.Module) -> Iterator[Momentum]:
    """The momentum of every table on this rank that a fused optimizer trains."""
    fused = getattr(model, "fused_optimizer", None)
    states = fused.state_dict()["state"] if fused is not None else {}
    if not states:
        return
    weights = model.state_dict()
    for name, state in states.items():
        for key, value in state.items():
            by_row = isinstance(value, ShardedTensor) and len(value.size()) == 1
            if not key.endswith(_MOMENTUM) or not by_row:
                continue
            weight = weights[name]
            groups = _column_groups(weight)
            for shard in value.local_shards():
                (start,) = shard.metadata.shard_offsets
                # TorchRec lays the groups end to end, as if they were rows.
                group, row = divmod(start, weight.size()[0])
                yield Momentum(name, shard.tensor, row, weight.size()[0], group, groups)


def local_moments(model: nn.Module) -> Iterator[LocalTensor]:
    """This rank's parts of the state that has an element for each of a table's, named by both."""
    fused = getattr(model, "fused_optimizer", None)
    for name, state in (fused.state_dict()["state"] if fused is not None else {}).items():
        for key, value in state.items():
            if isinstance(value, ShardedTensor) and len(value.size()) == 2:
                which = f"{name}/{key.rpartition('.')[2]}"
                for shard in value.local_shards():
                    row, column = shard.metadata.shard_offsets
                    yield LocalTensor(which, shard.tensor, tuple(value.size()), row, column)


def column_groups(model: nn.Module) -> dict[str, tuple[Columns, ...]]:
    """The groups of columns of every sharded table, also of tables without a part on this rank."""
    return {
        name: _column_groups(value)
        for name, value in model.state_dict().items()
        if isinstance(value, ShardedTensor)
    }


def _column_groups(weight: ShardedTensor) -> tuple[Columns, ...]:
    columns = {
        (shard.shard_offsets[1], shard.shard_offsets[1] + shard.shard_sizes[1])
        for shard in weight.metadata().shards_metadata
    }
    return tuple(sorted(columns))


def regrouped(saved: torch.Tensor, groups: Sequence[Columns], wanted: Columns) -> torch.Tensor:
    """The momentum of the columns `wanted`, from other groups'; see the top of this file.

    Args:
        saved: ``[rows, groups]``.
        groups: columns of each of its groups; together they are all columns of the table.
        wanted: first column and the one after the last.

    Returns:
        ``[rows]``.
    """
    if wanted in groups:
        return saved[:, list(groups).index(wanted)]
    shared = [max(0, min(stop, wanted[1]) - max(start, wanted[0])) for start, stop in groups]
    weights = torch.tensor(shared, dtype=saved.dtype, device=saved.device)
    return (saved * weights).sum(1) / weights.sum()
