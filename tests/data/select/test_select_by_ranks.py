"""Ranks that select together write the shards that one writes: the same bytes, the same numbers."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data import streams
from cadc_rec.data.columns import write_columns
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select import balanced, blocks, build_selection, shares
from cadc_rec.data.select.build_selection import build_selections
from cadc_rec.data.select.ranks import Ranks
from cadc_rec.data.streams import RowGroups
from cadc_rec.store.artifact import Artifact, Draft, open_artifact, run_stage
from tests.zygote import run_ranks

ROWS, USERS, ITEMS = 1000, 50, 30


class Rank:
    """One of several ranks that run as threads."""

    def __init__(self, rank: int, values: list[object], meet: threading.Barrier) -> None:
        self.rank, self.values, self.meet = rank, values, meet
        self.world_size = len(values)

    def share(self, n: int) -> range:
        return range(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

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


def vectors(user, item):
    """Of few different numbers, so that many rows have equal scores."""
    return ((ids[:, None] % [3, 5]).astype(np.float32) - 1 for ids in (user, item))


def gradients(user, item):
    """Of few different numbers, too."""
    return ((user + 2 * item) % 7).astype(np.float32)


def selected(dataset: Artifact, folder: Path, world: int, asked: SelectConfig, history: int):
    """Files by name, and what each rank says of them."""
    folder.mkdir()
    values, meet, said = [None] * world, threading.Barrier(world), {}

    def rank(number: int) -> None:
        draft, ranks = Draft(folder), Rank(number, values, meet)
        build_selections([(asked, draft)], 7, dataset, history, vectors, None, ranks, gradients)
        said[number] = draft.info

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return bytes_of(folder), said


def select_into(dataset: Path, out: Path, kind: str, ranks: Ranks | None = None) -> dict:
    """Select in this process; what the manifest is told."""
    ratio = 1.0 if kind == "everything" else 3.0
    draft = Draft(out)
    asked = [(SelectConfig(kind=kind, ratio=ratio, shards=8, centres=9), draft)]
    build_selections(asked, 7, open_artifact(dataset), 4, vectors, None, ranks, gradients)
    return draft.info


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Of each file."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize(("world", "history"), [(2, 4), (3, 0), (11, 4)])
@pytest.mark.parametrize(
    ("kind", "ratio"),
    [("uniform", 3.0), ("uniform", 300.0), ("everything", 1.0), ("item-stratified", 3.0),
     ("time-stratified", 7.0), ("recent", 3.0), ("recent", 300.0), ("user-stratified", 7.0),
     ("recency-weighted", 3.0), ("over-sampling", 3.0), ("over-sampling", 1.0),
     ("under-sampling", 7.0), ("hard", 3.0), ("gradient-norm", 3.0), ("k-centres", 3.0),
     ("k-centres", 7.0)],
)  # fmt: skip
def test_shards_are_the_bytes_that_one_process_writes(
    kind, ratio, history, world, d_full, tmp_path, monkeypatch
):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    monkeypatch.setattr(balanced, "RUN_ROWS", 50)  # several runs of items, two on a rank at most
    monkeypatch.setattr(balanced, "MOST_RUNS", 2)
    monkeypatch.setattr(shares, "_USERS", 16)
    monkeypatch.setattr(streams, "SHARD_GROUP_ROWS", 37)  # groups that begin in another's shard
    asked = SelectConfig(kind=kind, ratio=ratio, shards=8, centres=9)  # several parts a block
    alone = tmp_path / "alone"
    alone.mkdir()
    draft = Draft(alone)
    build_selections([(asked, draft)], 7, d_full, history, vectors, gradients=gradients)
    monkeypatch.setattr(build_selection, "HISTORY_ROWS", 11)  # histories piece by piece
    files, said = selected(d_full, tmp_path / "together", world, asked, history)
    assert files == bytes_of(alone)
    assert len(files) == 8
    assert said == dict.fromkeys(range(world), draft.info)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_processes_write_the_bytes_of_one_for_every_kind(world, d_full, tmp_path, monkeypatch):
    kinds = get_args(SelectConfig.model_fields["kind"].annotation)
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 64)
    for folder in ("alone", "together"):
        for kind in kinds:
            (tmp_path / folder / kind).mkdir(parents=True)
    arguments = [d_full.path, tmp_path / "together", *kinds]
    run_ranks(Path(__file__).with_name("rank_worker.py"), arguments, world, seconds=120)
    for kind in kinds:
        info = select_into(d_full.path, tmp_path / "alone" / kind, kind)
        files = (bytes_of(tmp_path / folder / kind) for folder in ("together", "alone"))
        assert next(files) == next(files), kind
        for rank in range(world):
            told = json.loads((tmp_path / "together" / f"{kind}-{rank}.json").read_text())
            assert told == info, kind


def test_any_run_of_rows_is_read(d_full):
    files = sorted((d_full.path / "train").glob("*.parquet"))
    whole = pa.concat_tables([pq.read_table(file) for file in files])
    groups = RowGroups(files)
    for start, stop in [(0, 1), (149, 151), (0, 1000), (690, 710), (999, 1000)]:
        assert groups.read(start, stop).equals(whole.slice(start, stop - start).combine_chunks())
    assert groups.read(3, 9, ["item"]).column_names == ["item"]
