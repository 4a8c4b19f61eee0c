"""Negatives by popularity, and those a user does not know."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from cadc_rec.data.load.batches import Step
from cadc_rec.data.load.negatives import WeightedNegatives, popularity_weights
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError


def step(number=0, start=0, rows=0):
    return Step(5, 1, 0, number, start, np.arange(rows), rows)


def known_items(*taken):
    indptr = np.cumsum([0, *(len(items) for items in taken)])
    return UserItems(indptr, np.array([i for items in taken for i in items], np.int32))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.75, 1.0])
def test_popularity_draws_have_the_distribution_of_counted_powers(alpha):
    rng = np.random.default_rng(0)
    items = rng.zipf(1.3, 20_000) % 60
    frequency = np.bincount(items, minlength=70)  # the last ten never occur
    draws = 200_000
    drawn = WeightedNegatives(popularity_weights(frequency, alpha)).of_rows(
        step(), np.zeros(draws // 4, np.int32), 4
    )
    counted: dict[int, int] = {}  # apart from the code under test
    for item in items.tolist():
        counted[item] = counted.get(item, 0) + 1
    powers = {item: n**alpha for item, n in counted.items()}
    found = np.bincount(drawn.ravel(), minlength=70)
    assert set(np.flatnonzero(found).tolist()) <= set(powers)
    total = sum(powers.values())
    expected = np.array([powers.get(i, 0.0) / total * draws for i in range(70)])
    seen = expected > 0
    chi_squared = ((found[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    assert chi_squared < 98  # 59 degrees of freedom: beyond it once in a thousand seeds


def test_weights_are_in_proportion_and_zero_for_what_never_occurs():
    weights = popularity_weights(np.array([0, 1, 4, 10_000]), 0.5)
    assert weights[0] == 0
    assert weights[2] / weights[1] == pytest.approx(2, rel=1e-9)
    assert weights[3] / weights[1] == pytest.approx(100, rel=1e-9)


@pytest.mark.parametrize("popular", [False, True])
def test_a_known_item_is_never_drawn_and_the_others_as_often_as_they_weigh(popular):
    rng = np.random.default_rng(1)
    weights = rng.integers(0, 9, 30).astype(np.int64) if popular else np.ones(30, np.int64)
    taken = [[], [29], [0, 1, 2], sorted(range(0, 30, 2), key=lambda i: -i), [7, 3, 7, 29, 0]]
    negatives = WeightedNegatives(weights, known_items(*taken))
    users = np.repeat(np.arange(5, dtype=np.int32), 8000)
    drawn = negatives.of_rows(step(), users, 5)
    for user, items in enumerate(taken):
        found = np.bincount(drawn[users == user].ravel(), minlength=30)
        free = {i: int(weights[i]) for i in range(30) if i not in items and weights[i]}
        assert set(np.flatnonzero(found).tolist()) == set(free)
        chi_squared = 0.0
        for item, weight in free.items():
            expected = float(Fraction(weight, sum(free.values())) * 40_000)
            chi_squared += (found[item] - expected) ** 2 / expected
        assert chi_squared < 62  # at most 29 degrees of freedom: once in three thousand


def test_random_users_and_items_never_meet_what_they_know():
    rng = np.random.default_rng(2)
    taken = [rng.choice(400, size, replace=False).tolist() for size in rng.integers(0, 399, 60)]
    weights = popularity_weights(rng.integers(0, 2000, 400) * (rng.random(400) < 0.9), 0.75)
    taken = [items for items in taken if weights.sum() > weights[items].sum()]
    negatives = WeightedNegatives(weights, known_items(*taken))
    users = rng.integers(0, len(taken), 20_000).astype(np.int32)
    drawn = negatives.of_rows(step(), users, 4)
    knows = [set(items) for items in taken]
    assert not any(
        item in knows[user] for user, row in zip(users, drawn.tolist(), strict=True) for item in row
    )
    assert (weights[drawn] > 0).all()


@pytest.mark.parametrize("excluding", [False, True])
def test_a_part_of_the_rows_draws_its_part_of_the_sequence(excluding):
    known = known_items(*[[n, n + 1] for n in range(20)]) if excluding else None
    negatives = WeightedNegatives(np.arange(1, 51), known)
    users = (np.arange(100) % 20).astype(np.int32)
    whole = negatives.of_rows(step(), users, 3)
    parts = [
        negatives.of_rows(step(number, at, 25), users[at : at + 25], 3)
        for number, at in enumerate(range(0, 100, 25))
    ]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_a_user_who_knows_all_that_can_be_drawn_is_refused():
    weights = np.array([1, 0, 5])  # item 1 cannot be drawn
    with pytest.raises(CadcError, match=r"leaves 1 users without a negative: they know every item"):
        WeightedNegatives(weights, known_items([0], [0, 2]))


def test_one_item_is_what_is_drawn():
    assert WeightedNegatives(np.array([3])).shared((0, 6, 1, 0), 0, 4).tolist() == [0] * 4
    weights = np.array([0, 0, 1, 0])
    assert set(WeightedNegatives(weights).shared((0, 6, 1, 0), 0, 50).tolist()) == {2}
