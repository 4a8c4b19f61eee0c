"""A model like HSTU in plain PyTorch, written from the paper.

Hierarchical sequential transduction units (Zhai et al., 2024): attention whose weights are a SiLU
of each pair's score and are not normalized over a history, so that how much was seen counts, too;
a bias by how many places and how much time lie between two items; and a gate on what is seen
instead of layers at each place. Users' and items' vectors are scored by their cosine over a
temperature. Settings are the authors' for MovieLens 1M, but that all places of a step share their
negatives, where theirs had 128 of its own each, and a width of 64 where theirs was 50.

The time of the request is not told: the bias at a place is by the times of items up to it. (The
authors' code also reads the time of the item that is to be predicted.) A dataset whose times are
no clock's has the bias by places alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.sequences import SequenceModel, SequenceSettings, learn
from cadc_rec.data.dataset import Dataset

BUCKETS = 64
"""Of gaps, each 1.35 times as long as the one before; the last is of five years and more."""
_GROWTH = 0.301  # natural logarithm of 1.35, as in the authors' code


@dataclass(frozen=True)
class Settings(SequenceSettings):
    """HSTU's settings."""

    temperature: float = 0.05


def gap_buckets(times: torch.Tensor) -> torch.Tensor:
    """The bucket of the time between every two places of a history.

    Args:
        times: whole seconds ``[batch, length]``.

    Returns:
        int32 ``[batch, length, length]``, in ``[0, BUCKETS)``.
    """
    gaps = (times[:, :, None] - times[:, None, :]).abs_().clamp_min_(1).float()
    return gaps.log_().div_(_GROWTH).clamp_max_(BUCKETS - 1).int()


class _Looked(torch.autograd.Function):
    """``table[codes]`` of a small table; its gradient in one pass, where indexing takes many."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(codes)
        ctx.size = len(table)
        return table.index_select(0, codes.view(-1)).view(codes.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (codes,) = ctx.saved_tensors
        weights = grads[0].reshape(-1)
        return torch.bincount(codes.view(-1), weights, minlength=ctx.size).to(weights.dtype), None


class Unit(nn.Module):
    """One layer: pointwise attention, a norm of what it sees, and a gate on that.

    Args:
        settings: HSTU's.
        timed: whether there is a bias by time.
    """

    def __init__(self, settings: Settings, timed: bool) -> None:
        super().__init__()
        width = settings.width
        self.heads, self.length = settings.heads, settings.length
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.joint = nn.Linear(width, 4 * width, bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.out = nn.Linear(width, width)
        self.by_places = nn.Parameter(0.02 * torch.randn(settings.length))
        self.by_time = nn.Parameter(0.02 * torch.randn(BUCKETS)) if timed else None
        nn.init.normal_(self.joint.weight, std=0.02)
        nn.init.xavier_uniform_(self.out.weight)

    def forward(self, x: torch.Tensor, gaps: torch.Tensor | None) -> torch.Tensor:
        """``[batch, length, width]`` to the same; `gaps` are those of `gap_buckets`."""
        batch, length, width = x.shape
        gate, *others = functional.silu(self.joint(self.norm(x))).chunk(4, -1)
        value, query, key = (
            other.view(batch, length, self.heads, -1).transpose(1, 2) for other in others
        )
        place = torch.arange(length)
        before = place[:, None] - place
        bias = self.by_places[before.clamp_min(0)]
        if gaps is not None and self.by_time is not None:
            bias = (bias + _Looked.apply(self.by_time, gaps))[:, None]
        # Not by the length of this batch: a vector must not depend on who else is in it.
        weights = functional.silu(query @ key.transpose(-1, -2) + bias) / self.length
        seen = weights.masked_fill(before < 0, 0.0) @ value
        seen = self.norm(seen.transpose(1, 2).reshape(batch, length, width))
        found: torch.Tensor = x + self.out(self.dropout(gate * seen))
        return found


class HSTU(SequenceModel):
    """Units one after the other; users and items are scored by their cosine.

    Args:
        n_items: items there are.
        settings: HSTU's.
        timed: whether histories have times.
    """

    def __init__(self, n_items: int, settings: Settings, timed: bool) -> None:
        super().__init__(n_items, settings, math.sqrt(settings.width))
        self.timed, self.temperature = timed, settings.temperature
        self.units = nn.ModuleList([Unit(settings, timed) for _ in range(settings.blocks)])

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """See `SequenceModel.forward`."""
        gaps = gap_buckets(times) if self.timed and times is not None else None
        x = self.entered(items)
        for unit in self.units:
            x = unit(x, gaps)
        return functional.normalize(x, dim=-1) / self.temperature

    def candidates(self, items: torch.Tensor) -> torch.Tensor:
        """Items' vectors at length 1."""
        return functional.normalize(super().candidates(items), dim=-1)


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """HSTU's points; see `learn`."""
    timed = dataset.timestamp_kind == "clock" and bool(dataset.time_unit)
    return learn(
        lambda: HSTU(dataset.n_items, settings, timed), dataset, seed, checkpoints, sample, clock
    )
