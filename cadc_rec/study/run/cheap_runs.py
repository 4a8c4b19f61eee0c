"""The runs that advice is based on: ordinary, full-length pipelines on small shares, measured.

In: a filtering ratio, a seed. Out: `Measured`, with the metric on validation and the seconds; and
the metric of the base, the model that is there before any labelled example is seen. Every
evaluation writes test ranks too; they are never opened here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow.parquet as pq

from cadc_rec.config.file import load_experiment
from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.job import opened
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact
from cadc_rec.study.usual import Kind, kind_of
from cadc_rec.updates.chain import Wanted, take_update

K = 10
LEAST_STEPS, LEAST_BATCH = 200, 16
_RANKS = "validation_ranks.parquet"
_TABLES = ("pretrain", "transitions", "prior")


@dataclass(frozen=True)
class Measured:
    """The results of one run.

    Attributes:
        value: HR@10 on validation, a fraction.
        users: ranked there.
        rows: labelled examples the towers were trained on.
        of: all training interactions.
        epochs: that it trained.
        steps: that it took.
        everything_steps: that as many epochs over all rows take, with the config's batch.
        tables_seconds: learning the tables, which every share needs and all runs of a seed share.
        fixed_seconds: selection and building the model.
        training_seconds: the steps, without validation.
        base: HR@10 of the tables alone, where the run measured that itself.
    """

    value: float
    users: int
    rows: int
    of: int
    epochs: int
    steps: int
    everything_steps: int
    tables_seconds: float
    fixed_seconds: float
    training_seconds: float
    base: float | None = None

    @property
    def seconds(self) -> float:
        """Of selection and training, without validation."""
        return self.fixed_seconds + self.training_seconds

    @property
    def visits(self) -> int:
        """Rows that it trained on, each as often as an epoch came by it."""
        return self.rows * self.epochs


class Runner(Protocol):
    """Makes the runs."""

    kind: Kind
    method: str
    base_method: str
    seed: int
    """The file's."""

    def __call__(self, ratio: float, seed: int) -> Measured:
        """Train and evaluate at a filtering ratio."""
        ...

    def base(self, seed: int) -> float:
        """HR@10 on validation of the base, a fraction."""
        ...

    def rows(self) -> int:
        """All training interactions."""
        ...


class CheapRuns:
    """Makes runs with pipelines over one work folder; same arguments as `advise`.

    They read the data as the newest update left them, or the one that is wanted.

    Raises:
        CadcError: the method trains on no sample.
    """

    def __init__(
        self,
        config: Path,
        workdir: Path,
        data_dir: Path | None,
        sets: Sequence[str],
        method: str | None = None,
        update: Wanted = "newest",
    ) -> None:
        self.config, self.workdir, self.data_dir, self.sets = config, workdir, data_dir, sets
        self.update = update
        file = load_experiment(config, method=method, overrides=sets)
        self.method: str = file.method
        self.seed: int = file.seed
        if file.model.kind != "two_tower" or file.select.kind == "everything":
            raise CadcError(
                f"{config}: method {self.method} trains no towers on a sample, so there is no "
                f"share to advise on; choose with --method one that does: {', '.join(_sampled())}."
            )
        self._train = file.train
        self.kind: Kind
        self.base_method: str
        self.kind, self.base_method = kind_of(file)
        self._given: Mapping[str, Artifact] | None = None

    def __call__(self, ratio: float, seed: int) -> Measured:
        """Run it, or find it done."""
        made = self._made(self.method, seed, f"select.ratio={ratio}", *self._enough_steps(ratio))
        train, ranks = made["train"].info, _validation_ranks(made)
        of, rows = (int(made["select"].info[name]) for name in ("of", "selected"))
        epochs = len(train["history"])
        batch = self._train.sized(of).batch_size
        tables = sum(made[stage].seconds for stage in _TABLES if stage in made)
        if "pretrain" in made:
            tables -= made["pretrain"].info["validation_seconds"]
        return Measured(
            value=_hit_rate(ranks),
            users=len(ranks),
            rows=rows,
            of=of,
            epochs=epochs,
            steps=epochs * train["steps_per_epoch"],
            everything_steps=epochs * math.ceil(of / batch),
            tables_seconds=tables,
            fixed_seconds=made["select"].seconds + train["setup_seconds"],
            training_seconds=train["training_seconds"],
            base=_base_of(train),
        )

    def base(self, seed: int) -> float:
        """Run the base, or find it done."""
        return _hit_rate(_validation_ranks(self._made(self.base_method, seed)))

    def rows(self) -> int:
        """Of the prepared dataset, which is made for it."""
        return int(self._prepared()["prepare"].info["train"])

    def _enough_steps(self, ratio: float) -> list[str]:
        """A smaller batch for towers that begin at random, where theirs leaves them few steps.

        A sample of less than a batch has one step an epoch. It would show how little a few dozen
        steps teach, whatever the sample, and say nothing of larger shares, which have enough.
        """
        rows, train = round(self.rows() / ratio), self._train
        batch = train.sized(rows).batch_size
        if self.kind == "added" or train.epochs * math.ceil(rows / batch) >= LEAST_STEPS:
            return []
        return [f"train.batch_size={enough_steps_batch(rows, train.epochs)}"]

    def _prepared(self) -> Mapping[str, Artifact]:
        if self._given is None:
            config = load_experiment(self.config, method=self.method, overrides=self.sets)
            base = Pipeline(config, self.workdir, self.data_dir)
            taken = take_update(base, self.update, until="prepare").pipeline
            self._given = {**taken.given, "prepare": taken.artifact("prepare")}
        return self._given

    def _made(self, method: str, seed: int, *sets: str) -> dict[str, Artifact]:
        given = self._prepared()
        overrides = [*self.sets, f"seed={seed}", *sets]
        experiment = load_experiment(self.config, method=method, overrides=overrides)
        with opened(experiment, self.workdir, self.data_dir, given=given) as pipeline:
            return pipeline.run()


def enough_steps_batch(rows: int, epochs: int) -> int:
    """The batch that leaves a sample `LEAST_STEPS` steps."""
    return max(rows * epochs // LEAST_STEPS, LEAST_BATCH)


def _sampled() -> list[str]:
    return [
        name
        for name, settings in METHODS.items()
        if settings.get("model.kind") != "tables" and settings["select.kind"] != "everything"
    ]


def _base_of(train: Mapping[str, Any]) -> float | None:
    """The tables alone, where the towers were compared with them."""
    return float(train["of_tables"][f"hr@{K}"]) if "of_tables" in train else None


def _validation_ranks(made: Mapping[str, Artifact]) -> np.ndarray:
    ranks: np.ndarray = pq.read_table(made["evaluate"].path / _RANKS)["rank"].to_numpy()
    return ranks


def _hit_rate(ranks: np.ndarray) -> float:
    return float(np.mean(ranks <= K))
