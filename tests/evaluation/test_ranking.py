"""Full ranking against a loop that anyone can check by eye."""

import threading

import numpy as np
import pytest
import torch
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.evaluation import item_shard
from cadc_rec.evaluation.ranking import held_out_ranks
from tests.evaluation.close_scores import close_world


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
    return users, items, targets, UserItems(indptr, np.concatenate(seen).astype(np.int32))


def test_ranks_equal_those_of_a_loop_with_ties_against_us(world):
    users, items, targets, excluded = world
    got = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert got.tolist() == ranks_by_loop(users.astype(float), items, targets, excluded).tolist()


@pytest.mark.parametrize(("width", "threads"), [(128, 1), (129, 2)])
def test_products_of_narrow_vectors_are_one_threads(world, width, threads):
    *_, targets, excluded = world
    users, items, seen = torch.ones(23, width), torch.ones(31, width), []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        held_out_ranks(
            users, items, targets, excluded, advance=lambda _: seen.append(torch.get_num_threads())
        )
        assert seen == [2, threads]  # told of those without a target before any product
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_blocks_are_dealt_out_to_threads_and_listed_scores_formed_in_order(
    world, monkeypatch, three_threads
):
    """Of 23 users one has no target; three threads take the others, four at a time."""
    users, items, targets, excluded = world
    monkeypatch.setattr(item_shard, "_ELEMENTS", 4 * 31)
    monkeypatch.setattr(item_shard, "_USERS", 1)
    lock, asked, told = threading.Lock(), [], []

    def listed(rows):
        assert lock.acquire(blocking=False)  # by one thread at a time
        asked.append(rows.tolist())
        lock.release()
        return sparse.csr_array((len(rows), 31), dtype=np.float32)

    def advance(more):
        told.append((more, torch.get_num_threads()))

    tensors = torch.from_numpy(users), torch.from_numpy(items)
    got = held_out_ranks(*tensors, targets, excluded, listed=listed, advance=advance)
    assert got.tolist() == ranks_by_loop(users.astype(float), items, targets, excluded).tolist()
    assert [row for rows in asked for row in rows] == [row for row in range(23) if row != 5]
    assert told[0] == (1, 3)
    assert sorted(told[1:]) == [(2, 1)] + [(4, 1)] * 5
    assert torch.get_num_threads() == 3


def test_threads_rank_in_the_callers_inference_mode(world, monkeypatch, three_threads):
    users, items, targets, excluded = world
    monkeypatch.setattr(item_shard, "_ELEMENTS", 31)
    monkeypatch.setattr(item_shard, "_USERS", 1)
    with torch.inference_mode():
        got = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert got.tolist() == ranks_by_loop(users.astype(float), items, targets, excluded).tolist()


def test_where_one_thread_fails_the_others_end_and_the_error_comes_out(
    world, monkeypatch, three_threads
):
    users, items, targets, excluded = world
    monkeypatch.setattr(item_shard, "_ELEMENTS", 31)
    monkeypatch.setattr(item_shard, "_USERS", 1)
    asked = []

    def listed(rows):
        asked.append(rows)
        if len(asked) == 2:
            raise CadcError("these cannot be formed")
        return sparse.csr_array((len(rows), 31), dtype=np.float32)

    tensors = torch.from_numpy(users), torch.from_numpy(items)
    with pytest.raises(CadcError, match="these cannot be formed"):
        held_out_ranks(*tensors, targets, excluded, listed=listed)
    assert len(asked) < 22
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("elements", "least"), [(70, 1), (70, 5), (1, 1)])
def test_ranks_do_not_depend_on_the_block_size(world, monkeypatch, elements, least):
    """Two users by all items, five by tiles of fourteen, one by one."""
    users, items, targets, excluded = world
    whole = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    monkeypatch.setattr(item_shard, "_ELEMENTS", elements)
    monkeypatch.setattr(item_shard, "_USERS", least)
    parts = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert whole.tolist() == parts.tolist()


