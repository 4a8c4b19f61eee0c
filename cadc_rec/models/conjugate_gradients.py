"""Many symmetric positive definite systems at once, by conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch


def conjugate_gradients(
    times: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    residual: torch.Tensor,
    steps: int,
) -> torch.Tensor:
    """`steps` steps towards the solution of every row's own system, side by side.

    Args:
        times: every row's own matrix times its vector; ``[n, d]`` to ``[n, d]``.
        x: where the rows start, ``[n, d]``; updated in place.
        residual: right-hand sides less ``times(x)``, ``[n, d]``; updated in place.
        steps: after d of them a system is solved, but for rounding.

    Returns:
        `x`.
    """
    direction, size = residual.clone(), residual.square().sum(1, keepdim=True)
    for _ in range(steps):
        image = times(direction)
        along = (direction * image).sum(1, keepdim=True)
        share = torch.where(along > 0, size / along, 0.0)  # a row that is solved stays
        x += share * direction
        residual -= share * image
        before, size = size, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(before > 0, size / before, 0.0) * direction
    return x
