"""All items, for steps that see all of them, and the share whose vectors this process computes.

With several processes such a step would have each of them run the item tower on the very same
rows. Each runs it on its share instead, and the vectors are joined. What is read of the share's
ids stays the same in every step, so it is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch


def _alone(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


class Catalogue:
    """The items of a step that has all of them; made when the first such step comes.

    Args:
        n_items: how many there are.
        device: where the ids lie.
        share: the run of them whose vectors this process computes; None is all.
        join: vectors of the share to ``[n_items, d]``, those of all shares, with the gradient of
            what every process makes of them.
    """

    def __init__(
        self,
        n_items: int,
        device: torch.device,
        share: range | None = None,
        join: Callable[[torch.Tensor], torch.Tensor] = _alone,
    ) -> None:
        self.n_items, self.device, self.join = n_items, device, join
        self._share = range(n_items) if share is None else share

    @cached_property
    def everything(self) -> torch.Tensor:
        """int64 ``[n_items]``, in order; the same tensor every time."""
        return torch.arange(self.n_items, device=self.device)

    @cached_property
    def share(self) -> torch.Tensor:
        """int64, this process's; the same tensor every time."""
        if len(self._share) == self.n_items:
            return self.everything
        return self.everything[self._share.start : self._share.stop]

    def holds(self, ids: torch.Tensor) -> bool:
        """Whether `ids` is one of the two tensors itself, of which nothing changes but weights."""
        made = vars(self)
        return any(ids is made.get(name) for name in ("everything", "share"))
