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
        deviation = table.std() if table.numel() > 1 else table.new_ones(())
        return table / deviation if deviation > 0 else table
    variance, axes = torch.linalg.eigh(table.double().t() @ table.double() / len(table))
    keep = variance > _LEAST * variance.max()
    inverse = torch.where(keep, variance.clamp_min(1e-300).rsqrt(), 0.0)
    return (table.double() @ axes * inverse).to(table.dtype)
