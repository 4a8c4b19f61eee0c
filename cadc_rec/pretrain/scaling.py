"""Exported vectors brought to a common scale, so that a tower's first layer meets like inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import torch

Scale = Literal["none", "unit", "whiten"]
Total: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The sum of a tensor over all shares of a table."""
_LEAST = 1e-6  # of the largest variance; a direction with less is noise, and is not blown up
_AT_ONCE = 2**20  # rows in float64 at once


def scaled(rows: torch.Tensor, scale: Scale, total: Total = lambda x: x) -> torch.Tensor:
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
    n = _count(rows, total)
    if not n:
        return rows
    if scale == "unit":
        return rows / _deviation(rows, n, total).to(rows.dtype)
    variance, axes = torch.linalg.eigh(total(_summed(rows, lambda part: part.t() @ part)) / n)
    keep = variance > _LEAST * variance.max()
    inverse = torch.where(keep, variance.clamp_min(1e-300).rsqrt(), 0.0)
    turn = axes * inverse
    return torch.cat([(part.double() @ turn).to(rows.dtype) for part in rows.split(_AT_ONCE)])


def divisor(rows: torch.Tensor, scale: Scale, total: Total = lambda x: x) -> float | None:
    """What `scaled` divides the table by; None where that is no single number."""
    if scale == "whiten":
        return None
    n = _count(rows, total)
    if scale == "none" or not n:
        return 1.0
    return float(_deviation(rows, n, total).to(rows.dtype))


def _count(rows: torch.Tensor, total: Total) -> float:
    """Rows of all shares."""
    return float(total(torch.tensor([len(rows)], dtype=torch.float64, device=rows.device)))


def _deviation(rows: torch.Tensor, n: float, total: Total) -> torch.Tensor:
    """Of all elements of the table's n rows, float64 ``[1]``; 1 where they are equal."""
    elements = n * rows.shape[1]
    mean = total(_summed(rows, lambda part: part.sum().view(1))) / elements
    squares = total(_summed(rows, lambda part: (part - mean).square().sum().view(1)))
    deviation = (squares / max(elements - 1, 1)).sqrt()
    return deviation if deviation > 0 else torch.ones_like(deviation)


def _summed(rows: torch.Tensor, of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Sum of `of` over pieces of the rows, in float64."""
    parts = iter(rows.split(_AT_ONCE))
    result = of(next(parts).double())
    for part in parts:
        result += of(part.double())
    return result
