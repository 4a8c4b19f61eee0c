"""How an id becomes a vector: the integration techniques of the paper's Table 2.

Each is a module with one EmbeddingBagCollection of its own, ``[n]`` ids to ``[n, dim]``. Frozen
tables are kept apart from trainable ones, for sharding, optimizer and backward all differ.
"""

from __future__ import annotations

import torch
from torch import nn

from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.lookup import one_id_each, wait


class TrainableIds(nn.Module):
    """An embedding learned with the rest of the model (Random, the gold standard)."""

    frozen = False

    def __init__(self, side: str, rows: int, dim: int) -> None:
        super().__init__()
        self.side = side
        self.table = build_collection({side: (rows, dim)})

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, dim]`` of int64 ids ``[n]``."""
        return wait(self.table(one_id_each(self.side, ids))).values()


class FrozenIds(TrainableIds):
    """Pre-trained vectors that never change (Init-Frz, the paper's CADC).

    Both the lookup and the wait for it run under ``no_grad``: that alone keeps a sharded table
    still under every sharding type, with no backward all-to-all and no optimizer state.
    ``requires_grad=False`` before the wrapping is silently dropped by TorchRec.
    """

    frozen = True

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, dim]`` of int64 ids ``[n]``, without gradient."""
        return super().forward(ids)


ID_EMBEDDINGS: dict[str, type[TrainableIds]] = {
    "trainable": TrainableIds,
    "init_frozen": FrozenIds,
}
