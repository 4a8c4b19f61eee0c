"""Section ``loader``: positives a second that the loader alone makes ready for a step, on one core.

A positive counts when its K negatives are drawn and its step's pairs are laid out: different users,
different items, the CSR pattern and its transpose. No tensor is made and nothing is trained. What
is streamed comes from Parquet shards that the system has in its page cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from benchmarks.peers.record import Entry, Section, rate_figures, ratios_of
from benchmarks.peers.session import now
from benchmarks.peers.timing import Contender, Work, alternate
from benchmarks.peers.workload import Workload
from cadc_rec.data.load import negatives, pair_kernels
from cadc_rec.data.load.loader import Loader
from cadc_rec.data.load.negatives import WeightedNegatives, popularity_weights
from cadc_rec.data.load.pair_batches import PairBatches
from cadc_rec.data.load.shards import SelectionShards
from cadc_rec.data.load.stream_loader import StreamLoader
from cadc_rec.data.streams import read_groups
from cadc_rec.data.user_items import UserItems
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact
from cadc_rec.versions import code_commit

_WHAT = {
    "memory": "rows in memory, uniform negatives, compiled loops",
    "memory-numpy": "the same without compiled loops, as small trainings do",
    "memory-popularity": "rows in memory, negatives by popularity to the power 0.75",
    "memory-unknown": "the same, of items the user does not know",
    "parquet": "rows streamed from Parquet shards, uniform negatives, compiled loops",
    "scan": "users and items of the shards read and nothing done with them",
}


def measure(workload: Workload) -> Section:
    """An epoch of all training interactions in steps of the workload."""
    experiment = workload.experiment("gold")
    config, data, rows = experiment.train, workload.dataset, len(workload.dataset.train_item)
    shards = SelectionShards.open(_selection(workload))
    examples = shards.read(0, 1)
    weights = popularity_weights(np.bincount(data.train_item, minlength=data.n_items), 0.75)
    known = UserItems(data.user_indptr, data.train_item)

    def arrangement(draws: WeightedNegatives | None = None, compiled: bool = True) -> PairBatches:
        positives = min(config.batch_size, rows)
        return PairBatches(
            config.negatives, data.n_items, False, positives, draws=draws, compiled=compiled
        )

    def in_memory(arrange: PairBatches) -> Loader:
        return Loader(examples, [rows], 0, config.batch_size, 0, arrange)

    loaders: dict[str, Loader | StreamLoader] = {
        "memory": in_memory(arrangement()),
        "memory-numpy": in_memory(arrangement(compiled=False)),
        "memory-popularity": in_memory(arrangement(WeightedNegatives(weights))),
        "memory-unknown": in_memory(arrangement(WeightedNegatives(weights, known))),
        "parquet": StreamLoader(
            shards, 0, 1, config.batch_size, 0, arrangement(), experiment.loader.buffer_rows
        ),
    }
    pair_kernels.compile_kernels()
    negatives.compile_kernels()
    turns = [Contender(name, _epoch(loader, rows)) for name, loader in loaders.items()]
    turns.append(Contender("scan", lambda: _scan(shards, rows)))
    with _one_core():
        seconds = alternate(turns, workload.repeats, neighbour=workload.neighbour)
    return Section(
        title="Loader",
        unit="positives/s",
        better="more",
        measured=now(),
        commit=code_commit(),
        entries={
            name: Entry(what=_WHAT[name], figures=rate_figures(taken))
            for name, taken in seconds.items()
        },
        ratios=ratios_of(seconds, [("memory", "memory-numpy"), ("parquet", "scan")]),
        notes={"rows": rows, "cores": 1, "negatives of a positive": config.negatives},
    )


def _selection(workload: Workload) -> Artifact:
    """Every training interaction, in shards."""
    pipeline = Pipeline(workload.experiment("gold"), workload.workdir, workload.data_dir)
    return pipeline.artifact("select")


def _epoch(loader: Loader | StreamLoader, rows: int) -> Callable[[], Work]:
    def turn() -> Work:
        for _ in loader.epoch(1):
            pass
        return Work(rows)

    return turn


def _scan(shards: SelectionShards, rows: int) -> Work:
    for _ in read_groups(shards.files, ["user", "item"]):
        pass
    return Work(rows)


@contextmanager
def _one_core() -> Iterator[None]:
    """Keep this thread, and those it starts, on one core, where the system can be told so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