@pytest.mark.parametrize(("elements", "least"), [(70, 1), (70, 5), (1_000_000, 64)])
def test_listed_scores_are_added_to_the_dot_products(world, monkeypatch, elements, least):
    users, items, targets, excluded = world
    rng = np.random.default_rng(8)
    more = (rng.integers(-2, 3, (23, 31)) * (rng.random((23, 31)) < 0.3)).astype(np.float32)
    monkeypatch.setattr(item_shard, "_ELEMENTS", elements)
    monkeypatch.setattr(item_shard, "_USERS", least)

    def listed(rows):
        return sparse.csr_array(more[rows])

    arguments = (torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    got = held_out_ranks(*arguments, listed=listed)
    # The same as one more element for every item: the user's row against the item's unit vector.
    wide_users = np.hstack([users, more]).astype(float)
    wide_items = np.hstack([items, np.eye(31, dtype=np.float32)])
    assert got.tolist() == ranks_by_loop(wide_users, wide_items, targets, excluded).tolist()
    assert got.tolist() != held_out_ranks(*arguments).tolist()


def test_listed_scores_that_float32_rounds_away_still_decide():
    """Where dot products are large, a small score on top is below float32's step there."""
    users, items = torch.full((1, 1), 1.0), torch.full((3, 1), 2.0**24)
    nothing = UserItems(np.array([0, 0]), np.array([], np.int32))
    more = sparse.csr_array(np.array([[0.25, 0.5, 0.0]], np.float32))
    for target, rank in ((0, 2), (1, 1), (2, 3)):
        got = held_out_ranks(users, items, np.array([target]), nothing, listed=lambda _: more)
        assert got.tolist() == [rank]


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
        UserItems(np.array([0, 2]), np.array([0, 1], dtype=np.int32)),
    )
    assert ranks.tolist() == [7]  # nine items less two excluded ones


def test_the_validation_item_is_excluded_beside_the_training_items():
    excluded = UserItems(np.array([0, 2, 2, 3]), np.array([5, 1, 4], dtype=np.int32))
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
    none = UserItems(np.zeros(4, dtype=np.int64), np.zeros(0, dtype=np.int32))
    with pytest.raises(CadcError, match="user row 2 is not finite"):
        held_out_ranks(users, torch.zeros(5, 2), np.zeros(3, dtype=int), none)


# --- what float32 cannot tell apart -------------------------------------------------------------


def brute_force(users, items, targets, excluded):
    """Every score in float64, one product after the other, so that twins' are the same bits."""
    ranks = np.zeros(len(users), dtype=int)
    for user in np.flatnonzero(targets >= 0):
        products = items.astype(np.float64) * users[user].astype(np.float64)
        scores = products.cumsum(1)[:, -1]
        bound = scores[targets[user]]
        scores[excluded.items[excluded.indptr[user] : excluded.indptr[user + 1]]] = -np.inf
        ranks[user] = (scores >= bound).sum()
    return ranks


def ranks_of(users, items, targets, excluded):
    ranks = held_out_ranks(torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    return ranks.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_twins_and_near_twins_rank_as_their_float64_scores_do(seed):
    world = close_world(seed)
    users, items, targets, excluded = world
    expected = brute_force(*world)
    assert ranks_of(*world) == expected.tolist()
    # so that this test could fail: scores formed in float32 alone give other ranks
    scores = users @ items.T
    bounds = np.take_along_axis(scores, np.maximum(targets, 0)[:, None], 1)
    rows = np.repeat(np.arange(len(users)), np.diff(excluded.indptr))
    scores[rows, excluded.items] = -np.inf
    assert ((scores >= bounds).sum(1) != expected)[targets >= 0].any()


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e-3, 1e3, 1e8, 1e18])
def test_ranks_of_close_scores_do_not_depend_on_the_vectors_lengths(scale):
    """Also where products are too small for float32."""
    world = close_world(1, scale)
    assert ranks_of(*world) == brute_force(*world).tolist()


@pytest.mark.parametrize("scale", [1e19, 1e30])
def test_scores_beyond_float32_are_an_error_not_a_rank(scale):
    with pytest.raises(CadcError, match=r"scores leave float32's range; their training diverged"):
        ranks_of(*close_world(1, scale))


def test_one_item_of_a_huge_norm_makes_every_row_look_twice_and_changes_no_rank():
    users, items, targets, excluded = close_world(2)
    items[7] *= np.float32(1e9)  # the bound on rounding is a hundred times any other score
    world = users, items, targets, excluded
    assert ranks_of(*world) == brute_force(*world).tolist()


@pytest.mark.parametrize("elements", [10**6, 40 * 30])
def test_ranks_up_to_the_one_that_is_asked_for_are_exact_and_others_beyond_it(
    monkeypatch, elements
):
    """Also in tiles, of which each counts what those before it have counted."""
    monkeypatch.setattr("cadc_rec.evaluation.item_shard._ELEMENTS", elements)
    users, items, targets, excluded = close_world(5)
    expected = brute_force(users, items, targets, excluded)
    looked, look = [], item_shard.ItemShard._look_again

    def counted(self, block, tile, rows, *others):
        looked.append(len(rows))
        look(self, block, tile, rows, *others)

    monkeypatch.setattr(item_shard.ItemShard, "_look_again", counted)
    world = (torch.from_numpy(users), torch.from_numpy(items), targets, excluded)
    assert held_out_ranks(*world).tolist() == expected.tolist()
    of_all, looked[:] = sum(looked), []
    for k in (1, 10, 50):
        ranks = held_out_ranks(*world, enough=k)
        near = expected <= k
        assert near.sum() not in (0, len(near))
        assert ranks[near].tolist() == expected[near].tolist()
        assert (ranks[~near] > k).all()
    assert sum(looked) < 3 * of_all  # so that it saves something


