"""A trained table of which each rank holds its own rows, in steps that look ids up.

In: ids, which differ from rank to rank. Out: their rows, from the ranks that hold them; on the way
back each rank is sent the gradients of its own rows. TorchRec has no row-wise tables on CPU, and
sums the gradients of replicated ones over the ranks whole, in every step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import Exchange, ask


class TrainedRows(nn.Module):
    """This rank's rows of a table, and the rows of any ids.

    Its gradients are averaged over the ranks, as `DistributedDataParallel` averages those of
    replicated weights, and are dense. Every rank must call, and all must run backward or none.

    Args:
        n: rows of the whole table.
        width: of a row.
        processes: the ranks, each of which holds its share of the rows.
    """

    def __init__(self, n: int, width: int, processes: Processes) -> None:
        super().__init__()
        self.processes, self.rows = processes, processes.share(n)
        starts = [processes.share_of(rank, n).start for rank in range(processes.world_size)]
        self.bounds = [*starts, n]
        self.weight = nn.Parameter(torch.zeros(len(self.rows), width, device=processes.device))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``[m, width]`` of ids, int64 ``[m]``, ascending; an id may stand there twice."""
        if self.processes.world_size == 1:
            return functional.embedding(ids, self.weight)
        exchange = ask(ids, self.bounds, self.processes.rank)
        rows: torch.Tensor = _Send.apply(
            functional.embedding(exchange.wanted, self.weight), exchange
        )
        return rows


class _Send(torch.autograd.Function):
    """Rows to the ranks that asked for them; back, their gradients over the number of ranks."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, exchange: Exchange) -> torch.Tensor:
        ctx.exchange = exchange
        return exchange.send(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        exchange: Exchange = ctx.exchange
        return exchange.send_back(gradients[0]).div_(len(exchange.asked)), None


def averaging(model: nn.Module, processes: Processes) -> nn.Module:
    """`model` with the gradients of all weights averaged over the ranks, but those of rows.

    Every rank must call. Its `TrainedRows` differ from rank to rank.
    """
    if processes.world_size == 1:
        return model
    rows = {
        f"{name}.weight" for name, part in model.named_modules() if isinstance(part, TrainedRows)
    }
    # TorchRec, too, keeps divided tables out of its wrapper so; there is no public way.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, rows)
    return DistributedDataParallel(model)
