"""Where ids come and go, a day costs the same whatever was before: memory, bytes, work."""

import time
import tracemalloc

import numpy as np
import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.ids import IdsConfig
from cadc_rec.data.prepare.again import in_order, write_train
from cadc_rec.data.prepare.chosen import as_table
from cadc_rec.data.prepare.split import LeaveLastTwo, Rows
from cadc_rec.data.streams import write_parquet
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.updates.splice import SplicedSplit
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import (
    INTERACTIONS,
    after_day,
    base_dataset,
    item,
    settings,
    user,
    write_table,
)


def rows_of_day(number, users, each, items):
    """A third of the users and of the items are new each day, and as many never come back."""
    rng = np.random.default_rng(number)
    rows = []
    for who in range(number * users // 3, number * users // 3 + users):
        first = number * items // 3
        taken = first + rng.choice(items, each, replace=False)
        rows += [(user(who), item(what), 1000 * number + n) for n, what in enumerate(taken)]
    return rows


def dense_rows(rows):
    """The same by the numbers of users and items, in the order of users and time."""
    columns = zip(*((int(who[1:]), int(what[1:]), at) for who, what, at in rows), strict=True)
    users, items, times = (np.array(column) for column in columns)
    return Rows(users.astype(np.int32), items.astype(np.int32), times.astype(np.int64))


def size_of(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def is_flat(measured, most=1.25):
    """Whether the last three are no more than those in the middle, but for a quarter."""
    middle, last = np.median(measured[-6:-3]), np.median(measured[-3:])
    return last <= most * middle


def test_what_a_day_sorts_is_in_proportion_to_it_and_not_to_the_log(tmp_path, monkeypatch):
    rows_sorted, lengths = [], []

    def noting(parts):
        rows_sorted[-1] += sum(map(len, parts))
        return in_order(parts)

    monkeypatch.setattr("cadc_rec.updates.splice.in_order", noting)
    split = LeaveLastTwo([])
    for number in range(10):
        folder = tmp_path / f"day-{number}"
        folder.mkdir()
        if number:
            rows_sorted.append(0)
            came = dense_rows(rows_of_day(number, 60, 5, 30))
            before = tmp_path / f"day-{number - 1}"
            split = SplicedSplit(before, came, 60 + 20 * number)
        else:
            split = LeaveLastTwo([dense_rows(rows_of_day(0, 60, 5, 30))])
        write_train(folder, split.train(), [])
        for name, rows in (("val", split.validation), ("test", split.test)):
            write_parquet(folder / f"{name}.parquet", as_table(rows, []))
        lengths.append(split.distinct)
    assert lengths[-1] > 2 * lengths[3]
    assert is_flat(rows_sorted)


@pytest.mark.slow
def test_with_bounded_rows_memory_and_bytes_of_a_dataset_do_not_grow(tmp_path, experiment, day):
    ids = IdsConfig(user_rows=60, item_rows=40)
    config = experiment().data.model_copy(update={"ids": ids})
    made, peaks, kept, rows = base_dataset(tmp_path, config), [], [], []
    tracemalloc.start()
    try:
        for number in range(1, 10):
            folder = day(rows_of_day(number, 50, 4, 30), f"day-{number}")
            tracemalloc.reset_peak()
            made = after_day(tmp_path, config, made, folder)
            peaks.append(tracemalloc.get_traced_memory()[1])
            kept.append(size_of(made.path))
            rows.append(sum(made.info[part] for part in ("train", "val", "test")))
    finally:
        tracemalloc.stop()
    assert is_flat(rows)
    assert is_flat(kept)
    assert is_flat(peaks)


@pytest.mark.slow
def test_whole_updates_cost_the_same_after_a_dozen_days(tmp_path, day):
    """With a prior that is fitted, lists, and what was taken just before."""
    users, items = 300, 60
    tables = {"interactions": {"path": str(tmp_path / "first.parquet"), "timestamp": "at"}}
    write_table(tmp_path / "first.parquet", rows_of_day(0, users, 5, items), INTERACTIONS)
    sections = settings(tmp_path) | {
        "data": {
            "source": "tables",
            "tables": tables,
            "ids": {"user_rows": users + 60, "item_rows": items + 20},
        },
        "pretrain": {"model": "als", "factors": 7},
        "transitions": {"window": 3, "form": "lists"},
        "history": {"length": 4},
        "prior": {"use": True, "fit": "validation"},
        "model": {"kind": "tables"},
    }
    made = Experiment.model_validate(sections)
    workdir = tmp_path / "work"
    Pipeline(made, workdir).run()
    peaks, kept, seconds, fitted = [], [], [], []
    for number in range(1, 13):
        folder = day(rows_of_day(number, users, 5, items), f"day-{number}")
        tracemalloc.start()
        started = time.process_time()
        update = carry_on(made, workdir, folder).update
        seconds.append(time.process_time() - started)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        kept.append(sum(size_of(workdir / place) for place in update.artifacts.values()))
        fitted.append(update.artifacts["prior"])
    assert len(set(fitted)) == 12
    assert is_flat(kept)
    assert is_flat(peaks)
    assert is_flat(seconds, most=2)  # the machine may have other work
