"""Several ratios in one pass, and shards whose number is left to us."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data import streams
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import blocks
from cadc_rec.data.select.build_selection import build_selections
from cadc_rec.data.select.sizes import shard_count, with_shards
from cadc_rec.data.streams import ShardWriter
from cadc_rec.store.artifact import Artifact, Draft, run_stage

RATIOS = (1.0, 3.0, 10.0, 2000.0)
ROWS = 1000


@pytest.fixture
def d_full(tmp_path) -> Artifact:
    def build(draft):
        (draft.path / "train").mkdir()
        rng = np.random.default_rng(0)
        user = np.sort(rng.integers(0, 50, ROWS)).astype(np.int32)
        item = rng.integers(0, 30, ROWS).astype(np.int32)
        time = rng.integers(0, 9999, ROWS)
        pq.write_table(
            pa.table([user, item, time], schema=INTERACTIONS),
            draft.path / "train" / "part-00000.parquet",
        )
        draft.info.update(train=ROWS, users=50, items=30)

    return run_stage(tmp_path / "work", "prepare", {}, {}, build)


@pytest.mark.parametrize(
    "kind", ["uniform", "over-sampling", "user-stratified", "item-stratified", "time-stratified"]
)
def test_several_ratios_in_one_pass_are_the_bytes_of_each_alone(
    kind, d_full, select, tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)  # several blocks and row groups
    monkeypatch.setattr(streams, "SHARD_GROUP_ROWS", 100)
    asked = []
    for number, ratio in enumerate(RATIOS):
        folder = tmp_path / str(number)
        folder.mkdir()
        asked.append((SelectConfig(kind=kind, ratio=ratio, shards=3), Draft(folder)))
    build_selections(asked, 7, d_full)
    for ratio, (_, draft) in zip(RATIOS, asked, strict=True):
        alone = select(d_full, seed=7, kind=kind, ratio=ratio, shards=3)
        assert json.loads(json.dumps(draft.info)) == alone.info
        together = {path.name: path.read_bytes() for path in draft.path.iterdir()}
        assert together == {p.name: p.read_bytes() for p in alone.path.glob("*.parquet")}


def test_rows_arrive_in_any_pieces_and_are_written_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "SHARD_GROUP_ROWS", 10)
    rows = pa.table({"n": np.arange(47)})
    written = []
    for name, cuts in (("one", [0, 47]), ("many", [0, 1, 1, 9, 10, 31, 46, 47])):
        folder = tmp_path / name
        folder.mkdir()
        with ShardWriter(folder, [25, 0, 22, 0], rows.schema) as writer:
            for start, stop in pairwise(cuts):
                writer.add(rows.slice(start, stop - start))
        files = sorted(folder.iterdir())
        assert [pq.read_table(f)["n"].to_pylist() for f in files] == [
            list(range(25)),
            [],
            list(range(25, 47)),
            [],
        ]
        written.append([f.read_bytes() for f in files])
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("rows", "readers", "shards"),
    [(5, 1, 8), (5, 3, 9), (5, 16, 16), (900, 4, 12), (1000, 2, 10), (1001, 2, 12)],
)
def test_shards_suit_rows_and_readers(rows, readers, shards):
    """At least eight, each of a hundred rows at most, the same number for every reader."""
    assert shard_count(rows, readers, 100) == shards


def test_a_number_that_is_left_to_us_is_the_one_written_out():
    left = SelectConfig(shards=0, ratio=2, rows_per_shard=100)
    assert with_shards(left, 3000, 4).shards == 16  # 1,500 rows
    assert with_shards(SelectConfig(shards=3), 3000, 4).shards == 3
    chosen = with_shards(left, 3000, 4).decisive()
    assert chosen == SelectConfig(shards=16, ratio=2).decisive()
