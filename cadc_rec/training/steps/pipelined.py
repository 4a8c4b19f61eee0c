"""Steps whose ids are sent to trained tables ahead of time (`distributed/lookup_pipeline.py`).

In: the source of steps, what one computes, the towers. Out: a `StepRunner`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.load.position import Position, taken
from cadc_rec.distributed.lookup_pipeline import LookupPipeline, Rows
from cadc_rec.distributed.processes import matmul_precision
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.training.batches.source import BatchSource
from cadc_rec.training.steps.step import Step, forward_precision


class PipelinedSteps:
    """Launches every operator of every step; see `StepRunner`.

    Args:
        source: of batches.
        step: what is computed of one.
        towers: whose trained tables are asked ahead.
    """

    def __init__(self, source: BatchSource, step: Step, towers: TwoTower) -> None:
        self.source, self.step, self.towers = source, step, towers
        self.device = step.processes.device
        self.pipeline: LookupPipeline[Batch[torch.Tensor]] = LookupPipeline(
            towers.trained_tables(),
            towers.looked_up,
            self._after_lookups,
            step.optimizer,
            self.device,
        )

    def inputs(self, epoch: int, done: Position = ()) -> Generator[Any]:
        """See `StepRunner`; each is all of the epoch's steps, of which `take` takes the next."""
        with (
            contextlib.closing(self.source.epoch(epoch, done)) as batches,
            contextlib.closing(self.pipeline.steps(batches)) as steps,
        ):
            for _ in range(taken(done), self.source.steps):
                yield steps

    def take(self, given: Any) -> torch.Tensor:
        """See `StepRunner`."""
        with matmul_precision(self.step.matmul, self.device):
            part: torch.Tensor = next(given)
        return part

    def _after_lookups(
        self, batch: Batch[torch.Tensor], rows: Rows
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What a step takes the gradient of, and its part of the mean loss."""
        step = self.step
        self.towers.take_ahead(rows)
        terms = step.terms(batch.positives)
        inputs = [] if step.histories is None else step.histories.inputs(batch)
        with forward_precision(step.precision, self.device):
            loss: torch.Tensor = step.model(batch, *inputs, loss=step.objective.loss)
        return loss * terms.share, loss.detach() / terms.count
