"""The prior's fit, on a world where one component is right and another is noise."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.config.experiment import HistoryConfig, PriorConfig
from cadc_rec.config.vectors import LEAST_USERS
from cadc_rec.data.transition_lists import best_targets
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.pretrain import component_scores, prior_fit
from cadc_rec.pretrain.id_tables import IdTables, Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fit_prior
from cadc_rec.pretrain.tables_alone import tables_alone

N_USERS, N_ITEMS, LENGTH = 300, 40, 6
HISTORY = HistoryConfig(length=LENGTH)
CONFIG = PriorConfig(use=True, fit="validation")


def a_dataset(n_users=N_USERS):
    """Each user goes along a ring of items, a step of one or two at a time."""
    rng = np.random.default_rng(4)
    sequences = [(rng.integers(N_ITEMS) + np.cumsum(rng.integers(1, 3, 8))) % N_ITEMS
                 for _ in range(n_users)]  # fmt: skip
    taken = np.stack(sequences).astype(np.int32)  # eight different items each
    train = taken[:, :6]
    indptr = np.arange(n_users + 1) * 6

    def last_items(length, with_validation, users=slice(None)):
        known = taken[:, : 7 if with_validation else 6][users, ::-1][:, :length]
        return np.ascontiguousarray(known)

    return SimpleNamespace(
        n_users=n_users,
        n_items=N_ITEMS,
        user_indptr=indptr,
        train_item=train.ravel(),
        item_counts=np.bincount(train.ravel(), minlength=N_ITEMS),
        val_item=taken[:, 6].copy(),
        test_item=taken[:, 7].copy(),
        item_attributes=[],
        last_items=last_items,
    )


def given():
    """ALS vectors that know nothing, and lists that know the ring."""
    generator = torch.Generator().manual_seed(5)
    ids = IdTables(
        torch.randn(N_USERS, 8, generator=generator), torch.randn(N_ITEMS, 8, generator=generator)
    )
    ring = np.zeros((N_ITEMS, N_ITEMS), np.float32)
    for item in range(N_ITEMS):
        ring[item, [(item + 1) % N_ITEMS, (item + 2) % N_ITEMS]] = 2.0, 1.0
    return Pretrained(ids, lists=best_targets(sparse.csr_array(ring), 10))


def ndcg(tables, dataset):
    """Exact ranks of all validation items, by the function that evaluates."""
    history = dataset.last_items(LENGTH, with_validation=False)
    listed = tables.listed(LENGTH)
    ranks = held_out_ranks(
        tables.user_vectors(history),
        tables.item_vectors(),
        dataset.val_item,
        UserItems(dataset.user_indptr, dataset.train_item),
        listed=None if listed is None else lambda some: listed.of(history[some]),
    )
    return ranking_metrics(ranks, (10,))["ndcg@10"]


def test_what_it_says_of_validation_is_what_evaluation_finds():
    # Fewer items than the candidates it keeps of each component, so nothing is approximate.
    dataset, tables = a_dataset(), given()
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, tables)
    start = tables_alone(CONFIG, HISTORY, dataset, tables)
    found = fitted.applied_to(start, CONFIG)
    assert fitted.users == N_USERS
    assert fitted.ndcg == pytest.approx(ndcg(found, dataset), abs=2e-3)  # of close scores, a few
    for name in fitted.factors:
        others = {k: v for k, v in fitted.factors.items() if k != name}
        alone = replace(found, factors={name: 1.0} | dict.fromkeys(others, 0.0))
        assert fitted.alone[name] == pytest.approx(ndcg(alone, dataset), abs=2e-3)
        without = replace(found, factors=others | {name: 0.0})
        assert fitted.without[name] == pytest.approx(ndcg(without, dataset), abs=2e-3)


def test_the_component_that_knows_wins_over_the_one_that_does_not():
    dataset, tables = a_dataset(), given()
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, tables)
    start = tables_alone(CONFIG, HISTORY, dataset, tables)
    assert ndcg(fitted.applied_to(start, CONFIG), dataset) > ndcg(start, dataset) + 0.1
    assert fitted.alone["lists"] > 0.6 > 0.3 > fitted.alone["folded"]
    assert fitted.decay == 0.4  # the latest item tells the next one


def test_the_test_items_have_no_part_in_it():
    one, other = a_dataset(), a_dataset()
    other.test_item = np.full(N_USERS, -1, np.int32)
    assert fit_prior(CONFIG, HISTORY, 0, one, given()) == fit_prior(
        CONFIG, HISTORY, 0, other, given()
    )


def test_with_few_validation_users_the_settings_stand():
    dataset = a_dataset()
    dataset.val_item[LEAST_USERS - 1 :] = -1
    config = CONFIG.model_copy(update={"alpha": 3.0, "decay": 0.55})
    fitted = fit_prior(config, HISTORY, 0, dataset, given())
    assert (fitted.users, fitted.alpha, fitted.decay) == (0, 3.0, 0.55)
    assert fitted.factors == tables_alone(config, HISTORY, dataset, given()).factors


def test_after_a_day_the_ways_stand_and_the_factors_are_chosen_anew():
    dataset, tables = a_dataset(), given()
    towers = FittedPrior(8.0, 3.0, 0.2, 0.9, {}, users=N_USERS)
    before = FittedPrior(4.0, 10.0, 0.05, 0.9, {}, users=N_USERS, towers=towers)
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, tables, before)
    ways = [(4.0, 10.0, 0.05), (8.0, 3.0, 0.2)]
    for each in (fitted, fitted.towers):
        assert (each.alpha, each.half_life, each.l2) in ways
        assert each.decay == 0.9  # where all are tried, 0.4 is found
    found = fitted.applied_to(tables_alone(CONFIG, HISTORY, dataset, tables), CONFIG)
    assert fitted.ndcg == pytest.approx(ndcg(found, dataset), abs=2e-3)
    assert fitted.alone["lists"] > fitted.alone["folded"]  # the factors are those of this dataset


def test_after_a_day_a_fit_that_chose_nothing_is_made_whole():
    before = FittedPrior(4.0, 10.0, 0.05, 0.9, {})  # there were too few users
    fitted = fit_prior(CONFIG, HISTORY, 0, a_dataset(), given(), before)
    assert fitted == fit_prior(CONFIG, HISTORY, 0, a_dataset(), given())


def test_it_is_read_as_it_was_written(tmp_path):
    fitted = fit_prior(CONFIG, HISTORY, 0, a_dataset(), given())
    fitted.save(tmp_path)
    assert FittedPrior.open(tmp_path) == fitted


def test_scores_are_alike_whether_compiled_loops_or_sparse_products_form_them(monkeypatch):
    dataset, tables = a_dataset(), given()
    scores = []
    for least in (0, np.inf):
        monkeypatch.setattr(component_scores, "_COMPILED", least)
        scores.append(fit_prior(CONFIG, HISTORY, 0, dataset, tables))
    compiled, products = scores
    assert compiled.decay == products.decay
    assert products.factors == pytest.approx(compiled.factors, rel=1e-5)
    assert products.ndcg == pytest.approx(compiled.ndcg, abs=2e-3)


def test_a_combinations_ndcg_is_that_of_its_ranks():
    """Three users with 3, 1 and 13 candidates, the first of each held out; counted by hand."""
    ends = np.array([0, 3, 4, 17])
    one = np.array([5, 6, 5, 1, 0, *[1] * 9, -1, -1, -1], np.float32)
    kept = component_scores.Kept(ends, np.stack([one, 0 * one]), {"lists": 0, "recent": 1})
    # An equal score is before the target: the first user's rank is 3, the others' 1 and 10.
    expected = sum(1 / np.log2(1 + rank) for rank in (3, 1, 10)) / 3
    assert kept.ndcg({"lists": 0, "recent": 0}, {"lists": 2.0, "recent": 0.0}) == pytest.approx(
        expected
    )
    # With nothing that counts all are equal: ranks are 3, 1 and 13, and the last is no hit.
    assert kept.ndcg({"lists": 0, "recent": 0}, dict.fromkeys(("lists", "recent"), 0.0)) == (
        pytest.approx((1 / np.log2(4) + 1) / 3)
    )


def test_after_a_day_the_newest_validation_items_are_fitted_on():
    """The latest go along the ring; what the earlier ones took next is far from what they took."""
    newest = np.arange(N_USERS) % 3 == 0  # a hundred
    times = np.where(newest, 1000.0, 10.0) + np.arange(N_USERS)
    dataset, tables = a_dataset(), given()
    dataset.val_timestamp = times
    late = a_dataset()
    late.val_item = np.where(newest, dataset.val_item, -1)
    dataset.val_item = np.where(newest, dataset.val_item, (dataset.val_item + 20) % N_ITEMS)
    before = fit_prior(CONFIG, HISTORY, 0, a_dataset(), tables)
    some = LEAST_USERS // 2
    fitted = fit_prior(CONFIG, HISTORY, 0, dataset, tables, before, newest=some)
    assert fitted == before  # too few to choose on: what was chosen stands
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prior_fit, "LEAST_USERS", some)
        fitted = fit_prior(CONFIG, HISTORY, 0, dataset, tables, before, newest=some)
        alone = fit_prior(CONFIG, HISTORY, 0, late, tables, before)
    assert fitted.users == some
    assert fitted == alone


def test_of_equal_times_the_newest_are_drawn_among_all_rows():
    """Without times all are equal: the last rows alone would be those who signed up last."""
    dataset = a_dataset()
    dataset.val_timestamp = np.zeros(N_USERS, np.int64)
    chosen = prior_fit._newest(dataset, N_USERS // 3, 0)
    assert len(np.unique(chosen)) == N_USERS // 3
    assert abs(chosen.mean() - N_USERS / 2) < N_USERS / 10  # the last third's is 5/6 of them
    dataset.val_timestamp[:50] = 7
    chosen = prior_fit._newest(dataset, 60, 0)
    assert set(range(50)) < set(chosen.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())


def test_a_fit_goes_on_from_the_one_before_and_stays_where_it_is_the_best():
    dataset, tables = a_dataset(), given()
    first = fit_prior(CONFIG, HISTORY, 0, dataset, tables)
    again = fit_prior(CONFIG, HISTORY, 0, dataset, tables, first)
    assert again.ndcg >= first.ndcg
    # Weights between those that are tried are where it starts, and what is as good stays.
    between = {name: factor * 1.07 for name, factor in first.factors.items()}
    between["lists"] = first.factors["lists"]
    kept = fit_prior(CONFIG, HISTORY, 0, dataset, tables, replace(first, factors=between))
    assert kept.ndcg >= again.ndcg - 2e-3
    # A sum's factor alone ranks nothing otherwise.
    doubled = {name: 2 * factor for name, factor in first.factors.items()}
    scaled = fit_prior(CONFIG, HISTORY, 0, dataset, tables, replace(first, factors=doubled))
    assert scaled.factors == pytest.approx(again.factors)
