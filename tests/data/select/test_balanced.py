"""Samples balanced over items: how many rows each gives, counted by hand, and which."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import balanced, blocks
from cadc_rec.data.select.balanced import Balanced, over_sampling_counts, under_sampling_counts
from cadc_rec.data.select.ranks import Alone
from cadc_rec.store.artifact import Artifact, run_stage

# Items 1 and 4 never occur; 25 rows in all.
FREQUENCY = np.array([10, 0, 1, 3, 0, 5, 6])
OCCUR = [0, 2, 3, 5, 6]


def draw(seed=0):
    return np.random.default_rng(seed)


def items_of(frequency, seed=1):
    """D_full's item column with these frequencies, in random order."""
    return draw(seed).permutation(np.repeat(np.arange(len(frequency)), frequency)).astype(np.int32)


class Run:
    """A run of the rows of an item column."""

    def __init__(self, item, start, stop):
        self.item, self.start, self.stop = item, start, stop

    def column(self, name):
        return pa.table({name: self.item[self.start : self.stop]})


def choose_rows(item, counts, seed, size=10):
    """The rows that `Balanced` takes, given them in runs of `size`."""
    starts = range(0, len(item), size)
    runs = [Run(item, start, min(start + size, len(item))) for start in starts]
    of = Balanced(runs, np.bincount(item, minlength=len(counts)), counts, seed, Alone())
    return np.concatenate([of(run) + run.start for run in runs])


# --- how many ----------------------------------------------------------------------------------


def test_over_sampling_gives_every_item_that_occurs_equally_many_rows():
    assert over_sampling_counts(FREQUENCY, 20, draw()).tolist() == [4, 0, 4, 4, 0, 4, 4]


def test_over_samplings_remainder_goes_to_different_items_one_row_each():
    counts = over_sampling_counts(FREQUENCY, 23, draw())
    assert counts.sum() == 23
    assert sorted(counts[OCCUR].tolist()) == [4, 4, 5, 5, 5]
    assert counts[[1, 4]].tolist() == [0, 0]


def test_over_samplings_remainder_is_drawn_evenly_over_the_items():
    got_more = sum(over_sampling_counts(FREQUENCY, 22, draw(s))[OCCUR] - 4 for s in range(2000))
    assert got_more.sum() == 4000
    # five items, 800 times each; chi-squared with 4 degrees of freedom, less for two of them at
    # once are drawn without replacement: beyond 18.5 once in a thousand draws of this test
    assert ((got_more - 800) ** 2 / 800).sum() < 18.5


def test_fewer_rows_than_items_give_one_row_to_as_many_items():
    counts = over_sampling_counts(FREQUENCY, 3, draw())
    assert sorted(counts[OCCUR].tolist()) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(
    ("wanted", "capped", "more"),
    [
        # capped at c, the items that occur give: c=1: 5 rows, 2: 9, 3: 13, 4: 16, 5: 19, 6: 21
        (13, [3, 0, 1, 3, 0, 3, 3], 0),
        (15, [3, 0, 1, 3, 0, 3, 3], 2),  # two of items 0, 5 and 6 give a fourth
        (20, [5, 0, 1, 3, 0, 5, 5], 1),  # item 5 has no sixth
        (21, [6, 0, 1, 3, 0, 5, 6], 0),
        (24, [9, 0, 1, 3, 0, 5, 6], 0),
        (25, [10, 0, 1, 3, 0, 5, 6], 0),
        (5, [1, 0, 1, 1, 0, 1, 1], 0),
        (2, [0, 0, 0, 0, 0, 0, 0], 2),
    ],
)
def test_under_sampling_caps_frequent_items_and_deals_the_remainder_above_the_cap(
    wanted, capped, more
):
    counts = under_sampling_counts(FREQUENCY, wanted, draw())
    extra = counts - capped
    assert counts.sum() == wanted
    assert sorted(extra[extra != 0].tolist()) == [1] * more
    assert (counts <= FREQUENCY).all()


