"""Greedy k-centres: against all distances of all rows, and its parts of a block."""

import itertools

import numpy as np
import pytest

from cadc_rec.data.select import blocks
from cadc_rec.data.select.blocks import Blocks
from cadc_rec.data.select.centres import farthest_first, k_centres, part_rows

USERS, ITEMS, ROWS = 40, 30, 500


@pytest.fixture(scope="module")
def world():
    """Whole numbers, so that distances are exact in float32, and some rows equally far."""
    rng = np.random.default_rng(3)
    of_users, of_items = (rng.integers(-9, 10, (n, 4)).astype("f4") for n in (USERS, ITEMS))
    user = np.sort(rng.integers(0, USERS, ROWS)).astype(np.int32)
    item = rng.integers(0, ITEMS, ROWS).astype(np.int32)
    return of_users, of_items, user, item


def distances(of_users, of_items, user, item):
    """Of every two rows, by their joined vectors ``[rows, rows]``."""
    joined = np.concatenate([of_users[user], of_items[item]], 1).astype(float)
    return np.sqrt(((joined[:, None] - joined[None]) ** 2).sum(-1))


def rows_taken(world, wanted, centres, seed=0):
    of_users, of_items, user, item = world
    of = Blocks(None, len(user))
    choice = k_centres(
        lambda block: (user[block.start : block.stop], item[block.start : block.stop]),
        lambda users, items: (of_users[users], of_items[items]),
        wanted,
        centres,
        seed,
        of,
    )
    taken = [choice.rows(block) for block in of]
    assert [choice.count(block) for block in of] == [len(rows) for rows in taken]
    return np.concatenate([rows + block.start for rows, block in zip(taken, of, strict=True)])


def test_every_next_row_is_the_farthest_from_all_before_it(world):
    apart = distances(*world)
    expected = [0]
    while len(expected) < 60:
        expected.append(int(apart[:, expected].min(1).argmax()))
    assert farthest_first(*world, 60).tolist() == expected


def test_the_radius_is_at_most_twice_the_least_possible_one():
    """All choices of 3 of 14 rows are tried."""
    rng = np.random.default_rng(1)
    of_users, of_items = rng.normal(size=(6, 2)).astype("f4"), rng.normal(size=(5, 2)).astype("f4")
    user, item = rng.integers(0, 6, 14), rng.integers(0, 5, 14)
    apart = distances(of_users, of_items, user, item)
    least = min(apart[:, list(some)].min(1).max() for some in itertools.combinations(range(14), 3))
    found = farthest_first(of_users, of_items, user, item, 3)
    assert least <= apart[:, found].min(1).max() <= 2 * least


def test_no_row_is_taken_twice_though_all_lie_in_one_place():
    tables = np.ones((1, 3), np.float32), np.ones((1, 3), np.float32)
    zeros = np.zeros(9, np.int64)
    assert sorted(farthest_first(*tables, zeros, zeros, 9)) == list(range(9))


@pytest.mark.parametrize("wanted", [1, 9, 123, 499, 500])
@pytest.mark.parametrize("size", [64, 1000])
def test_exactly_as_many_rows_are_taken_in_parts(world, wanted, size, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", size)
    rows = rows_taken(world, wanted, 3)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == wanted
    for start in range(0, ROWS, size):  # every block gives its share
        stop = min(start + size, ROWS)
        here = np.count_nonzero((rows >= start) & (rows < stop))
        assert abs(here - wanted * (stop - start) / ROWS) < 1


def test_one_part_is_the_algorithm_over_all_rows_from_a_drawn_one():
    """Every pair is there once and no two distances are equal: only the first row is open."""
    rng = np.random.default_rng(5)
    of_users, of_items = rng.normal(size=(12, 4)).astype("f4"), rng.normal(size=(9, 4)).astype("f4")
    user, item = (ids.ravel() for ids in np.meshgrid(np.arange(12), np.arange(9), indexing="ij"))
    world, rows = (of_users, of_items, user, item), len(user)
    apart, found = distances(*world), set()
    for first in range(rows):
        taken = [first]
        while len(taken) < 20:
            taken.append(int(apart[:, taken].min(1).argmax()))
        found.add(tuple(sorted(taken)))
    drawn = {tuple(rows_taken(world, 20, rows, seed)) for seed in range(5)}
    assert len(drawn) > 1
    assert drawn <= found
    assert rows_taken(world, 20, rows, 4).tolist() == rows_taken(world, 20, rows, 4).tolist()


def test_centres_cover_better_than_a_uniform_sample(world):
    """Also in parts: the mean over seeds of the largest distance to a taken row."""
    apart = distances(*world)
    rng = np.random.default_rng(0)
    drawn = [rng.choice(ROWS, 50, replace=False) for _ in range(20)]
    by_chance = np.mean([apart[:, rows].min(1).max() for rows in drawn])
    in_parts = np.mean([apart[:, rows_taken(world, 50, 10, s)].min(1).max() for s in range(20)])
    at_once = np.mean([apart[:, rows_taken(world, 50, 50, s)].min(1).max() for s in range(20)])
    assert at_once < in_parts < by_chance


def test_a_part_has_the_ratio_times_as_many_rows_as_centres():
    assert part_rows(256, 1_000_000, 10_000, 2**20) == 25_600
    assert part_rows(256, 1_000_000, 1, 2**20) == 2**20
    assert part_rows(256, 100, 10, 100) == 100
