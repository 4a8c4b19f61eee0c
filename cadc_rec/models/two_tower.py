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
from cadc_rec.models.history import window_means
from cadc_rec.models.id_embedding import ID_EMBEDDINGS, FrozenIds
from cadc_rec.models.pairs import Batch, pair_scores
from cadc_rec.models.sparse import products_at


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
        shortcut: what joins the vector beside the MLP's: None is nothing, 0 the frozen vectors
            themselves, n a learned linear map of them to n elements that starts at zero.
    """

    def __init__(
        self,
        side: SideSpec,
        config: ModelConfig,
        device: torch.device,
        context_dim: int = 0,
        shortcut: int | None = None,
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
        self.joins_known = shortcut is not None
        self.shortcut: nn.Linear | None = None
        if shortcut:
            self.shortcut = nn.Linear(config.id_dim + context_dim, shortcut, bias=False).to(device)
            nn.init.zeros_(self.shortcut.weight)

    def forward(self, ids: torch.Tensor, context: Sequence[torch.Tensor] = ()) -> torch.Tensor:
        """Vectors ``[n, d]`` of int64 ids ``[n]``, whose dot products are the scores.

        d is ``tower[-1]``, ``id_dim + 1`` more with the residual, and the width of an item's frozen
        vectors more with the shortcut.
        """
        learned, fixed = self.parts(ids, context)
        return learned if fixed is None else torch.cat([learned, fixed], 1)

    def parts(
        self, ids: torch.Tensor, context: Sequence[torch.Tensor] = ()
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The learned part of the vectors, shortcut included, and the fixed one of the residual.

        Args:
            ids: int64 ``[n]``.
            context: further frozen vectors of each row, each ``[n, some]``.
        """
        features = self.features(ids) if self.features is not None else None
        vectors = self.ids(ids)
        known = torch.cat([vectors, *context], 1) if context else vectors
        dropped = self.dropout(known)
        learned: torch.Tensor = self.mlp(self.join(dropped, features))
        if self.joins_known:
            beside = known if self.shortcut is None else self.shortcut(dropped)
            learned = torch.cat([learned, beside], 1)
        return learned, None if self.residual is None else self.residual(vectors)


class TwoTower(nn.Module):
    """Users and items in one space; the score of a pair is the dot product of their vectors.

    With a history, the user tower also sees the frozen vectors of the user's last items; with
    transitions, those of what the last items lead to, and the item tower those of what leads to
    the item.

    Args:
        user: the user side.
        item: the item side.
        config: id embedding, widths.
        device: where the MLPs live.
        windows: of the history, ascending; none is no history.
    """

    def __init__(
        self,
        user: SideSpec,
        item: SideSpec,
        config: ModelConfig,
        device: torch.device,
        windows: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.windows = list(windows)
        self.tower_dim = config.tower[-1]
        self.context_dim = len(self.windows) * (config.id_dim + item.transition_dim)
        known_of_item = config.id_dim + item.transition_dim
        to_item, itself = (known_of_item, 0) if config.shortcut else (None, None)
        self.user = Tower(user, config, device, self.context_dim, to_item)
        self.item = Tower(item, config, device, item.transition_dim, itself)
        self.sources = self.targets = None
        if item.transition_dim:
            self.sources, self.targets = (
                FrozenIds(name, item.rows, item.transition_dim, device)
                for name in ("item_source", "item_target")
            )

    def frozen_tables(self) -> dict[str, FrozenIds]:
        """Every table that never changes, by the prefix of its entries in the state."""
        named = {
            "user.ids": self.user.ids,
            "item.ids": self.item.ids,
            "sources": self.sources,
            "targets": self.targets,
        }
        return {k: v for k, v in named.items() if isinstance(v, FrozenIds)}

    def forward(self, batch: Batch) -> torch.Tensor:
        """Scores of the batch: ``[pairs]``, or ``[rows, candidates]`` where it has no pairs.

        Each tower sees each id once; with a history the user tower sees each example.
        """
        context = [] if batch.context is None else [batch.context]
        users, fixed_users = self.user.parts(batch.users, context)
        items, fixed_items = self.item.parts(batch.items, self.lead_ins(batch.items))
        if batch.pattern is None:
            width = self.tower_dim
            scores = users[:, :width] @ items[:, :width].t()
            if users.shape[1] > width:
                # The shortcut's item vectors are frozen: a third of its product need not be made.
                scores = torch.addmm(scores, users[:, width:], items[:, width:].detach().t())
            if fixed_users is None or fixed_items is None:
                return scores
            return scores + fixed_users @ fixed_items.t()
        scores = pair_scores(users, items, batch.pattern)
        if fixed_users is None or fixed_items is None:
            return scores
        # Apart from the learned part, for no gradient flows here.
        return scores + products_at(batch.pattern.crow, batch.pattern.col, fixed_users, fixed_items)

    def user_vectors(self, ids: torch.Tensor, history: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors ``[n, d]`` of users ``[n]`` with histories ``[n, L]``."""
        context = [] if history is None else [self.context(history)]
        vectors: torch.Tensor = self.user(ids, context)
        return vectors

    def item_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of items ``[n]``."""
        vectors: torch.Tensor = self.item(ids, self.lead_ins(ids))
        return vectors

    @torch.no_grad()
    def context(self, history: torch.Tensor) -> torch.Tensor:
        """What the last items tell of each row: frozen vectors side by side.

        Args:
            history: int32 ``[n, L]``, see `cadc_rec.models.history`.

        Returns:
            ``[n, context_dim]``.
        """
        assert isinstance(self.item.ids, FrozenIds)
        means = window_means(self.item.ids, history, self.windows)
        if self.sources is not None:
            means += window_means(self.sources, history, self.windows)
        return torch.cat(means, 1)

    def lead_ins(self, items: torch.Tensor) -> list[torch.Tensor]:
        """What leads to each item: its frozen vector as a target."""
        return [] if self.targets is None else [self.targets(items)]
