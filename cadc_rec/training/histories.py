"""What the frozen tables tell of each example's history, for the steps of training.

A frozen table gives the same vectors every epoch. So they are pooled once and kept on the device
while they fit; a step then gathers its rows. Where they do not fit they are pooled anew for each
step: the same bits, more time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from cadc_rec.distributed.processes import Processes
from cadc_rec.models.two_tower import TwoTower

_CHUNK = 1024  # examples at once: each looks dozens of vectors up


class Histories:
    """Contexts of a rank's examples.

    Args:
        model: sharded, frozen tables loaded; pools histories.
        history: int32 ``[rows, L]``, of this rank's examples.
        rows_by_rank: number of rows of every rank: a sharded table answers when all ranks ask, so
            all ask equally often.
        processes: the ranks.
        limit_bytes: what the largest rank's contexts may take; more is pooled step by step.
    """

    def __init__(
        self,
        model: TwoTower,
        history: np.ndarray,
        rows_by_rank: Sequence[int],
        processes: Processes,
        limit_bytes: int,
    ) -> None:
        self.model, self.history, self.device = model, history, processes.device
        longest, width = max(rows_by_rank), model.context_dim + sum(model.prior_dims)
        self.kept: torch.Tensor | None = None
        if 4 * longest * width <= limit_bytes:
            kept = torch.empty(len(history), width, device=self.device)
            for start in range(0, longest, _CHUNK):
                kept[start : start + _CHUNK] = self._pooled(history[start : start + _CHUNK])
            self.kept = kept

    def of(self, rows: torch.Tensor) -> torch.Tensor:
        """Contexts ``[n, width]`` of the examples ``[n]``; asked for by all ranks together."""
        if self.kept is None:
            return self._pooled(self.history[rows.numpy()])
        return self.kept[rows.to(self.device)]

    def _pooled(self, history: np.ndarray) -> torch.Tensor:
        return self.model.context(torch.from_numpy(history).to(self.device))
