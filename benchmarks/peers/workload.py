"""The work that is measured: MovieLens 1M at the paper's widths, or a generated world.

In: a work folder. Out: a prepared dataset and experiments over it, so that every contender has the
same rows, sizes and widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers.busy import Neighbour
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.sources.raw_input import locate
from cadc_rec.machine import available_cores
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pretrain.id_tables import IdTables, Pretrained
from cadc_rec.store.artifact import Artifact

# Epochs, rates and widths are those of configs/ml-1m.toml, which an installed package has not.
_SETTINGS = """
seed = 0

[pretrain]
epochs = 50
learning_rate = 0.05
l2 = 4.0

[train]
epochs = 100
batch_size = 8192
negatives = 4

[methods.cadc]
train.learning_rate = 0.001

[methods.gold]
train.learning_rate = 0.002
"""
_SIZES = {  # users, items, interactions
    "full": (6040, 3706, 1_000_209),  # of MovieLens 1M, where its archive is not at hand
    # As few as MF still compiles its loop for.
    "short": (3000, 1500, 320_000),
}


@dataclass(frozen=True)
class Workload:
    """A dataset, and experiments over it.

    Attributes:
        workdir: artifacts and results lie here.
        short: a tiny world and few steps, to try the measurement itself and for the guard.
        repeats: rounds that count.
        data_dir: folder with the raw data.
        threads: of every contender; 0 is one for each core.
        rows: size of the generated world of the sections on rows; 0 is the workload itself.
        neighbour: keeps one core busy in every second turn; None is no such turns.
    """

    workdir: Path
    short: bool = False
    repeats: int = 5
    data_dir: Path | None = None
    rows: int = 0
    threads: int = 0
    neighbour: Neighbour | None = None

    @cached_property
    def source(self) -> str:
        """``movielens-1m`` where its archive is at hand, else ``generated``."""
        if self.short or locate("movielens-1m", self.data_dir) is None:
            return "generated"
        return "movielens-1m"

    @property
    def steps(self) -> int:
        """Training steps of a turn: an epoch of a tenth of MovieLens 1M, or a few."""
        return 4 if self.short else 12

    def experiment(self, method: str, overrides: Sequence[str] = ()) -> Experiment:
        """The settings of `method` on this dataset."""
        file = self.workdir / "bench" / "workload.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(_SETTINGS, "utf-8")
        return load_experiment(file, method=method, overrides=[*self._settings(), *overrides])

    def _settings(self) -> list[str]:
        threads = f"compute.threads={self.threads}"
        if self.source != "generated":
            return [threads, f"data.source={self.source}"]
        users, items, interactions = _SIZES["short" if self.short else "full"]
        return [
            threads,
            "data.source=generated",
            f"data.generated.users={users}",
            f"data.generated.items={items}",
            f"data.generated.interactions={interactions}",
        ]

    @cached_property
    def prepared(self) -> Artifact:
        """The prepare stage's artifact."""
        pipeline = Pipeline(self.experiment("cadc"), self.workdir, self.data_dir)
        return pipeline.artifact("prepare")

    @cached_property
    def dataset(self) -> Dataset:
        """The prepared data."""
        return Dataset.open(self.prepared)

    def describe(self) -> dict[str, str | int | float]:
        """What the report says of it."""
        experiment, data = self.experiment("cadc"), self.dataset
        return {
            "source": self.source,
            "users": data.n_users,
            "items": data.n_items,
            "train": len(data.train_item),
            "batch_size": experiment.train.batch_size,
            "negatives": experiment.train.negatives,
            "id_dim": experiment.model.id_dim,
            "tower": "-".join(map(str, experiment.model.tower)),
            "steps": self.steps,
            "threads": self.threads or available_cores(),
        }


def sampled_rows(dataset: Dataset, rows: int) -> Examples:
    """A uniform sample of D_full, in its order; some rows twice where it is too small."""
    total = len(dataset.train_item)
    drawn = np.random.default_rng(0).permutation(total)
    chosen = np.sort(np.resize(drawn, rows))
    return Examples(dataset.train_user[chosen], dataset.train_item[chosen])


def random_tables(dataset: Dataset, dim: int) -> Pretrained:
    """Vectors to freeze. Speed does not depend on what they know."""
    generator = torch.Generator().manual_seed(0)
    user, item = (
        0.3 * torch.randn(n, dim, generator=generator) for n in (dataset.n_users, dataset.n_items)
    )
    return Pretrained(IdTables(user, item))
