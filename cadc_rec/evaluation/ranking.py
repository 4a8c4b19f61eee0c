"""Full ranking: where each user's held-out item stands among all items not yet taken.

In: user and item vectors whose dot product is the score, and, where a model has them, sparse
scores to be added. Out: one rank a user, from 1: one plus the candidates that score no lower.
Candidates are ALL items less the user's excluded ones; an item with an equal score ranks before
the target. Items may be dealt out to several processes, whose counts add up.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.user_items import Taken
from cadc_rec.distributed.processes import Processes, one_torch_thread
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.item_shard import Block, ItemShard, users_at_once
from cadc_rec.evaluation.rounding import rounding_bound
from cadc_rec.evaluation.top_items import TopItems
from cadc_rec.threads import on_threads

Listed: TypeAlias = Callable[[NDArray[np.int64]], sparse.csr_array]
"""Of some users, by row: scores to be added to their dot products with this process's items;
float32 ``[users, its items]``."""
_NARROW = 128  # numbers of a vector: a tile's product takes a few milliseconds of one thread
_LISTED_USERS = 4096  # of a block at most where such scores are added: they are formed on the host


def require_finite(
    user_vectors: torch.Tensor, item_vectors: torch.Tensor, first: tuple[int, int] = (0, 0)
) -> None:
    """Refuse vectors that give no scores.

    Args:
        user_vectors: ``[some, d]``.
        item_vectors: ``[some, d]``.
        first: the row of the first of these users, and of these items, among all.

    Raises:
        CadcError: one is not finite.
    """
    for side, vectors, start in zip(
        ("user", "item"), (user_vectors, item_vectors), first, strict=True
    ):
        finite = torch.isfinite(vectors).all(1)
        if not finite.all():
            row = start + int((~finite).nonzero()[0])
            raise CadcError(
                f"the vector of {side} row {row} is not finite, so its scores are not either; "
                "its training diverged; lower pretrain.learning_rate or train.learning_rate."
            )


def held_out_ranks(
    user_vectors: torch.Tensor,
    item_vectors: torch.Tensor,
    targets: np.ndarray,
    excluded: Taken,
    users: range | None = None,
    advance: Callable[[int], object] = lambda _: None,
    listed: Listed | None = None,
    top: TopItems | None = None,
    enough: int | None = None,
) -> np.ndarray:
    """Rank of ``targets[u]`` for the users of `users`; 0 for those without a target.

    Scores count as formed in float64 from float32 numbers, so that two runs, and anyone who
    recomputes them, agree on which is the larger of two close ones. All are formed in float32
    first; only those that its rounding could put on the wrong side of the target are formed again.

    Args:
        user_vectors: ``[n_users, d]``.
        item_vectors: ``[n_items, d]``.
        targets: held-out item of each user, -1 for none; int ``[n_users]``.
        excluded: items left out of the ranking; must not hold the user's target.
        users: the users to rank; default all.
        advance: called with how many more users are done, after each block.
        listed: scores that are no dot products, to be added to these.
        top: counts the best candidates of the users with a target.
        enough: a rank beyond this one may come out lower than it is, but beyond it still. Metrics
            at this K and smaller ones are then what they are, and close scores of items that are
            far from the best need not be formed again. None is exact everywhere.

    Returns:
        int64 ``[len(users)]``.

    Raises:
        CadcError: a vector is not finite, or so long that scores leave float32's range.
    """
    require_finite(user_vectors, item_vectors)
    users = range(len(user_vectors)) if users is None else users
    wanted = users.start + np.flatnonzero(np.asarray(targets[users.start : users.stop]) >= 0)
    advance(len(users) - len(wanted))

    def vectors(rows: NDArray[np.int64]) -> torch.Tensor:
        return user_vectors[torch.from_numpy(rows).to(user_vectors.device)]

    ranks = np.zeros(len(users), dtype=np.int64)
    ranks[wanted - users.start] = ranks_of_blocks(
        wanted, vectors, item_vectors, targets, excluded, advance, listed, top, enough=enough
    )
    return ranks


class _Blocks:
    """Users in blocks, which threads take: each the next one when it is free.

    Scores that are added are formed by one thread at a time and in the users' order, for they are
    counted along time.
    """

    def __init__(self, users: NDArray[np.int64], size: int, listed: Listed | None) -> None:
        self.users, self.size, self.listed = users, size, listed
        self.lock = Lock()
        self._starts = iter(range(0, len(users), size))

    def __len__(self) -> int:
        return -(-len(self.users) // self.size)

    def next(self) -> tuple[int, NDArray[np.int64], sparse.csr_array | None] | None:
        """Where a block starts, its users, and what is added for them; None after the last."""
        with self.lock:
            start = next(self._starts, None)
            if start is None:
                return None
            rows = self.users[start : start + self.size]
            return start, rows, None if self.listed is None else self.listed(rows)

    def stop(self) -> None:
        """Give no further block: one has failed."""
        self._starts = iter(range(0))


def ranks_of_blocks(
    wanted: NDArray[np.int64],
    vectors: Callable[[NDArray[np.int64]], torch.Tensor],
    items: torch.Tensor,
    targets: np.ndarray,
    excluded: Taken,
    advance: Callable[[int], object] = lambda _: None,
    listed: Listed | None = None,
    top: TopItems | None = None,
    processes: Processes | None = None,
    n_items: int | None = None,
    enough: int | None = None,
) -> NDArray[np.int64]:
    """Ranks of some users' targets; see `held_out_ranks`.

    Args:
        wanted: rows of the users, who have a target, in the order in which they are to be ranked.
        vectors: of some of them, by row: ``[n, d]``.
        items: vectors of this process's share of the items.
        targets: of every user, a row among all items.
        excluded: of every user.
        advance: called with how many more users are done.
        listed: scores to be added.
        top: counts the best candidates.
        processes: those that share the items; all of them must call, with the same users. None is
            this one alone, where each of torch's threads takes the next block when it is free.
        n_items: of all shares together; None is as many as `items`.
        enough: see `held_out_ranks`; on several processes, each counts to it by itself.

    Returns:
        int64 ``[len(wanted)]``, on every process.
    """
    first, largest = 0, len(items)
    if processes is not None and n_items is not None:
        first, largest = processes.share(n_items).start, -(-n_items // processes.world_size)
    if processes is not None and processes.world_size == 1:
        processes = None
    block = users_at_once(largest, items.device)
    if listed is not None:
        block = min(block, _LISTED_USERS)
    block = max(1, min(block, len(wanted)))
    shard = ItemShard(items, first, block)
    counts = torch.zeros(len(wanted), dtype=torch.int64, device=items.device)
    blocks = _Blocks(wanted, block, listed)

    def rank(start: int, rows: NDArray[np.int64], added: sparse.csr_array | None) -> None:
        target = torch.from_numpy(np.asarray(targets[rows], np.int64)).to(items.device)
        some = Block(vectors(rows), target, excluded.some(rows), added)
        of_targets = shard.of_targets(some)
        if processes is not None:
            processes.all_reduce_max(of_targets)
        exact, reach = of_targets
        if (reach >= 2.0**127).any():
            raise CadcError(
                "the vectors are so long that their scores leave float32's range; their "
                "training diverged; lower pretrain.learning_rate or train.learning_rate."
            )
        # What is added is one more element of the sum.
        doubt = rounding_bound(items.shape[1] + (listed is not None), reach)
        counts[start : start + len(rows)], best = shard.count(some, exact, doubt, top, enough)
        if best is not None and processes is not None:
            assert top is not None
            best = top.of_all(best, processes)
        with blocks.lock:
            if top is not None:
                assert best is not None
                top.add(best)
            advance(len(rows))

    inference = torch.is_inference_mode_enabled()  # which holds for the caller's thread alone

    def rank_all() -> None:
        try:
            with torch.no_grad(), torch.inference_mode(inference):
                while (found := blocks.next()) is not None:
                    rank(*found)
        except BaseException:
            blocks.stop()
            raise

    on_cpu = items.device.type == "cpu"
    threads = min(torch.get_num_threads(), len(blocks)) if on_cpu and processes is None else 1
    if threads > 1:
        on_threads(rank_all, threads, torch)
    else:
        with one_torch_thread(on_cpu and items.shape[1] <= _NARROW):
            rank_all()
    if processes is not None:
        processes.all_reduce_sum(counts)
    return counts.cpu().numpy()
