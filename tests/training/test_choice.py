"""Towers keep the weight at which they add most, and give way to the tables where they add none."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from cadc_rec.errors import CadcError
from cadc_rec.models.tower import Tower
from cadc_rec.training.choice import added, choose

TABLES = object()


class UserTower:
    """The last layer of a tower."""

    last_layer, multiply = Tower.last_layer, Tower.multiply

    def __init__(self):
        self.mlp, self.join = nn.Sequential(), nn.Linear(1, 1)
        with torch.no_grad():
            self.join.weight.fill_(8.0)
            self.join.bias.fill_(4.0)

    @property
    def weight(self):
        return float(self.join.weight.detach()) / 8


class Validation:
    """Ranks of a thousand users by weight of the towers, and by the tables."""

    def __init__(self, tower, of_towers, of_tables):
        self.tower, self.of_towers, self.of_tables = tower, of_towers, of_tables

    def best_ranks(self):
        return self.ranks()

    def ranks(self, scoring=None):
        rank = self.of_tables if scoring is TABLES else self.of_towers[self.tower.weight]
        return np.repeat([rank, 50], 500)


@pytest.mark.parametrize(
    ("of_towers", "of_tables", "kept", "weight"),
    [
        ({0.25: 3, 0.5: 3, 0.75: 2, 1.0: 4}, 3, "towers", 0.75),
        ({0.25: 3, 0.5: 3, 0.75: 3, 1.0: 3}, 4, "towers", 1.0),  # no weight is better than theirs
        ({0.25: 3, 0.5: 9, 0.75: 9, 1.0: 9}, 3, "tables", 0.25),  # as good is not better
        ({0.25: 5, 0.5: 6, 0.75: 7, 1.0: 8}, 1, "tables", 0.25),
    ],
)
def test_the_best_of_validation_is_kept(of_towers, of_tables, kept, weight):
    tower = UserTower()
    validation = Validation(tower, of_towers, of_tables)
    choice = choose(SimpleNamespace(user=tower), validation, TABLES)
    assert (choice.kept, choice.weight) == (kept, weight)
    assert tower.weight == weight
    assert float(tower.join.bias.detach()) == pytest.approx(4 * weight)
    assert choice.ranks[0] == (of_towers[weight] if kept == "towers" else of_tables)
    told = choice.as_info()
    assert told["of_towers"]["ndcg@10"] == pytest.approx(0.5 / np.log2(of_towers[weight] + 1))
    assert told["of_tables"]["ndcg@10"] == pytest.approx(0.5 / np.log2(of_tables + 1))


def test_what_towers_add_has_an_interval():
    rng = np.random.default_rng(0)
    towers, tables = rng.integers(1, 21, 4000), rng.integers(1, 41, 4000)
    gain = [np.where(r <= 10, 1 / np.log2(r + 1.0), 0) for r in (towers, tables)]
    found = added(towers, tables)
    low, high = found["interval"]
    assert found["ndcg@10"] == pytest.approx(np.mean(gain[0] - gain[1]))
    error = np.std(gain[0] - gain[1]) / np.sqrt(4000)
    assert (low, high) == pytest.approx(
        (found["ndcg@10"] - 1.96 * error, found["ndcg@10"] + 1.96 * error), abs=0.1 * error
    )


def test_towers_that_cannot_be_ranked_stay_as_they_were_trained():
    class Failing(Validation):
        def best_ranks(self):
            return np.full(1000, 3)

        def ranks(self, scoring=None):
            raise CadcError("no ranks.")

    tower = UserTower()
    with pytest.raises(CadcError, match="no ranks"):
        choose(SimpleNamespace(user=tower), Failing(tower, {1.0: 3}, 4), TABLES)
    assert tower.weight == 1.0
