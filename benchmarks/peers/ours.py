"""Our own training as a contender: the train stage's parts, on rows of the workload's size."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from benchmarks.peers.timing import Work
from benchmarks.peers.workload import random_tables, sampled_rows
from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.processes import Processes
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.training.build import ShardedTwoTower, build_model
from cadc_rec.training.kept import keep_frozen_rows
from cadc_rec.training.losses import make_objective
from cadc_rec.training.reading import make_loader
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer

# Averaging weights over epochs is a part of our method and of nobody else's: left out.
WITHOUT_EXTRAS = ("train.average_epochs=0", "train.epochs=1", "tracking.tensorboard=false")


@dataclass
class OurTraining:
    """A model and its trainer; a turn is one epoch of the rows given.

    Args:
        experiment: its settings.
        dataset: for sizes and attributes.
        rows: the positives of an epoch, over all ranks.
        processes: the ranks.
    """

    experiment: Experiment
    dataset: Dataset
    rows: int
    processes: Processes
    model: ShardedTwoTower = field(init=False)
    loader: Loader = field(init=False)
    trainer: Trainer = field(init=False)

    def __post_init__(self) -> None:
        experiment, processes = self.experiment, self.processes
        config = experiment.train
        frozen = experiment.model.id_embedding != "trainable"
        given = random_tables(self.dataset, experiment.model.id_dim) if frozen else Pretrained()
        self.model = build_model(experiment, self.dataset, given, processes)
        examples = _every(sampled_rows(self.dataset, self.rows), processes)
        limit = experiment.compute.frozen_cache_mib << 20
        keep_frozen_rows(self.model.module.user.ids, examples.users, processes, limit)
        shares = [len(processes.share_of(rank, self.rows)) for rank in _ranks(processes)]
        self.loader = make_loader(
            config,
            examples,
            shares,
            processes.rank,
            self.dataset.n_items,
            experiment.seed,
        )
        self.trainer = Trainer(
            self.model.wrapped,
            dense_optimizer(self.model.wrapped, self.model.module, config),
            self.loader,
            config,
            processes,
            self.model.trains,
            make_objective(config),
        )

    def turn(self) -> Work:
        """Train all epochs of the settings, loading and negatives included."""
        self.trainer.fit(None, "bench")
        return Work(self.rows * self.experiment.train.epochs)

    def losses(self) -> list[float]:
        """Train all epochs; the mean loss of each."""
        return [entry["loss"] for entry in self.trainer.fit(None, "bench").history]


def _ranks(processes: Processes) -> range:
    return range(processes.world_size)


def _every(examples: Examples, processes: Processes) -> Examples:
    """The rows that this rank takes: a run of them, as of a selection's shards."""
    share = processes.share(len(examples))
    mine = slice(share.start, share.stop)
    return Examples(examples.users[mine], examples.items[mine])


@dataclass(frozen=True)
class PlainBatch:
    """The pairs of a step the plain way: a positive and its negatives beside each user.

    Attributes:
        users: int64 ``[B]``.
        items: int64 ``[B, 1 + K]``, the positive first.
    """

    users: torch.Tensor
    items: torch.Tensor


def plain_batches(loader: Loader, epochs: int = 1) -> list[PlainBatch]:
    """The very pairs of our loader's batches, for contenders that know no unique ids."""
    batches = []
    for epoch in range(1, epochs + 1):
        for step in loader.epoch(epoch):
            assert step.pattern is not None
            pairs = np.diff(step.pattern.crow)
            width = len(step.pattern.col) // max(step.positives, 1)
            users = torch.from_numpy(np.repeat(step.users, pairs // width))
            items = torch.from_numpy(step.items[step.pattern.col]).view(-1, width)
            batches.append(PlainBatch(users, items))
    return batches


def unique_counts(loader: Loader) -> tuple[float, float]:
    """Different users and items of a step, the mean over an epoch."""
    steps = [(len(step.users), len(step.items)) for step in loader.epoch(1)]
    users, items = np.mean(steps, 0)
    return float(users), float(items)
