"""The select stage: an exact count, the same sample however the rows are laid out."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data import randomness
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import blocks
from cadc_rec.data.select.blocks import uniform_counts, uniform_positions
from cadc_rec.data.select.sizes import selected_rows, shard_sizes
from cadc_rec.store.artifact import Artifact, run_stage


@pytest.fixture
def d_full(tmp_path):
    """d_full(rows, parts): a prepare artifact whose item i stands at position i."""

    def make(rows: int, parts: int = 1) -> Artifact:
        def build(draft):
            (draft.path / "train").mkdir()
            item = np.arange(rows, dtype=np.int32)
            table = pa.table([item // 7, item, item.astype(np.int64) + 100], schema=INTERACTIONS)
            cuts = [rows * part // parts for part in range(parts + 1)]
            for part in range(parts):
                piece = table.slice(cuts[part], cuts[part + 1] - cuts[part])
                pq.write_table(piece, draft.path / "train" / f"part-{part:05d}.parquet")
            draft.info["train"] = rows

        return run_stage(tmp_path / "work", "prepare", {"rows": rows, "parts": parts}, {}, build)

    return make


def shards(artifact: Artifact) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted(artifact.path.glob("shard-*.parquet"))]


def selected(artifact: Artifact) -> list[int]:
    return pa.concat_tables(shards(artifact))["row"].to_pylist()


@pytest.mark.parametrize(("rows", "ratio"), [(1000, 10), (1003, 10), (1000, 3), (5, 10), (77, 1)])
def test_the_count_is_exact_and_no_row_comes_twice(rows, ratio, d_full, select):
    artifact = select(d_full(rows), ratio=ratio)
    chosen = selected(artifact)
    assert len(chosen) == max(1, round(rows / ratio)) == artifact.info["selected"]
    assert len(set(chosen)) == len(chosen)
    assert chosen == sorted(chosen)
    assert artifact.info["of"] == rows
    assert artifact.info["share"] == len(chosen) / rows


def test_a_selected_row_is_the_row_of_d_full(d_full, select):
    table = pa.concat_tables(shards(select(d_full(1000), ratio=4)))
    row = table["row"].to_numpy()
    assert table["item"].to_numpy().tolist() == row.tolist()
    assert table["user"].to_numpy().tolist() == (row // 7).tolist()
    assert table["timestamp"].to_numpy().tolist() == (row + 100).tolist()
    types = [("user", "int32"), ("item", "int32"), ("timestamp", "int64"), ("row", "int64")]
    assert [(field.name, str(field.type)) for field in table.schema] == types


def test_shards_differ_by_one_row_at_most_and_are_named_and_counted(d_full, select):
    artifact = select(d_full(1000), ratio=10, shards=8)
    sizes = [shard.num_rows for shard in shards(artifact)]
    assert sizes == artifact.info["shards"] == [13, 13, 13, 13, 12, 12, 12, 12]
    names = sorted(path.name for path in artifact.path.glob("*.parquet"))
    assert names[0] == "shard-00000-of-00008.parquet"
    assert names[-1] == "shard-00007-of-00008.parquet"


def test_the_sample_does_not_depend_on_shards_files_or_row_groups(d_full, select, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)  # several blocks
    expected = selected(select(d_full(1000), shards=8))
    assert selected(select(d_full(1000), shards=3)) == expected
    assert selected(select(d_full(1000, parts=7), shards=8)) == expected


def test_another_seed_draws_another_sample_and_the_same_seed_the_same_bytes(
    d_full, select, tmp_path
):
    dataset = d_full(1000)
    first, other = select(dataset, seed=0), select(dataset, seed=1)
    assert selected(first) != selected(other)
    files = {path.name: path.read_bytes() for path in first.path.glob("*.parquet")}
    for path in first.path.iterdir():
        path.unlink()
    first.path.rmdir()
    again = select(dataset, seed=0)
    assert {path.name: path.read_bytes() for path in again.path.glob("*.parquet")} == files


def test_everything_takes_all_rows_in_their_order(d_full, select):
    artifact = select(d_full(100, parts=3), kind="everything", shards=4)
    assert selected(artifact) == list(range(100))
    counts = {"shards": [25] * 4, "selected": 100, "of": 100, "share": 1.0, "touched": None}
    assert {name: artifact.info[name] for name in counts} == counts


def test_fewer_rows_than_shards_leave_readable_empty_shards(d_full, select):
    artifact = select(d_full(30), ratio=10, shards=8)
    assert [shard.num_rows for shard in shards(artifact)] == [1, 1, 1, 0, 0, 0, 0, 0]
    assert len({str(shard.schema) for shard in shards(artifact)}) == 1


def test_every_pair_of_rows_is_equally_likely_within_and_across_blocks(monkeypatch):
    """All samples of 2 of 6 rows, in blocks of 4 and 2, against the uniform distribution."""
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 4)
    draws = 3000
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(draws):
        of_blocks = zip((4, 2), uniform_counts(6, 2, seed), strict=True)
        first, second = (
            uniform_positions(rows, count, seed, number)
            for number, (rows, count) in enumerate(of_blocks)
        )
        counts[(*first.tolist(), *(second + 4).tolist())] += 1
    expected = draws / math.comb(6, 2)
    assert len(counts) == 15
    # chi-squared with 14 degrees of freedom: beyond 36.1 once in a thousand draws of this test
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 36.1


def test_sizes_and_settings():
    assert shard_sizes(10, 4) == [3, 3, 2, 2]
    assert selected_rows(988_129, 10) == 98_813
    assert selected_rows(3, 1000) == 1
    everything = SelectConfig(kind="everything")
    assert everything.decisive() == everything.model_copy(update={"ratio": 3.0}).decisive()
    assert SelectConfig().decisive() != SelectConfig(ratio=3.0).decisive()
    assert json.dumps(SelectConfig().decisive())


def test_samples_are_uniform_beyond_what_numpys_draw_takes(monkeypatch):
    """As above, with a limit that every draw of a count is beyond."""
    monkeypatch.setattr(randomness, "_MOST_OF_A_KIND", 1)
    test_every_pair_of_rows_is_equally_likely_within_and_across_blocks(monkeypatch)


def test_counts_of_two_billion_rows_are_exact_and_spread_as_they_should():
    """The first blocks of many samples: mean and variance of the hypergeometric distribution."""
    total, wanted, rows = 2 * 10**9 + 77, 2 * 10**8, 2**20
    share = wanted / total
    counts = [
        randomness.hypergeometric(np.random.default_rng(n), rows, total - rows, wanted)
        for n in range(100)
    ]
    deviation = math.sqrt(rows * share * (1 - share))
    assert abs(np.mean(counts) - rows * share) < 4 * deviation / 10
    assert 0.7 < np.std(counts) / deviation < 1.3


def test_a_draw_of_a_large_dataset_is_exact(tmp_path: Path):
    chosen = uniform_counts(5 * 2**20 + 17, 12_345, 3)
    assert len(chosen) == 6
    assert sum(chosen) == 12_345
