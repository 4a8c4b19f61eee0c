"""The cells of the study: a command and what its result reaches, kept as soon as it is made.

In: the log, the settings, a work folder. Out: ``results/NAME.json`` with the seconds and the peak
memory of the command and the metrics of its state on a period's requests, and ``results/NAME.npz``
with their ranks. A cell that has its file is not made again.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.days.clicks import DAY, HOUR, Log, Requests
from benchmarks.days.judge import Served, of_finished, of_popularity, ranks
from cadc_rec import api
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.export.finished import Finished
from cadc_rec.log import log as say
from cadc_rec.log import set_up_logging
from cadc_rec.pipeline.job import opened
from cadc_rec.store.atomic import write_atomically
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on

Cell = dict[str, Any]
START = 2  # days of the first run
WINDOWS = (1, 3, 12, 24)  # hours, of recent popularity
_K = (10,)
_LOADED = [
    "benchmarks.days.cells",
    "cadc_rec.pipeline.pipeline",
    "cadc_rec.updates.update",
    "pandas",  # pyarrow loads it when the first table is read
]
_FIXED = ("compute.threads=1", "compute.device=cpu", "tracking.tensorboard=false")


@dataclass(frozen=True)
class Period:
    """What is judged at once: from `start` to `end`, milliseconds."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Study:
    """The log and where everything is kept.

    Attributes:
        log: the clicks.
        workdir: of the study.
        method: of the experiments.
        midnight: where the first day starts, milliseconds.
        sets: further settings, ``SECTION.KEY=VALUE``.
    """

    log: Log
    workdir: Path
    method: str
    midnight: int
    sets: tuple[str, ...] = ()

    def day(self, number: int) -> Period:
        """A day, counted from 1."""
        start = self.midnight + (number - 1) * DAY
        return Period(f"{number:02d}", start, start + DAY)

    def hour(self, day: int, number: int) -> Period:
        """An hour of a day, from 0."""
        start = self.day(day).start + number * HOUR
        return Period(f"{day:02d}-hour-{number:02d}", start, start + HOUR)

    def table(self, period: Period) -> Path:
        """The folder with a period's rows, as an update takes it."""
        folder = self.workdir / "tables" / f"day-{period.name}"
        if not (folder / "interactions.parquet").exists():
            self.log.write(folder, period.start, period.end)
        return folder

    @property
    def config(self) -> Path:
        """What `cadc-rec inspect` writes for the first days, written where it is missing."""
        file = self.workdir / "base.toml"
        if not file.exists():
            first = self.workdir / "tables" / "first"
            table = self.log.write(first, self.midnight, self.day(START + 1).start).resolve()
            write_atomically(file, api.inspect(table).config())
        return file

    # Cells

    def cell(self, name: str, make: Callable[[], tuple[Cell, Mapping[str, Any]]]) -> Cell:
        """The cell of this name, made now if it is not there.

        Args:
            name: of its files.
            make: gives the cell and its ranks. The cell says ``interrupted`` where an earlier try
                was ended: its command may have found work done already.
        """
        file = self.workdir / "results" / f"{name}.json"
        if file.exists():
            return dict(json.loads(file.read_text("utf-8")))
        file.parent.mkdir(parents=True, exist_ok=True)
        mark = file.with_suffix(".started")
        interrupted = mark.exists()
        mark.touch()
        found, of_requests = make()
        np.savez_compressed(file.with_suffix(".npz"), **of_requests)
        found |= {"name": name, "interrupted": interrupted}
        write_atomically(file, json.dumps(found, indent=1) + "\n")
        mark.unlink()
        say.info("%s: %s", name, _line(found))
        return found

    def run(self, folder: Path, *sets: str) -> Cell:
        """A whole run in a work folder."""
        return command(run_stages, self.experiment(*sets), folder)

    def update(self, folder: Path, period: Period, *sets: str) -> Cell:
        """A period's clicks, learned."""
        return command(run_update, self.experiment(*sets), folder, self.table(period))

    def experiment(self, *sets: str) -> Experiment:
        """The experiment, with further settings."""
        overrides = [*_FIXED, *self.sets, *sets]
        return load_experiment(self.config, method=self.method, overrides=overrides)

    def state(self, folder: Path, number: int, *sets: str) -> Finished:
        """An update of a work folder by its number, 0 for the run."""
        experiment = self.experiment(*sets)
        with opened(experiment, folder) as base:
            pipeline = take_update(base, number).pipeline
            artifacts = pipeline.run()
            return Finished(experiment, artifacts, pipeline.dataset, pipeline.pretrained)

    # Judging

    def judged(
        self, period: Period, served: Mapping[str, Callable[[Requests], Served]]
    ) -> tuple[Cell, dict[str, NDArray[np.int32]]]:
        """What contenders reach on a period's requests: metrics and ranks by their names.

        Beside all requests (``all``) stand those of users and items that were known after the
        first days already (``old``).
        """
        requests = self.log.requests(period.start, period.end)
        old = self.old(requests)
        found: Cell = {"requests": len(requests), "old": int(old.sum()), "metrics": {}}
        found["returned"], found["new_users"] = requests.returned, requests.new_users
        found["rows"], found["log"] = requests.rows
        every = {}
        for name, of in served.items():
            every[name] = ranks(self.log, requests, of(requests))
            found["metrics"][name] = {
                group: ranking_metrics(every[name][chosen], _K) if chosen.any() else None
                for group, chosen in (("all", np.ones(len(old), bool)), ("old", old))
            }
        return found, every

    def old(self, requests: Requests) -> NDArray[np.bool_]:
        """Whether a request's user and target were known after the first days."""
        users, items = self.log.known(self.day(START + 1).start)
        return np.asarray(
            users[np.searchsorted(self.log.users, requests.user)]
            & items[np.searchsorted(self.log.items, requests.target)]
        )

    def judged_state(
        self, period: Period, made: Finished
    ) -> tuple[Cell, dict[str, NDArray[np.int32]]]:
        """Of a run or an update, in three ways.

        As its bundle serves it (``served``); the same with recent counts up to each click
        (``live``); and without what was held out, as the report of an update foresees
        (``evaluated``).
        """
        bundle = replace(made, state="production")
        return self.judged(
            period,
            {
                "served": lambda asked: of_finished(self.log, asked, bundle),
                "live": lambda asked: of_finished(self.log, asked, bundle, live=True),
                "evaluated": lambda asked: of_finished(self.log, asked, made),
            },
        )

    def judged_popularity(self, period: Period) -> tuple[Cell, dict[str, NDArray[np.int32]]]:
        """Of recent popularity, by windows."""

        def of(hours: int, live: bool) -> Callable[[Requests], Served]:
            return lambda asked: of_popularity(self.log, asked, period.start, hours, live)

        named = {
            f"{kind}-{hours}h": of(hours, kind == "live")
            for kind in ("served", "live")
            for hours in WINDOWS
        }
        return self.judged(period, named)


