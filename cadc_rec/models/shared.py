"""Scores of rows that share their negatives: rows times negatives, and one product a row beside.

A sampled softmax compares each row's positive with the same k negatives. Scores of every row with
every positive of the step would be mostly masked: at 65,536 rows 64 times as many as are wanted.
One function has the whole of it, forward and backward, so that a GPU has few kernels to launch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def shared_scores(
    learned: torch.Tensor,
    items: torch.Tensor,
    negatives: torch.Tensor,
    labels: torch.Tensor,
    fixed: Sequence[torch.Tensor] = (),
    factors: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Dot products of every row with the negatives, and with its own positive.

    Args:
        learned: ``[n, a]``, the rows' vectors as far as they have a gradient.
        items: ``[m, d]``, of the step's items; their first a columns have one.
        negatives: int64 ``[k]``, places in `items`, each once.
        labels: int64 ``[n]``, the place of each row's positive.
        fixed: what follows in the rows' vectors, each ``[n, some]``, d columns in all.
        factors: of the last parts of `fixed`, one each; None multiplies none.

    Returns:
        ``[n, k]`` and ``[n]``.
    """
    kind, low = learned.device.type, items.dtype
    if torch.is_autocast_enabled(kind):  # which does not see into a backward of our own
        low = torch.get_autocast_dtype(kind)
    with torch.autocast(kind, enabled=False):
        scores: tuple[torch.Tensor, torch.Tensor] = _SharedScores.apply(
            learned.to(items.dtype), items, factors, negatives, labels, low, *fixed
        )
    return scores


class _SharedScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        learned: torch.Tensor,
        items: torch.Tensor,
        factors: torch.Tensor | None,
        negatives: torch.Tensor,
        labels: torch.Tensor,
        low: torch.dtype,
        *fixed: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.cat([learned, *fixed], 1)
        scaled = 0 if factors is None else len(factors)
        parts = rows.split([learned.shape[1], *(part.shape[1] for part in fixed)], 1)
        for place, part in enumerate(parts[len(parts) - scaled :]):
            assert factors is not None
            part.mul_(factors[place])
        shared, own = items.index_select(0, negatives), items.index_select(0, labels)
        ctx.save_for_backward(rows, shared, own, negatives, labels, *fixed[len(fixed) - scaled :])
        ctx.sizes = len(items), learned.shape[1], low
        scores = (rows.to(low) @ shared.to(low).t()).to(rows.dtype)
        return scores, torch.bmm(rows[:, None], own[:, :, None]).flatten()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, shared, own, negatives, labels, *scaled = ctx.saved_tensors
        n_items, learned, low = ctx.sizes
        of_shared, of_own = gradients[0].to(low), gradients[1][:, None]
        of_rows = (of_shared @ shared.to(low)).to(rows.dtype).addcmul_(of_own, own)
        mine = rows[:, :learned]
        # Beside what is learned nobody asks; those columns stay zero.
        of_items = rows.new_zeros(n_items, rows.shape[1])
        learning = of_items[:, :learned]
        learning.index_add_(0, negatives, (of_shared.t() @ mine.to(low)).to(rows.dtype))
        learning.index_add_(0, labels, of_own * mine)
        of_factors = rows.new_empty(len(scaled)) if scaled else None
        widths = [part.shape[1] for part in scaled]
        of_scaled = of_rows.split([rows.shape[1] - sum(widths), *widths], 1)[1:]
        for place, part in enumerate(scaled):
            assert of_factors is not None
            torch.sum(of_scaled[place] * part, (0, 1), out=of_factors[place])
        nothing = [None] * (len(ctx.needs_input_grad) - 3)
        return (of_rows[:, :learned], of_items, of_factors, *nothing)
