"""Pre-training with an MLP on the two vectors: the paper's CADC-MLP.

score(u, i) = MLP [u' ; v'], as in Neural Collaborative Filtering (He et al. 2017, the MLP part), in
place of matrix factorization's dot product; sigma(score) is the probability of an interaction. The
tables are TorchRec EmbeddingBagCollections; they are what the two towers receive, the MLP is thrown
away.

The first layer of the MLP is linear in each of the two vectors, so it runs once on each different
id of a batch; only what follows the first ReLU runs on pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from cadc_rec.data.load.batches import Batch
from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.lookup import one_id_each, wait


class NeuralFactorization(nn.Module):
    """Two tables and an MLP on their joined rows.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        width: of a vector.
        hidden: widths of the hidden layers.
        device: where the MLP lives.
    """

    def __init__(
        self, n_users: int, n_items: int, width: int, hidden: Sequence[int], device: torch.device
    ) -> None:
        super().__init__()
        self.users = build_collection({"user": (n_users, width)})
        self.items = build_collection({"item": (n_items, width)})
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        self.of_user = nn.Linear(width, hidden[0]).to(device)
        self.of_item = nn.Linear(width, hidden[0], bias=False).to(device)
        layers: list[nn.Module] = []
        for before, after in pairwise([*hidden, 1]):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.mlp = nn.Sequential(*layers).to(device)

    def user_part(self, ids: torch.Tensor) -> torch.Tensor:
        """The user's half of the first layer, ``[n, hidden[0]]`` of int64 ids ``[n]``."""
        part: torch.Tensor = self.of_user(wait(self.users(one_id_each("user", ids))).values())
        return part

    def item_part(self, ids: torch.Tensor) -> torch.Tensor:
        """The item's half of the first layer, ``[n, hidden[0]]`` of int64 ids ``[n]``."""
        part: torch.Tensor = self.of_item(wait(self.items(one_id_each("item", ids))).values())
        return part

    def forward(self, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """Scores ``[pairs]`` of the batch's pairs, before the sigmoid."""
        users, items = self.user_part(batch.users), self.item_part(batch.items)
        assert batch.pattern is not None
        crow, col = batch.pattern.crow, batch.pattern.col
        rows = torch.repeat_interleave(crow.diff(), output_size=len(col))
        scores: torch.Tensor = self.mlp(users.index_select(0, rows) + items.index_select(0, col))
        return scores.squeeze(1)
