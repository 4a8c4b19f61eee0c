"""How long it trains, and at which rate."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.training.trainer import Trainer


def a_trainer(alone, **settings):
    """A trainer of one weight whose steps only note the rate they are taken at."""
    model = torch.nn.Linear(1, 1)
    config = TrainConfig(epochs=8, learning_rate=0.1, average_epochs=0.0, **settings)
    nothing = Batch(np.zeros(0, np.int64), np.zeros(0, np.int64), 0)

    def epoch(*_):
        yield from [nothing] * 3

    loader = SimpleNamespace(steps=3, rows=3, rows_here=3, epoch=epoch)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    numbers, rates = [], []
    trainer = Trainer(
        model, optimizer, loader, config, alone, lambda name: True, before_step=numbers.append
    )
    trainer.numbers = numbers

    def step(*_):
        rates.append(optimizer.param_groups[0]["lr"])
        return torch.zeros(())

    trainer.step = step
    return trainer, rates


def validated(scores):
    values = iter(scores)
    return lambda: {"ndcg@10": next(values)}


def test_without_patience_every_epoch_is_run(alone):
    trainer, rates = a_trainer(alone)
    trained = trainer.fit(validated([0.5, 0.4, 0.3, 0.2, 0.1, 0.6, 0.1, 0.1]))
    assert (len(trained.history), trained.best_epoch) == (8, 6)
    assert rates == [0.1] * 24
    assert trainer.numbers == [*range(24)]


def test_with_patience_it_stops_after_that_many_validations_without_a_better_one(alone):
    trainer, _ = a_trainer(alone, patience=2)
    trained = trainer.fit(validated([0.1, 0.5, 0.4, 0.6, 0.3, 0.2, 0.9, 0.9]))
    assert (len(trained.history), trained.best_epoch) == (6, 4)


def test_patience_counts_validations_and_not_epochs(alone):
    trainer, _ = a_trainer(alone, patience=2, evaluate_every=2)
    trained = trainer.fit(validated([0.5, 0.4, 0.3, 0.9]))
    assert (len(trained.history), trained.best_epoch) == (6, 2)


def test_a_cosine_falls_from_the_rate_towards_zero_over_all_steps(alone):
    trainer, rates = a_trainer(alone, schedule="cosine")
    trainer.fit(validated([0.1] * 8))
    assert rates[0] == pytest.approx(0.1)
    assert rates[12] == pytest.approx(0.05)  # halfway through 24 steps
    assert rates[23] == pytest.approx(0.1 * math.sin(math.pi / 48) ** 2)  # half-angle identity
    assert rates == sorted(rates, reverse=True)
