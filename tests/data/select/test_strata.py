"""Stratified selections: each item's and each period's share, counted by hand; which rows."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data import randomness
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import blocks
from cadc_rec.data.select.strata import Strata, StratifiedChoice
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact, run_stage


@pytest.fixture
def d_full(tmp_path):
    """d_full(item, time): a prepare artifact with these columns; the user tells the position."""

    def make(item, time, parts=1, has_time=True) -> Artifact:
        def build(draft):
            (draft.path / "train").mkdir()
            user = np.arange(len(item), dtype=np.int32)
            table = pa.table([user, item.astype(np.int32), time], schema=INTERACTIONS)
            cuts = [len(item) * part // parts for part in range(parts + 1)]
            for part, (start, stop) in enumerate(pairwise(cuts)):
                path = draft.path / "train" / f"part-{part:05d}.parquet"
                pq.write_table(table.slice(start, stop - start), path)
            draft.info.update(train=len(item), items=int(item.max()) + 1, has_time=has_time)

        settings = {"item": item.tolist(), "time": time.tolist(), "parts": parts, "t": has_time}
        return run_stage(tmp_path / "work", "prepare", settings, {}, build)

    return make


def selection(artifact: Artifact) -> pa.Table:
    return pa.concat_tables(pq.read_table(p) for p in sorted(artifact.path.glob("shard-*.parquet")))


RNG = np.random.default_rng(5)
ITEM = RNG.permutation(np.repeat(np.arange(6), [400, 0, 30, 7, 200, 363]))
TIME = RNG.permutation(np.repeat(np.arange(1000), 1)) * 977 - 300_000


@pytest.mark.parametrize("kind", ["item-stratified", "time-stratified"])
def test_each_stratum_gives_its_share_of_distinct_rows(kind, d_full, select, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    artifact = select(d_full(ITEM, TIME, parts=3), kind=kind, ratio=8, periods=7, shards=3)
    table = selection(artifact)
    row = table["row"].to_numpy()
    assert len(row) == 125 == artifact.info["selected"]
    assert row.tolist() == sorted(set(row.tolist()))
    assert table["item"].to_numpy().tolist() == ITEM[row].tolist()
    assert table["timestamp"].to_numpy().tolist() == TIME[row].tolist()
    stratum = ITEM
    if kind == "time-stratified":  # seven periods of equal length, the last a second short
        length = -(-(int(TIME.max()) - int(TIME.min()) + 1) // 7)
        stratum = np.array([(int(t) - int(TIME.min())) // length for t in TIME])
        assert stratum.max() == 6
    rows = np.bincount(stratum)
    given = np.bincount(stratum[row], minlength=len(rows))
    assert (np.abs(given - rows / 8) < 1).all()


@pytest.mark.parametrize("kind", ["item-stratified", "time-stratified"])
def test_the_sample_does_not_depend_on_files_or_shards_but_on_the_seed(kind, d_full, select):
    first = selection(select(d_full(ITEM, TIME), kind=kind, ratio=8))
    assert selection(select(d_full(ITEM, TIME, parts=5), kind=kind, ratio=8, shards=2)) == first
    assert selection(select(d_full(ITEM, TIME), seed=1, kind=kind, ratio=8)) != first


def test_every_choice_of_a_stratums_rows_is_equally_likely_across_blocks():
    """Two of item 1's four rows and one of item 0's two, over three blocks."""
    item = np.array([1, 0, 1, 1, 0, 1], np.int32)
    blocks = [pa.table({"item": item[start : start + 2]}) for start in (0, 2, 4)]
    strata = Strata.items(2)
    draws, chosen = 1200, Counter()
    for seed in range(draws):
        choose = StratifiedChoice(strata, strata.counts(blocks), 3, seed)
        rows = np.concatenate([2 * n + choose(block) for n, block in enumerate(blocks)])
        assert np.bincount(item[rows]).tolist() == [1, 2]
        chosen[tuple(rows.tolist())] += 1
    possible = [
        tuple(sorted((zero, *ones))) for zero in (1, 4) for ones in combinations((0, 2, 3, 5), 2)
    ]
    assert set(chosen) == set(possible)
    expected = draws / 12
    # chi-squared with 11 degrees of freedom: beyond 31.3 once in a thousand draws of this test
    assert sum((n - expected) ** 2 / expected for n in chosen.values()) < 31.3


def test_strata_beyond_what_numpys_draw_takes_are_drawn_evenly(monkeypatch):
    monkeypatch.setattr(randomness, "_MOST_OF_A_KIND", 2)  # item 1's rows are more, item 0's not
    test_every_choice_of_a_stratums_rows_is_equally_likely_across_blocks()


def test_periods_part_times_that_are_as_far_apart_as_integers_go():
    ends = np.iinfo(np.int64)
    strata = Strata.periods(ends.min, ends.max, 4)
    times = np.array([ends.min, -(2**62) - 1, -(2**62), -1, 0, 2**62, ends.max])
    assert strata.of(times).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_a_single_timestamp_is_one_period():
    assert Strata.periods(5, 5, 20).of(np.array([5, 5])).tolist() == [0, 0]


def test_a_source_without_time_cannot_be_parted_by_it(d_full, select):
    dataset = d_full(ITEM, TIME * 0, has_time=False)
    with pytest.raises(CadcError, match="this source has none; choose another"):
        select(dataset, kind="time-stratified")