def test_under_sampling_takes_everything_of_items_below_the_cap():
    rng = draw(3)
    for _ in range(50):
        frequency = rng.integers(0, 30, 40)
        wanted = int(rng.integers(1, frequency.sum() + 1))
        counts = under_sampling_counts(frequency, wanted, draw())
        assert counts.sum() == wanted
        most = counts.max()
        # who gives less than the largest count less one has no more to give
        assert all(c == f for c, f in zip(counts, frequency, strict=True) if c < most - 1)
        assert (counts <= frequency).all()


@pytest.mark.parametrize("counts_of", [over_sampling_counts, under_sampling_counts])
def test_the_draw_alone_decides_who_gets_the_remainder(counts_of):
    first, again = (counts_of(FREQUENCY, 15, balanced.generator(5)) for _ in range(2))
    assert first.tolist() == again.tolist()
    several = {tuple(counts_of(FREQUENCY, 12, balanced.generator(s)).tolist()) for s in range(20)}
    assert len(several) > 1


# --- which -------------------------------------------------------------------------------------


def test_every_item_gives_exactly_its_count():
    item = items_of(FREQUENCY)
    counts = np.array([4, 0, 7, 3, 0, 12, 0])
    rows = choose_rows(item, counts, 0)
    assert np.bincount(item[rows], minlength=7).tolist() == counts.tolist()
    assert rows.tolist() == sorted(rows.tolist())


def test_repeats_are_whole_copies_first_and_the_rest_distinct_rows():
    item = items_of(FREQUENCY)
    times = Counter(choose_rows(item, np.array([10, 0, 7, 8, 0, 12, 5]), 0).tolist())
    of_item = {i: sorted(times[r] for r in np.flatnonzero(item == i)) for i in OCCUR}
    assert of_item == {
        0: [1] * 10,  # all of them, once
        2: [7],  # its only row, seven times
        3: [2, 3, 3],  # 8 = two copies of three rows, and two rows more
        5: [2, 2, 2, 3, 3],  # 12 = two copies of five rows, and two rows more
        6: [0, 1, 1, 1, 1, 1],
    }


def test_under_sampling_repeats_no_row():
    item = items_of(FREQUENCY)
    for wanted in range(1, 26):
        rows = choose_rows(item, under_sampling_counts(FREQUENCY, wanted, draw()), wanted)
        assert len(rows) == wanted
        assert len(set(rows.tolist())) == wanted


def test_the_seed_alone_decides_the_rows():
    item = items_of(FREQUENCY * 20)
    counts = np.array([30, 0, 7, 30, 0, 30, 30])
    first, again, other = (choose_rows(item, counts, s, n) for s, n in ((0, 10), (0, 64), (1, 10)))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()


def test_every_choice_of_an_items_rows_is_equally_likely(monkeypatch):
    """All ten choices of two of item 1's five rows, the keys drawn in several blocks."""
    monkeypatch.setattr(balanced, "_BLOCK", 3)
    item = np.array([1, 0, 1, 1, 0, 1, 1], dtype=np.int32)
    draws = 600
    chosen = Counter(tuple(choose_rows(item, np.array([0, 2]), s).tolist()) for s in range(draws))
    assert len(chosen) == 10
    expected = draws / 10
    # chi-squared with 9 degrees of freedom: beyond 27.9 once in a thousand draws of this test
    assert sum((n - expected) ** 2 / expected for n in chosen.values()) < 27.9


# --- the stage ---------------------------------------------------------------------------------


@pytest.fixture
def d_full(tmp_path):
    """d_full(items): a prepare artifact with these items; user and time tell a row's position."""

    def make(item, n_items=7, parts=1) -> Artifact:
        def build(draft):
            (draft.path / "train").mkdir()
            row = np.arange(len(item), dtype=np.int32)
            table = pa.table([row, item, row.astype(np.int64) + 100], schema=INTERACTIONS)
            cuts = [len(item) * part // parts for part in range(parts + 1)]
            for part, (start, stop) in enumerate(pairwise(cuts)):
                path = draft.path / "train" / f"part-{part:05d}.parquet"
                pq.write_table(table.slice(start, stop - start), path)
            draft.info.update(train=len(item), items=n_items)

        settings = {"items": item.tolist(), "parts": parts}
        return run_stage(tmp_path / "work", "prepare", settings, {}, build)

    return make


def selection(artifact: Artifact) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in sorted(artifact.path.glob("shard-*.parquet")))


