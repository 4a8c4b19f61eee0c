"""Selections that look at their rows: exact counts, and the rows they promise."""

import numpy as np
import pytest

from cadc_rec.data.select import blocks, choices
from cadc_rec.data.select import shares as shares_file
from cadc_rec.data.select.blocks import Blocks
from cadc_rec.data.select.choices import ByUser
from cadc_rec.data.select.ranks import Alone
from cadc_rec.data.select.shares import shares

COUNTS = np.array([10, 0, 3, 1, 25, 7])
INDPTR = np.concatenate([[0], np.cumsum(COUNTS)])


def all_rows(of, rows):
    """What a choice takes of all blocks."""
    return np.concatenate([of(block) + block.start for block in Blocks(None, rows)])


def recent_rows(indptr, wanted, seed):
    return all_rows(ByUser(indptr, wanted, seed, Alone()).recent, indptr[-1])


def stratified_rows(indptr, wanted, seed):
    return all_rows(ByUser(indptr, wanted, seed, Alone()).stratified, indptr[-1])


def recency_weighted_rows(indptr, wanted, half_life, seed):
    of = Blocks(None, indptr[-1])
    choice = choices.recency_weighted(indptr, wanted, half_life, seed, of, Alone())
    assert [choice.count(block) for block in of] == [len(choice.rows(block)) for block in of]
    return all_rows(choice.rows, indptr[-1])


@pytest.mark.parametrize("users", [2, 3, 100])
@pytest.mark.parametrize("wanted", [0, 1, 4, 5, 23, 46])
def test_shares_are_those_of_the_largest_remainders(wanted, users, monkeypatch):
    """In Python's fractions: rounded down, one more to the largest remainders, by draw if equal."""
    monkeypatch.setattr(shares_file, "_USERS", users)
    draws = np.random.Generator(np.random.Philox(np.random.SeedSequence(5, spawn_key=(12,))))
    drawn = draws.random(len(COUNTS))
    whole = [count * wanted // 46 for count in COUNTS.tolist()]
    rests = [-(count * wanted % 46) for count in COUNTS.tolist()]
    first = sorted(range(len(COUNTS)), key=lambda user: (rests[user], drawn[user]))
    for user in first[: wanted - sum(whole)]:
        whole[user] += 1
    assert shares(COUNTS, wanted, (5, 12)).tolist() == whole


def test_equal_shares_get_what_is_left_by_draw():
    given = [shares(np.full(10, 3), 15, (seed, 12)) for seed in range(60)]
    assert all(sorted(each.tolist()) == [1] * 5 + [2] * 5 for each in given)
    assert (np.sum(given, 0) > 70).all()  # 90 each, give or take 4


def test_shares_of_huge_counts_are_exact():
    counts = np.array([3_000_000_000, 2_000_000_000, 1])
    # of 5e9 + 1 rows: 2,399,999,999.52, 1,599,999,999.68 and 0.8, of which two are rounded up
    assert shares(counts, 4_000_000_000, (0, 12)).tolist() == [2_399_999_999, 1_600_000_000, 1]


@pytest.mark.parametrize("size", [4, 7, 1000])
@pytest.mark.parametrize("choose", [recent_rows, stratified_rows])
@pytest.mark.parametrize("wanted", [1, 9, 46])
def test_users_give_their_share(choose, wanted, size, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", size)  # users with rows in several blocks
    rows = choose(INDPTR, wanted, 1)
    assert rows.tolist() == sorted(set(rows.tolist()))
    user = np.repeat(np.arange(len(COUNTS)), COUNTS)[rows]
    by_user = np.bincount(user, minlength=len(COUNTS))
    assert by_user.sum() == wanted
    assert (np.abs(by_user - COUNTS * wanted / 46) < 1).all()
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 20)
    assert choose(INDPTR, wanted, 1).tolist() == rows.tolist()


def test_recent_rows_are_each_users_last():
    rows = recent_rows(INDPTR, 23, 0)
    for user in range(len(COUNTS)):
        of_user = rows[(rows >= INDPTR[user]) & (rows < INDPTR[user + 1])]
        assert of_user.tolist() == list(range(INDPTR[user + 1] - len(of_user), INDPTR[user + 1]))


def test_stratified_rows_are_any_of_the_users():
    seen = {int(r) for seed in range(60) for r in stratified_rows(INDPTR, 23, seed)}
    assert seen == set(range(46))


def test_recency_weights_halve_the_odds_at_the_half_life():
    """One of two rows of one user, drawn alone: the later one twice as often."""
    indptr, draws = np.array([0, 2]), 500
    later = sum(int(recency_weighted_rows(indptr, 1, 1.0, seed)[0]) for seed in range(draws))
    assert later / draws == pytest.approx(2 / 3, abs=0.07)
    assert len(recency_weighted_rows(INDPTR, 17, 5.0, 0)) == 17


@pytest.mark.parametrize("size", [4, 1000])
def test_hard_rows_have_the_lowest_scores_and_the_earlier_ones_of_equals(size, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", size)
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 9, 200), rng.integers(0, 11, 200)
    of_users, of_items = (rng.integers(-2, 3, (n, 2)).astype("f4") for n in (9, 11))
    scores = (of_users[users] * of_items[items]).sum(1)  # whole numbers: many are equal

    def rows_of(block):
        return users[block.start : block.stop], items[block.start : block.stop]

    def vectors(user, item):
        return of_users[user], of_items[item]

    of = Blocks(None, 200)
    for wanted in (1, 50, 51, 52, 53, 200):
        choice = choices.hard(rows_of, vectors, wanted, of, Alone())
        rows = all_rows(choice.rows, 200)
        assert rows.tolist() == sorted(np.argsort(scores, kind="stable")[:wanted].tolist())
        assert [choice.count(block) for block in of] == [len(choice.rows(block)) for block in of]