def test_all_scores_equal_but_for_rounding_are_all_looked_at_again():
    """Items that are permutations of each other under a user of ones: one sum in many orders."""
    rng = np.random.default_rng(3)
    element = rng.integers(-(2**23), 2**23, 64).astype(np.float32)  # float64 sums are exact
    items = np.stack([rng.permutation(element) for _ in range(200)])
    users = np.ones((4, 64), dtype=np.float32)
    none = UserItems(np.zeros(5, dtype=np.int64), np.zeros(0, dtype=np.int32))
    assert ranks_of(users, items, np.array([0, 50, 199, -1]), none) == [200, 200, 200, 0]


@pytest.mark.parametrize(
    ("rows", "items"), [(1, 300), (2, 300), (7, 300), (39, 300), (41, 300), (7, 99), (64, 1)]
)
def test_blocks_of_any_size_give_the_same_ranks(rows, items, monkeypatch):
    world = close_world(4)
    expected = brute_force(*world).tolist()
    monkeypatch.setattr(item_shard, "_ELEMENTS", rows * items)
    monkeypatch.setattr(item_shard, "_USERS", rows)
    monkeypatch.setattr(item_shard, "_EXACT_ELEMENTS", 24 * 5)  # five pairs at a time
    assert ranks_of(*world) == expected
    users, items, targets, excluded = world
    part = held_out_ranks(
        torch.from_numpy(users), torch.from_numpy(items), targets, excluded, range(2, 33)
    )
    assert part.tolist() == expected[2:33]


def test_progress_is_told_of_every_user_once(monkeypatch):
    monkeypatch.setattr(item_shard, "_ELEMENTS", 7 * 300)
    monkeypatch.setattr(item_shard, "_USERS", 1)
    users, items, targets, excluded = close_world(4)
    told = []
    held_out_ranks(
        torch.from_numpy(users), torch.from_numpy(items), targets, excluded, advance=told.append
    )
    assert told[0] == 1  # has no target
    assert sorted(told[1:]) == [4, 7, 7, 7, 7, 7]  # by several threads in any order


def test_counting_on_the_cpu_is_what_torch_counts():
    rng = np.random.default_rng(5)
    scores = torch.from_numpy(rng.normal(size=(17, 1001)).astype(np.float32))
    scores[0, :5] = -torch.inf
    scores[1, :5] = torch.inf
    bound = scores[:, 6].clone()
    bound[2:5] = torch.tensor([-torch.inf, torch.inf, 0.0])
    got = item_shard._count_above(scores, bound)
    assert got.dtype == torch.int64
    assert got.tolist() == (scores > bound[:, None]).sum(1).tolist()
    assert item_shard._count_above(scores[:0], bound[:0]).tolist() == []


def test_a_large_catalogue_is_ranked_in_tiles_for_many_users_at_once(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    assert [item_shard.users_at_once(n, cpu) for n in (0, 5_000, 10**7)] == [1_000_000, 200, 64]
    assert item_shard.users_at_once(2**18, gpu) == 1024 == item_shard.users_at_once(10**7, gpu)
    assert item_shard._items_at_once(64, cpu) == 15_625
    for name, value in (
        ("mem_get_info", (24 * 2**20, 2**40)),
        ("memory_reserved", 2**21),
        ("memory_allocated", 2**21),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda _, value=value: value)
    assert item_shard._items_at_once(1024, gpu) == 1024  # 24 bytes a score
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (2**36, 2**40))
    assert item_shard._items_at_once(1024, gpu) == 2**18


def test_entries_alone_make_the_same_added_scores():
    """What a GPU is sent, beside what a CPU forms."""
    rng = np.random.default_rng(6)
    whole = np.where(rng.random((5, 40)) < 0.3, rng.normal(size=(5, 40)), 0).astype(np.float32)
    matrix = sparse.csr_array(whole)
    cpu = torch.device("cpu")
    np.testing.assert_array_equal(item_shard._dense(matrix, range(40), cpu).numpy(), whole)
    for columns in (range(40), range(7), range(11, 40), range(3, 3)):
        found = item_shard._dense(matrix.tocsc(), columns, cpu).numpy()
        np.testing.assert_array_equal(found, whole[:, columns.start : columns.stop])
