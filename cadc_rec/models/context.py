"""The moment of a request as an input of the user tower: a learned vector for each code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_STD = 0.1


class ContextEmbedding(nn.Module):
    """Embeds the codes of requests.

    The tables have a few rows each and every process has a copy of them, as of an MLP.

    Args:
        sizes: number of codes of each feature, in the order of the codes' columns.
        dim: width of each feature's vector.
        device: where they live.
    """

    def __init__(self, sizes: Mapping[str, int], dim: int, device: torch.device) -> None:
        super().__init__()
        self.sizes = list(sizes.values())
        # Made on the CPU and moved, so that a seed starts them alike on every device. By number:
        # a column may have a name that no module can.
        tables = [nn.Embedding(size, dim) for size in sizes.values()]
        for table in tables:
            nn.init.normal_(table.weight, std=_STD)
        self.tables = nn.ModuleList(tables).to(device)

    def forward(self, codes: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """Vectors ``[n, width]``: the attributes' ``features``, if any, then each code's.

        Args:
            codes: integers ``[n, features]``.
            features: ``[n, some]``.
        """
        parts = [] if features is None else [features]
        parts += [table(codes[:, n]) for n, table in enumerate(self.tables)]
        return torch.cat(parts, 1)
