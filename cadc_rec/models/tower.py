"""One side of the model: ids, side features and what the frozen tables add, through an MLP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from cadc_rec.config.experiment import ModelConfig
from cadc_rec.models.dropout import ByteDropout
from cadc_rec.models.factorization import item_side, user_side
from cadc_rec.models.features import AttributeValues, SideFeatures
from cadc_rec.models.id_embedding import ID_EMBEDDINGS, FrozenIds


@dataclass(frozen=True)
class SideSpec:
    """What a tower needs to know of its side: how many ids, and their attributes."""

    name: str
    rows: int
    attributes: Sequence[AttributeValues]
    transition_dim: int = 0
    """Width of the transition vectors on this side: an item's as a source, and as a target."""


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
        context_dim: width of the further frozen vectors that a row comes with.
    """

    def __init__(
        self,
        side: SideSpec,
        config: ModelConfig,
        device: torch.device,
        context_dim: int = 0,
    ) -> None:
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
        # A mask for each row that the tower sees: an id, or with a history each example.
        self.dropout = ByteDropout(config.id_dropout)
        width = config.id_dim + context_dim + (self.features.width if self.features else 0)
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        widths = config.widths(side.name)
        self.join = JoinedLinear(width, widths[0]).to(device)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.mlp = nn.Sequential(*layers).to(device)  # ends linear: a vector of any sign

    def remember(self, comes_again: Callable[[torch.Tensor], bool]) -> None:
        """Find once what never changes of ids whose very tensor comes in every step."""
        if isinstance(self.ids, FrozenIds):
            self.ids.remembered.comes_again = comes_again
        if self.features is not None:
            self.features.remembered.comes_again = comes_again

    def silence(self) -> None:
        """Make all vectors zero until the last layer has learned."""
        last = self.mlp[-1] if len(self.mlp) else self.join
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def forward(self, ids: torch.Tensor, context: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Vectors ``[n, d]`` of int64 ids ``[n]``, whose dot products are the scores.

        d is ``tower[-1]``, and ``id_dim + 1`` more with the residual.
        """
        learned, fixed = self.parts(ids, context)
        return learned if fixed is None else torch.cat([learned, fixed], 1)

    def parts(
        self, ids: torch.Tensor, context: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The learned part of the vectors, and the fixed one of the residual.

        Args:
            ids: int64 ``[n]``.
            context: further frozen vectors of each row, each ``[n, some]``.
        """
        features = self.features(ids) if self.features is not None else None
        return self.parts_of(self.ids(ids), features, context)

    def parts_of(
        self,
        vectors: torch.Tensor,
        features: torch.Tensor | None,
        context: Sequence[torch.Tensor] = (),
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`parts` of rows whose id vectors and side features have been looked up.

        Args:
            vectors: ``[n, id_dim]``, what the id embedding gives.
            features: ``[n, features.width]``; None where the side has none.
            context: as in `parts`.
        """
        known = torch.cat([vectors, *context], 1) if context else vectors
        learned: torch.Tensor = self.mlp(self.join(self.dropout(known), features))
        return learned, None if self.residual is None else self.residual(vectors)
