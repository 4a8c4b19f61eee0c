"""Rows that the ranks compute in shares and all of them use, with their gradients.

`join_shares` gathers on the way forward and, on the way back, gives each rank the sum of all ranks'
gradients of its own rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from cadc_rec.distributed.processes import Processes


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

    Args:
        rows: ``[share, d]``, this rank's.
        n: rows of all shares together.
        processes: the ranks; all of them must call, and all must run backward or none.
    """
    if processes.world_size == 1:
        return rows
    joined: torch.Tensor = _JoinShares.apply(rows, n, processes)
    return joined
