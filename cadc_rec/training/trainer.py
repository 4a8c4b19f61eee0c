"""The loop: one process's part in training a sharded two-tower model.

In: a wrapped model, its loader, a function that measures it on validation. Out: the model at its
best validation epoch, and the history of all of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from cadc_rec.config import TrainConfig
from cadc_rec.data.batches import BatchArrays
from cadc_rec.data.loader import Loader
from cadc_rec.data.prefetch import prefetched
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.state import local_tensors
from cadc_rec.errors import CadcError
from cadc_rec.models.pairs import Batch
from cadc_rec.progress import Ticker, track
from cadc_rec.training.averaging import WeightAverage
from cadc_rec.training.histories import Histories
from cadc_rec.training.objectives import Objective, make_objective, to_batch
from cadc_rec.training.precision import forward_precision

Validate = Callable[[], dict[str, float]]
CHECKPOINT_METRIC = "ndcg@10"  # the same rule for every method
_AHEAD = 2  # batches made while one is trained on


@dataclass
class Trained:
    """What training reports."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    training_seconds: float = 0.0
    """Time in steps alone."""
    validation_seconds: float = 0.0

    def as_info(self, positives: int) -> dict[str, Any]:
        """For the manifest; `positives` is the number of rows of an epoch."""
        seen = positives * len(self.history)
        return {
            "best_epoch": self.best_epoch,
            "training_seconds": self.training_seconds,
            "validation_seconds": self.validation_seconds,
            "positives_per_second": seen / self.training_seconds if self.training_seconds else 0.0,
            "history": self.history,
        }


class Trainer:
    """Trains a wrapped model.

    Args:
        model: under DistributedModelParallel; scores a `Batch`.
        optimizer: of everything that is neither frozen nor fused.
        loader: this rank's batches.
        config: epochs, negatives, how often to validate.
        processes: the ranks.
        trains: whether a state entry of this name is trained (is worth keeping the best of).
        objective: the loss; default: what `config` names.
        histories: of the loader's examples, where the model reads any.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loader: Loader,
        config: TrainConfig,
        processes: Processes,
        trains: Callable[[str], bool],
        objective: Objective | None = None,
        histories: Histories | None = None,
    ) -> None:
        self.objective = objective or make_objective(config)
        self.model, self.optimizer, self.loader = model, optimizer, loader
        self.config, self.processes, self.trains = config, processes, trains
        self.histories = histories

    def fit(
        self,
        validate: Validate | None,
        title: str = "train",
        on_epoch: Callable[[dict[str, float]], object] = lambda _: None,
    ) -> Trained:
        """Train all epochs; the model is left as it was validated best (by NDCG@10).

        Args:
            validate: measures the model; None keeps the last epoch's weights.
            title: what the progress bar says.
            on_epoch: told of every finished epoch: its loss, rate, and validation where there was
                one.
        """
        config, result = self.config, Trained()
        live = [local.tensor for local in local_tensors(self.model, self.trains)]
        average = WeightAverage(live, config.average_epochs * self.loader.steps)
        best, best_weights, since = -1.0, live, 0
        steps = config.epochs * self.loader.steps
        with track(title, steps, "steps", visible=self.processes.rank == 0) as ticker:
            for epoch in range(1, config.epochs + 1):
                started = time.perf_counter()
                entry: dict[str, float] = {"epoch": epoch}
                entry["loss"] = self._epoch(epoch, average, ticker)
                result.history.append(entry)
                seconds = time.perf_counter() - started
                result.training_seconds += seconds
                due = epoch % config.evaluate_every == 0 or epoch == config.epochs
                if validate is not None and due:
                    started = time.perf_counter()
                    self.model.eval()
                    with average.in_place():
                        entry.update(validate())
                        if entry[CHECKPOINT_METRIC] > best:
                            best, result.best_epoch = entry[CHECKPOINT_METRIC], epoch
                            best_weights, since = [tensor.clone() for tensor in live], 0
                        else:
                            since += 1
                    result.validation_seconds += time.perf_counter() - started
                    ndcg = 100 * entry[CHECKPOINT_METRIC]
                    ticker.advance(0, f"epoch {epoch}, validation NDCG@10 {ndcg:.2f}%")
                on_epoch({**entry, "positives_per_second": self.loader.rows / seconds})
                if config.patience and since >= config.patience:
                    break
        if validate is None:
            result.best_epoch = config.epochs
            return result
        with torch.no_grad():
            torch._foreach_copy_(live, best_weights)
        return result

    def _epoch(self, epoch: int, average: WeightAverage, ticker: Ticker) -> float:
        """One pass over this rank's rows; returns the mean loss over all ranks."""
        self.model.train()
        loss = torch.zeros((), device=self.processes.device)
        with contextlib.closing(self._batches(epoch)) as batches:
            for step, (arrays, batch) in enumerate(batches):
                self._schedule((epoch - 1) * self.loader.steps + step)
                loss += self._step(arrays, batch)
                average.update()
                ticker.advance()
        mean = float(self.processes.all_reduce_sum(loss)) / self.loader.steps
        if not math.isfinite(mean):
            raise CadcError(
                f"the loss is {mean} in epoch {epoch}: training diverged; lower "
                f"train.learning_rate (it is {self.config.learning_rate})."
            )
        return mean

    def _batches(self, epoch: int) -> Generator[tuple[BatchArrays, Batch], None, None]:
        """The epoch's steps as tensors, made ahead where a core or a GPU has work meanwhile."""
        made = ((arrays, to_batch(arrays)) for arrays in self.loader.epoch(epoch))
        if self.processes.device.type == "cuda":
            return prefetched(made, _AHEAD)
        return made

    def _schedule(self, step: int) -> None:
        """Set the learning rate of step number `step` of all epochs."""
        if self.config.schedule == "constant":
            return
        done = step / (self.config.epochs * self.loader.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _step(self, arrays: BatchArrays, batch: Batch) -> torch.Tensor:
        """One optimizer step; returns this rank's part of the step's mean loss."""
        if self.histories is not None:
            assert arrays.rows is not None  # a row of the tower is an example then
            batch = replace(batch, context=self.histories.of(arrays.rows))
        batch = batch.to(self.processes.device)
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective.terms(max(1, arrays.positives))  # few rows, many ranks
        with forward_precision(self.config.precision, self.processes.device):
            scores = self.model(batch)
        loss = self.objective.loss(scores.float(), batch) / terms
        # Gradients are averaged over the ranks; the mean over all terms wants them summed.
        (loss * self.processes.world_size).backward()
        self.optimizer.step()
        return loss.detach()
