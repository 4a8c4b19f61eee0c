"""Ids that are absent in a step of training: who they are, and what a tower makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.distributed.state import gather_state
from cadc_rec.errors import CadcError
from cadc_rec.models.absence import ColdDropout
from cadc_rec.training.build import build_model
from tests.distributed import toy
from tests.models.test_two_tower import tower


def drawn(seed, side, step, ids, rate):
    """SplitMix64 in NumPy's unsigned integers: whether each id is there."""
    word = bit_generator((seed, Purpose.COLD_DROPOUT, side, step)).random_raw()
    with np.errstate(over="ignore"):
        x = np.uint64(word) + (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(40)) >= round(rate * 2**24)


def test_who_is_absent_depends_on_seed_side_step_and_id_alone():
    absence, ids = ColdDropout(0.3, 11), np.random.default_rng(0).permutation(5000)
    for step in (0, 7):
        absence.begin(step)
        for number, side in enumerate(("user", "item")):
            expected = drawn(11, number, step, ids, 0.3)
            for dtype in (torch.int64, torch.int32):
                found = absence.present(side, torch.from_numpy(ids).to(dtype))
                assert found[:, 0].tolist() == expected.astype(float).tolist()
            # Another rank asks for others: each of them is as it was.
            part = absence.present(side, torch.from_numpy(ids[2000:]))
            assert part[:, 0].tolist() == expected[2000:].astype(float).tolist()
            assert np.mean(expected) == pytest.approx(0.7, abs=0.03)


def cold(rate=0.5, **model):
    experiment = toy.experiment("init_frozen", "data_parallel")
    changed = experiment.model.model_copy(update={"cold_dropout": rate, **model})
    return experiment.model_copy(update={"model": changed})


def test_an_absent_id_is_zeros_to_its_tower_and_only_in_training(alone):
    model = build_model(cold(), toy.dataset(), toy.pretrained("init_frozen"), alone)
    state = {k: v.double().numpy() for k, v in gather_state(model.wrapped, alone).items()}
    model.module.absence.begin(5)
    for number, side in enumerate(("user", "item")):
        count = toy.USERS if side == "user" else toy.ITEMS
        attributes = getattr(toy.dataset(), f"{side}_attributes")
        there = drawn(toy.experiment("init_frozen", "data_parallel").seed, number, 5,
                      np.arange(count), 0.5)  # fmt: skip
        assert 0 < there.sum() < count
        name = f"{side}.ids.table.embedding_bags.{side}.weight"
        left_out = {**state, name: state[name] * there[:, None]}
        vectors = getattr(model.module, f"{side}s")
        for train, known in ((True, left_out), (False, state)):
            model.wrapped.train(train)
            with torch.no_grad():
                found = vectors(torch.arange(count)).learned.numpy()
            np.testing.assert_allclose(found, tower(side, known, attributes[0]), atol=1e-4)


def test_towers_that_read_nothing_but_ids_are_refused(alone):
    bare = toy.dataset()
    bare.user_attributes = bare.item_attributes = []
    with pytest.raises(CadcError, match=r"model\.cold_dropout = 0\.5 leaves ids out"):
        build_model(cold(), bare, toy.pretrained("init_frozen"), alone)
