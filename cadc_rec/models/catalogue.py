"""All items, for steps that see all of them, and the share whose vectors this process computes.

With several processes such a step would have each of them run the item tower on the very same
rows. Each runs it on its share instead, and the vectors are joined. What is read of the share's
ids stays the same in every step, so it is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


def _alone(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


@dataclass(frozen=True)
class Catalogue:
    """The items of a step that has all of them.

    Attributes:
        everything: int64 ``[n_items]``, in order.
        share: the run of them whose vectors this process computes.
        join: vectors of the share to ``[n_items, d]``, those of all shares, with the gradient of
            what every process makes of them.
    """

    everything: torch.Tensor
    share: torch.Tensor
    join: Callable[[torch.Tensor], torch.Tensor] = _alone

    @classmethod
    def of_one(cls, n_items: int, device: torch.device) -> Catalogue:
        """A process alone computes all vectors."""
        everything = torch.arange(n_items, device=device)
        return cls(everything, everything)
