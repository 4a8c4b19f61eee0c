"""The two-tower model: id vector and side features joined, an MLP a side, dot product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from cadc_rec.config import ModelConfig
from cadc_rec.models.features import AttributeColumn, SideFeatures
from cadc_rec.models.id_embedding import ID_EMBEDDINGS
from cadc_rec.models.pairs import Batch, pair_scores


@dataclass(frozen=True)
class SideSpec:
    """What a tower needs to know of its side: how many ids, and their attributes."""

    name: str
    rows: int
    attributes: Sequence[AttributeColumn]


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
        width = config.id_dim + (self.features.width if self.features else 0)
        layers: list[nn.Module] = []
        for out in config.tower:
            layers += [nn.Linear(width, out, device=device), nn.ReLU()]
            width = out
        self.mlp = nn.Sequential(*layers[:-1])  # the last layer is linear: a vector of any sign

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, tower[-1]]`` of int64 ids ``[n]``."""
        joined = self.ids(ids)
        if self.features is not None:
            joined = torch.cat([joined, self.features(ids)], 1)
        vectors: torch.Tensor = self.mlp(joined)
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
