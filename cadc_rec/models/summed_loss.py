"""A step's loss from its vectors, some rows at a time where all scores would take too much memory.

In: vectors of a batch's users and items, in parts. Out: the loss of their scores, summed over rows.
A softmax over a million items for 65,536 rows has 262 GB of scores. They are formed for a block of
rows at a time, which leaves its part of the loss and of the gradients behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.models import forward
from cadc_rec.models.forward import Scores, Vectors

AT_ONCE = 1 << 27
"""Scores that are formed at once at most: half a GiB of float32, of which a loss makes a few."""
Loss = Callable[[Scores, Batch[torch.Tensor]], torch.Tensor]
"""The loss of a batch's scores, summed over its rows."""


def summed_loss(
    loss: Loss,
    users: Vectors,
    items: Vectors,
    factors: torch.Tensor | None,
    batch: Batch[torch.Tensor],
    known: Sequence[Scores] = (),
) -> torch.Tensor:
    """The loss of a batch's scores, a scalar; see `forward.scores` for the other arguments.

    Args:
        loss: a sum over rows.
        users: of the batch, in parts.
        items: likewise.
        factors: of scores that are added.
        batch: which pairs, or which candidates of every row.
        known: further scores.
    """

    def of_block(
        learned: torch.Tensor, of_items: torch.Tensor, factor: torch.Tensor | None, rows: slice
    ) -> torch.Tensor:
        mine, theirs = users, replace(items, learned=of_items)
        part, scores_known = batch, known
        if len(learned) < len(batch.users):
            mine, part = users.of(rows), _rows_of(batch, rows)
            scores_known = [each.each(lambda scores: scores[rows]) for each in known]
        mine = replace(mine, learned=learned)
        scores = forward.scores(mine, theirs, factor, part, scores_known)
        return loss(scores.each(lambda each: each.float()), part)

    assert users.learned is not None
    assert items.learned is not None
    rows = len(batch.users)
    columns = len(batch.items if batch.negatives is None else batch.negatives)
    if batch.pattern is not None or rows * columns <= AT_ONCE:
        return of_block(users.learned, items.learned, factors, slice(0, rows))
    step = max(1, AT_ONCE // columns)
    blocks = [slice(start, min(rows, start + step)) for start in range(0, rows, step)]
    total: torch.Tensor = _InBlocks.apply(users.learned, items.learned, factors, of_block, blocks)
    return total


class _InBlocks(torch.autograd.Function):
    """A loss summed over blocks, each of which gives its gradients before the next one comes."""

    @staticmethod
    def forward(
        ctx: Any,
        users: torch.Tensor,
        items: torch.Tensor,
        factors: torch.Tensor | None,
        of_block: Callable[..., torch.Tensor],
        blocks: Sequence[slice],
    ) -> torch.Tensor:
        shared = [items] if factors is None else [items, factors]
        leaves = [each.detach().requires_grad_() for each in shared]
        sums = [torch.zeros_like(each, dtype=torch.float32) for each in shared]
        of_users = torch.empty_like(users)
        total = torch.zeros((), device=users.device)
        for rows in blocks:
            mine = users[rows].detach().requires_grad_()
            with torch.enable_grad():
                loss = of_block(mine, leaves[0], leaves[1] if len(leaves) > 1 else None, rows)
                of_users[rows], *others = torch.autograd.grad(loss, [mine, *leaves])
            total += loss.detach()
            for whole, part in zip(sums, others, strict=True):
                whole += part
        ctx.save_for_backward(of_users, *(s.to(e.dtype) for s, e in zip(sums, shared, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = [gradients[0].to(each.dtype) * each for each in ctx.saved_tensors]
        return (*found, *[None] * (5 - len(found)))


def _rows_of(batch: Batch[torch.Tensor], rows: slice) -> Batch[torch.Tensor]:
    """Some rows of a batch without pairs."""

    def taken(part: torch.Tensor | None) -> torch.Tensor | None:
        return None if part is None else part[rows]

    masked = batch.masked
    if masked is not None:
        masked = masked[:, (masked[0] >= rows.start) & (masked[0] < rows.stop)]
        masked = torch.stack([masked[0] - rows.start, masked[1]])
    return replace(
        batch,
        users=batch.users[rows],
        rows=taken(batch.rows),
        labels=taken(batch.labels),
        repeated=taken(batch.repeated),
        masked=masked,
        outside=batch.outside
        if batch.outside is None or len(batch.outside) == 1
        else batch.outside[rows],
        real=taken(batch.real),
    )
