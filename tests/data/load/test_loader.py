"""What a training epoch reads: every row once, on any number of ranks."""

import numpy as np
import pytest

from cadc_rec.data.load.candidates import Lifetimes, SoftmaxBatches
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.shards import Examples
from cadc_rec.data.user_items import UserItems


def a_loader(rows, rank=0, rows_by_rank=None, batch_size=32, negatives=2, seed=3):
    rng = np.random.default_rng(rank)
    users, items = rng.integers(0, 50, rows), rng.integers(0, 200, rows)
    sizes = rows_by_rank or [rows]
    loader = Loader(
        Examples(users, items), sizes, rank, batch_size, seed, PairBatches(negatives, 200)
    )
    return users, items, loader


def positives_of(step, negatives=2):
    user = np.repeat(step.users, np.diff(step.pattern.crow))
    item = step.items[step.pattern.col]
    return list(zip(user[:: negatives + 1], item[:: negatives + 1], strict=True))


def test_an_epoch_gives_every_row_exactly_once():
    users, items, loader = a_loader(101)
    seen = [pair for step in loader.epoch(1) for pair in positives_of(step)]
    assert sorted(seen) == sorted(zip(users.tolist(), items.tolist(), strict=True))


def test_ranks_take_the_same_number_of_steps_whatever_their_rows():
    sizes = [90, 7, 0]
    steps = [list(a_loader(n, r, sizes)[2].epoch(1)) for r, n in enumerate(sizes)]
    assert len({len(s) for s in steps}) == 1
    for of_step in zip(*steps, strict=True):
        together = sum(len(positives_of(step)) for step in of_step)
        assert all(step.positives == together for step in of_step)
    assert sum(step.positives for step in steps[0]) == 97


