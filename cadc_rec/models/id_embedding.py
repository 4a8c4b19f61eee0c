"""How an id becomes a vector: the integration techniques of the paper's Table 2.

Each is a module, ``[n]`` ids to ``[n, dim]``, in two steps: `rows` looks ids up in all its tables,
side by side, and `of_rows` computes the vectors. Its main table `table` is in an
EmbeddingBagCollection of its own, because frozen and trainable tables differ in sharding, optimizer
and backward. `pretrained` says whether pre-trained vectors are loaded into that table (only their
first columns if it is narrower), `frozen` whether it never changes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor

from cadc_rec.distributed.rows import RowExchange
from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.jagged import one_id_each, wait
from cadc_rec.models.rows import Cache


class TrainableIds(nn.Module):
    """An embedding learned with the rest of the model (Random, the gold standard).

    Args:
        side: ``user`` or ``item``; names the table.
        rows: number of ids.
        dim: width of the vectors it gives.
        device: device of the layers; the sharding plan places the tables.
    """

    pretrained = False
    frozen = False

    def __init__(self, side: str, rows: int, dim: int, device: torch.device) -> None:
        super().__init__()
        self.name, self.width = side, self.table_width(dim)  # the width is the main table's
        self.table = build_collection({side: (rows, self.width)})
        self.ahead: dict[str, Any] = {}
        """Answers of trained tables, by table, that the next lookup takes and need not ask for."""

    @staticmethod
    def table_width(dim: int) -> int:
        """Columns of the main table when vectors are `dim` wide."""
        return dim

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows ``[n, dim]`` of int64 ids ``[n]``, all tables side by side, the main one first."""
        return self._looked_up(self.name, self.table, ids)

    def _looked_up(self, name: str, table: nn.Module, ids: torch.Tensor) -> torch.Tensor:
        if name in self.ahead:
            return wait(self.ahead.pop(name)).values()
        return wait(table(one_id_each(name, ids))).values()

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, dim]`` of the rows ``[n, dim]`` that `rows` gives."""
        return rows

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, dim]`` of int64 ids ``[n]``."""
        return self.of_rows(self.rows(ids))

    def trained_tables(self) -> dict[str, nn.Module]:
        """The collections that an optimizer trains, by the name of their one table."""
        return {} if self.frozen else {self.name: self.table}

    def without_tables(self) -> TrainableIds:
        """The same layers without tables, which can only compute `of_rows`."""
        bare = copy.copy(self)
        bare._modules = {
            name: module
            for name, module in self._modules.items()
            if not isinstance(module, EmbeddingBagCollection)
        }
        return bare


class InitIds(TrainableIds):
    """Pre-trained vectors as the start, which are trained with the rest (Init)."""

    pretrained = True


