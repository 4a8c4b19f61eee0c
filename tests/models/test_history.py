"""Histories: what is in them, and what the towers make of them."""

import numpy as np
import pytest
import torch

from cadc_rec.data.load.batches import Batch
from cadc_rec.distributed.state import gather_state
from cadc_rec.models.history import usable_windows
from cadc_rec.training.build import build_model
from tests.distributed import toy


@pytest.fixture(scope="module")
def model(alone):
    e = toy.experiment("history", "data_parallel")
    return build_model(e, toy.dataset(), toy.pretrained("history"), alone)


def means_by_hand(table, history, window):
    rows = []
    for row in history:
        items = [i for i in row[:window] if i >= 0]
        rows.append(table[items].mean(0) if items else np.zeros(table.shape[1]))
    return np.stack(rows)


def test_windows_longer_than_the_history_become_its_length_once():
    assert usable_windows([1, 3, 10, 50], 20) == [1, 3, 10, 20]
    assert usable_windows([1, 3, 10, 50], 10) == [1, 3, 10]
    assert usable_windows([5], 2) == [2]


def test_window_means_are_those_of_the_last_items(model):
    history = toy.histories(60)
    assert ((history >= 0).sum(1) == 0).any()  # some users have no history
    got = model.module.item.ids.window_means(torch.from_numpy(history), [1, 3, 5])
    table = toy.tables().item.double().numpy()
    for window, means in zip((1, 3, 5), got, strict=True):
        expected = means_by_hand(table, history, window)
        np.testing.assert_allclose(means.numpy(), expected, rtol=1e-5, atol=1e-6)
        assert not means.requires_grad


def test_scores_are_those_of_both_towers_with_all_they_know(model, alone):
    """In NumPy: ids, windows of items and of sources, attributes; ids, targets, attributes."""
    state = {k: v.double().numpy() for k, v in gather_state(model.wrapped, alone).items()}
    history, data, given = toy.histories(toy.USERS), toy.dataset(), toy.pretrained("history")
    item, source = given.ids.item.numpy(), given.transitions.source.numpy()
    windows = [means_by_hand(t, history, w) for t in (item, source) for w in (1, 3, 5)]
    expected = tower("user", [given.ids.user.numpy(), *windows], state, data.user_attributes[0]) @ (
        tower("item", [item, given.transitions.target.numpy()], state, data.item_attributes[0]).T
    )
    users, items = model.user_vectors(history.__getitem__), model.item_vectors()
    np.testing.assert_allclose((users @ items.T).numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ids", ["history", "prior"])
def test_a_batch_without_pairs_is_every_example_with_every_candidate(ids, alone):
    """The same scores as the vectors', and the gradients of plain products."""
    e = toy.experiment(ids, "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained(ids), alone)
    history = torch.from_numpy(toy.histories(toy.USERS))
    users, items = torch.tensor([3, 3, 40]), torch.tensor([0, 5, 22])
    batch = Batch(users, items)
    weight = torch.randn(3, 3)
    parameters = [p for n, p in model.module.named_parameters() if model.trains(n)]

    def gradients(scores):
        model.module.zero_grad()
        (scores * weight).sum().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]

    got = model.wrapped(batch, model.module.read(history[users]))
    of_ours = gradients(got)
    expected = model.module.user_vectors(users, history[users]) @ model.module.item_vectors(items).T
    torch.testing.assert_close(got, expected)
    for ours, plain in zip(of_ours, gradients(expected), strict=True):
        torch.testing.assert_close(ours, plain)
    assert any(g.abs().sum() > 0 for g in of_ours)


def test_an_item_tower_of_one_width_is_a_linear_layer(alone):
    e = toy.experiment("history", "data_parallel")
    e = e.model_copy(update={"model": e.model.model_copy(update={"item_tower": (4,)})})
    model = build_model(e, toy.dataset(), toy.pretrained("history"), alone)
    given = toy.pretrained("history")
    state = {k: v.double().numpy() for k, v in gather_state(model.wrapped, alone).items()}
    known = [t.double().numpy() for t in (given.ids.item, given.transitions.target)]
    expected = joined("item", known, state, toy.dataset().item_attributes[0])
    np.testing.assert_allclose(model.item_vectors().numpy(), expected, rtol=1e-4, atol=1e-5)


def tower(side, known, state, attribute):
    hidden = joined(side, known, state, attribute)
    return np.maximum(hidden, 0) @ state[f"{side}.mlp.1.weight"].T + state[f"{side}.mlp.1.bias"]


def joined(side, known, state, attribute):
    """The first layer's output."""
    embedded = state[f"{side}.features.tables.embedding_bags.{side}_{attribute.name}.weight"]
    codes = np.split(attribute.values, attribute.indptr[1:-1])
    features = [embedded[c].mean(0) if len(c) else np.zeros(embedded.shape[1]) for c in codes]
    inputs = np.concatenate([*known, np.stack(features)], 1)
    return inputs @ state[f"{side}.join.weight"].T + state[f"{side}.join.bias"]


def test_only_what_is_learned_is_kept_in_a_checkpoint(model):
    names = [n for n in model.wrapped.state_dict() if not model.trains(n)]
    assert sorted(n.split(".table.")[0] for n in names) == [
        "item.ids",
        "sources",
        "targets",
        "user.ids",
    ]
