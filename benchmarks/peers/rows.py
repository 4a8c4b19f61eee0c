"""Sections ``preparation`` and ``selection``: rows a second, beside a bare Parquet scan and pandas.

The world is generated, so that its size can be chosen. What stands on disk at the start is its
Parquet file of raw rows, which is kept; writing it is part of no contender's time.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.peers.peers import MissingPeer, peer
from benchmarks.peers.record import Entry, Section, rate_figures, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, Work, alternate
from benchmarks.peers.workload import Workload
from cadc_rec.config.experiment import DataConfig, GeneratedConfig
from cadc_rec.config.tables import InteractionsTable, TablesConfig
from cadc_rec.data.columns import train_files
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.select.build_selection import build_selection
from cadc_rec.data.sources.generated import write_generated
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Draft
from cadc_rec.versions import code_commit

_ROWS = {True: 600_000, False: 3_000_000}
_USER_ROWS = 100  # interactions of a user, on average
_HELD_OUT = 2
_TURN_SECONDS = 0.5


def generated(workload: Workload) -> GeneratedConfig:
    """The world of both sections."""
    rows = workload.rows or _ROWS[workload.short]
    return GeneratedConfig(
        users=max(1, rows // _USER_ROWS), items=20_000, interactions=rows, seed=0
    )


def raw_world(workload: Workload) -> Path:
    """The Parquet file of raw rows: user_id, item_id, timestamp, row; made where it is missing."""
    size = generated(workload)
    world = workload.workdir / "bench" / f"world-{size.interactions}"
    if not world.is_dir():
        with _scratch(workload) as folder:
            write_generated(size, folder / "world")
            (folder / "world").rename(world)
    return world / "interactions.parquet"


def own_table(file: Path) -> DataConfig:
    """The settings of somebody whose own log is this file."""
    table = InteractionsTable(
        path=str(file.absolute()), user="user_id", item="item_id", timestamp="timestamp"
    )
    return DataConfig(source="tables", tables=TablesConfig(interactions=table))


def measure_preparation(workload: Workload) -> Section:
    """Raw rows to dense ids, the split and Parquet parts."""
    raw_rows, rows = raw_world(workload), generated(workload).interactions
    config = own_table(raw_rows)

    def ours() -> Work:
        with _scratch(workload) as folder:
            started = time.perf_counter()
            build_dataset(config, find_raw(config), Draft(folder))
            return Work(rows, time.perf_counter() - started)

    turns = [Contender("ours", ours), Contender("scan", lambda: _scan([raw_rows], rows))]
    missing = _with_pandas(turns, lambda pandas: _pandas_prepare(pandas, raw_rows, rows, workload))
    seconds = alternate(turns, workload.repeats, neighbour=workload.neighbour)
    what = {
        "ours": "every row checked, duplicates, dense ids, order by time, split, Parquet parts",
        "scan": "the raw Parquet file read once, all columns (the floor)",
        "pandas": "pandas: duplicates, dense ids, order by time, split, three Parquet files",
    }
    return _section("Preparation", seconds, what, missing, rows)


def measure_selection(workload: Workload) -> Section:
    """A uniform tenth of the training interactions, Parquet to Parquet."""
    experiment = workload.experiment("cadc").model_copy(
        update={"data": own_table(raw_world(workload))}
    )
    dataset = Pipeline(experiment, workload.workdir, workload.data_dir).artifact("prepare")
    rows, files = int(dataset.info["train"]), train_files(dataset.path)

    def ours() -> Work:
        with _scratch(workload) as folder:
            started = time.perf_counter()
            build_selection(experiment.select, 0, dataset, Draft(folder))
            return Work(rows, time.perf_counter() - started)

    turns = [Contender("ours", ours), Contender("scan", lambda: _scan(files, rows))]
    missing = _with_pandas(turns, lambda pandas: _pandas_select(pandas, files, rows, workload))
    seconds = alternate(
        turns, workload.repeats, at_least=_TURN_SECONDS, neighbour=workload.neighbour
    )
    what = {
        "ours": "an exact uniform tenth with row numbers, in shards, one block in memory",
        "scan": "the training Parquet parts read once, all columns (the floor)",
        "pandas": "pandas: read, sample a tenth, write",
    }
    return _section("Selection", seconds, what, missing, rows)


def _section(
    title: str,
    seconds: dict[str, list[float]],
    what: dict[str, str],
    missing: dict[str, str],
    rows: int,
) -> Section:
    rates = {name: rate_figures(taken) for name, taken in seconds.items()}
    floor = rates["scan"].median
    return Section(
        title=title,
        unit="rows/s",
        better="more",
        measured=now(),
        commit=code_commit(),
        entries={
            name: Entry(
                what=what[name], figures=rate, ceiling="scan rows/s", share=rate.median / floor
            )
            for name, rate in rates.items()
        },
        ratios=ratios_of(seconds, [("ours", "scan"), ("ours", "pandas")]),
        missing=missing,
        notes={"rows": rows},
        ceilings={"scan rows/s": floor},
    )


def _with_pandas(
    turns: list[Contender], build: Callable[[Any], Callable[[], Work]]
) -> dict[str, str]:
    """Add pandas where it is installed; says why not otherwise."""
    try:
        turns.append(Contender("pandas", build(peer("pandas"))))
    except MissingPeer as error:
        return {"pandas": str(error)}
    return {}


def _scan(files: list[Path], rows: int) -> Work:
    for file in files:
        pq.read_table(file)
    return Work(rows)


def _pandas_prepare(
    pandas: Any, raw_rows: Path, rows: int, workload: Workload
) -> Callable[[], Work]:
    def turn() -> Work:
        with _scratch(workload) as folder:
            started = time.perf_counter()
            table = pandas.read_parquet(raw_rows)
            table = table.sort_values(["user_id", "timestamp", "row"], kind="stable")
            table = table.drop_duplicates(["user_id", "item_id"])
            for side in ("user", "item"):
                codes, _ = pandas.factorize(table[f"{side}_id"], sort=True)
                table[side] = codes.astype("int32")
            table = table[["user", "item", "timestamp"]]
            total = table.groupby("user")["item"].transform("size")
            from_end = table.groupby("user").cumcount(ascending=False)
            held_out = total > _HELD_OUT
            table[~held_out | (from_end >= _HELD_OUT)].to_parquet(folder / "train.parquet")
            table[held_out & (from_end == 1)].to_parquet(folder / "val.parquet")
            table[held_out & (from_end == 0)].to_parquet(folder / "test.parquet")
            return Work(rows, time.perf_counter() - started)

    return turn


def _pandas_select(
    pandas: Any, files: list[Path], rows: int, workload: Workload
) -> Callable[[], Work]:
    def turn() -> Work:
        with _scratch(workload) as folder:
            started = time.perf_counter()
            table = pandas.concat([pandas.read_parquet(file) for file in files])
            table.sample(frac=0.1, random_state=0).sort_index().to_parquet(folder / "one.parquet")
            return Work(rows, time.perf_counter() - started)

    return turn


@contextmanager
def _scratch(workload: Workload) -> Iterator[Path]:
    """A folder on the work folder's disk, removed afterwards."""
    (workload.workdir / "bench").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=workload.workdir / "bench", prefix="scratch-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
