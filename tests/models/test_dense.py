"""Vectors and numbers as inputs of the towers: their values, their gradients, their sharding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cadc_rec.distributed.state import gather_state
from cadc_rec.models.dense import VectorLayer
from cadc_rec.training.build import build_model
from tests.distributed import toy
from tests.zygote import run_ranks

KINDS = ("data_parallel", "table_wise", "column_wise")
CASES = [f"dense-init_frozen:{kind}" for kind in KINDS] + ["dense-history:table_wise"]


@pytest.fixture(scope="module")
def trained(alone):
    return {case: toy.train(*case.split(":"), alone) for case in CASES}


def expected(side, state, data):
    """Vectors of all ids of one side, in NumPy, in float64."""
    ids = state[f"{side}.ids.table.embedding_bags.{side}.weight"]
    attribute = getattr(data, f"{side}_attributes")[0]
    table = state[f"{side}.features.tables.embedding_bags.{side}_{attribute.name}.weight"]
    codes = np.split(attribute.values, attribute.indptr[1:-1])
    parts = [ids, np.stack([table[c].mean(0) if len(c) else 0 * table[0] for c in codes])]
    for place, dense in enumerate(getattr(data, f"{side}_dense")):
        rows = dense.values.astype(np.float64)
        if dense.kind == "vector":
            own = f"{side}.dense.layers.layers.{place}"
            known = np.abs(rows).any(1, keepdims=True)
            of_known = rows @ state[f"{own}.layer.weight"].T + state[f"{own}.layer.bias"]
            rows = np.where(known, of_known, state[f"{own}.missing"])
        parts.append(rows)
    hidden = np.concatenate(parts, 1) @ state[f"{side}.join.weight"].T + state[f"{side}.join.bias"]
    return np.maximum(hidden, 0) @ state[f"{side}.mlp.1.weight"].T + state[f"{side}.mlp.1.bias"]


def test_a_tower_reads_projected_vectors_and_numbers_as_they_are(alone):
    data = toy.dataset(dense=True)
    experiment = toy.experiment("dense-init_frozen", "data_parallel")
    model = build_model(experiment, data, toy.pretrained("init_frozen"), alone)
    with torch.no_grad():
        for tower in (model.module.user, model.module.item):
            tower.dense.layers.layers[0].missing.fill_(0.7)  # 0 in the beginning
        state = gather_state(model.wrapped, alone)
        state = {name: value.double().numpy() for name, value in state.items()}
        got = {"user": model.user_vectors(), "item": model.item_vectors()}
    for side, vectors in got.items():
        np.testing.assert_allclose(vectors.numpy(), expected(side, state, data), atol=1e-5)


def test_a_missing_vector_alone_teaches_the_vector_that_stands_for_it():
    layer = VectorLayer(4, 3)
    rows = torch.tensor([[0.0, 0, 0, 0], [0.6, 0.8, 0, 0]])
    layer(rows).sum().backward()
    assert layer.missing.grad.tolist() == [1, 1, 1]
    assert layer.layer.bias.grad.tolist() == [1, 1, 1]
    assert torch.equal(layer.layer.weight.grad, rows[1].expand(3, 4))


def test_tables_of_vectors_are_frozen_under_every_sharding_which_changes_nothing(trained):
    first, *others = (trained[f"dense-init_frozen:{kind}"] for kind in KINDS)
    for result in (first, *others):
        assert result["intact"]
        assert result["loss"] == pytest.approx(first["loss"], rel=1e-5)
        assert result["vectors"] == pytest.approx(first["vectors"], rel=1e-4)
    for name in (
        "user.dense.tables.dense_user_face.table.dense_user_face",
        "item.dense.tables.dense_item_image.table.dense_item_image",
    ):
        assert [result["plan"][name] for result in (first, *others)] == list(KINDS)


def test_no_optimizer_has_a_table_of_vectors(trained, alone):
    plain = toy.train("init_frozen", "data_parallel", alone)
    more = trained["dense-init_frozen:data_parallel"]["optimized"] - plain["optimized"]
    dim, first = 32, 8  # model.vector_dim, and the towers' first layer
    layers = (12 * dim + 2 * dim) + (8 * dim + 2 * dim)
    assert more == layers + first * dim + first * (dim + 4)


@pytest.mark.slow
@pytest.mark.distributed
def test_on_two_processes_every_sharding_learns_the_same(tmp_path):
    out = tmp_path / "results.json"
    worker = Path(toy.__file__).with_name("worker.py")
    run_ranks(worker, [out, *CASES], ranks=2, seconds=240)
    results = json.loads(out.read_text())
    reference = results[CASES[0]]
    for case in CASES:
        assert results[case]["intact"]
        if case.startswith("dense-init_frozen"):
            assert results[case]["loss"] == pytest.approx(reference["loss"], rel=1e-3)
            vectors = pytest.approx(reference["vectors"], rel=1e-3, abs=1e-3)
            assert results[case]["vectors"] == vectors
