"""Steps that have all items lose what steps that sort out their items lose."""

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import ComputeConfig, TrainConfig
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.shards import Examples
from cadc_rec.distributed.processes import processes
from cadc_rec.training.build import build_model
from cadc_rec.training.losses import make_objective
from cadc_rec.training.reading import make_loader
from cadc_rec.training.tables import dense_optimizer
from cadc_rec.training.trainer import Trainer
from tests.distributed import toy


def losses(ids, arrange):
    rng = np.random.default_rng(4)
    users, items = rng.integers(0, toy.USERS, 200), rng.integers(0, toy.ITEMS, 200)
    experiment = toy.experiment(ids, "data_parallel")
    config = experiment.train.model_copy(update={"epochs": 6, "average_epochs": 0.0})
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        model = build_model(experiment, toy.dataset(), toy.pretrained(ids), alone)
        model.module.user.dropout.dropped_levels = 0
        model.module.item.dropout.dropped_levels = 0
        loader = Loader(Examples(users, items), [200], 0, 20, 0, arrange)
        trainer = Trainer(
            model.wrapped,
            dense_optimizer(model.wrapped, model.module, config),
            loader,
            config,
            alone,
            model.trains,
            make_objective(config),
        )
        lost = [entry["loss"] for entry in trainer.fit(None).history]
        return lost, model.item_vectors()


def test_few_negatives_of_many_items_are_sorted_out_and_many_are_not():
    assert PairBatches(2, 100, positives=149).everything is None
    assert PairBatches(2, 100, positives=150).everything.tolist() == list(range(100))


@pytest.mark.parametrize(("ranks", "whole"), [(1, True), (2, True), (3, False)])
def test_a_rank_takes_all_items_where_its_own_pairs_have_nearly_all(ranks, whole):
    """20 positives a step with 16 negatives each, for 40 items: 320 draws, 160, or 96 a rank."""
    config = TrainConfig(batch_size=20, negatives=16)
    rows = [60 // ranks] * ranks
    users, items = np.zeros(rows[0], np.int32), np.arange(rows[0], dtype=np.int32) % 40
    for rank in range(ranks):
        loader = make_loader(config, Examples(users, items), rows, rank, 40, seed=0)
        assert {step.whole for step in loader.epoch(1)} == {whole}


def test_a_step_of_all_items_has_the_same_pairs():
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, 9, 60), rng.integers(0, 17, 60)
    steps = []
    for positives in (0, 60):
        loader = Loader(
            Examples(users, items), [60], 0, 60, 5, PairBatches(3, 17, False, positives)
        )
        (step,) = loader.epoch(1)
        steps.append(step)
    assert [step.whole for step in steps] == [False, True]
    assert steps[1].items.tolist() == list(range(17))
    for name in ("col", "item_col"):
        sorted_out, whole = (getattr(step.pattern, name) for step in steps)
        if name == "col":
            sorted_out, whole = steps[0].items[sorted_out], steps[1].items[whole]
        assert sorted_out.tolist() == whole.tolist()


@pytest.mark.parametrize("ids", ["trainable", "init_frozen", "hybrid", "linear", "residual"])
def test_training_is_the_same(ids):
    apart, apart_vectors = losses(ids, PairBatches(2, toy.ITEMS))
    whole, whole_vectors = losses(ids, PairBatches(2, toy.ITEMS, positives=10**6))
    # The optimizer moves an item without pairs in either, by its momentum.
    np.testing.assert_allclose(whole, apart, rtol=1e-5)
    torch.testing.assert_close(whole_vectors, apart_vectors, rtol=1e-3, atol=1e-5)