class FrozenIds(TrainableIds):
    """Pre-trained vectors that never change (Init-Frz, the paper's CADC).

    Both the lookup and the wait for its result run under ``no_grad``. That alone keeps a sharded
    table unchanged under every sharding type, without a backward all-to-all or optimizer state.
    TorchRec silently drops a ``requires_grad=False`` that is set before wrapping.
    """

    pretrained = True
    frozen = True
    replica: torch.Tensor | None = None
    """The whole table's live rows, where this process holds them all: read directly then, for a
    collection's way to them takes a millisecond of each step. `build_model` sets it."""
    exchange: RowExchange | None = None
    """Where each rank holds a run of the rows: fetches them. A collection pools, so its row-wise
    shards send partial sums of everybody's rows to everybody. `build_model` sets it, too."""
    fetched: tuple[torch.Tensor, torch.Tensor] | None = None
    """Ids whose rows were fetched before they are asked for, and the rows."""

    def __init__(self, side: str, rows: int, dim: int, device: torch.device) -> None:
        super().__init__(side, rows, dim, device)
        self.cache: Cache[torch.Tensor] = Cache()
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def keep(self, ids: torch.Tensor, vectors: torch.Tensor) -> None:
        """Keep the rows that this rank's training needs, so that no rank asks the others.

        Args:
            ids: int64 ``[n]``, ascending: all ids that training will look up.
            vectors: ``[n, width]``, their vectors.
        """
        self._kept = ids, vectors

    def store_as_half(self) -> None:
        """Before wrapping: store the table as fp16; a lookup gives fp32."""
        (config,) = self.table.embedding_bag_configs()
        shape = (config.num_embeddings, config.embedding_dim)
        self.table = build_collection({self.name: shape}, half=True)

    @torch.no_grad()
    def lookup(self, ids: torch.Tensor) -> torch.Tensor:
        """The frozen vectors of int64 ids ``[n]``, without gradient."""
        return self.cache.get(ids, self._find)

    def _find(self, ids: torch.Tensor) -> torch.Tensor:
        if self._kept is not None and self.training:
            known, vectors = self._kept
            return vectors[torch.searchsorted(known, ids)]
        if self.fetched is not None and self.fetched[0] is ids:
            return self.fetched[1]
        return self.fetch(ids)

    @torch.no_grad()
    def fetch(self, ids: torch.Tensor) -> torch.Tensor:
        """The frozen vectors of int64 ids ``[n]`` from where they are."""
        if self.replica is not None:
            vectors = self.replica[ids]
        elif self.exchange is not None:
            vectors = self.exchange(ids)
        else:
            vectors = super().rows(ids)
        return vectors.float()  # itself, unless the table is stored as fp16

    @property
    def fetches(self) -> bool:
        """Whether training has other ranks send the rows that it looks up."""
        return self.exchange is not None and self._kept is None

    @torch.no_grad()
    def sums(self, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """The summed frozen vectors of bags of ids, ``[bags, width]``, without gradient.

        Args:
            ids: int64 ``[n]``, bag after bag.
            lengths: int32 ``[bags]``, ids of each.
        """
        starts = (lengths.cumsum(0) - lengths).to(torch.int64)
        if self.replica is not None:
            return F.embedding_bag(ids, self.replica, starts, mode="sum").float()
        if self.exchange is not None:
            rows, place = self.exchange.different(ids)
            return F.embedding_bag(place, rows.float(), starts, mode="sum")
        bags = KeyedJaggedTensor(keys=[self.name], values=ids, lengths=lengths)
        return wait(self.table(bags)).values().float()

    @torch.no_grad()
    def sequences(self, history: torch.Tensor) -> torch.Tensor:
        """See `cadc_rec.models.rows.Rows`."""
        known = history >= 0
        if self.replica is not None:
            rows = self.replica[history.clamp_min(0).to(torch.int64)].float()
            return rows.mul_(known[:, :, None])
        flat = self.sums(history[known].to(torch.int64), known.flatten().to(torch.int32))
        return flat.view(*history.shape, flat.shape[1])

    def window_means(self, history: torch.Tensor, windows: Sequence[int]) -> list[torch.Tensor]:
        """See `cadc_rec.models.rows.Rows`.

        Windows are nested, so each item is looked up once: the table sums the items of every ring
        between two windows, on the rank that holds them, and the sums are added up.
        """
        known = history >= 0
        bags, lengths, first = [], [], 0
        for last in windows:
            ring = known[:, first:last]
            bags.append(history[:, first:last][ring])
            lengths.append(ring.sum(1, dtype=torch.int32))
            first = last
        sums = self.sums(torch.cat(bags).to(torch.int64), torch.cat(lengths))
        sums = sums.view(len(windows), len(history), sums.shape[1])
        total = torch.zeros_like(sums[0])
        count = torch.zeros(len(history), device=history.device)
        means = []
        for ring_sum, ring_length in zip(sums, lengths, strict=True):
            total = total + ring_sum
            count = count + ring_length
            means.append(total / count.clamp_min(1)[:, None])
        return means

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """See `TrainableIds.rows`; without gradient."""
        return self.lookup(ids)


class HybridIds(FrozenIds):
    """Two thirds of the elements frozen, one third learned from a random start (Hybrid)."""

    def __init__(self, side: str, rows: int, dim: int, device: torch.device) -> None:
        super().__init__(side, rows, dim, device)
        self.free_name = f"{side}_free"
        self.free = build_collection({self.free_name: (rows, dim - self.table_width(dim))})

    @staticmethod
    def table_width(dim: int) -> int:
        """Two thirds of `dim`, in whole groups of the four floats that lookups take."""
        return max(4, round(2 * dim / 3 / 4) * 4)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """See `TrainableIds.rows`: frozen elements, then learned ones."""
        free = self._looked_up(self.free_name, self.free, ids)
        return torch.cat([self.lookup(ids), free], 1)

    def trained_tables(self) -> dict[str, nn.Module]:
        """The learned third."""
        return {self.free_name: self.free}


class LinearIds(FrozenIds):
    """A learned linear layer on the frozen vectors (Linear)."""

    def __init__(self, side: str, rows: int, dim: int, device: torch.device) -> None:
        super().__init__(side, rows, dim, device)
        self.layer = nn.Linear(dim, dim).to(
            device
        )  # made on the CPU, so that a seed gives the same start on every device

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See `TrainableIds.of_rows`."""
        vectors: torch.Tensor = self.layer(rows)
        return vectors


class MlpIds(LinearIds):
    """A learned MLP of one hidden layer on the frozen vectors (MLP)."""

    def __init__(self, side: str, rows: int, dim: int, device: torch.device) -> None:
        super().__init__(side, rows, dim, device)
        self.last = nn.Linear(dim, dim).to(device)

    def of_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See `TrainableIds.of_rows`."""
        vectors: torch.Tensor = self.last(super().of_rows(rows).relu())
        return vectors


ID_EMBEDDINGS: dict[str, type[TrainableIds]] = {
    "trainable": TrainableIds,
    "init": InitIds,
    "init_frozen": FrozenIds,
    "hybrid": HybridIds,
    "linear": LinearIds,
    "mlp": MlpIds,
    # `forward.py` adds the factorization's own score.
    "residual": FrozenIds,
}
