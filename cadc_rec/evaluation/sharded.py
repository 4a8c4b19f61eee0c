"""Vectors and ranks from a sharded model, each rank its share.

No rank ever holds the vectors of all users, nor, but where cold items are measured, of all items:
each ranks everybody among its own items, and the counts are added up.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.data.user_items import Taken
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.ranking import Listed, ranks_of_blocks, require_finite
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
    every: torch.Tensor | None = None
    for start in range(0, max(1, longest), _CHUNK):
        first = min(mine.start + start, mine.stop)
        last = min(first + _CHUNK, mine.stop)
        part = tower(torch.arange(first, last, device=processes.device))
        if every is None:  # parts that are joined in the end would take their memory twice
            every = part.new_empty(len(mine), *part.shape[1:])
        every[first - mine.start : last - mine.start] = part
    assert every is not None
    return every


def ranks_by_share(
    users: torch.Tensor,
    items: torch.Tensor,
    targets: np.ndarray,
    excluded: Taken,
    processes: Processes,
    n_items: int,
    advance: Callable[[int], object] = lambda _: None,
    listed: Listed | None = None,
    order: NDArray[np.int64] | None = None,
    top: TopItems | None = None,
) -> NDArray[np.int64]:
    """`held_out_ranks` of all users, int64 ``[n_users]``, on every rank.

    A block of users after the other is sent to every rank; each counts among its own items.

    Args:
        users: vectors ``[share, d]`` of this rank's share of the users.
        items: vectors ``[share, d]`` of this rank's share of the items.
        targets: held-out item of every user, -1 for none.
        excluded: of every user.
        processes: the ranks.
        n_items: items of all ranks together.
        advance: called with how many more users are done, of all ranks.
        listed: see `held_out_ranks`; of any users, at this rank's items.
        order: of all users, int64 ``[n_users]``, the same on every rank: blocks are of users in
            this order. Default: as they stand.
        top: counts the best candidates of all users with a target, on every rank.
    """
    targets = np.asarray(targets)
    share = processes.share(len(targets))
    require_finite(users, items, (share.start, processes.share(n_items).start))
    wanted = np.flatnonzero(targets >= 0) if order is None else order[targets[order] >= 0]
    advance(len(targets) - len(wanted))

    def vectors(rows: NDArray[np.int64]) -> torch.Tensor:
        mine = (rows >= share.start) & (rows < share.stop)
        own = users[torch.from_numpy(rows[mine] - share.start).to(users.device)]
        if processes.world_size == 1:
            return own
        block = users.new_zeros(len(rows), users.shape[1])
        block[torch.from_numpy(mine).to(users.device)] = own
        return processes.all_reduce_sum(block)  # to each row its owner adds, and others zeros

    ranks = np.zeros(len(targets), np.int64)
    ranks[wanted] = ranks_of_blocks(
        wanted, vectors, items, targets, excluded, advance, listed, top, processes, n_items
    )
    return ranks