KINDS = ("over-sampling", "under-sampling")


@pytest.mark.parametrize("kind", KINDS)
def test_a_selected_row_is_the_row_of_d_full_and_the_count_is_exact(
    kind, d_full, select, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)  # several blocks, the last one short
    item = items_of(FREQUENCY * 10)
    artifact = select(d_full(item), kind=kind, ratio=4, shards=3)
    table = selection(artifact)
    row = table["row"].to_numpy()
    assert len(row) == 62 == artifact.info["selected"]  # round(250 / 4)
    assert artifact.info["shards"] == [21, 21, 20]
    assert (artifact.info["of"], artifact.info["share"]) == (250, 62 / 250)
    assert row.tolist() == sorted(row.tolist())
    assert table["user"].to_numpy().tolist() == row.tolist()
    assert table["timestamp"].to_numpy().tolist() == (row + 100).tolist()
    assert table["item"].to_numpy().tolist() == item[row].tolist()
    taken = np.bincount(table["item"].to_numpy(), minlength=7)
    # items 0 to 6 occur 100, 0, 10, 30, 0, 50 and 60 times
    if kind == "over-sampling":
        assert sorted(taken[OCCUR].tolist()) == [12, 12, 12, 13, 13]
        assert max(Counter(row[item[row] == 2].tolist()).values()) == 2  # 12 or 13 of ten rows
    else:
        assert taken[2] == 10
        assert sorted(taken[[0, 3, 5, 6]].tolist()) == [13] * 4  # 10 + 4 * 13 = 62
        assert len(set(row.tolist())) == 62
    assert taken[[1, 4]].tolist() == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_sample_does_not_depend_on_shards_files_or_blocks(kind, d_full, select, monkeypatch):
    item = items_of(FREQUENCY * 10)
    expected = selection(select(d_full(item), kind=kind, ratio=4, shards=8))
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    assert selection(select(d_full(item), kind=kind, ratio=4, shards=3)).equals(expected)
    assert selection(select(d_full(item, parts=5), kind=kind, ratio=4, shards=8)).equals(expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_sample(
    kind, d_full, select, tmp_path
):
    dataset = d_full(items_of(FREQUENCY * 10))
    first, other = (select(dataset, seed=s, kind=kind, ratio=4) for s in (0, 1))
    assert not selection(first).equals(selection(other))
    files = {path.name: path.read_bytes() for path in first.path.glob("*.parquet")}
    first.path.rename(tmp_path / "first")
    again = select(dataset, seed=0, kind=kind, ratio=4)
    assert {path.name: path.read_bytes() for path in again.path.glob("*.parquet")} == files


def test_a_block_taken_once_and_again_keeps_its_repeats(d_full, select, monkeypatch):
    """As many rows as the block has, and not the block itself."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)
    item = np.array([0, 0, 0, 1, 0, 0, 0, 0], dtype=np.int32)
    table = selection(select(d_full(item, n_items=3), kind="over-sampling", ratio=1))
    assert np.bincount(table["item"].to_numpy(), minlength=3).tolist() == [4, 4, 0]
    assert table["row"].to_pylist().count(3) == 4  # item 1's only row


def test_balanced_samples_of_everything_take_every_row_or_balance_it(d_full, select):
    item = items_of(FREQUENCY)
    under = selection(select(d_full(item), kind="under-sampling", ratio=1))
    assert under["row"].to_pylist() == list(range(25))
    over = selection(select(d_full(item), kind="over-sampling", ratio=1))
    assert np.bincount(over["item"].to_numpy(), minlength=7).tolist() == [5, 0, 5, 5, 0, 5, 5]
