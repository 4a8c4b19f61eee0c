"""Metrics against values worked out by hand, and against trec_eval by ir_measures."""

import math

import ir_measures
import numpy as np
import pytest
from ir_measures import AP, RR, R, Success, nDCG

from cadc_rec.evaluation.metrics import (
    is_of_ranks,
    list_metrics,
    needs_lists,
    ranking_metrics,
    tail_items,
)


def test_metrics_of_four_users_worked_out_by_hand():
    ranks = np.array([1, 3, 10, 11])
    metrics = ranking_metrics(ranks, (10,))
    assert metrics["hr@10"] == 0.75
    expected = (1 / math.log2(2) + 1 / math.log2(4) + 1 / math.log2(11)) / 4
    assert metrics["ndcg@10"] == pytest.approx(expected, abs=1e-15)


def test_every_cutoff_is_reported():
    metrics = ranking_metrics(np.array([2, 7]), (1, 5, 20))
    assert {k: v for k, v in metrics.items() if k.startswith("hr")} == {
        "hr@1": 0.0,
        "hr@5": 0.5,
        "hr@20": 1.0,
    }


def test_no_users_is_an_error_not_a_number():
    with pytest.raises(ValueError, match="no user"):
        ranking_metrics(np.array([], dtype=int), (10,))


@pytest.mark.parametrize("k", [1, 5, 10, 20])
def test_metrics_of_ranks_are_those_of_trec_eval(k):
    ranks = np.random.default_rng(k).integers(1, 40, 150)
    judged = [ir_measures.Qrel(str(user), "held out", 1) for user in range(len(ranks))]
    listed = [
        ir_measures.ScoredDoc(str(user), "held out" if place == rank else f"d{place}", -place)
        for user, rank in enumerate(ranks)
        for place in range(1, 41)
    ]
    measures = {
        "hr": Success @ k, "ndcg": nDCG @ k, "recall": R @ k, "mrr": RR @ k, "map": AP @ k
    }  # fmt: skip
    theirs = ir_measures.calc_aggregate(measures.values(), judged, listed)
    ours = ranking_metrics(ranks, (k,), ("recall", "mrr", "map"))
    assert list(ours) == [f"{name}@{k}" for name in measures]
    for name, measure in measures.items():
        assert ours[f"{name}@{k}"] == pytest.approx(theirs[measure], abs=1e-12)


def test_nothing_is_measured_beside_hr_and_ndcg_unless_it_is_asked_for():
    assert list(ranking_metrics(np.array([1]), (10, 5))) == ["hr@10", "ndcg@10", "hr@5", "ndcg@5"]
    assert not needs_lists(("recall", "mrr", "map"))
    assert all(needs_lists((name,)) for name in ("coverage", "gini", "tail"))
    assert [is_of_ranks(name) for name in ("hr@1", "map@3", "gini@3")] == [True, True, False]


def test_coverage_is_the_share_of_items_in_any_list():
    counts = {2: np.array([3, 0, 1, 0, 0]), 5: np.array([3, 2, 1, 4, 0])}
    found = list_metrics(counts, np.ones(5, dtype=int), ("coverage", "mrr"))
    assert found == {"coverage@2": 0.4, "coverage@5": 0.8}


def test_gini_is_half_the_mean_difference_of_two_items_over_the_mean():
    counts = np.random.default_rng(1).zipf(1.6, 300).clip(max=5000) - 1
    differences = np.abs(counts[:, None] - counts[None, :]).mean()
    found = list_metrics({10: counts}, np.ones(300, dtype=int), ("gini",))
    assert found["gini@10"] == pytest.approx(differences / (2 * counts.mean()), abs=1e-12)
    ends = {1: np.full(7, 4), 2: np.array([0, 0, 0, 9]), 3: np.zeros(4, dtype=int)}
    found = list_metrics(ends, np.ones(4, dtype=int), ("gini",))
    assert found == {"gini@1": 0.0, "gini@2": pytest.approx(3 / 4), "gini@3": 0.0}


def test_the_tail_is_what_the_fewest_items_with_four_fifths_of_the_interactions_leave():
    popularity = np.array([5, 40, 1, 39, 15, 0])  # 40 + 39 of 100 are too few, with 15 enough
    assert tail_items(popularity).tolist() == [True, False, True, False, False, True]
    assert tail_items(np.array([40, 20, 40])).tolist() == [False, True, False]  # just 80
    assert tail_items(np.array([5, 5, 5, 5, 5])).tolist() == [False] * 4 + [True]  # ties
    counts = {3: np.array([2, 10, 1, 10, 5, 2])}
    assert list_metrics(counts, popularity, ("tail",)) == {"tail@3": pytest.approx(5 / 30)}
