"""The short runs that advice is based on: an ordinary pipeline with few epochs, measured.

In: a method, a filtering ratio, a seed. Out: `Measured`, with validation ranks and seconds. Every
evaluation writes test ranks too; they are never opened here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.job import opened

LEAST_EPOCHS, SHORTER, VALIDATIONS = 5, 5, 5


@dataclass(frozen=True)
class Measured:
    """The results of one short run.

    Attributes:
        users: ids of the users who have a validation item; ``[users]``.
        ranks: of these items, from 1; ``[users]``.
        rows: labelled examples the towers were trained on.
        of: all training interactions.
        epochs: of this run.
        full_epochs: what the experiment's file asks for.
        fixed_seconds: pre-training, selection and building the model, which epochs do not change.
        training_seconds: the steps of all `epochs`, without validation.
        improving: whether its last validation was its best.
    """

    users: np.ndarray
    ranks: np.ndarray
    rows: int
    of: int
    epochs: int
    full_epochs: int
    fixed_seconds: float
    training_seconds: float
    improving: bool


Runner = Callable[[str, float, int], Measured]
"""Makes one short run: method, filtering ratio, seed."""


class ShortRuns:
    """Makes short runs with pipelines over one work folder; same arguments as `advise`."""

    def __init__(
        self,
        config: Path,
        workdir: Path,
        data_dir: Path | None,
        sets: Sequence[str],
        epochs: int | None,
    ) -> None:
        self.config, self.workdir, self.data_dir, self.sets = config, workdir, data_dir, sets
        file = load_experiment(config, method="cadc", overrides=sets)
        full = file.train.epochs
        self.seed = file.seed
        self.epochs = epochs or min(full, max(LEAST_EPOCHS, full // SHORTER))

    def experiment(self, method: str, ratio: float, seed: int) -> Experiment:
        """The experiment of one short run."""
        sets = self._short(ratio, seed)
        experiment = load_experiment(self.config, method=method, overrides=sets)
        if experiment.model.kind != "two_tower":
            raise CadcError(f"{self.config}: model.kind must be 'two_tower' for a share to matter.")
        return experiment

    def __call__(self, method: str, ratio: float, seed: int) -> Measured:
        """Run it, or find it done."""
        experiment = self.experiment(method, ratio, seed)
        with opened(experiment, self.workdir, self.data_dir) as pipeline:
            made = pipeline.run()
        train = made["train"].info
        fixed = made["train"].seconds - train["training_seconds"] - train["validation_seconds"]
        if method != "gold":  # of gold, training alone counts (docs/protocol.md, Time)
            fixed += sum(
                made[s].seconds for s in ("pretrain", "transitions", "select") if s in made
            )
            fixed -= made["pretrain"].info["validation_seconds"]
        ranks = pq.read_table(made["evaluate"].path / "validation_ranks.parquet")
        full = load_experiment(self.config, method=method, overrides=self.sets)
        return Measured(
            users=ranks["user_id"].to_numpy(),
            ranks=ranks["rank"].to_numpy(),
            rows=int(made["select"].info["selected"]),
            of=int(made["select"].info["of"]),
            epochs=self.epochs,
            full_epochs=full.train.epochs,
            fixed_seconds=fixed,
            training_seconds=train["training_seconds"],
            improving=train["best_epoch"] == self.epochs,
        )

    def _short(self, ratio: float, seed: int) -> list[str]:
        every = max(1, self.epochs // VALIDATIONS)
        return [
            *self.sets,
            f"seed={seed}",
            f"select.ratio={ratio}",
            f"train.epochs={self.epochs}",
            f"train.evaluate_every={every}",
        ]
