"""Ranks that select together write the shards that one writes: the same bytes, the same numbers."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data import streams
from cadc_rec.data.columns import write_columns
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import blocks
from cadc_rec.data.select.build_selection import build_selections
from cadc_rec.data.streams import RowGroups
from cadc_rec.store.artifact import Artifact, Draft, run_stage

ROWS, USERS, ITEMS = 1000, 50, 30


class Rank:
    """One of several ranks that run as threads."""

    def __init__(self, rank: int, values: list[object], meet: threading.Barrier) -> None:
        self.rank, self.values, self.meet = rank, values, meet

    def share(self, n: int) -> range:
        world = len(self.values)
        return range(n * self.rank // world, n * (self.rank + 1) // world)

    def all_gather(self, value: object) -> list[object]:
        self.values[self.rank] = value
        self.meet.wait(20)
        found = list(self.values)
        self.meet.wait(20)
        return found

    def together(self, work):
        result = work()
        self.meet.wait(20)
        return result


@pytest.fixture(scope="module")
def d_full(tmp_path_factory) -> Artifact:
    def build(draft: Draft) -> None:
        (draft.path / "train").mkdir()
        rng = np.random.default_rng(0)
        user = np.sort(rng.integers(0, USERS, ROWS)).astype(np.int32)
        columns = [user, rng.integers(0, ITEMS, ROWS).astype(np.int32), rng.integers(0, 9999, ROWS)]
        table = pa.table(columns, schema=INTERACTIONS)
        for part, first in enumerate((0, 700)):  # row groups that are no blocks
            file = draft.path / "train" / f"part-{part:05d}.parquet"
            pq.write_table(table.slice(first, 700), file, row_group_size=150)
        names = ("user", "item", "timestamp")
        for part in ("val", "test"):
            pq.write_table(table.select(names).slice(0, 0), draft.path / f"{part}.parquet")
        for side in ("user", "item"):
            count = USERS if side == "user" else ITEMS
            ids = pa.table({f"{side}_id": np.arange(count)})
            pq.write_table(ids, draft.path / f"{side}s.parquet")
        (draft.path / "attributes.json").write_text(json.dumps({"user": [], "item": []}))
        write_columns(draft.path, USERS, ITEMS, draft.path)
        draft.info.update(train=ROWS, users=USERS, items=ITEMS, order="time", has_time=True)
        draft.info.update(timestamp_kind="order", time_unit="")

    return run_stage(tmp_path_factory.mktemp("work"), "prepare", {}, {}, build)


def selected(dataset: Artifact, folder: Path, world: int, asked: SelectConfig, history: int):
    """Files by name, and what each rank says of them."""
    folder.mkdir()
    values, meet, said = [None] * world, threading.Barrier(world), {}

    def rank(number: int) -> None:
        draft, ranks = Draft(folder), Rank(number, values, meet)
        build_selections([(asked, draft)], 7, dataset, history, ranks=ranks)
        said[number] = draft.info

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return {file.name: file.read_bytes() for file in folder.iterdir()}, said


@pytest.mark.parametrize("world", [2, 3, 11])
@pytest.mark.parametrize("history", [0, 4])
@pytest.mark.parametrize(
    ("kind", "ratio"),
    [("uniform", 3.0), ("uniform", 300.0), ("everything", 1.0), ("item-stratified", 3.0),
     ("time-stratified", 7.0)],
)  # fmt: skip
def test_shards_are_the_bytes_that_one_process_writes(
    kind, ratio, history, world, d_full, tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    monkeypatch.setattr(streams, "SHARD_GROUP_ROWS", 37)  # groups that begin in another's shard
    asked = SelectConfig(kind=kind, ratio=ratio, shards=8)
    alone, (told,) = tmp_path / "alone", [None]
    alone.mkdir()
    draft = Draft(alone)
    build_selections([(asked, draft)], 7, d_full, history)
    told = draft.info
    files, said = selected(d_full, tmp_path / "together", world, asked, history)
    assert files == {file.name: file.read_bytes() for file in alone.iterdir()}
    assert len(files) == 8
    assert said == dict.fromkeys(range(world), told)


def test_any_run_of_rows_is_read(d_full):
    files = sorted((d_full.path / "train").glob("*.parquet"))
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    groups = RowGroups(files)
    for start, stop in [(0, 1), (149, 151), (0, 1000), (690, 710), (999, 1000)]:
        assert groups.read(start, stop).equals(whole.slice(start, stop - start).combine_chunks())
    assert groups.read(3, 9, ["item"]).column_names == ["item"]
