"""Full ranking: where each user's held-out item stands among all items not yet taken.

In: user and item vectors whose dot product is the score, and, where a model has them, sparse
scores to be added. Out: one rank a user, from 1. Candidates are ALL items less the user's excluded
ones; an item with an equal score ranks before the target.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import torch
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.rounding import rounding_bound
from cadc_rec.evaluation.top_items import TopItems

Listed: TypeAlias = Callable[[range], sparse.csr_array]
"""Of a run of users, scores to be added to their dot products: float32 ``[users, n_items]``."""
_BLOCK_ELEMENTS = 1_000_000  # scores held at once: 4 MB of float32 stay near the core


def _exact_scores(users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Row-wise dot products ``[n]`` in float64, of ``[n, d]`` (or ``[1, d]``) and ``[n, d]``."""
    return (users.double() * items.double()).sum(1)


def _count_above(scores: torch.Tensor, bound: torch.Tensor) -> torch.Tensor:
    """Elements of each row ``[n, m]`` greater than its bound ``[n]``; int64 ``[n]``."""
    if scores.device.type != "cpu":
        return (scores > bound[:, None]).sum(1)
    above = scores.numpy() > bound.numpy()[:, None]  # NumPy compares and counts 7 times as fast
    return torch.tensor([np.count_nonzero(row) for row in above], dtype=torch.int64)


def _next(bound: torch.Tensor, towards: float) -> torch.Tensor:
    """`bound` in float32, rounded to the side of `towards`."""
    single = bound.float()
    return single.nextafter(torch.full_like(single, towards))


def require_finite(user_vectors: torch.Tensor, item_vectors: torch.Tensor) -> None:
    """Refuse vectors that give no scores.

    Raises:
        CadcError: one is not finite.
    """
    for side, vectors in (("user", user_vectors), ("item", item_vectors)):
        finite = torch.isfinite(vectors).all(1)
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise CadcError(
                f"the vector of {side} row {row} is not finite, so its scores are not either; "
                "its training diverged; lower pretrain.learning_rate or train.learning_rate."
            )


def held_out_ranks(
    user_vectors: torch.Tensor,
    item_vectors: torch.Tensor,
    targets: np.ndarray,
    excluded: UserItems,
    users: range | None = None,
    advance: Callable[[int], object] = lambda _: None,
    listed: Listed | None = None,
    top: TopItems | None = None,
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

    Returns:
        int64 ``[len(users)]``.

    Raises:
        CadcError: a vector is not finite, or so long that scores leave float32's range.
    """
    require_finite(user_vectors, item_vectors)
    users = range(len(user_vectors)) if users is None else users
    width = user_vectors.shape[1]
    items_t = item_vectors.t()
    if items_t.device.type == "cpu":  # cuBLAS reads either way alike; MKL likes this one better
        items_t = items_t.contiguous()
    norms = [part.double().norm(dim=1).max() for part in item_vectors.split(_BLOCK_ELEMENTS)]
    longest = max(norms) if len(item_vectors) else 0.0
    block = max(1, _BLOCK_ELEMENTS // max(1, len(item_vectors)))
    ranks = np.zeros(len(users), dtype=np.int64)
    for start in range(users.start, users.stop, block):
        stop = min(start + block, users.stop)
        of_users = user_vectors[start:stop]
        scores = of_users @ items_t
        target = torch.from_numpy(targets[start:stop].astype(np.int64)).to(scores.device)
        exact = _exact_scores(of_users, item_vectors[target.clamp_min(0)])
        reach = of_users.double().norm(dim=1) * longest  # no partial sum is larger
        more = None
        if listed is not None:
            more = torch.from_numpy(listed(range(start, stop)).toarray()).to(scores.device)
            scores += more
            exact += more.gather(1, target.clamp_min(0)[:, None])[:, 0].double()
            reach += more.abs().amax(1).double()
        if (reach >= 2.0**127).any():
            raise CadcError(
                "the vectors are so long that their scores leave float32's range; their training "
                "diverged; lower pretrain.learning_rate or train.learning_rate."
            )
        doubt = rounding_bound(width + (more is not None), reach)  # one more element of the sum
        out = torch.from_numpy(excluded.slice(start, stop).flat(scores.shape[1]))
        scores.view(-1)[out.to(scores.device)] = -torch.inf
        if top is not None:
            has = (target >= 0).nonzero()[:, 0]
            listed_here = None if more is None else more[has]
            top.add(scores[has], of_users[has], item_vectors, doubt[has], listed_here)
        low, high = _next(exact - doubt, -torch.inf), _next(exact + doubt, torch.inf)
        surely = _count_above(scores, high)
        rank = surely + 1  # the target meets itself in the count, so the best rank is 1
        # A row where the target alone is close to itself needs no second look.
        unsure = (_count_above(scores, _next(low, -torch.inf)) - surely > 1) & (target >= 0)
        second = unsure.nonzero()[:, 0]
        close = (scores[second] >= low[second, None]) & (scores[second] <= high[second, None])
        place, column = close.nonzero(as_tuple=True)
        user = second[place]
        again = _exact_scores(of_users[user], item_vectors[column])
        if more is not None:
            again += more[user, column].double()
        again = again >= exact[user]
        rank[second] = surely[second]
        rank.index_add_(0, user, again.to(rank.dtype))
        rank[target < 0] = 0
        ranks[start - users.start : stop - users.start] = rank.cpu().numpy()
        advance(stop - start)
    return ranks
