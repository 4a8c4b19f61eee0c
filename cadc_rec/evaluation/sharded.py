"""Vectors and ranks from a sharded model, each rank its share.

Users stay where they are embedded and ranked: no rank ever holds the vectors of all of them. Items,
against which everybody is ranked, are gathered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cadc_rec.data.user_items import UserItems
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.ranking import Listed, held_out_ranks

_CHUNK = 4_096  # ids at once; a history looks up dozens of items for each


@torch.no_grad()
def tower_vectors(
    tower: Callable[[torch.Tensor], torch.Tensor], rows: int, processes: Processes
) -> torch.Tensor:
    """Vectors ``[share, d]`` of this rank's share of ids 0 .. rows - 1.

    It takes as many lookups as every other rank: a sharded table answers only when all ask.
    """
    mine = processes.share(rows)
    longest = -(-rows // processes.world_size)
    parts = []
    for start in range(0, longest, _CHUNK):
        first = min(mine.start + start, mine.stop)
        last = min(first + _CHUNK, mine.stop)
        parts.append(tower(torch.arange(first, last, device=processes.device)))
    return torch.cat(parts)


def ranks_by_share(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: np.ndarray,
    excluded: UserItems,
    processes: Processes,
    advance: Callable[[int], object] = lambda _: None,
    listed: Listed | None = None,
    order: np.ndarray | None = None,
) -> np.ndarray:
    """`held_out_ranks` of all users, int64 ``[n_users]``, on every rank.

    Args:
        users: vectors ``[share, d]`` of this rank's share of the users.
        items: vectors of all items.
        targets: held-out item of every user, -1 for none.
        excluded: of every user.
        processes: the ranks.
        advance: called with how many more users are done.
        listed: see `held_out_ranks`; of a run of this rank's users.
        order: in which this rank's users are ranked, int64 ``[share]``; a run is then one of
            these. Default: as they stand.
    """
    share = processes.share(len(targets))
    held_out = np.asarray(targets[share.start : share.stop])
    known = excluded.slice(share.start, share.stop)
    if order is not None:
        users, held_out, known = users[torch.from_numpy(order)], held_out[order], known.take(order)
    mine = held_out_ranks(users, items, held_out, known, advance=advance, listed=listed)
    if order is not None:
        mine[order] = mine.copy()
    local = torch.from_numpy(mine).to(users.device)
    return processes.all_gather_rows(local, len(targets)).cpu().numpy()
