"""The prior: against linear systems solved in NumPy, and as a part of the model's score."""

import numpy as np
import pytest
import torch

from cadc_rec.config.experiment import PriorConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.data.load.pair_batches import arrange_pairs
from cadc_rec.distributed.state import local_tensors
from cadc_rec.models.forward import PriorAlone
from cadc_rec.models.history import by_length
from cadc_rec.models.prior import HistoryPrior, even_factors
from cadc_rec.training.build import build_model, load_grown
from tests.distributed import toy

CONFIG = PriorConfig(use=True, alpha=5.0, half_life=2.0, l2=0.3, decay=0.6)


def folded_by_hand(items, history):
    """ALS's normal equations of one user, float64."""
    gram = items.T @ items
    system = gram + 0.3 * np.diag(gram).mean() * np.eye(len(gram))
    right = np.zeros(len(gram))
    for place, item in enumerate(i for i in history if i >= 0):
        confidence = 5.0 * 0.5 ** (place / 2.0)
        system += (confidence - 1) * np.outer(items[item], items[item])
        right += confidence * items[item]
    return np.linalg.solve(system, right)


def led_by_hand(sources, history):
    weights = [0.6**place for place, item in enumerate(history) if item >= 0]
    rows = [weight * sources[item] for weight, item in zip(weights, history, strict=False)]
    return sum(rows, np.zeros(sources.shape[1])) / sum(weights) if weights else 0 * sources[0]


def prior_vectors(prior, given, history):
    """Both sides of each of the prior's scores, of a model that is its prior alone."""
    tables = (given.ids.item, given.transitions.source, given.transitions.target)
    alone = PriorAlone(prior, (1.0, 1.0), *tables)
    return alone.users(history).prior, alone.every_item().prior


def test_a_history_is_folded_in_and_led_on_as_by_hand():
    given, history = toy.pretrained("prior"), toy.histories(60)
    assert (history < 0).all(1).any()  # some have none
    prior = HistoryPrior.of(given.ids.item, CONFIG)
    users, items = prior_vectors(prior, given, torch.from_numpy(history))
    table = given.ids.item.double().numpy()
    sources = given.transitions.source.double().numpy()
    for row, past in enumerate(history):
        expected = folded_by_hand(table, past)
        np.testing.assert_allclose(users[0][row], expected, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(users[1][row], led_by_hand(sources, past), rtol=1e-5, atol=1e-6)
    assert torch.equal(items[0], given.ids.item)
    assert torch.equal(items[1], given.transitions.target)


def test_short_histories_are_cut_and_their_vectors_are_the_programs():
    """Vectors of many histories leave out what is empty; the program that is served does not."""
    given, history = toy.pretrained("prior"), toy.histories(60)
    tables = (given.ids.item, given.transitions.source, given.transitions.target)
    alone = PriorAlone(HistoryPrior.of(given.ids.item, CONFIG), (2.0, 0.5), *tables)
    history = torch.from_numpy(history)
    history[7, 1] = -1  # a hole, behind which it goes on
    whole = alone(history)
    torch.testing.assert_close(alone.users(history).joined((2.0, 0.5)), whole)
    one = torch.cat([alone.users(row[None]).joined((2.0, 0.5)) for row in history])
    torch.testing.assert_close(one, whole)
    assert alone.users(history[:0]).joined((2.0, 0.5)).shape == (0, whole.shape[1])
    lengths = [(part.shape[1], len(rows)) for rows, part in by_length(history)]
    assert sum(rows for _, rows in lengths) == 60
    assert len(lengths) > 2


def test_the_scale_of_the_item_table_does_not_change_a_folded_score():
    """L2 is over the Gram matrix's diagonal: ten times the vectors, a tenth of the solution."""
    given, history = toy.pretrained("prior"), torch.from_numpy(toy.histories(20))
    known, vectors = history >= 0, given.ids.item[history.clamp_min(0).long()]
    vectors = vectors * known[:, :, None]
    one = HistoryPrior.of(given.ids.item, CONFIG).folded(vectors, known)
    ten = HistoryPrior.of(10 * given.ids.item, CONFIG).folded(10 * vectors, known)
    torch.testing.assert_close(10 * ten, one, rtol=1e-3, atol=1e-4)


def test_factors_bring_scores_to_one_spread_and_leave_constant_ones():
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 5.0]])
    # Scores 1 and 3, 2 and 10: deviations (n - 1) of sqrt 2 and 8 / sqrt 2, 3.536 in the mean.
    spread = (np.std([1, 3], ddof=1) + np.std([2, 10], ddof=1)) / 2
    same = torch.ones(2, 2)
    assert even_factors([users, users], [items, same]) == pytest.approx([0.5 / spread, 1.0])


