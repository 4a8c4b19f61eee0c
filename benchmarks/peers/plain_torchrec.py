"""The two towers as TorchRec's own examples would have them: jagged tensors, DMP, a plain loop.

A collection a side with ids and attributes, sharded data parallel as ours is on one process, an
MLP a side, Adam. Every pair is looked up and goes through the item tower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torchrec import KeyedJaggedTensor

from benchmarks.peers.ours import PlainBatch
from benchmarks.peers.plain_torch import load_mlp, plain_mlp
from benchmarks.peers.timing import Work
from cadc_rec.data.dataset import Attribute, Dataset
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import build_collection, shard_model
from cadc_rec.distributed.state import load_state
from cadc_rec.models.jagged import wait


class JaggedTower(nn.Module):
    """Jagged ids and attributes to vectors."""

    def __init__(
        self,
        side: str,
        rows: int,
        attributes: Sequence[Attribute],
        ids: int,
        features: int,
        tower: Sequence[int],
    ) -> None:
        super().__init__()
        names = [f"{side}_{attribute.name}" for attribute in attributes]
        sizes = {name: (a.size, features) for name, a in zip(names, attributes, strict=True)}
        several = {n for n, a in zip(names, attributes, strict=True) if a.kind == "multi"}
        self.keys = [side, *names]
        self.tables = build_collection({side: (rows, ids), **sizes}, mean=frozenset(several))
        self.mlp = plain_mlp([ids + features * len(attributes), *tower])

    def forward(self, jagged: KeyedJaggedTensor) -> torch.Tensor:
        """Vectors ``[n, d]``."""
        found = wait(self.tables(jagged))  # whose own order is that of its kernels
        vectors: torch.Tensor = self.mlp(torch.cat([found[key] for key in self.keys], 1))
        return vectors


class JaggedTowers(nn.Module):
    """Scores of a batch's pairs."""

    def __init__(self, user: JaggedTower, item: JaggedTower) -> None:
        super().__init__()
        self.user, self.item = user, item

    def forward(self, users: KeyedJaggedTensor, items: KeyedJaggedTensor) -> torch.Tensor:
        """Scores ``[B, 1 + K]`` of users ``[B]`` and items ``[B (1 + K)]``."""
        of_users, of_items = self.user(users), self.item(items)
        return (of_users[:, None, :] * of_items.view(len(of_users), -1, of_users.shape[1])).sum(2)


class TorchRecTraining:
    """Plain TorchRec as a contender; a turn is one pass over its batches, made beforehand.

    Args:
        dataset: sizes and attributes.
        state: the weights to start from, by our names.
        tower: widths.
        learning_rate: Adam's.
        batches: of a turn.
        processes: this process alone.
    """

    def __init__(
        self,
        dataset: Dataset,
        state: Mapping[str, torch.Tensor],
        tower: Sequence[int],
        learning_rate: float,
        batches: Sequence[PlainBatch],
        processes: Processes,
    ) -> None:
        self.dataset = dataset
        self.batches = [self.jagged(batch) for batch in batches]
        sides, weights = {}, {}
        for side, rows, attributes in (
            ("user", dataset.n_users, dataset.user_attributes),
            ("item", dataset.n_items, dataset.item_attributes),
        ):
            ids = state[f"{side}.ids.table.embedding_bags.{side}.weight"]
            weights[f"{side}.tables.embedding_bags.{side}.weight"] = ids
            width = 0
            for attribute in attributes:
                entry = f"tables.embedding_bags.{side}_{attribute.name}.weight"
                table = weights[f"{side}.{entry}"] = state[f"{side}.features.{entry}"]
                width = table.shape[1]
            sides[side] = JaggedTower(side, rows, attributes, ids.shape[1], width, tower)
            load_mlp(sides[side].mlp, side, state)
        module = JaggedTowers(sides["user"], sides["item"])
        kinds = dict.fromkeys((*sides["user"].keys, *sides["item"].keys), "data_parallel")
        self.wrapped = shard_model(module, kinds, processes, len(batches[0].users))
        load_state(self.wrapped, weights, keep=lambda name: name in weights)
        self.adam = torch.optim.Adam(self.wrapped.parameters(), lr=learning_rate, fused=True)

    def jagged(self, batch: PlainBatch) -> tuple[KeyedJaggedTensor, KeyedJaggedTensor]:
        """The jagged tensors of a batch."""
        data = self.dataset
        return (
            _jagged("user", batch.users.numpy(), data.user_attributes),
            _jagged("item", batch.items.flatten().numpy(), data.item_attributes),
        )

    def step(self, users: KeyedJaggedTensor, items: KeyedJaggedTensor) -> torch.Tensor:
        """One optimizer step; the mean loss over its pairs."""
        scores = self.wrapped(users, items)
        labels = torch.zeros_like(scores)
        labels[:, 0] = 1.0
        loss = F.binary_cross_entropy_with_logits(scores, labels)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.detach()

    def turn(self) -> Work:
        """One pass over the batches."""
        for users, items in self.batches:
            self.step(users, items)
        return Work(sum(users.stride() for users, _ in self.batches))

    def losses(self, batches: Sequence[PlainBatch]) -> list[float]:
        """Losses of a step on each of these batches."""
        return [float(self.step(*self.jagged(batch))) for batch in batches]


def _jagged(side: str, ids: np.ndarray, attributes: Sequence[Attribute]) -> KeyedJaggedTensor:
    """One key for the ids and one for each attribute."""
    values, lengths = [ids], [np.ones(len(ids), np.int64)]
    for attribute in attributes:
        counts = np.diff(attribute.indptr)[ids]
        ends = np.cumsum(counts)
        shift = np.repeat(attribute.indptr[ids] - (ends - counts), counts)
        values.append(attribute.values[shift + np.arange(len(shift))].astype(np.int64))
        lengths.append(counts)
    return KeyedJaggedTensor(
        keys=[side, *(f"{side}_{attribute.name}" for attribute in attributes)],
        values=torch.from_numpy(np.concatenate(values)),
        lengths=torch.from_numpy(np.concatenate(lengths).astype(np.int32)),
    )
