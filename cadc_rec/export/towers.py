"""The two towers over TorchRec collections: jagged features in, vectors and scores out.

This is the form that TorchRec quantizes, shards and scripts. A request names what its rows are
about in one `KeyedJaggedTensor`; its keys, in order, are `query_keys` and `item_keys`: the id, the
codes of each attribute, for a model with a history the last items, the latest first, and for one
with a context the code of each of its features. A feature without values is unknown: its vector is
zero, or of a context that of code 0. Vectors and numbers of a user or item are looked up by its id.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torchrec import (
    EmbeddingBagCollection,
    EmbeddingBagConfig,
    KeyedJaggedTensor,
    PoolingType,
)

from cadc_rec.export.lists import ListScores
from cadc_rec.export.trained import Side, Table, TrainedModel
from cadc_rec.models.features import AttributeValues

USER, ITEM, HISTORY = "user", "item", "history"
_CPU = torch.device("cpu")


def query_keys(trained: TrainedModel) -> list[str]:
    """Features of the query side, in the order a request has them."""
    keys = [USER, *(table.name for table in trained.user.features)]
    keys += [HISTORY] if trained.history_length else []
    return [*keys, *request_keys(trained)]


def request_keys(trained: TrainedModel) -> list[str]:
    """Those of them that are of the request's context."""
    return [f"context_{name}" for name in trained.request]


def item_keys(trained: TrainedModel) -> list[str]:
    """Features of the item side, in the order a request has them."""
    return [ITEM, *(table.name for table in trained.item.features)]


def collection(
    tables: Sequence[Table], features: Sequence[str], pooling: PoolingType
) -> EmbeddingBagCollection:
    """A collection that holds `tables`, each looked up by the feature at its place.

    They all lie in one kernel, so what is looked up is in their order.
    """
    configs = [
        EmbeddingBagConfig(
            name=table.name,
            feature_names=[feature],
            num_embeddings=table.weight.shape[0],
            embedding_dim=table.weight.shape[1],
            pooling=pooling,
        )
        for table, feature in zip(tables, features, strict=True)
    ]
    made = EmbeddingBagCollection(tables=configs, device=torch.device("cpu"))
    with torch.no_grad():
        for table in tables:
            made.embedding_bags[table.name].weight.copy_(table.weight)
    return made.requires_grad_(False)


class Collections(nn.Module):
    """Every table of a model, each in one collection; what is quantized and sharded.

    Each table is here once, even if several modules read it: item towers and histories both read
    the items' tables.

    Args:
        trained: whose tables they are.
    """

    def __init__(self, trained: TrainedModel) -> None:
        super().__init__()
        user, item = trained.user, trained.item
        self.user_ids = collection(user.ids, [USER] * len(user.ids), PoolingType.SUM)
        self.user_features = _of_features(user)
        self.user_dense = _by_id(user.dense, USER)
        self.item_ids = collection(item.ids[:1], [ITEM], PoolingType.SUM)
        self.item_free = _by_id(item.ids[1:], ITEM)
        self.item_features = _of_features(item)
        self.item_dense = _by_id(item.dense, ITEM)
        self.sources = _by_id([trained.sources] if trained.sources else [], ITEM)
        self.targets = _by_id([trained.targets] if trained.targets else [], ITEM)


def _of_features(side: Side) -> EmbeddingBagCollection | None:
    """A side's attribute tables; the mean of a single value is that value."""
    names = [table.name for table in side.features]
    return collection(side.features, names, PoolingType.MEAN) if names else None


def _by_id(tables: Sequence[Table], key: str) -> EmbeddingBagCollection | None:
    return collection(tables, [key] * len(tables), PoolingType.SUM) if tables else None