def command(job: Callable[..., dict[str, Any]], *arguments: Any) -> Cell:
    """Do a job in a process of its own, which has Python and torch loaded already.

    Returns:
        ``cpu`` (user and system, the processes that it starts among them), ``wall``, ``peak_mib``
        (of the largest process), and what the job returned.

    Raises:
        SystemExit: it failed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_LOADED)
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_measured, args=(theirs, job, arguments))
    process.start()
    theirs.close()
    try:
        found: Cell = mine.recv()
    except EOFError:
        process.join()
        raise SystemExit(f"{job.__name__}: ended with {process.exitcode}") from None
    process.join()
    return found


def _measured(answer: Any, job: Callable[..., dict[str, Any]], arguments: Sequence[Any]) -> None:
    threading.Thread(target=_end_with_the_study, daemon=True).start()
    torch.set_num_threads(1)
    set_up_logging()
    started, before = time.perf_counter(), _cpu_seconds()
    # The stages then record CPU seconds.
    with mock.patch.object(time, "perf_counter", time.process_time):
        found = job(*arguments)
    wall, cpu = time.perf_counter() - started, _cpu_seconds() - before
    peak = max(resource.getrusage(who).ru_maxrss for who in _WHO) / 1024
    answer.send({"cpu": cpu, "wall": wall, "peak_mib": peak, **found})


def _end_with_the_study() -> None:
    """A study that is killed leaves no job behind, which the next try would meet."""
    study = multiprocessing.parent_process()
    assert study is not None
    study.join()
    os._exit(1)


_WHO = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in _WHO]
    return sum(one.ru_utime + one.ru_stime for one in used)


def run_stages(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """A whole run; CPU seconds of its stages."""
    made = api.run(experiment, workdir=folder)
    return {"stages": dict(made.seconds), "rows_learned": made.artifacts["prepare"].info["train"]}


def run_update(experiment: Experiment, folder: Path, day: Path) -> dict[str, Any]:
    """An update; CPU seconds of its stages, and what its report says of the day."""
    outcome = carry_on(experiment, folder, day)
    if outcome.update is None:
        raise SystemExit(f"{day}: holds nothing new")
    update = outcome.update
    kept = ("day", "progressive", "seconds", "rebuild", "metrics")
    report = {name: update.report[name] for name in kept}
    bytes_of = {
        stage: sum(file.stat().st_size for file in (folder / made).rglob("*") if file.is_file())
        for stage, made in update.artifacts.items()
    }
    return {"stages": report.pop("seconds"), "report": report, "bytes": bytes_of}


def removed(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _line(found: Cell) -> str:
    seconds = f"{found['cpu']:.1f} CPU s, " if "cpu" in found else ""
    reached = [
        f"{name} {100 * of['all']['hr@10']:.2f}%"
        for name, of in found["metrics"].items()
        if of["all"]
    ]
    return f"{seconds}{found['requests']:,} requests, HR@10 {', '.join(reached)}"
