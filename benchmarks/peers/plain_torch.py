"""The two towers as most people would write them in PyTorch, without this package.

`nn.Embedding` for ids and attributes, an MLP a side, dot products, Adam over everything that is
learned. The user tower sees each positive once, the item tower each pair: no id is looked up once
for all its places in the batch. The mathematics is that of ours, which equal losses show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peers.ours import PlainBatch
from benchmarks.peers.timing import Work
from cadc_rec.data.dataset import Attribute, Dataset


class PlainFeatures(nn.Module):
    """Attributes of an id: one embedding each, the mean where an id has several values."""

    def __init__(self, attributes: Sequence[Attribute], width: int) -> None:
        super().__init__()
        self.width = width * len(attributes)
        self.tables = nn.ModuleList()
        self.codes = [torch.from_numpy(padded_codes(attribute)) for attribute in attributes]
        for attribute in attributes:
            # The padding is one code more, which the mean leaves out.
            bag = nn.EmbeddingBag(
                attribute.size + 1, width, mode="mean", padding_idx=attribute.size
            )
            one = nn.Embedding(attribute.size + 1, width)
            self.tables.append(bag if attribute.kind == "multi" else one)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """``[n, features * width]`` of ids ``[n]``."""
        parts = []
        for table, codes in zip(self.tables, self.codes, strict=True):
            rows = codes[ids]
            parts.append(table(rows) if isinstance(table, nn.EmbeddingBag) else table(rows[:, 0]))
        return torch.cat(parts, 1)


def padded_codes(attribute: Attribute) -> np.ndarray:
    """Codes as int64 ``[ids, most]``, filled up with the code after the last."""
    counts = np.diff(attribute.indptr)
    padded = np.full((len(counts), max(int(counts.max()), 1)), attribute.size, np.int64)
    inside = np.arange(padded.shape[1]) < counts[:, None]
    padded[inside] = attribute.values
    return padded


class PlainTower(nn.Module):
    """An id's embedding beside its features, through an MLP."""

    def __init__(
        self,
        rows: int,
        attributes: Sequence[Attribute],
        ids: int,
        features: int,
        tower: Sequence[int],
    ) -> None:
        super().__init__()
        self.ids = nn.Embedding(rows, ids)
        self.features = PlainFeatures(attributes, features)
        self.mlp = plain_mlp([ids + self.features.width, *tower])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of ids ``[n]``."""
        vectors: torch.Tensor = self.mlp(torch.cat([self.ids(ids), self.features(ids)], 1))
        return vectors


def plain_mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with a ReLU between any two."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def load_mlp(mlp: nn.Sequential, side: str, state: Mapping[str, torch.Tensor]) -> None:
    """Give a `plain_mlp` the weights of one of our towers."""
    linear = [layer for layer in mlp if isinstance(layer, nn.Linear)]
    names = [f"{side}.join", *(f"{side}.mlp.{2 * n + 1}" for n in range(len(linear) - 1))]
    for layer, name in zip(linear, names, strict=True):
        layer.load_state_dict({kind: state[f"{name}.{kind}"] for kind in ("weight", "bias")})


class PlainTraining:
    """Plain PyTorch as a contender; a turn is one pass over its batches, made beforehand.

    Args:
        dataset: sizes and attributes.
        state: the weights to start from, by our names.
        tower: widths.
        frozen: whether the id embeddings are frozen.
        learning_rate: Adam's.
        batches: of a turn.
    """

    def __init__(
        self,
        dataset: Dataset,
        state: Mapping[str, torch.Tensor],
        tower: Sequence[int],
        frozen: bool,
        learning_rate: float,
        batches: Sequence[PlainBatch],
    ) -> None:
        self.batches = batches
        self.user = _tower("user", dataset.user_attributes, state, tower, frozen)
        self.item = _tower("item", dataset.item_attributes, state, tower, frozen)
        learned = [*self.user.parameters(), *self.item.parameters()]
        # The same optimizer on both sides: the fused one, which is kinder than PyTorch's default.
        self.adam = torch.optim.Adam(
            [p for p in learned if p.requires_grad], lr=learning_rate, fused=True
        )

    def step(self, batch: PlainBatch) -> torch.Tensor:
        """One optimizer step; the mean loss over its pairs."""
        users, items = self.user(batch.users), self.item(batch.items.flatten())
        items = items.view(*batch.items.shape, -1)
        scores = (users[:, None, :] * items).sum(2)
        labels = torch.zeros_like(scores)
        labels[:, 0] = 1.0
        loss = F.binary_cross_entropy_with_logits(scores, labels)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.detach()

    def turn(self) -> Work:
        """One pass over the batches."""
        for batch in self.batches:
            self.step(batch)
        return Work(sum(len(batch.users) for batch in self.batches))

    def losses(self, batches: Sequence[PlainBatch]) -> list[float]:
        """Losses of a step on each of these batches."""
        return [float(self.step(batch)) for batch in batches]


def _tower(
    side: str,
    attributes: Sequence[Attribute],
    state: Mapping[str, torch.Tensor],
    tower: Sequence[int],
    frozen: bool,
) -> PlainTower:
    """One side with our weights."""
    table = state[f"{side}.ids.table.embedding_bags.{side}.weight"]
    names = [f"{side}.features.tables.embedding_bags.{side}_{a.name}.weight" for a in attributes]
    width = state[names[0]].shape[1] if names else 0
    plain = PlainTower(len(table), attributes, table.shape[1], width, tower)
    with torch.no_grad():
        plain.ids.weight.copy_(table)
        for own, name in zip(plain.features.tables, names, strict=True):
            # torch types a submodule attribute as Tensor or Module; this one is a weight.
            own.weight[:-1].copy_(state[name])  # type: ignore[index]
    plain.ids.weight.requires_grad_(not frozen)
    load_mlp(plain.mlp, side, state)
    return plain
