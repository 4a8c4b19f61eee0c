"""SASRec in plain PyTorch.

Self-attentive sequential recommendation (Kang and McAuley, 2018): a causal transformer over a
user's items in order, which says at each place what comes next. The loss is a softmax over the
next item and uniform negatives that all places of a step share, which later papers found to be
much better than the binary cross-entropy of 2018.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.time_to_quality.contenders import Reached
from benchmarks.time_to_quality.sequences import Attention, SequenceModel, SequenceSettings, learn
from cadc_rec.data.dataset import Dataset


@dataclass(frozen=True)
class Settings(SequenceSettings):
    """SASRec's settings."""


class Block(nn.Module):
    """Causal self-attention, then two layers at each place; both normalized first and added."""

    def __init__(self, settings: SequenceSettings) -> None:
        super().__init__()
        width = settings.width
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.attention = Attention(settings)
        self.places = nn.Sequential(
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(width, width),
            nn.Dropout(settings.dropout),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``[batch, length, width]`` to the same."""
        x = x + self.attention(self.norms[0](x))
        found: torch.Tensor = x + self.places(self.norms[1](x))
        return found


class SASRec(SequenceModel):
    """Blocks one after the other, and a norm behind the last."""

    def __init__(self, n_items: int, settings: SequenceSettings) -> None:
        super().__init__(n_items, settings, math.sqrt(settings.width))
        self.blocks = nn.Sequential(*(Block(settings) for _ in range(settings.blocks)))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, items: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        """See `SequenceModel.forward`."""
        found: torch.Tensor = self.norm(self.blocks(self.entered(items)))
        return found


def curve(
    dataset: Dataset,
    settings: Settings,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
    clock: Callable[[], float] = time.process_time,
) -> Iterator[Reached]:
    """SASRec's points; see `learn`."""
    return learn(
        lambda: SASRec(dataset.n_items, settings), dataset, seed, checkpoints, sample, clock
    )
