"""The loop: one process's part in training a sharded two-tower model.

In: a wrapped model, its loader, a function that measures it on validation. Out: the model at its
best validation epoch, and the history of all of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.position import advanced, taken
from cadc_rec.distributed.fused_lookups import begin_adam_step, fused_adams
from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError
from cadc_rec.log import Ticker, track
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.training.batches.source import AnyLoader, BatchSource, source_on
from cadc_rec.training.checkpoints import Checkpoints, NoCheckpoints
from cadc_rec.training.context import Requests
from cadc_rec.training.intervals import Meter, unmeasured
from cadc_rec.training.kept import Histories
from cadc_rec.training.losses import Objective, make_objective
from cadc_rec.training.repeat import Repeat
from cadc_rec.training.steps.ahead import FrozenReads
from cadc_rec.training.steps.runner import StepRunner, step_runner
from cadc_rec.training.steps.step import Step
from cadc_rec.training.training_state import Progress, TrainingState
from cadc_rec.training.validation import CHECKPOINT_METRIC

Validate = Callable[[], dict[str, float]]
OnEpoch = Callable[[dict[str, float]], object]
_RATE = "positives_per_second"


@dataclass
class Trained:
    """What training reports."""

    history: list[dict[str, float]]
    best_epoch: int
    training_seconds: float
    """Time in steps alone."""
    validation_seconds: float
    validation_cpu_seconds: float
    """Of this process."""
    passes: float
    """Over all rows."""

    def as_info(self, positives: int) -> dict[str, Any]:
        """For the manifest; `positives` is the number of rows of an epoch."""
        seen = positives * self.passes
        return {
            "best_epoch": self.best_epoch,
            "training_seconds": self.training_seconds,
            "validation_seconds": self.validation_seconds,
            "validation_cpu_seconds": self.validation_cpu_seconds,
            "positives_per_second": seen / self.training_seconds if self.training_seconds else 0.0,
            "history": self.history,
        }


class Trainer:
    """Trains a wrapped model.

    Args:
        model: under DistributedModelParallel; gives the loss of a `Batch`, see `TwoTower.forward`.
        optimizer: the optimizer of everything that is neither frozen nor fused.
        loader: this rank's batches; on a GPU they are made there, if they can be.
        config: epochs, negatives, how often to validate.
        processes: the ranks.
        trains: whether a state entry of this name is trained, and so its best value kept.
        objective: the loss; default: what `config` names.
        histories: histories and contexts of the loader's examples, if the model reads any.
        matmul: how a step multiplies float32 matrices on a GPU, see `matmul_precision`.
        before_step: called with the number of each step, counted from 0 over all epochs.
        graphs: whether a GPU's steps are CUDA graphs, see `step_runner`.
        reads: what a step looks up in frozen tables, to be fetched while the one before computes.
        ahead: the model's towers, to send the ids of coming steps to their trained tables ahead of
            time; None leaves that to each step.
        meter: measures the steps; default: nothing does.
        repeat: a training to take as many steps as; its epochs set the learning rate and the moving
            average. Default: the epochs of `config`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: AnyLoader,
        config: TrainConfig,
        processes: Processes,
        trains: Callable[[str], bool],
        objective: Objective | None = None,
        histories: Histories | Requests | None = None,
        matmul: str = "float32",
        before_step: Callable[[int], object] = lambda _: None,
        graphs: str = "auto",
        reads: FrozenReads | None = None,
        ahead: TwoTower | None = None,
        meter: Meter | None = None,
        repeat: Repeat | None = None,
    ) -> None:
        self.meter = meter or unmeasured(processes)
        self.model, self.optimizer, self.repeat = model, optimizer, repeat
        self._pace = loader.steps if repeat is None else repeat.per_epoch  # steps of an epoch
        self._steps = config.epochs * loader.steps if repeat is None else repeat.steps
        self._epochs = -(-self._steps // loader.steps)
        self.batches: BatchSource = source_on(
            processes.device,
            loader,
            histories is not None and histories.on_host,
            self._epochs,
        )
        self.config, self.processes, self.trains = config, processes, trains
        self.before_step, self.graphs, self.reads = before_step, graphs, reads
        self._ahead, self._adams = ahead, fused_adams(model)
        loss = objective or make_objective(config)
        self.step = Step(model, optimizer, loss, processes, histories, config.precision, matmul)

    def fit(
        self,
        validate: Validate | None,
        title: str = "train",
        on_epoch: OnEpoch = lambda _: None,
        checkpoints: Checkpoints | None = None,
    ) -> Trained:
        """Train all epochs; the model ends with its best weights by validation NDCG@10.

        Args:
            validate: measures the model; None keeps the weights of the end, which of a training
                that is repeated are the averaged ones.
            title: what the progress bar says.
            on_epoch: called after every epoch with its loss, rate, and validation where there was
                one; also with those that a checkpoint already holds.
            checkpoints: resumes an interrupted training, and saves this one.
        """
        config, per_epoch = self.config, self.batches.steps
        checkpoints = checkpoints or NoCheckpoints()
        horizon = config.average_epochs * self._pace
        state = TrainingState(self.model, self.optimizer, self.trains, self.processes, horizon)
        checkpoints.resume(state)
        progress = state.progress
        fused = any(kind.startswith("fused") for kind in state.optimizers().values())
        runner = step_runner(
            self.graphs, self.batches, self.step, self.processes, fused, self.reads, self._ahead
        )
        for entry in progress.epochs:
            on_epoch(entry)
        with track(title, self._steps, "steps", visible=self.processes.rank == 0) as ticker:
            ticker.begin_at(progress.steps(per_epoch))
            while not self._ended(progress):
                entry = {
                    "epoch": progress.epoch,
                    "loss": self._epoch(state, runner, ticker, checkpoints),
                }
                seconds, progress.epoch_seconds = progress.epoch_seconds, 0.0
                due = progress.epoch % config.evaluate_every == 0 or progress.epoch == self._epochs
                if validate is not None and due:
                    entry |= self._validated(state, validate, ticker)
                share = self._steps_in(progress.epoch) / per_epoch
                entry[_RATE] = share * self.batches.rows / seconds
                on_epoch(entry)
                progress.epochs.append(entry)
                progress.epoch, progress.done = progress.epoch + 1, ()
                if not self._ended(progress):
                    checkpoints.after_epoch(state, per_epoch)
        if validate is None:
            progress.best_epoch = self._epochs
        if validate is None and self.repeat is not None:
            with state.average.in_place():
                state.keep_as_best()
        state.restore_best()
        return Trained(
            [{k: v for k, v in entry.items() if k != _RATE} for entry in progress.epochs],
            progress.best_epoch,
            progress.training_seconds,
            progress.validation_seconds,
            progress.validation_cpu_seconds,
            sum(self._steps_in(epoch) for epoch in range(1, progress.epoch)) / per_epoch,
        )

    def _ended(self, progress: Progress) -> bool:
        """Whether no epoch is left to train."""
        patience = self.config.patience
        return progress.epoch > self._epochs or 0 < patience <= progress.since

    def _steps_in(self, epoch: int) -> int:
        """Steps of an epoch; the last one may end before all rows were seen."""
        return min(self.batches.steps, self._steps - (epoch - 1) * self.batches.steps)

    def _validated(
        self, state: TrainingState, validate: Validate, ticker: Ticker
    ) -> dict[str, float]:
        """Measure the averaged weights, and keep them where they are the best."""
        progress, started, worked = state.progress, time.perf_counter(), time.process_time()
        self.model.eval()
        with state.average.in_place():
            measured = validate()
            progress.latest = measured[CHECKPOINT_METRIC]
            if progress.latest > progress.best:
                progress.best, progress.best_epoch, progress.since = (
                    progress.latest,
                    progress.epoch,
                    0,
                )
                state.keep_as_best()
            else:
                progress.since += 1
        progress.validation_seconds += time.perf_counter() - started
        progress.validation_cpu_seconds += time.process_time() - worked
        note = f"epoch {progress.epoch}, validation NDCG@10 {100 * progress.latest:.2f}%"
        ticker.advance(0, note)
        return measured

    def _epoch(
        self, state: TrainingState, runner: StepRunner, ticker: Ticker, checkpoints: Checkpoints
    ) -> float:
        """What is left of a pass over this rank's rows; returns the mean loss over all ranks."""
        self.model.train()
        progress, per_epoch = state.progress, self.batches.steps
        epoch, before = progress.epoch, progress.done
        last = self._steps_in(epoch)
        if not before:
            state.loss = torch.zeros((), device=self.processes.device)
        started = time.perf_counter()

        def count_seconds() -> None:
            nonlocal started
            now = time.perf_counter()
            progress.epoch_seconds += now - started
            progress.training_seconds += now - started
            started = now

        first = (epoch - 1) * per_epoch
        waits, rows = self.batches.waits, self.batches.rows_here / per_epoch
        self.meter.begin(epoch, first + taken(before), waits, rows, state.loss)
        with contextlib.closing(runner.inputs(epoch, before)) as steps:
            for step, given in enumerate(steps, start=taken(before)):
                number = first + step
                self._schedule(number)
                self.before_step(number)
                state.loss += runner.take(given)
                state.average.update()
                ticker.advance()
                if self.meter.due():
                    self.meter.cut(number + 1, state.loss)
                if step + 1 < last:
                    progress.done = advanced(before, self.processes.world_size, step + 1)
                    count_seconds()
                    checkpoints.after_step(state, per_epoch)
                elif last < per_epoch:
                    break
        self.meter.end(first + last, state.loss)
        mean = float(self.processes.all_reduce_sum(state.loss)) / last
        count_seconds()
        if not math.isfinite(mean):
            raise CadcError(
                f"the loss is {mean} in epoch {epoch}: training diverged; lower "
                f"train.learning_rate (it is {self.config.learning_rate})."
            )
        return mean

    def _schedule(self, step: int) -> None:
        """Set the learning rate of step number `step` of all epochs."""
        rate = self.config.learning_rate
        if self.config.schedule != "constant":
            done = step / (self.config.epochs * self._pace)
            rate *= 0.5 * (1 + math.cos(math.pi * done))
            for group in self.optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        begin_adam_step(self._adams, step, rate)
