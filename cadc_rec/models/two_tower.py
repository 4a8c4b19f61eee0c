"""The two-tower model: id vector and side features joined, an MLP a side, dot product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from cadc_rec.config import ModelConfig
from cadc_rec.models.dropout import ByteDropout
from cadc_rec.models.features import AttributeValues, SideFeatures
from cadc_rec.models.id_embedding import ID_EMBEDDINGS
from cadc_rec.models.pairs import Batch, pair_scores


@dataclass(frozen=True)
class SideSpec:
    """What a tower needs to know of its side: how many ids, and their attributes."""

    name: str
    rows: int
    attributes: Sequence[AttributeValues]


class JoinedLinear(nn.Linear):
    """A linear layer on the concatenation of two inputs, without concatenating them.

    What is gained is the backward pass: a frozen part needs no gradient, and a concatenation would
    have it computed all the same.
    """

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, out]`` of ``[n, a]`` and ``[n, b]``, a + b inputs together."""
        if second is None:
            return super().forward(first)
        width = first.shape[1]
        of_second = F.linear(second, self.weight[:, width:], self.bias)
        return torch.addmm(of_second, first, self.weight[:, :width].t())


class Tower(nn.Module):
    """Ids to vectors.

    Args:
        side: which side, its ids and attributes.
        config: id embedding, widths.
        device: where the MLP lives; the tables' place is their sharding plan's business.
    """

    def __init__(self, side: SideSpec, config: ModelConfig, device: torch.device) -> None:
        super().__init__()
        self.ids = ID_EMBEDDINGS[config.id_embedding](side.name, side.rows, config.id_dim)
        self.features = (
            SideFeatures(side.name, side.attributes, config.feature_dim, device)
            if side.attributes
            else None
        )
        # One mask for each id of a batch, not for each pair: the tower sees an id once.
        self.dropout = ByteDropout(config.id_dropout)
        width = config.id_dim + (self.features.width if self.features else 0)
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        self.join = JoinedLinear(width, config.tower[0]).to(device)
        layers: list[nn.Module] = []
        for before, after in pairwise(config.tower):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.mlp = nn.Sequential(*layers).to(device)  # ends linear: a vector of any sign

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, tower[-1]]`` of int64 ids ``[n]``."""
        features = self.features(ids) if self.features is not None else None
        vectors: torch.Tensor = self.mlp(self.join(self.dropout(self.ids(ids)), features))
        return vectors


class TwoTower(nn.Module):
    """Users and items in one space; the score of a pair is the dot product of their vectors."""

    def __init__(
        self, user: SideSpec, item: SideSpec, config: ModelConfig, device: torch.device
    ) -> None:
        super().__init__()
        self.user = Tower(user, config, device)
        self.item = Tower(item, config, device)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores ``[B * (1 + K)]`` of the batch's pairs; each tower sees each id once."""
        return pair_scores(self.user(batch.users), self.item(batch.items), batch.pattern)
