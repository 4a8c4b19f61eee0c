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
from cadc_rec.evaluation.ranking import Listed, held_out_ranks, require_finite
from cadc_rec.evaluation.top_items import TopItems

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
    top: TopItems | None = None,
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
        order: of this rank's users, int64 ``[share]``; a run is then of users in this order.
            Default: as they stand.
        top: counts the best candidates of all users with a target, on every rank.
    """
    share = processes.share(len(targets))
    held_out = np.asarray(targets[share.start : share.stop])
    taken = excluded.slice(share.start, share.stop)
    mine = np.zeros(len(held_out), np.int64)
    # Listed scores are of runs of users, so nobody is left out of them.
    wanted = np.flatnonzero((held_out >= 0) | (listed is not None)) if order is None else order
    if order is not None or len(wanted) < len(held_out):
        require_finite(users, items)  # those too who have nothing to rank
        users, taken = users[torch.from_numpy(wanted).to(users.device)], taken.some(wanted)
        advance(len(held_out) - len(wanted))
    mine[wanted] = held_out_ranks(
        users, items, held_out[wanted], taken, advance=advance, listed=listed, top=top
    )
    if top is not None:
        top.counts = processes.all_reduce_sum(top.counts.to(items.device)).cpu()
    local = torch.from_numpy(mine).to(users.device)
    return processes.all_gather_rows(local, len(targets)).cpu().numpy()
