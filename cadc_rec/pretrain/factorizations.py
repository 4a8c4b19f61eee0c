"""The two models of pre-training that are trained by gradients.

Matrix factorization (CADC, the pre-training equation): score(u, i) = u'.v' + u_bias + v_bias + b,
and sigma(score) is the probability of an interaction. A table's row is ``[factors..., bias]``,
95 + 1 = 96 by default; that row, bias and all, is what the two towers receive. Its tables are
TorchRec EmbeddingBagCollections, and `cadc_rec.pretrain.alternating` trains their rows directly.

An MLP on the two vectors (CADC-MLP): score(u, i) = MLP [u' ; v'], as in Neural Collaborative
Filtering (He et al. 2017, the MLP part), in place of the dot product. The towers receive the
tables, and the MLP is thrown away. Its first layer is linear in each of the two vectors, so it runs
once on each different id of a batch; only what follows the first ReLU runs on pairs. Each rank
holds its own rows of the tables, and is sent those that its batch refers to.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from zlib import crc32

import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.randomness import Purpose, normal_blocks
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import build_collection
from cadc_rec.distributed.trained_rows import TrainedRows
from cadc_rec.models.forward import Scores
from cadc_rec.models.jagged import one_id_each, wait
from cadc_rec.models.summed_loss import Loss


class MatrixFactorization(nn.Module):
    """Two tables and a global bias.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        factors: factors of a vector; the bias is one element more.
    """

    def __init__(self, n_users: int, n_items: int, factors: int) -> None:
        super().__init__()
        self.users = build_collection({"user": (n_users, factors + 1)})
        self.items = build_collection({"item": (n_items, factors + 1)})
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, users: KeyedJaggedTensor, items: KeyedJaggedTensor) -> torch.Tensor:
        """Scores ``[n]`` of n (user, item) pairs, before the sigmoid."""
        u, v = wait(self.users(users)).values(), wait(self.items(items)).values()
        return (u[:, :-1] * v[:, :-1]).sum(1) + u[:, -1] + v[:, -1] + self.bias

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores ``[n]`` of the pairs (users[j], items[j]), both int64 ``[n]``."""
        scores: torch.Tensor = self(one_id_each("user", users), one_id_each("item", items))
        return scores


class NeuralFactorization(nn.Module):
    """Two tables and an MLP on their joined rows.

    Args:
        n_users: rows of the user table.
        n_items: rows of the item table.
        width: of a vector.
        hidden: widths of the hidden layers.
        processes: the ranks, each of which holds its share of both tables.
    """

    def __init__(
        self, n_users: int, n_items: int, width: int, hidden: Sequence[int], processes: Processes
    ) -> None:
        super().__init__()
        self.users = TrainedRows(n_users, width, processes)
        self.items = TrainedRows(n_items, width, processes)
        device = processes.device
        # Made on the CPU and moved, so that a seed starts them alike on every device.
        self.of_user = nn.Linear(width, hidden[0]).to(device)
        self.of_item = nn.Linear(width, hidden[0], bias=False).to(device)
        layers: list[nn.Module] = []
        for before, after in pairwise([*hidden, 1]):
            layers += [nn.ReLU(), nn.Linear(before, after)]
        self.mlp = nn.Sequential(*layers).to(device)

    def initialize(self, seed: int, std: float) -> None:
        """Normal vectors, the same on any number of ranks."""
        with torch.no_grad():
            for side, table in (("user", self.users), ("item", self.items)):
                name = f"{side}s.embedding_bags.{side}.weight"  # as it was in TorchRec's tables
                key = (seed, Purpose.TABLE_INITIALIZATION, crc32(name.encode()))
                for part, values in normal_blocks(key, table.rows, table.weight.shape[1], std):
                    table.weight[part] = torch.from_numpy(values)

    def user_part(self, ids: torch.Tensor) -> torch.Tensor:
        """The user's half of the first layer, ``[n, hidden[0]]`` of ascending int64 ids ``[n]``."""
        part: torch.Tensor = self.of_user(self.users(ids))
        return part

    def item_part(self, ids: torch.Tensor) -> torch.Tensor:
        """The item's half of the first layer, ``[n, hidden[0]]`` of ascending int64 ids ``[n]``."""
        part: torch.Tensor = self.of_item(self.items(ids))
        return part

    def forward(self, batch: Batch[torch.Tensor], loss: Loss | None = None) -> torch.Tensor:
        """The summed loss of the batch's pairs; without one their scores before the sigmoid."""
        users, items = self.user_part(batch.users), self.item_part(batch.items)
        assert batch.pattern is not None
        crow, col = batch.pattern.crow, batch.pattern.col
        rows = torch.repeat_interleave(crow.diff(), output_size=len(col))
        scores: torch.Tensor = self.mlp(users.index_select(0, rows) + items.index_select(0, col))
        scores = scores.squeeze(1)
        return scores if loss is None else loss(Scores(scores.float()), batch)