class HistoryLookup(nn.Module):
    """Vectors of the items of histories, one by one.

    Args:
        tables: quantized, perhaps sharded.
        length: items of a history that count.
        device: where requests arrive.
    """

    places: torch.Tensor

    def __init__(self, tables: Collections, length: int, device: torch.device) -> None:
        super().__init__()
        self.length, self.items, self.sources = length, tables.item_ids, tables.sources
        self.register_buffer("places", torch.arange(length, device=device))

    def forward(
        self, history: KeyedJaggedTensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Item vectors ``[n, L, dim]``, source vectors ``[n, L, e]`` and bool ``[n, L]``.

        Args:
            history: one key; what is beyond the L latest items of a row is left out.
        """
        values, offsets = history.values(), history.offsets()
        one_each = KeyedJaggedTensor(
            keys=[ITEM], values=values, lengths=torch.ones_like(values, dtype=torch.int32)
        )
        items = self._padded(self.items(one_each).values(), offsets)
        known = self.places[None] < history.lengths()[:, None]
        if self.sources is None:
            return items, items[:, :, :0], known
        return items, self._padded(self.sources(one_each).values(), offsets), known

    def _padded(self, vectors: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        padded: torch.Tensor = torch.ops.fbgemm.jagged_to_padded_dense(
            vectors, [offsets], [self.length], 0.0
        )
        return padded


class RequestLookup(nn.Module):
    """Codes of requests, side by side.

    Args:
        features: how many there are.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, request: KeyedJaggedTensor) -> torch.Tensor:
        """int64 ``[n, features]``; 0 where a feature has no value.

        Args:
            request: a key a feature.
        """
        codes: torch.Tensor = torch.ops.fbgemm.jagged_to_padded_dense(
            request.values(), [request.offsets()], [1], 0.0
        )
        return codes.reshape(self.features, codes.shape[0] // self.features).t()


class QueryTower(nn.Module):
    """Jagged features of users to vectors.

    Args:
        trained: for the features and their order.
        tables: quantized, perhaps sharded.
        dense: `UserForward`, as it is or scripted.
        device: where requests arrive.
    """

    def __init__(
        self,
        trained: TrainedModel,
        tables: Collections,
        dense: nn.Module,
        device: torch.device = _CPU,
    ) -> None:
        super().__init__()
        self.keys = query_keys(trained)
        self.ids, self.features, self.dense = tables.user_ids, tables.user_features, dense
        self.vectors, self.layers = tables.user_dense, trained.user.layers_on(device)
        length = trained.history_length
        self.histories = HistoryLookup(tables, length, device) if length else None
        self.requests = RequestLookup(len(trained.request)) if trained.request else None
        self.splits = [1, len(trained.user.features), *([1] if length else [])]
        self.splits += [len(trained.request)] if trained.request else []

    def forward(self, request: KeyedJaggedTensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of a request with `keys`."""
        parts = request.split(self.splits)
        rows = self.ids(parts[0]).values()
        features = rows[:, :0]
        if self.features is not None:
            features = self.features(parts[1]).values()
        if self.vectors is not None and self.layers is not None:
            projected = self.layers(self.vectors(parts[0]).values())
            features = torch.cat([features, projected], 1)
        if self.histories is None:
            nothing = rows[:, None][:, :0, :0]
            histories = nothing, nothing, nothing.sum(2) > 0
        else:
            histories = self.histories(parts[2])
        if self.requests is None:
            vectors: torch.Tensor = self.dense(rows, features, *histories)
        else:
            vectors = self.dense(rows, features, *histories, self.requests(parts[-1]))
        return vectors


class ItemTower(nn.Module):
    """Jagged features of items to vectors.

    Args:
        trained: for the features and their order.
        tables: quantized, perhaps sharded.
        dense: `ItemForward`, as it is or scripted.
        device: where requests arrive.
    """

    def __init__(
        self,
        trained: TrainedModel,
        tables: Collections,
        dense: nn.Module,
        device: torch.device = _CPU,
    ) -> None:
        super().__init__()
        self.keys = item_keys(trained)
        self.ids, self.free, self.features = (
            tables.item_ids,
            tables.item_free,
            tables.item_features,
        )
        self.targets, self.dense = tables.targets, dense
        self.vectors, self.layers = tables.item_dense, trained.item.layers_on(device)
        self.splits = [1, len(trained.item.features)]

    def forward(self, request: KeyedJaggedTensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of a request with `keys`."""
        parts = request.split(self.splits)
        rows = self.ids(parts[0]).values()
        if self.free is not None:
            rows = torch.cat([rows, self.free(parts[0]).values()], 1)
        features = targets = rows[:, :0]
        if self.features is not None:
            features = self.features(parts[1]).values()
        if self.vectors is not None and self.layers is not None:
            projected = self.layers(self.vectors(parts[0]).values())
            features = torch.cat([features, projected], 1)
        if self.targets is not None:
            targets = self.targets(parts[0]).values()
        vectors: torch.Tensor = self.dense(rows, features, targets)
        return vectors


class PairScores(nn.Module):
    """Scores of (user, item) pairs.

    Args:
        query: the user side.
        item: the item side.
        lists: what is added to the dot products; None adds nothing.
    """

    def __init__(self, query: QueryTower, item: ItemTower, lists: ListScores | None = None) -> None:
        super().__init__()
        self.query, self.item, self.lists = query, item, lists
        self.keys = [*query.keys, *item.keys]
        self.splits = [len(query.keys), len(item.keys)]

    def forward(self, request: KeyedJaggedTensor) -> torch.Tensor:
        """Scores ``[n]`` of a request with the keys of both sides, those of the user first."""
        parts = request.split(self.splits)
        dots = (self.query(parts[0]) * self.item(parts[1])).sum(1)
        if self.lists is None:
            return dots
        history = parts[0].split(self.query.splits)[2]
        items = parts[1].split(self.item.splits)[0]
        listed = self.lists(history.lengths(), history.values(), items.lengths(), items.values())
        # An item without a number, which is unknown, has no score of lists.
        return dots + torch.segment_reduce(listed, "sum", lengths=items.lengths(), initial=0.0)


def side_features(ids: np.ndarray, attributes: Sequence[AttributeValues]) -> list[np.ndarray]:
    """Lengths and values, in turn, of a side's id feature and then of each attribute.

    Args:
        ids: int64 ``[n]``; a negative one is unknown and has no values at all.
        attributes: the side's, in order.
    """
    known = ids >= 0
    parts = [known.astype(np.int32), ids[known]]
    for attribute in attributes:
        lengths = np.where(known, np.diff(attribute.indptr)[ids], 0)
        starts = np.where(known, attribute.indptr[ids], 0)
        ends = lengths.cumsum()
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(lengths.sum())
        parts += [lengths.astype(np.int32), attribute.values[places].astype(np.int64)]
    return parts


def history_features(histories: np.ndarray) -> list[np.ndarray]:
    """Lengths and values of histories ``[n, L]``, the latest first, -1 where they have ended."""
    known = histories >= 0
    return [known.sum(1, dtype=np.int32), histories[known].astype(np.int64)]


def batch_of(parts: Sequence[np.ndarray]) -> dict[str, torch.Tensor]:
    """A predict module's batch of lengths and values in turn, a pair a feature."""
    return {
        "id_list_features.lengths": torch.from_numpy(np.concatenate(parts[::2])),
        "id_list_features.values": torch.from_numpy(np.concatenate(parts[1::2])),
        "float_features": torch.zeros(len(parts[0]), 0),
    }
