"""The context of a rank's examples, for the steps of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.models.history import History
from cadc_rec.training.kept import Histories, HostReads


class Requests:
    """What is known when each of a rank's examples is asked for: its context, and its history.

    Args:
        codes: int32 ``[rows, features]``, of this rank's examples.
        histories: of the same examples, if the model reads any.
        device: where the model is; the codes are copied to it.
    """

    def __init__(
        self, codes: np.ndarray, histories: Histories | None, device: torch.device
    ) -> None:
        self.codes, self.histories = torch.tensor(codes, device=device), histories

    @property
    def on_host(self) -> bool:
        """See `Histories.on_host`."""
        return self.histories is not None and self.histories.on_host

    def read_on_host(self, batch: Batch[torch.Tensor]) -> HostReads:
        """See `Histories.read_on_host`."""
        return HostReads() if self.histories is None else self.histories.read_on_host(batch)

    def inputs(self, batch: Batch[torch.Tensor], read: HostReads | None = None) -> list[Any]:
        """See `Histories.inputs`."""
        assert batch.rows is not None  # a row of the tower is an example then
        found = [History()] if self.histories is None else self.histories.inputs(batch, read)
        codes = self.codes[batch.rows.to(self.codes.device)]
        return [replace(found[0], request=codes), *found[1:]]
