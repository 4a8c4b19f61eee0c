"""Vectors and ranks from a sharded model: each rank does its share, all get the whole."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.ranking import Excluded, held_out_ranks

_CHUNK = 4_096  # ids at once; a history looks up dozens of items for each


@torch.no_grad()
def tower_vectors(
    tower: Callable[[torch.Tensor], torch.Tensor], rows: int, processes: Processes
) -> torch.Tensor:
    """Vectors ``[rows, d]`` of ids 0 .. rows - 1, on every rank.

    Each rank embeds its share, in as many lookups as every other: a sharded table answers only
    when all ranks ask.
    """
    mine = processes.share(rows)
    longest = -(-rows // processes.world_size)
    parts = []
    for start in range(0, longest, _CHUNK):
        first = min(mine.start + start, mine.stop)
        last = min(first + _CHUNK, mine.stop)
        parts.append(tower(torch.arange(first, last, device=processes.device)))
    return processes.all_gather_rows(torch.cat(parts), rows)


def ranks_by_share(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: np.ndarray,
    excluded: Excluded,
    processes: Processes,
    advance: Callable[[int], object] = lambda _: None,
) -> np.ndarray:
    """`held_out_ranks` of all users, int64 ``[n_users]``, on every rank."""
    share = processes.share(len(users))
    mine = held_out_ranks(users, items, targets, excluded, share, advance)
    local = torch.from_numpy(mine).to(users.device)
    return processes.all_gather_rows(local, len(users)).cpu().numpy()
