"""Steps whose ids are sent to trained tables ahead of time (`distributed/lookup_pipeline.py`).

In: the source of steps, what one computes, the towers. Out: a `StepRunner`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.data.load.position import Position, taken
from cadc_rec.distributed.lookup_pipeline import LookupPipeline, Rows
from cadc_rec.distributed.processes import matmul_precision
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.training.batches.source import BatchSource
from cadc_rec.training.kept import HostReads
from cadc_rec.training.steps.step import Step, forward_precision


@dataclass(frozen=True)
class _Given:
    """A step's batch, and what was read for it while it was on the host."""

    batch: Batch[torch.Tensor]
    read: HostReads | None

    def each(self, change: Callable[[torch.Tensor], Any]) -> _Given:
        """The same with every tensor changed."""
        return _Given(self.batch.each(change), self.read and self.read.each(change))


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
        self.pipeline: LookupPipeline[_Given] = LookupPipeline(
            towers.trained_tables(),
            lambda given: towers.looked_up(given.batch),
            self._after_lookups,
            step.optimizer,
            self.device,
        )

    def inputs(self, epoch: int, done: Position = ()) -> Generator[Any]:
        """See `StepRunner`; each is all of the epoch's steps, of which `take` takes the next."""
        with (
            contextlib.closing(self.source.epoch(epoch, done)) as batches,
            contextlib.closing(self.pipeline.steps(map(self._given, batches))) as steps,
        ):
            for _ in range(taken(done), self.source.steps):
                yield steps

    def take(self, given: Any) -> torch.Tensor:
        """See `StepRunner`."""
        with matmul_precision(self.step.matmul, self.device):
            part: torch.Tensor = next(given)
        return part

    def _given(self, batch: Batch[torch.Tensor]) -> _Given:
        histories = self.step.histories
        return _Given(batch, None if histories is None else histories.read_on_host(batch))

    def _after_lookups(self, given: _Given, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
        """What a step takes the gradient of, and its part of the mean loss."""
        step, batch = self.step, given.batch
        self.towers.take_ahead(rows)
        terms = step.terms(batch.positives)
        inputs = [] if step.histories is None else step.histories.inputs(batch, given.read)
        with forward_precision(step.precision, self.device):
            loss: torch.Tensor = step.model(batch, *inputs, loss=step.objective.loss)
        return loss * terms.share, loss.detach() / terms.count