def test_the_same_epoch_is_the_same_twice_and_another_differs():
    _, _, loader = a_loader(64)
    first, again, other = (
        [positives_of(step) for step in loader.epoch(epoch)] for epoch in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_negatives_cover_all_items_evenly():
    _, _, loader = a_loader(4000, batch_size=500, negatives=5)
    drawn = np.zeros(200)
    for step in loader.epoch(1):
        items = step.items[step.pattern.col].reshape(-1, 6)[:, 1:]
        drawn += np.bincount(items.ravel(), minlength=200)
    expected = 4000 * 5 / 200
    chi_squared = ((drawn - expected) ** 2 / expected).sum()
    assert chi_squared < 270  # 199 degrees of freedom: exceeded once in two thousand seeds


def test_rows_that_do_not_match_their_count_are_refused():
    with pytest.raises(ValueError, match="rank 0 has 5 rows, expected 6"):
        a_loader(5, rows_by_rank=[6])


def a_softmax_loader(candidates, rows=300, negatives=40, known=None, lifetimes=None):
    rng = np.random.default_rng(0)
    users, items = rng.integers(0, 50, rows), rng.integers(0, 200, rows)
    arrange = SoftmaxBatches(candidates, 200, negatives, known, lifetimes=lifetimes)
    return users, items, Loader(Examples(users, items), [rows], 0, 32, 3, arrange)


def among(step):
    """The items that are every row's candidates."""
    return step.items if step.negatives is None else step.items[step.negatives]


@pytest.mark.parametrize("candidates", ["all", "sampled", "in-batch", "mixed"])
def test_a_softmax_epoch_gives_every_row_once_with_its_positive_labelled(candidates):
    users, items, loader = a_softmax_loader(candidates)
    seen = []
    for step in loader.epoch(1):
        assert step.positives == len(step.users)
        assert (np.diff(step.items) > 0).all()  # each candidate once
        seen += zip(step.users.tolist(), step.items[step.labels].tolist(), strict=True)
    assert sorted(seen) == sorted(zip(users.tolist(), items.tolist(), strict=True))


def test_candidates_are_all_items_or_the_batchs_own():
    for step in a_softmax_loader("all")[2].epoch(1):
        assert step.items.tolist() == list(range(200))
        assert step.negatives is None
    for step in a_softmax_loader("in-batch")[2].epoch(1):
        assert set(step.labels.tolist()) == set(range(len(step.items)))
        assert step.negatives is None


def test_shared_negatives_are_uniform_and_marked_and_positives_are_not():
    _, _, loader = a_softmax_loader("sampled", rows=6000)
    drawn, steps = np.zeros(200), 0
    for step in loader.epoch(1):
        assert len(step.negatives) <= 40
        others = set(range(len(step.items))) - set(step.negatives.tolist())
        assert others <= set(step.labels.tolist())  # what is no negative is somebody's positive
        assert step.repeated.tolist() == [at not in others for at in step.labels]
        drawn[step.items[step.negatives]] += 1
        steps += 1
    expected = steps * (1 - (1 - 1 / 200) ** 40)  # an item drawn twice counts once
    assert abs(drawn.mean() - expected) < 0.03 * expected
    assert drawn.std() < 1.3 * np.sqrt(expected)


def test_mixed_candidates_are_the_positives_and_the_shared_draws_for_every_row():
    steps = (a_softmax_loader(kind)[2].epoch(1) for kind in ("mixed", "sampled"))
    for mixed, sampled in zip(*steps, strict=True):
        assert mixed.items.tolist() == sampled.items.tolist()  # the same draws
        assert mixed.negatives is None


def test_exactly_the_items_that_were_not_alive_at_an_examples_time_are_masked():
    rng = np.random.default_rng(2)
    rows, n_items = 300, 200
    _, items, _ = a_softmax_loader("sampled")
    times = rng.integers(0, 50, rows).astype(np.float64)
    # D_full: the examples, in another order, and as many rows more.
    taken = np.concatenate([items, rng.integers(0, n_items, rows)])
    at = np.concatenate([times, rng.integers(0, 50, rows)])
    order = rng.permutation(2 * rows)
    places = np.argsort(order)[:rows]
    lifetimes = Lifetimes.of(taken[order], at[order], n_items, places)
    _, _, loader = a_softmax_loader("sampled", lifetimes=lifetimes)
    masked_pairs = 0
    for step in loader.epoch(1):
        expected = {
            (row, place)
            for row, example in enumerate(step.rows)
            for place, item in enumerate(among(step))
            if not any(at[taken == item] <= times[example])
            or not any(at[taken == item] >= times[example])
        }
        assert set(zip(*step.masked.tolist(), strict=True)) == expected
        own = (np.flatnonzero(step.negatives == at).tolist() for at in step.labels)
        assert expected.isdisjoint((row, at) for row, places in enumerate(own) for at in places)
        masked_pairs += len(expected)
    assert masked_pairs


@pytest.mark.parametrize("kind", ["softmax", "pairs"])
def test_each_row_says_which_example_it_is(kind):
    rows = 100
    rng = np.random.default_rng(1)
    users, items = rng.integers(0, 9, rows), rng.integers(0, 200, rows)
    if kind == "softmax":
        arrange = SoftmaxBatches("sampled", 200, 10)
    else:
        arrange = PairBatches(2, 200, by_example=True)
    loader = Loader(Examples(users, items), [rows], 0, 32, 3, arrange)
    seen = []
    for step in loader.epoch(1):
        positive = step.labels
        if kind == "pairs":
            assert np.diff(step.pattern.crow).tolist() == [3] * len(step.users)
            positive = step.pattern.col[::3]
        assert step.users.tolist() == users[step.rows].tolist()
        assert step.items[positive].tolist() == items[step.rows].tolist()
        seen += step.rows.tolist()
    assert sorted(seen) == list(range(rows))


@pytest.mark.parametrize("candidates", ["all", "sampled", "in-batch"])
def test_exactly_the_users_other_known_items_are_masked(candidates):
    rng = np.random.default_rng(7)
    taken = [np.sort(rng.choice(200, size, replace=False)) for size in rng.integers(0, 60, 50)]
    indptr = np.cumsum([0, *(len(t) for t in taken)])
    known = UserItems(indptr, np.concatenate(taken).astype(np.int32))
    _, _, loader = a_softmax_loader(candidates, known=known)
    for step in loader.epoch(1):
        expected = {
            (row, place)
            for row, (user, label) in enumerate(zip(step.users, step.labels, strict=True))
            for place, item in enumerate(among(step))
            if item in taken[user] and item != step.items[label]
        }
        masked = list(zip(*step.masked.tolist(), strict=True))
        assert len(masked) == len(set(masked))
        assert set(masked) == expected
