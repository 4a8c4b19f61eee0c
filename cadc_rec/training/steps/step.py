"""One optimizer step of one process: forward, loss, backward, optimizer.

In: a batch, and what its loss is divided by. Out: changed weights, and this rank's part of the mean
loss. On a GPU nothing of it depends on a number that only the host knows, so that a recorded step
can be taken again (`graph.py`).
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import nn

from cadc_rec.data.load.batches import Batch
from cadc_rec.distributed.processes import Processes, matmul_precision
from cadc_rec.errors import CadcError
from cadc_rec.training.context import Requests
from cadc_rec.training.kept import Histories
from cadc_rec.training.losses import Objective


@dataclass(frozen=True)
class Terms:
    """How many terms a step's loss has, as scalars on the device.

    Attributes:
        share: what gradients are of. They are averaged over the ranks, while the mean over all
            terms wants them summed.
        count: what the loss is divided by.
    """

    share: torch.Tensor
    count: torch.Tensor


class Step:
    """Takes steps.

    Args:
        model: wrapped; gives the loss of a batch.
        optimizer: of everything that is neither frozen nor fused.
        objective: the loss.
        processes: the ranks.
        histories: histories and contexts of the examples, if the model reads any.
        precision: of the forward pass, see `forward_precision`.
        matmul: of float32 products on a GPU, see `matmul_precision`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        objective: Objective,
        processes: Processes,
        histories: Histories | Requests | None = None,
        precision: str = "float32",
        matmul: str = "float32",
    ) -> None:
        self.model, self.optimizer, self.objective = model, optimizer, objective
        self.processes, self.histories = processes, histories
        self.precision, self.matmul = precision, matmul
        self._terms: dict[int, Terms] = {}

    def __call__(self, batch: Batch[torch.Tensor]) -> torch.Tensor:
        """Take the step; returns this rank's part of its mean loss, a scalar."""
        return self.take(batch, self.terms(batch.positives))

    def take(self, batch: Batch[torch.Tensor], terms: Terms) -> torch.Tensor:
        """The same, with the number of terms on the device."""
        loss = self.gradients(batch, terms)
        self.optimizer.step()
        return loss

    def gradients(self, batch: Batch[torch.Tensor], terms: Terms) -> torch.Tensor:
        """All but the optimizer's part; weights stay, but those of tables with a fused one."""
        device = self.processes.device
        inputs = [] if self.histories is None else self.histories.inputs(batch)
        if device.type != "cpu":
            batch = batch.each(lambda tensor: tensor.to(device, non_blocking=True))
        self.optimizer.zero_grad(set_to_none=True)
        with matmul_precision(self.matmul, device):
            with forward_precision(self.precision, device):
                loss: torch.Tensor = self.model(batch, *inputs, loss=self.objective.loss)
            loss.backward(terms.share)
        return loss.detach() / terms.count

    def terms(self, positives: int) -> Terms:
        """Those of a step with so many positives over all ranks.

        Steps have one of two numbers of them, and each is sent to the device once.
        """
        count = self.objective.terms(max(1, positives))  # few rows, many ranks
        if count not in self._terms:
            one = torch.ones((), device=self.processes.device)
            self._terms[count] = Terms(one * self.processes.world_size / count, one * count)
        return self._terms[count]


def forward_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """What a training forward pass runs in; made anew for each step, for it keeps cast weights.

    Under bfloat16 its matrix products are bfloat16's, by autocast. Weights, their gradients,
    optimizer state, frozen tables, sparse products and the loss are float32 either way, and so is
    everything that is validated or evaluated.

    Args:
        precision: ``float32`` or ``bfloat16``.
        device: where the step runs.
    """
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # No public way to ask: AVX-512 with its bfloat16 instructions on x86, or their like on ARM.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def refuse_precision(precision: str, device: torch.device, supported: bool) -> None:
    """Raise where the device cannot train as asked.

    Raises:
        CadcError: bfloat16 was asked for and is not `supported`.
    """
    if precision == "bfloat16" and not supported:
        raise CadcError(
            f"train.precision = 'bfloat16': this {device.type.upper()} has no bfloat16 products; "
            "set it to 'float32'."
        )
