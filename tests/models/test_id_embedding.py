"""Each way to integrate pre-trained vectors: what it gives, and what of it is trained."""

import pytest
import torch

from cadc_rec.config.experiment import ModelConfig
from cadc_rec.distributed.state import gather_state
from cadc_rec.models.id_embedding import ID_EMBEDDINGS, HybridIds
from cadc_rec.training.build import build_model
from tests.distributed import toy

IDS = torch.tensor([7, 0, 22, 7])  # out of order, one of them twice


@pytest.fixture(scope="module")
def made(alone):
    """made(kind): the sharded toy model with this id embedding, and its state by name."""
    models = {}

    def make(kind):
        if kind not in models:
            e = toy.experiment(kind, "data_parallel")
            model = build_model(e, toy.dataset(), toy.pretrained(kind), alone)
            models[kind] = model, gather_state(model.wrapped, alone)
        return models[kind]

    return make


@pytest.mark.parametrize("kind", ID_EMBEDDINGS)
def test_the_config_knows_which_tables_are_frozen_and_which_are_trained(kind):
    ids = ID_EMBEDDINGS[kind]("user", 5, 8, torch.device("cpu"))
    groups = ModelConfig(id_embedding=kind, id_dim=8).id_tables()
    assert ("frozen" in groups, "trainable" in groups) == (ids.frozen, bool(ids.trained_tables()))
    names = {"user", ids.free_name} if kind == "hybrid" else {"user"}
    assert set(groups.values()) == names


@pytest.mark.parametrize("kind", ["init", "init_frozen", "residual"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_pretrained_vectors_are_looked_up_as_they_are(kind, side, made):
    model, _ = made(kind)
    vectors = getattr(model.module, side).ids(IDS)
    assert torch.equal(vectors, getattr(toy.tables(), side)[IDS])


def test_hybrid_gives_the_frozen_elements_and_then_the_learned_ones(made):
    model, state = made("hybrid")
    for side in ("user", "item"):
        free = state[f"{side}.ids.free.embedding_bags.{side}_free.weight"]
        assert free.shape[1] == 4
        assert 0.05 < free.std() < 0.2  # a random start, of standard deviation 0.1
        expected = torch.cat([getattr(toy.tables(), side)[IDS][:, :4], free[IDS]], 1)
        assert torch.equal(getattr(model.module, side).ids(IDS), expected)


@pytest.mark.parametrize(("dim", "frozen"), [(96, 64), (48, 32), (8, 4), (12, 8), (16, 12)])
def test_hybrid_freezes_two_thirds_in_groups_of_four(dim, frozen):
    assert HybridIds.table_width(dim) == frozen
    assert frozen % 4 == 0
    assert abs(frozen - 2 * dim / 3) <= 2  # no other multiple of four is nearer


def test_linear_is_a_layer_on_the_frozen_vectors(made):
    model, state = made("linear")
    for side in ("user", "item"):
        weight, bias = (state[f"{side}.ids.layer.{name}"] for name in ("weight", "bias"))
        expected = getattr(toy.tables(), side)[IDS] @ weight.T + bias
        torch.testing.assert_close(getattr(model.module, side).ids(IDS), expected)


def test_mlp_is_two_layers_with_a_relu_between_on_the_frozen_vectors(made):
    model, state = made("mlp")
    for side in ("user", "item"):
        of = {k: state[f"{side}.ids.{k}"] for k in ("layer.weight", "layer.bias")}
        of |= {k: state[f"{side}.ids.{k}"] for k in ("last.weight", "last.bias")}
        hidden = getattr(toy.tables(), side)[IDS] @ of["layer.weight"].T + of["layer.bias"]
        expected = hidden.clamp(min=0) @ of["last.weight"].T + of["last.bias"]
        torch.testing.assert_close(getattr(model.module, side).ids(IDS), expected)


def test_a_vector_is_as_wide_under_every_technique(made):
    for kind in ID_EMBEDDINGS:
        assert made(kind)[0].module.user.ids(IDS).shape == (4, toy.DIM)


@pytest.mark.parametrize("kind", ID_EMBEDDINGS)
def test_gradients_reach_what_is_trained_and_nothing_else(kind, alone):
    e = toy.experiment(kind, "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained(kind), alone)
    users, items = (
        model.module.user_vectors(torch.arange(9)),
        model.module.item_vectors(torch.arange(9)),
    )
    (users * items * torch.randn(9, 1)).sum().backward()
    reached = {
        name
        for name, parameter in model.module.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }
    frozen = {f"{s}.ids.table.embedding_bags.{s}.weight" for s in ("user", "item")}
    everything = set(dict(model.module.named_parameters()))
    expected = everything if kind in ("trainable", "init") else everything - frozen
    assert reached == expected
    assert {name for name in everything if not model.trains(name)} == everything - expected
