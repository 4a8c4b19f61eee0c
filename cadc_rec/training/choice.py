"""Whether towers add to the tables that they read, and with which weight of theirs.

Towers whose score is added to one that tables give by themselves can only be worth what they add. A
small sample may teach them nothing that the tables do not know, and then they rank worse. So what
they add is measured on the validation items, at a few weights of the towers' own score; the best
weight is kept, and the tables alone where no weight beats them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import Processes
from cadc_rec.evaluation.metrics import rank_gains, ranking_metrics
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.evaluation.statistics import UserGains, paired_bootstrap
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fitted_tables
from cadc_rec.training.scoring import Scoring, of_tables, of_vectors
from cadc_rec.training.validation import CHECKPOINT_METRIC, Validation

if TYPE_CHECKING:
    from cadc_rec.models.tower import Tower
    from cadc_rec.models.two_tower import TwoTower

TOWERS, TABLES = "towers", "tables"
_WEIGHTS = (0.25, 0.5, 0.75)  # tried beside 1, the weight they were trained with


@dataclass(frozen=True)
class Choice:
    """What is kept, and why.

    Attributes:
        kept: ``towers``, which add to the tables, or ``tables`` alone.
        weight: of the towers' own score, the best one.
        ranks: of the validation items, by what is kept; int64 ``[ranked users]``.
        added: what towers add to the tables on validation: see `added`.
        metrics: on validation, of ``towers`` and of ``tables``.
    """

    kept: str
    weight: float
    ranks: NDArray[np.int64]
    added: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]

    def as_info(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            "kept": self.kept,
            "weight": self.weight,
            "added": dict(self.added),
            "of_towers": dict(self.metrics[TOWERS]),
            "of_tables": dict(self.metrics[TABLES]),
        }


CHOICE = ("kept", "weight", "added", "of_towers", "of_tables")
"""What a manifest says of a choice; see `Choice`."""


def choose(model: TwoTower, validation: Validation, tables: Scoring) -> Choice:
    """Give the towers their best weight, and choose between them and the tables alone.

    Args:
        model: has the weights of its best epoch; its towers are left with the best weight.
        validation: ranks validation items by the model as it is.
        tables: the tables alone.
    """
    best, weight = validation.best_ranks(), 1.0
    for tried in _WEIGHTS:
        with _weighted(model.user, tried):
            ranks = validation.ranks()
        if _score(ranks) > _score(best):
            best, weight = ranks, tried
    model.user.multiply(weight)
    of_tables = validation.ranks(tables)
    kept = TOWERS if _score(best) > _score(of_tables) else TABLES
    metrics = {TOWERS: ranking_metrics(best, (10,)), TABLES: ranking_metrics(of_tables, (10,))}
    ranks = best if kept == TOWERS else of_tables
    return Choice(kept, weight, ranks, added(best, of_tables), metrics)


def added(towers: NDArray[np.int64], tables: NDArray[np.int64]) -> dict[str, Any]:
    """What towers add to the NDCG@10 of the same users: ``ndcg@10`` and its 95% ``interval``."""
    users = np.arange(len(towers))
    gains = (UserGains(users, rank_gains(each, CHECKPOINT_METRIC)) for each in (towers, tables))
    found = paired_bootstrap(*gains)
    return {CHECKPOINT_METRIC: found.difference, "interval": list(found.interval)}


def tables_scoring(
    experiment: Experiment,
    dataset: Dataset,
    pretrained: Pretrained,
    processes: Processes,
    fitted: FittedPrior | None,
    known: LastItems,
) -> Scoring:
    """What the tables say without towers: by histories with a prior, else by their own vectors.

    Args:
        experiment: ``[prior]`` and ``[history]``.
        dataset: whose items and histories.
        pretrained: the tables.
        processes: the ranks.
        fitted: the prior's fit, where it was fitted.
        known: histories.
    """
    prior, history = experiment.prior, experiment.history
    tables = fitted_tables(prior, history, dataset, pretrained, fitted)
    if tables is not None:
        return of_tables(tables, known, processes)
    assert pretrained.ids is not None
    return of_vectors(pretrained.ids, dataset, processes)


def _score(ranks: NDArray[np.int64]) -> float:
    return ranking_metrics(ranks, (10,))[CHECKPOINT_METRIC]


@contextlib.contextmanager
def _weighted(tower: Tower, weight: float) -> Iterator[None]:
    """A tower's vectors times a weight, while it lasts."""
    parameters = list(tower.last_layer().parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    tower.multiply(weight)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter.copy_(kept)
