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
from cadc_rec.models.factorization import item_side, user_side
from cadc_rec.models.features import AttributeValues, SideFeatures
from cadc_rec.models.id_embedding import ID_EMBEDDINGS
from cadc_rec.models.pairs import Batch, pair_scores
from cadc_rec.models.sparse import products_at


@dataclass(frozen=True)
class SideSpec:
    """What a tower needs to know of its side: how many ids, and their attributes."""

    name: str
    rows: int
    attributes: Sequence[AttributeValues]


_SIDES = {"user": user_side, "item": item_side}


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
        kind = ID_EMBEDDINGS[config.id_embedding]
        self.ids = kind(side.name, side.rows, config.id_dim, device)
        # The factorization's own score is added to the towers', as more elements of the vectors.
        self.residual = _SIDES[side.name] if config.id_embedding == "residual" else None
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
        """Vectors ``[n, d]`` of int64 ids ``[n]``, whose dot products are the scores.

        d is ``tower[-1]``, and ``id_dim + 1`` more with the residual.
        """
        learned, fixed = self.parts(ids)
        return learned if fixed is None else torch.cat([learned, fixed], 1)

    def parts(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The learned part ``[n, tower[-1]]`` of the vectors, and the fixed one of the residual."""
        features = self.features(ids) if self.features is not None else None
        vectors = self.ids(ids)
        learned: torch.Tensor = self.mlp(self.join(self.dropout(vectors), features))
        return learned, None if self.residual is None else self.residual(vectors)


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
        users, fixed_users = self.user.parts(batch.users)
        items, fixed_items = self.item.parts(batch.items)
        scores = pair_scores(users, items, batch.pattern)
        if fixed_users is None or fixed_items is None:
            return scores
        # Apart from the learned part, for no gradient flows here.
        return scores + products_at(batch.pattern.crow, batch.pattern.col, fixed_users, fixed_items)
