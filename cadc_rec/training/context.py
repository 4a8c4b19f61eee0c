"""The context of a rank's examples, for the steps of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from cadc_rec.models.history import History
from cadc_rec.training.kept import Histories


class Requests:
    """What is known when each of a rank's examples is asked for: its context, and its history.

    Args:
        codes: int32 ``[rows, features]``, of this rank's examples.
        histories: of the same examples, if the model reads any.
        device: where the model is.
    """

    def __init__(
        self, codes: np.ndarray, histories: Histories | None, device: torch.device
    ) -> None:
        self.codes, self.histories, self.device = codes, histories, device

    def of(self, rows: torch.Tensor) -> History:
        """Those of the examples `rows`, int64 ``[n]`` on CPU; all ranks ask together."""
        read = History() if self.histories is None else self.histories.of(rows)
        codes = torch.from_numpy(self.codes[rows.numpy()]).to(self.device)
        return replace(read, request=codes)
