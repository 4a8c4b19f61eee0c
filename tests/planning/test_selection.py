"""What selecting holds, by hand, and that a rank holds no more while it does."""

import tracemalloc
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.select import blocks, choices
from cadc_rec.data.select.balanced import Balanced
from cadc_rec.data.select.blocks import Blocks
from cadc_rec.data.select.centres import k_centres
from cadc_rec.data.select.ranks import Alone
from cadc_rec.planning import selection as planned_selection
from cadc_rec.planning.selection import selection_bytes
from cadc_rec.planning.sizes import Sizes

WIDTH = 96
SIZES = Sizes(50_000_000, 5_000_000, "by hand", interactions=10_000_000_000)


@pytest.mark.parametrize(
    ("kind", "ranks", "expected"),
    [
        ("uniform", 64, 0),
        ("time-stratified", 64, 0),
        ("item-stratified", 64, 120_000_000),
        ("recent", 64, 8 * 781_250),
        ("hard", 64, 8 * 156_250_000),
        ("gradient-norm", 64, 8 * 156_250_000),
        # 256 centres of 2,560 rows, which may all be of different users and items
        ("k-centres", 64, 8 * 98 * 2 * 2560 + 64 * 2560 + 24 * 2**20),
        ("recency-weighted", 64, 8 * 9_765_625),
        ("over-sampling", 64, 320_000_000 + 48 * 39_062_500),  # a quarter of 156 million rows
        ("under-sampling", 1000, 320_000_000 + 48 * 10_000_000),  # all of a rank's
        ("under-sampling", 256, 320_000_000 + 48 * 16_777_216),
    ],
)
def test_bytes_are_those_of_the_ranks_share(kind, ranks, expected):
    assert selection_bytes(SelectConfig(kind=kind), SIZES, ranks, WIDTH) == expected


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [(64, 50 * (9 * 2**16 + 12 * 2**18)), (100_000, 50 * (9 * 10_000 + 12 * 10_000))],
)
def test_histories_are_formed_in_pieces_and_wait_for_a_row_group(ranks, expected):
    """A tenth of ten thousand million rows, each with fifty items before it."""
    asked = SelectConfig(kind="uniform", ratio=10)
    assert selection_bytes(asked, SIZES, ranks, WIDTH, history=50) == expected


def peak_of(work):
    """Bytes that NumPy and Python held more at most."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Run:
    """A run of the rows of an item column, which is no part of what is measured."""

    def __init__(self, item, start, stop):
        self.start, self.stop = start, stop
        self.table = pa.table({"item": item[start:stop]})

    def column(self, _):
        return self.table


def test_balancing_holds_what_is_planned():
    rows, items, block = 400_000, 20_000, 50_000
    item = np.random.default_rng(0).integers(0, items, rows).astype(np.int32)
    runs = [Run(item, start, start + block) for start in range(0, rows, block)]
    frequency = np.bincount(item, minlength=items)
    counts = np.where(frequency, 1, 0)
    held = peak_of(lambda: Balanced(runs, frequency, counts, 0, Alone()))
    sizes = Sizes(1000, items, "the test", interactions=rows)
    planned = selection_bytes(SelectConfig(kind="under-sampling"), sizes, 1, WIDTH)
    assert 0.6 * planned < held < planned + 64 * block


def test_ranking_keys_holds_what_is_planned_where_all_are_alike(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 20_000)
    rows, ids = 400_000, np.zeros(20_000, np.int32)
    of = Blocks(None, rows)

    def vectors(user, item):
        return (np.ones((len(ids), 1), np.float32) for ids in (user, item))

    held = peak_of(lambda: choices.hard(lambda _: (ids, ids), vectors, rows // 10, of, Alone()))
    sizes = Sizes(1000, 1000, "the test", interactions=rows)
    planned = selection_bytes(SelectConfig(kind="hard"), sizes, 1, WIDTH)
    assert 0.9 * planned < held < planned + 64 * 20_000 + 4 * 2**16 * 8  # a block, and counts


def test_random_keys_of_rows_begin_alike_as_seldom_as_is_planned(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 20_000)
    rows = 1_000_000
    indptr = np.arange(0, rows + 1, 100)
    of = Blocks(None, rows)
    sizes = Sizes(1000, 1000, "the test", interactions=rows)
    planned = selection_bytes(SelectConfig(kind="recency-weighted"), sizes, 1, WIDTH)
    for half_life, wanted in ((5.0, rows // 100), (1000.0, rows // 2)):
        work = partial(choices.recency_weighted, indptr, wanted, half_life, 0, of, Alone())
        assert peak_of(work) < planned + 80 * 20_000 + 4 * 2**16 * 8


def test_choosing_centres_holds_what_is_planned(monkeypatch):
    """Two parts of a block, all of whose rows are of different users and items."""
    rows, ids = 20_000, np.arange(20_000, dtype=np.int32)
    for module in (blocks, planned_selection):
        monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    asked = SelectConfig(kind="k-centres", ratio=1000, centres=10)

    def vectors(user, item):
        """As wide as those of a table with biases, made of its rows and of constants."""
        rows = [np.zeros((len(ids), WIDTH + 1), np.float32) for ids in (user, item)]
        return [np.concatenate([part, np.ones((len(part), 1), "f4")], 1) for part in rows]

    choice = k_centres(lambda _: (ids, ids), vectors, rows // 1000, 10, 0, Blocks(None, rows))
    held = peak_of(lambda: choice.rows(Blocks(None, rows)[0]))
    planned = selection_bytes(asked, Sizes(rows, rows, "the test", interactions=rows), 1, WIDTH)
    assert 0.8 * planned < held < planned
