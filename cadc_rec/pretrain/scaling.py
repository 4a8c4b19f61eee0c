"""Exported vectors brought to a common scale, so that a tower's first layer meets like inputs."""

from __future__ import annotations

from typing import Literal

import torch

Scale = Literal["none", "unit", "whiten"]
_LEAST = 1e-6  # of the largest variance; a direction with less is noise, and is not blown up


def scaled(table: torch.Tensor, scale: Scale) -> torch.Tensor:
    """`table` ``[n, d]`` itself, over its standard deviation, or whitened.

    Whitening (ZCA is not needed: a linear layer follows) rotates to the principal axes of
    ``table' table / n`` and divides each by its deviation; the mean is left in.
    """
    if scale == "none" or not len(table):
        return table
    if scale == "unit":
        return table / _deviation(table)
    variance, axes = torch.linalg.eigh(table.double().t() @ table.double() / len(table))
    keep = variance > _LEAST * variance.max()
    inverse = torch.where(keep, variance.clamp_min(1e-300).rsqrt(), 0.0)
    return (table.double() @ axes * inverse).to(table.dtype)


def divisor(table: torch.Tensor, scale: Scale) -> float | None:
    """What `scaled` divides `table` by; None where that is no single number."""
    if scale == "whiten":
        return None
    return float(_deviation(table)) if scale == "unit" and len(table) else 1.0


def _deviation(table: torch.Tensor) -> torch.Tensor:
    """Of all its elements; 1 where they are equal."""
    deviation = table.std() if table.numel() > 1 else table.new_ones(())
    return deviation if deviation > 0 else torch.ones_like(deviation)
