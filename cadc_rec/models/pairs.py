"""Scores of a batch's (user, item) pairs.

A batch of B positives with K negatives has B (1 + K) pairs, but far fewer different users and
items. The towers run once on each different id; the pairs are then a sparse matrix between the
two sets of vectors, in CSR: one row for each unique user, (1 + K) entries for each positive. Their
scores are a sampled dense-dense product, the gradients two sparse-dense products, so no
``[B (1 + K), d]`` array of gathered vectors is ever made. Same scores and gradients as gathering
(tested), several times faster.
"""

from __future__ import annotations

from typing import Any

import torch

from cadc_rec.data.load.batches import PairPattern
from cadc_rec.models.sparse import csr_matrix, products_at


class _PairScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users: torch.Tensor, items: torch.Tensor, pattern: PairPattern[torch.Tensor]
    ) -> torch.Tensor:
        ctx.save_for_backward(users, items)
        ctx.pattern = pattern
        return products_at(pattern.crow, pattern.col, users, items)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        users, items = ctx.saved_tensors
        p: PairPattern[torch.Tensor] = ctx.pattern
        gradient = gradients[0].contiguous()
        if p.col.numel() == 0:  # a rank that ran out of rows still takes part in the step
            return torch.zeros_like(users), torch.zeros_like(items), None
        by_user = csr_matrix(p.crow, p.col, gradient, len(items))
        by_item = csr_matrix(p.item_crow, p.item_col, gradient[p.to_item_order], len(users))
        return by_user @ items, by_item @ users, None


def pair_scores(
    users: torch.Tensor, items: torch.Tensor, pattern: PairPattern[torch.Tensor]
) -> torch.Tensor:
    """Dot products of the pairs.

    Args:
        users: ``[n_u, d]`` vectors of the batch's unique users.
        items: ``[n_i, d]`` vectors of its unique items.
        pattern: the pairs.

    Returns:
        ``[pairs]`` scores in the pattern's order.
    """
    # There are no sparse products in bfloat16, which autocast may have made of the vectors.
    precision = torch.promote_types(users.dtype, torch.float32)
    scores: torch.Tensor = _PairScores.apply(users.to(precision), items.to(precision), pattern)
    return scores
