"""The residual's score: the towers' dot product and the factorization's own score."""

import numpy as np
import pytest
import torch

from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed.state import gather_state
from cadc_rec.training.build import build_model
from tests.distributed import toy


@pytest.fixture(scope="module")
def residual(alone):
    """The toy model with the residual, sharded, and its state in float64."""
    model = build_model(
        toy.experiment("residual", "data_parallel"),
        toy.dataset(),
        toy.pretrained("residual"),
        alone,
    )
    state = gather_state(model.wrapped, alone)
    return model, {name: value.double().numpy() for name, value in state.items()}


def tower(side, state, attribute):
    """The vectors of all ids of one side, in NumPy."""
    ids = state[f"{side}.ids.table.embedding_bags.{side}.weight"]
    embedded = state[f"{side}.features.tables.embedding_bags.{side}_{attribute.name}.weight"]
    codes = [
        attribute.values[a:b]
        for a, b in zip(attribute.indptr[:-1], attribute.indptr[1:], strict=True)
    ]
    features = [embedded[c].mean(0) if len(c) else np.zeros(embedded.shape[1]) for c in codes]
    joined = np.concatenate([ids, np.stack(features)], 1)
    hidden = joined @ state[f"{side}.join.weight"].T + state[f"{side}.join.bias"]
    return np.maximum(hidden, 0) @ state[f"{side}.mlp.1.weight"].T + state[f"{side}.mlp.1.bias"]


def expected_scores(state):
    """Of all pairs: ``[USERS, ITEMS]``."""
    data, tables = toy.dataset(), toy.tables()
    users = tower("user", state, data.user_attributes[0])
    items = tower("item", state, data.item_attributes[0])
    p, q = tables.user.double().numpy(), tables.item.double().numpy()
    return users @ items.T + p[:, :-1] @ q[:, :-1].T + p[:, -1:] + q[:, -1:].T


def test_a_batchs_scores_are_the_towers_and_the_factorizations_together(residual):
    model, state = residual
    rng = np.random.default_rng(0)
    who, what = (rng.integers(0, n, 30).astype(np.int32) for n in (toy.USERS, toy.ITEMS))
    drawn = rng.integers(0, toy.ITEMS, (30, 2)).astype(np.int32)
    arrays = arrange_pairs(who, what, drawn, toy.ITEMS, 30)
    order = np.argsort(who, kind="stable")
    pairs = np.concatenate([what[order, None], drawn[order]], 1)
    expected = expected_scores(state)[who[order, None], pairs].ravel()
    model.wrapped.train()  # no dropout is set: training scores are the same
    with torch.no_grad():
        got = model.wrapped(arrays.each(torch.from_numpy))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_plain_dot_products_of_the_vectors_are_the_same_scores(residual):
    model, state = residual
    users, items = model.user_vectors(), model.item_vectors()
    assert users.shape == (toy.USERS, 4 + toy.DIM + 1)  # towers of 4; factors, bias and a one
    np.testing.assert_allclose(
        (users @ items.T).numpy(), expected_scores(state), rtol=1e-4, atol=1e-4
    )


def test_dropout_leaves_the_factorizations_score_alone(alone):
    """Towers of weight zero: all that is left is the residual, whatever is dropped."""
    e = toy.experiment("residual", "data_parallel")
    e = e.model_copy(update={"model": e.model.model_copy(update={"id_dropout": 0.9})})
    model = build_model(e, toy.dataset(), toy.pretrained("residual"), alone)
    with torch.no_grad():
        for side in (model.module.user, model.module.item):
            side.mlp[1].weight.zero_()
            side.mlp[1].bias.zero_()
        model.wrapped.train()
        users = model.module.users(torch.arange(toy.USERS))
        items = model.module.items(torch.arange(toy.ITEMS))
    assert users.learned.abs().max() == 0
    p, q = toy.tables().user, toy.tables().item
    expected = p[:, :-1] @ q[:, :-1].T + p[:, -1:] + q[:, -1:].T
    torch.testing.assert_close(users.residual @ items.residual.T, expected)
