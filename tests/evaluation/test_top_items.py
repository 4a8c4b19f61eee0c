"""How often items are recommended, against brute force; the same on one process and on two."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.evaluation import item_shard, top_items
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.evaluation.top_items import TopItems
from tests.evaluation.close_scores import close_world
from tests.evaluation.two_ranks import WORLD, added_scores
from tests.zygote import run_ranks

KS = (3, 10)


def counted(world, ks=KS):
    users, items, targets, excluded = world
    top = TopItems(ks, len(items))
    vectors = torch.from_numpy(users), torch.from_numpy(items)
    ranks = held_out_ranks(*vectors, targets, excluded, top=top)
    return {k: counts.tolist() for k, counts in top.of_ks().items()}, ranks.tolist()


def by_brute_force(world, ks=KS):
    """Every list from scores in float64; of equal ones the lower row first."""
    users, items, targets, excluded = world
    counts = {k: np.zeros(len(items), dtype=int) for k in ks}
    for user in np.flatnonzero(targets >= 0):
        products = items.astype(np.float64) * users[user].astype(np.float64)
        scores = products.cumsum(1)[:, -1]
        taken = excluded.of(user)
        order = [row for row in np.argsort(-scores, kind="stable") if row not in taken]
        for k in ks:
            counts[k][order[:k]] += 1
    return {k: of_k.tolist() for k, of_k in counts.items()}


@pytest.mark.parametrize("seed", range(4))
def test_lists_of_twins_and_near_twins_are_those_of_their_float64_scores(seed):
    world = close_world(seed)
    found, _ = counted(world)
    assert found == by_brute_force(world)
    # so that this test could fail: scores formed in float32 alone give other lists
    users, items, targets, excluded = world
    scores = torch.from_numpy(users @ items.T)
    scores.view(-1)[torch.from_numpy(excluded.flat(len(items)))] = -torch.inf
    rows = scores[targets >= 0].topk(10).indices
    assert np.bincount(rows.flatten(), minlength=len(items)).tolist() != found[10]


def test_counting_lists_changes_no_rank():
    users, items, targets, excluded = world = close_world(5)
    plain = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert counted(world)[1] == plain.tolist()


@pytest.mark.parametrize(("rows", "items"), [(1, 300), (7, 300), (41, 300), (7, 99), (40, 4)])
def test_blocks_of_any_size_give_the_same_counts(rows, items, monkeypatch):
    world = close_world(6)
    monkeypatch.setattr(item_shard, "_ELEMENTS", rows * items)
    monkeypatch.setattr(item_shard, "_USERS", rows)
    monkeypatch.setattr(top_items, "_ELEMENTS", 24 * 16 * 3)  # three users at a time
    assert counted(world)[0] == by_brute_force(world)


def test_many_equal_scores_go_to_the_lower_rows():
    users, items, targets, excluded = close_world(7)
    items[:] = items[0]
    world = users, items, targets, excluded
    assert counted(world)[0] == by_brute_force(world)


@pytest.mark.parametrize("k", [284, 289, 300, 1000])
def test_a_list_ends_with_the_candidates(k):
    world = close_world(8)  # 300 items, of which each user took 11
    found = counted(world, (1, k))[0]
    assert found == by_brute_force(world, (1, k))
    assert sum(found[k]) == 39 * min(k, 289)


def test_listed_scores_come_on_top_of_the_dot_products():
    users, items, targets, excluded = close_world(3)
    rng = np.random.default_rng(3)
    dense = np.where(rng.random((40, 300)) < 0.2, rng.normal(size=(40, 300)), 0)
    more = sparse.csr_array(dense.astype(np.float32))
    top = TopItems((10,), 300)
    vectors = torch.from_numpy(users), torch.from_numpy(items)
    held_out_ranks(
        *vectors,
        targets,
        excluded,
        listed=lambda some: more[some],
        top=top,
    )
    counts = np.zeros(300, dtype=int)
    for user in np.flatnonzero(targets >= 0):
        scores = (items.astype(np.float64) * users[user].astype(np.float64)).cumsum(1)[:, -1]
        scores += more[[user]].toarray()[0]
        scores[excluded.of(user)] = -np.inf
        counts += np.isin(np.arange(300), np.argsort(-scores, kind="stable")[:10])
    assert top.of_ks()[10].tolist() == counts.tolist()


@pytest.mark.distributed
def test_two_processes_rank_and_count_what_one_does(tmp_path):
    """Items and users are dealt out unevenly, and other scores are added to the dot products."""
    out = tmp_path / "found.json"
    script = Path(__file__).with_name("two_ranks.py")
    run_ranks(script, [out], ranks=2, seconds=60)
    found = json.loads(out.read_text())
    counts, ranks = counted(WORLD)
    assert found["plain"] == {"counts": [counts[k] for k in KS], "ranks": ranks}
    users, items, targets, excluded = WORLD
    scores = users.astype(float) @ items.T.astype(float) + added_scores()
    expected = np.zeros(len(users), int)
    for user in np.flatnonzero(targets >= 0):
        bound = scores[user, targets[user]]
        scores[user, excluded.of(user)] = -np.inf
        expected[user] = (scores[user] >= bound).sum()
    assert found["listed"] == expected.tolist()
    assert found["listed"] != ranks
