"""A model like eSASRec in plain PyTorch, written from the paper.

eSASRec (Tikhonovich et al., 2025) keeps SASRec's task, the next item at each place, and changes
two parts. Its loss is a sampled softmax, and its layers are LiGR's (Borisyuk et al., 2025): each
half is normalized first, what it adds passes a gate that is computed from what it is added to, and
the layers at each place are a SwiGLU. Settings are the authors' for MovieLens 1M; Beauty has
``blocks = 1`` and ``dropout = 0.2`` there. Here all places of a step share their negatives, where
theirs had 256 of its own each.

The paper also tries negatives of which a part is drawn from the batch's own targets, by how often
they are taken, with the scores corrected by the logarithm of that probability: `Settings.in_batch`.
eSASRec itself has none of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.sequences import Attention, SequenceModel, SequenceSettings, learn
from cadc_rec.data.dataset import Dataset


@dataclass(frozen=True)
class Settings(SequenceSettings):
    """eSASRec's settings."""

    dropout: float = 0.1
    inner: int = 4
    """Widths of the SwiGLU's inner vectors."""
    in_batch: float = 0.0
    """Share of the negatives that come from the batch's targets, 0 to 1."""


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` at each place, as Shazeer (2020) has it, without biases."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width, inner = settings.width, settings.inner * settings.width
        self.gate_and_up = nn.Linear(width, 2 * inner, bias=False)
        self.dropout = nn.Dropout(settings.dropout)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[..., width]`` to the same."""
        gate, up = self.gate_and_up(x).chunk(2, -1)
        found: torch.Tensor = self.down(self.dropout(functional.silu(gate) * up))
        return found


class LiGR(nn.Module):
    """``x + sigmoid(G x) * f(norm(x))``, with f attention and then with f the SwiGLU."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        width = settings.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.gates = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
        self.halves = nn.ModuleList([Attention(settings), SwiGLU(settings)])
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, width]`` to the same."""
        for norm, gate, half in zip(self.norms, self.gates, self.halves, strict=True):
            x = x + gate(x).sigmoid() * self.dropout(half(norm(x)))
        return x


class ESASRec(SequenceModel):
    """LiGR layers one after the other.

    Args:
        n_items: items there are.
        settings: eSASRec's.
        counts: how often each item is taken ``[n_items]``; mixed negatives need them.
    """

    def __init__(
        self, n_items: int, settings: Settings, counts: NDArray[np.int64] | None = None
    ) -> None:
        super().__init__(n_items, settings, scale=1.0)
        self.blocks = nn.Sequential(*(LiGR(settings) for _ in range(settings.blocks)))
        self.in_batch = settings.in_batch
        if self.in_batch:
            assert counts is not None
            taken = torch.from_numpy(counts / counts.sum())
            drawn = self.in_batch * taken + (1 - self.in_batch) / n_items
            self.bias = -drawn.log().float()

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """See `SequenceModel.forward`."""
        found: torch.Tensor = self.blocks(self.entered(items))
        return found

    def negatives(self, targets: torch.Tensor) -> torch.Tensor:
        """Uniform ones; with `Settings.in_batch`, that share of them from the targets, first."""
        uniform = super().negatives(targets)
        if not self.in_batch:
            return uniform
        share = round(self.in_batch * len(uniform))
        drawn = targets[torch.randperm(len(targets))[:share]].unique()
        others = uniform[~torch.isin(uniform, drawn)]
        return torch.cat([drawn, others[: len(uniform) - len(drawn)]])


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """Points of this model; see `learn`."""
    return learn(
        lambda: ESASRec(dataset.n_items, settings, dataset.item_counts),
        dataset,
        seed,
        checkpoints,
        sample,
        clock,
    )
