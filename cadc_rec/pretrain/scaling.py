"""Exported vectors brought to a common scale, so that a tower's first layer meets like inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

Scale = Literal["none", "unit", "whiten"]
_LEAST = 1e-6  # of the largest variance; a direction with less is noise, and is not blown up
_AT_ONCE = 2**20  # rows in float64 at once


def scaled(
    rows: torch.Tensor, scale: Scale, total: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
) -> torch.Tensor:
    """`rows` ``[n, d]`` themselves, over the table's standard deviation, or whitened.

    Whitening (ZCA is not needed: a linear layer follows) rotates to the principal axes of
    ``table' table / n`` and divides each by its deviation; the mean is left in.

    Args:
        rows: the table, or a rank's share of it.
        scale: which.
        total: where `rows` is a share, the sum of a tensor over all shares.
    """
    if scale == "none":
        return rows
    count = total(torch.tensor([rows.shape[0]], dtype=torch.float64, device=rows.device))
    n = float(count)
    if not n:
        return rows
    if scale == "unit":
        elements = n * rows.shape[1]
        mean = total(_summed(rows, lambda part: part.sum().view(1))) / elements
        squares = total(_summed(rows, lambda part: (part - mean).square().sum().view(1)))
        deviation = (squares / max(elements - 1, 1)).sqrt().to(rows.dtype)
        return rows / deviation if deviation > 0 else rows
    variance, axes = torch.linalg.eigh(total(_summed(rows, lambda part: part.t() @ part)) / n)
    keep = variance > _LEAST * variance.max()
    inverse = torch.where(keep, variance.clamp_min(1e-300).rsqrt(), 0.0)
    turn = axes * inverse
    return torch.cat([(part.double() @ turn).to(rows.dtype) for part in rows.split(_AT_ONCE)])


def _summed(rows: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Sum of `of` over pieces of the rows, in float64."""
    parts = iter(rows.split(_AT_ONCE))
    result = of(next(parts).double())
    for part in parts:
        result += of(part.double())
    return result
