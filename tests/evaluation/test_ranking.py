"""Full ranking against a loop that anyone can check by eye."""

import numpy as np
import pytest
import torch

from cadc_rec.errors import CadcError
from cadc_rec.evaluation import ranking
from cadc_rec.evaluation.ranking import Excluded, held_out_ranks


def ranks_by_loop(users, items, targets, excluded):
    ranks = []
    for user, target in enumerate(targets):
        if target < 0:
            ranks.append(0)
            continue
        mine = excluded.items[excluded.indptr[user] : excluded.indptr[user + 1]].tolist()
        candidates = [i for i in range(len(items)) if i not in mine and i != target]
        scores = {i: float(np.dot(users[user], items[i])) for i in [*candidates, target]}
        ranks.append(1 + sum(scores[i] >= scores[target] for i in candidates))
    return np.array(ranks)


@pytest.fixture
def world():
    rng = np.random.default_rng(7)
    # Small integers: exact scores, and many ties.
    users = rng.integers(-2, 3, (23, 4)).astype(np.float32)
    items = rng.integers(-2, 3, (31, 4)).astype(np.float32)
    seen = [rng.choice(31, rng.integers(0, 9), replace=False) for _ in range(23)]
    targets = np.array([rng.choice(np.setdiff1d(np.arange(31), s)) for s in seen])
    targets[5] = -1
    indptr = np.concatenate([[0], np.cumsum([len(s) for s in seen])])
    return users, items, targets, Excluded(indptr, np.concatenate(seen).astype(np.int32))


def test_ranks_equal_those_of_a_loop_with_ties_against_us(world):
    users, items, targets, excluded = world
    got = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert got.tolist() == ranks_by_loop(users.astype(float), items, targets, excluded).tolist()


def test_ranks_do_not_depend_on_the_block_size(world, monkeypatch):
    users, items, targets, excluded = world
    whole = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", 70)  # two users at a time
    parts = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert whole.tolist() == parts.tolist()


def test_a_range_of_users_gets_the_ranks_of_just_those(world):
    users, items, targets, excluded = world
    arguments = (torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    whole = held_out_ranks(*arguments)
    assert held_out_ranks(*arguments, users=range(4, 11)).tolist() == whole[4:11].tolist()


def test_all_scores_equal_puts_the_target_last():
    ranks = held_out_ranks(
        torch.zeros(1, 2),
        torch.zeros(9, 2),
        np.array([4]),
        Excluded(np.array([0, 2]), np.array([0, 1], dtype=np.int32)),
    )
    assert ranks.tolist() == [7]  # nine items less two excluded ones


def test_the_validation_item_is_excluded_beside_the_training_items():
    excluded = Excluded(np.array([0, 2, 2, 3]), np.array([5, 1, 4], dtype=np.int32))
    both = excluded.and_one_each(np.array([7, -1, 0]))
    assert both.indptr.tolist() == [0, 3, 3, 5]
    assert [sorted(both.items[a:b].tolist()) for a, b in ((0, 3), (3, 3), (3, 5))] == [
        [1, 5, 7],
        [],
        [0, 4],
    ]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_is_an_error_naming_the_row(bad):
    users = torch.zeros(3, 2)
    users[2, 1] = bad
    none = Excluded(np.zeros(4, dtype=np.int64), np.zeros(0, dtype=np.int32))
    with pytest.raises(CadcError, match="user row 2 is not finite"):
        held_out_ranks(users, torch.zeros(5, 2), np.zeros(3, dtype=int), none)
