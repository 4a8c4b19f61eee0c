"""Rows of a table that is dealt to the ranks by contiguous shares, fetched by those who need them.

In: this rank's share of the rows, and the ids it needs. Out: their rows, in the order of the ids.
Two all-to-alls: which rows, and the rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from cadc_rec.distributed.processes import Processes


def fetch_rows(
    local: torch.Tensor, ids: torch.Tensor, n: int, processes: Processes
) -> torch.Tensor:
    """Rows `ids` of the whole table. Every rank must call, also one that needs none.

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
    bounds = torch.searchsorted(ids, torch.tensor([*starts[1:], n], device=ids.device)).tolist()
    asked = [end - begin for begin, end in zip([0, *bounds[:-1]], bounds, strict=True)]
    counts = torch.empty(processes.world_size, dtype=torch.int64, device=ids.device)
    dist.all_to_all_single(counts, torch.tensor(asked, device=ids.device))
    owed: list[int] = counts.tolist()
    wanted = ids.new_empty(sum(owed))
    dist.all_to_all_single(wanted, ids, owed, asked)
    rows = local.new_empty(len(ids), local.shape[1])
    answer = local[wanted - processes.share(n).start]
    dist.all_to_all_single(rows, answer, asked, owed)
    return rows
