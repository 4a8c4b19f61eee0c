"""Entries by blocks of columns: the same entries, and the same sums, in another order."""

import numpy as np
import pytest
import torch

from cadc_rec.compiled import compiled
from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.pipeline.stages import pretrain
from cadc_rec.pretrain import column_blocks, fused_loop
from cadc_rec.pretrain.column_blocks import by_blocks, columns_at_once, ordered_blocks
from cadc_rec.pretrain.held_rows import held_rows, sides_in_blocks
from cadc_rec.pretrain.kernels import FusedGradient, Lanes, Pattern, compile_ordering

ROWS, COLUMNS, WIDTH = 9, 1000, 4


@pytest.fixture
def small_caches(monkeypatch):
    """Caches so small that a table of 1,000 rows of 16 bytes wants blocks of 64."""
    monkeypatch.setattr(column_blocks, "_LARGE_TABLE", 2**10)
    monkeypatch.setattr(column_blocks, "_WANTED", 2**10)
    monkeypatch.setattr(column_blocks, "_WORTH_ORDERING", 1)


def pattern(index=np.int32):
    rng = np.random.default_rng(7)
    lengths = rng.multinomial(6000, np.linspace(1, 5, ROWS - 1) / 24)
    lengths = np.insert(lengths, 3, 0)  # an empty row
    crow = np.concatenate([[0], np.cumsum(lengths)]).astype(index)
    return crow, rng.integers(0, COLUMNS, crow[-1]).astype(index)


@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_block_has_each_rows_entries_in_their_order(small_caches, index, threads):
    crow, col = pattern(index)
    blocks = by_blocks(crow, col, COLUMNS, 4 * WIDTH, Lanes(threads))
    assert blocks.width == 64
    assert blocks.pointers.shape == (16, ROWS + 1)  # 1,000 columns, 64 at once
    assert blocks.pointers.dtype == blocks.col.dtype == index
    for block, pointers in enumerate(blocks.pointers):
        for row in range(ROWS):
            whole = col[crow[row] : crow[row + 1]]
            expected = [c - 64 * block for c in whole if c // 64 == block]
            assert blocks.col[pointers[row] : pointers[row + 1]].tolist() == expected


@pytest.mark.parametrize("label", [1.0, 0.0])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_sums_are_those_of_one_block(request, label, threads):
    crow, col = pattern()
    rng = np.random.default_rng(8)
    mine, others, other_bias = (
        torch.from_numpy(rng.normal(size=shape).astype(np.float32))
        for shape in ((ROWS, WIDTH), (COLUMNS, WIDTH), (COLUMNS,))
    )
    entries = Pattern(torch.from_numpy(crow), torch.from_numpy(col))

    def sums():
        into = torch.zeros_like(mine)
        kernel = FusedGradient(Lanes(threads))
        gradient = kernel(entries, label, mine, others, other_bias, torch.tensor(0.3), into)
        return into, gradient.bias, gradient.loss

    whole = sums()
    request.getfixturevalue("small_caches")
    assert by_blocks(crow, col, COLUMNS, 4 * WIDTH, Lanes()).pointers.shape[0] == 16
    for expected, received in zip(whole, sums(), strict=True):
        torch.testing.assert_close(received, expected, rtol=1e-5, atol=1e-4)


def test_a_table_that_a_cache_holds_is_one_block_and_nothing_is_copied():
    crow, col = pattern()
    blocks = by_blocks(crow, col, COLUMNS, 4 * WIDTH, Lanes())
    assert blocks.pointers.shape == (1, ROWS + 1)
    assert blocks.col is col


@pytest.mark.parametrize(
    ("entries", "rows", "columns", "width"),
    [
        (100_000_000, 20_000, 100_000, 100_000),  # 37 MiB of rows: cores share a cache for that
        (100_000_000, 20_000, 1_000_000, 4_096),  # 1.5 MiB at once, 20 entries of a row in each
        (100_000_000, 200_000, 1_000_000, 32_768),  # 500 of a row: 31 blocks, of 12 MiB
        (100_000_000, 1_000_000, 1_000_000, 1_000_000),  # 100: six blocks, which no cache holds
        (10_000_000, 1_000_000, 1_000_000, 1_000_000),  # ten of a row: no block has enough of them
        (1_000_000, 1_000, 1_000_000, 1_000_000),  # sooner done than compiled
        (0, 1_000_000, 1_000_000, 1_000_000),
    ],
)
def test_blocks_are_as_wide_as_a_core_holds_if_rows_have_enough_in_each(
    entries, rows, columns, width
):
    assert columns_at_once(entries, rows, columns, 96 * 4) == width


@pytest.mark.parametrize(
    ("model", "users", "more"),
    [
        ("mf", 1_000_000, 4 * 50_000_000),  # a copy of 50 million negatives, in order
        # Of the columns of the items' interactions; and two arrays more while they are ordered.
        ("als", 1_000_000, (4 + 8) * 50_000_000),
        ("mf", 100_000, 0),  # a table of 37 MiB is read as it is
        ("als", 100_000, 0),
    ],
)
def test_the_plan_counts_the_ordered_copy(model, users, more):
    config = PretrainConfig(model=model)
    on_cpu = held_rows(config, 100_000_000, (users, 20_000), 2, on_gpu=False)
    one_block = held_rows(config, 100_000_000, (10_000, 20_000), 2, on_gpu=False)
    assert on_cpu.training - one_block.training == more
    on_gpu = [held_rows(config, 100_000_000, (n, 20_000), 2, True) for n in (users, 10_000)]
    assert on_gpu[0] == on_gpu[1]


def test_each_negative_is_an_entry():
    sizes = 1_000_000, 100_000  # 30 of an item are too few for two blocks, 120 are enough for 7
    counts = [
        sides_in_blocks(PretrainConfig(model="mf", negatives=k), 3_000_000, sizes) for k in (1, 40)
    ]
    assert counts == [0, 1]


@pytest.mark.parametrize("model", ["mf", "als"])
def test_what_orders_is_compiled_before_the_stages_seconds(model, monkeypatch):
    asked = []
    monkeypatch.setattr(pretrain, "compile_kernels", lambda: None)
    monkeypatch.setattr(
        pretrain, "compile_ordering", lambda least_squares: asked.append(least_squares)
    )
    config = PretrainConfig(model=model)
    pretrain.warm_up(config, 100_000_000, (100_000, 20_000), "cpu")
    assert asked == []
    pretrain.warm_up(config, 100_000_000, (1_000_000, 20_000), "cpu")
    assert asked == [model == "als"]


def test_the_loops_are_compiled_for_what_they_are_called_with(monkeypatch):
    names = ("count_in_blocks", "place_in_blocks")
    for name in names:  # as in a new process: no other test has compiled them
        fresh = compiled(nogil=True)(getattr(fused_loop, name).py_func)
        monkeypatch.setattr(fused_loop, name, fresh)
    compile_ordering(least_squares=False)
    before = [list(getattr(fused_loop, name).signatures) for name in names]
    assert all(before)
    crow, col = pattern()
    weights = np.ones(len(col), np.float32)
    ordered_blocks(crow, col, COLUMNS, 64, Lanes(2), [weights])
    assert [list(getattr(fused_loop, name).signatures) for name in names] == before
