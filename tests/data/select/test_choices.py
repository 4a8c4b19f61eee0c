"""Selections that look at their rows: exact counts, and the rows they promise."""

import numpy as np
import pytest

from cadc_rec.data.select.choices import (
    generator,
    hard_rows,
    recency_weighted_rows,
    recent_rows,
    rows_after,
    shares,
    stratified_rows,
)

COUNTS = np.array([10, 0, 3, 1, 25, 7])
INDPTR = np.concatenate([[0], np.cumsum(COUNTS)])


@pytest.mark.parametrize("wanted", [1, 4, 5, 23, 46])
def test_shares_are_exact_and_within_one_of_the_rule_of_three(wanted):
    got = shares(COUNTS, wanted, generator(0))
    assert got.sum() == wanted
    assert (np.abs(got - COUNTS * wanted / 46) < 1).all()
    assert (got <= COUNTS).all()


@pytest.mark.parametrize("choose", [recent_rows, stratified_rows])
@pytest.mark.parametrize("wanted", [1, 9, 46])
def test_users_give_their_share(choose, wanted):
    rows = choose(INDPTR, wanted, generator(1))
    assert rows.tolist() == sorted(set(rows.tolist()))
    user = np.repeat(np.arange(len(COUNTS)), COUNTS)[rows]
    by_user = np.bincount(user, minlength=len(COUNTS))
    assert by_user.sum() == wanted
    assert by_user.tolist() == shares(COUNTS, wanted, generator(1)).tolist()


def test_recent_rows_are_each_users_last():
    rows = recent_rows(INDPTR, 23, generator(0))
    for user in range(len(COUNTS)):
        of_user = rows[(rows >= INDPTR[user]) & (rows < INDPTR[user + 1])]
        assert of_user.tolist() == list(range(INDPTR[user + 1] - len(of_user), INDPTR[user + 1]))


def test_stratified_rows_are_any_of_the_users():
    seen = {int(r) for seed in range(60) for r in stratified_rows(INDPTR, 23, generator(seed))}
    assert seen == set(range(46))


def test_rows_after_counts_to_the_users_end():
    assert rows_after(np.array([0, 3, 3, 5])).tolist() == [2, 1, 0, 1, 0]


def test_recency_weights_halve_the_odds_at_the_half_life():
    """One of two rows of one user, drawn alone: the later one twice as often."""
    indptr, draws = np.array([0, 2]), 3000
    later = sum(
        int(recency_weighted_rows(indptr, 1, 1.0, generator(seed))[0]) for seed in range(draws)
    )
    assert later / draws == pytest.approx(2 / 3, abs=0.03)
    assert len(recency_weighted_rows(INDPTR, 17, 5.0, generator(0))) == 17


def test_hard_rows_have_the_lowest_scores():
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 200), rng.integers(0, 11, 200)
    of_users, of_items = rng.normal(size=(9, 4)), rng.normal(size=(11, 4))
    scores = (of_users[users] * of_items[items]).sum(1)
    rows = hard_rows(users, items, of_users.astype("f4"), of_items.astype("f4"), 50)
    assert len(rows) == 50
    assert scores[rows].max() <= np.delete(scores, rows).min() + 1e-5
