"""The paper's matrix factorization, its tables in TorchRec EmbeddingBagCollections.

score(u, i) = u'.v' + u_bias + v_bias + b, and sigma(score) is the probability of an interaction
(CADC, the pre-training equation). A table's row is ``[factors..., bias]``, 95 + 1 = 96 by default;
that row, bias and all, is what the two towers receive.

`MatrixFactorization.forward` scores pairs through the sharded collections like any TorchRec model.
It is trained by `cadc_rec.pretrain.alternating`, which works on the tables' rows directly.
"""

from __future__ import annotations

import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from cadc_rec.distributed.sharding import build_collection
from cadc_rec.models.rows import one_id_each, wait


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