def test_the_models_score_is_the_towers_and_the_priors_times_its_factors(alone):
    e = toy.experiment("prior", "data_parallel")
    given, history = toy.pretrained("prior"), torch.from_numpy(toy.histories(toy.USERS))
    model = build_model(e, toy.dataset(), given, alone).module
    without = toy.experiment("history", "data_parallel")
    towers = build_model(without, toy.dataset(), given, alone).module
    users, items = prior_vectors(HistoryPrior.of(given.ids.item, e.prior), given, history)
    factors = [0.5 / float((u @ i.T).std(1).mean()) for u, i in zip(users, items, strict=True)]
    prior = [f * (u @ i.T) for f, u, i in zip(factors, users, items, strict=True)]
    ids = torch.arange(toy.USERS), torch.arange(toy.ITEMS)
    silent = model.user_vectors(ids[0], history) @ model.item_vectors(ids[1]).T
    torch.testing.assert_close(silent, prior[0] + prior[1], rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        for ours, theirs in zip(
            model.user.mlp.parameters(), towers.user.mlp.parameters(), strict=True
        ):
            ours.copy_(theirs)
    alone_scores = towers.user_vectors(ids[0], history) @ towers.item_vectors(ids[1]).T
    vectors = model.user_vectors(ids[0], history), model.item_vectors(ids[1])
    expected = alone_scores + prior[0] + prior[1]
    torch.testing.assert_close(vectors[0] @ vectors[1].T, expected, rtol=1e-4, atol=1e-4)
    scores = model(Batch(*ids), model.read(history))
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-4)
    # Of pairs, as binary cross-entropy has them.
    rng = np.random.default_rng(3)
    positives = rng.integers(0, toy.ITEMS, toy.USERS).astype(np.int32)
    drawn = rng.integers(0, toy.ITEMS, (toy.USERS, 2)).astype(np.int32)
    each = np.arange(toy.USERS, dtype=np.int32)
    pairs = arrange_pairs(each, positives, drawn, toy.ITEMS, toy.USERS).each(torch.from_numpy)
    at = torch.from_numpy(np.concatenate([positives[:, None], drawn], 1).astype(np.int64))
    of_pairs = expected.gather(1, at).flatten()
    torch.testing.assert_close(model(pairs, model.read(history)), of_pairs, rtol=1e-4, atol=1e-4)
    # The gradient of a factor's logarithm is what its score contributes.
    model.zero_grad()
    weight = torch.randn_like(scores)
    (scores * weight).sum().backward()
    by_hand = torch.stack([(p * weight).sum() for p in prior])
    torch.testing.assert_close(model.prior_log_factors.grad, by_hand, rtol=1e-3, atol=1e-3)


def test_a_checkpoint_of_other_components_leaves_the_factors_of_the_new_fit(alone):
    """An update's fit may find that a component is worth something that was worth nothing."""
    e = toy.experiment("prior", "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained("prior"), alone)
    fitted = model.module.prior_log_factors.detach().clone()
    parts = list(local_tensors(model.wrapped, model.trains))
    state = {part.name: torch.full_like(part.tensor, 7.0) for part in parts}
    load_grown(model, {**state, "prior_log_factors": torch.zeros(len(fitted) + 1)})
    assert torch.equal(model.module.prior_log_factors, fitted)
    assert all((p.tensor == 7).all() for p in parts if p.name != "prior_log_factors")
    load_grown(model, state)
    assert (model.module.prior_log_factors == 7).all()


def test_a_learned_factor_goes_on_with_its_own_component_whatever_the_place(alone):
    """As many components as before may be other ones."""
    e = toy.experiment("prior", "data_parallel")
    model = build_model(e, toy.dataset(), toy.pretrained("prior"), alone)
    fitted = model.module.prior_log_factors.detach().clone()
    parts = local_tensors(model.wrapped, model.trains)
    state = {part.name: part.tensor.clone() for part in parts}
    assert model.tables.of_towers() == ["folded", "led"]
    state["prior_log_factors"] = torch.tensor([7.0, 8.0])
    load_grown(model, state, components=["lists", "folded"])
    assert model.module.prior_log_factors.tolist() == [8.0, fitted[1].item()]
    load_grown(model, state, components=["folded", "led"])
    assert model.module.prior_log_factors.tolist() == [7.0, 8.0]


def test_a_history_has_one_vector_whatever_stands_beside_it():
    """Vectors of falling length about one direction, as ALS gives items of falling popularity."""
    rng = np.random.default_rng(0)
    items = 0.3 * rng.normal(size=(500, 32)) + np.eye(1, 32)
    table = torch.from_numpy(5 * items / np.sqrt(1 + np.arange(500))[:, None]).float()
    chance = 1 / (1 + np.arange(500))
    draws = [rng.choice(500, 50, replace=False, p=chance / chance.sum()) for _ in range(20)]
    vectors, known = table[torch.from_numpy(np.stack(draws))], torch.ones(20, 50, dtype=torch.bool)
    prior = HistoryPrior.of(table, PriorConfig(use=True, alpha=20.0, half_life=10.0, l2=0.2))
    together = prior.folded(vectors, known)
    alone = [prior.folded(vectors[n : n + 1], known[n : n + 1]) for n in range(20)]
    assert together.dtype == torch.float32
    assert float((together - torch.cat(alone)).abs().max()) < 1e-7 * float(together.abs().max())
