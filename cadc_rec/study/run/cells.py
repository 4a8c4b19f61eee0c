"""Runs a study's cells, each in a process of its own, and records each as soon as it ends.

In: a `Study`, a work folder. Out: ``WORKDIR/studies/NAME/`` with ``study.json`` (what is wanted),
``cells/ID.json`` (what came of it), ``ranks/ID.parquet`` and ``logs/ID.log``.

A cell is ``cadc-rec run`` with the cell's settings over the shared work folder. So cells share
stages: one matrix factorization serves all rows of the table that can use it, and its seconds count
for each of them. A killed study continues from its last finished cell, and a cell that crashes
does not end the others. Two commands over one folder divide the cells between them: each holds a
lock of the cell that it runs.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadc_rec import strict_json
from cadc_rec.data.sources.raw_input import raw_input
from cadc_rec.distributed.launch import CHILD_MARK
from cadc_rec.errors import (
    FAILURE_FILE,
    BusyError,
    CadcError,
    DefectError,
    ExitCode,
    left_failure,
)
from cadc_rec.log import log, track
from cadc_rec.machine import visible_gpus
from cadc_rec.store.atomic import disk_explained, locked, make_folder, write_atomically
from cadc_rec.store.remote.trees import bring_files, local_tree, send_files
from cadc_rec.study.data_changes import of_older_data, read_by
from cadc_rec.study.run.budget import finished_record, plan_study
from cadc_rec.study.run.grid import Cell, Study, by_data, read_study
from cadc_rec.study.run.records import record_done, record_undone
from cadc_rec.versions import code_commit

# Between two tries of a cell. A cell waits by itself for a stage that another one makes; several
# ranks do not, and two cells may share one training's checkpoints.
_BUSY_SECONDS = 2.0
_ELSEWHERE = "another command runs it"
"""What `StudyRunner._run` returns of a cell that is not its own to run."""


def run_study(
    path: Path,
    workdir: Path,
    data_dir: Path | None,
    jobs: int,
    budget: float | None = None,
    datasets: Sequence[str] = (),
) -> Path:
    """Run the study that the TOML file `path` describes; returns its folder.

    Args:
        path: the grid.
        workdir: where artifacts are kept.
        data_dir: folder with the raw data.
        jobs: cells at a time.
        budget: hours of a core that the study may take; None: its file's.
        datasets: names of those whose cells are run; empty for all.

    Raises:
        CadcError: the grid cannot be run, would take more than the budget, or a cell failed; the
            other cells have run all the same.
    """
    data_dir = data_folder(data_dir)
    study = read_study(path, datasets)
    budget = study.file.budget_hours if budget is None else budget
    if budget is not None:
        plan = plan_study(study, workdir, data_dir)
        plan.require(budget, path)
        if plan.uncounted:
            log.warning(
                "%s: the budget counts %d of %d cells, as it is not known how large the data of "
                "the others are; cadc-rec study --plan says what to do",
                path,
                len(plan.cells) - len(plan.uncounted),
                len(plan.cells),
            )
    runner = StudyRunner(study, workdir, data_dir, jobs)
    outcome = runner.run()
    log.info(
        "%s: %d cells done (%d of them earlier), %d failed, %d not available",
        study.name,
        len(outcome.done) + len(outcome.kept),
        len(outcome.kept),
        len(outcome.failed),
        len(outcome.unavailable),
    )
    runner.warn_of_older_data()
    if outcome.failed:
        raise CadcError(
            f"{len(outcome.failed)} of {len(study.chosen)} cells failed, the first of them "
            f"{outcome.failed[0]}; {runner.folder / 'logs'} says why, and the same command tries "
            "them again."
        )
    return runner.folder


def data_folder(data_dir: Path | None) -> Path | None:
    """The folder that ``--data-dir`` names; of an address, a copy for all cells.

    Raises:
        CadcError: there is no such folder.
    """
    if data_dir is None:
        return None
    folder = local_tree(data_dir)
    if not folder.is_dir():
        raise CadcError(f"{folder}: no such folder; correct --data-dir.")
    return folder


@dataclass
class Outcome:
    """The ids of a study's cells, by how they ended."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Done already by an earlier call."""
    failed: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ended:
    """How the process of a cell ended.

    Attributes:
        code: its exit code; below 0, the signal that ended it.
        out: its standard output.
        failure: what it left of its error; None where nothing failed, or it could not.
    """

    code: int
    out: str = ""
    failure: CadcError | DefectError | None = None

    @property
    def busy(self) -> bool:
        """Whether it found another cell at work on what both need, and could not wait for it."""
        return isinstance(self.failure, BusyError)

    @property
    def reason(self) -> str:
        """The sentence a failed cell is recorded with."""
        if self.failure is not None:
            head = "unexpected error: " if isinstance(self.failure, DefectError) else ""
            return head + " ".join(str(self.failure).split())
        if self.code < 0:
            return f"ended by signal {-self.code}"
        return f"ended with exit code {self.code}"


def gpu_shares(gpus: Sequence[str], jobs: int) -> list[str | None]:
    """What ``CUDA_VISIBLE_DEVICES`` is to be for each of `jobs` cells at a time.

    Each has GPUs of its own where there are enough, else they take turns. None leaves it as it is:
    without GPUs, or for a single job, which has all of them.
    """
    if jobs == 1 or not gpus:
        return [None] * jobs
    return [",".join(gpus[job::jobs]) or gpus[job % len(gpus)] for job in range(jobs)]


def _next(left: Sequence[Cell], running: Collection[Cell]) -> Cell:
    """The cell to begin: the first that is of no running one's method, dataset and seed.

    Such two are likely to need the same pre-training, and the second would wait for the first.
    """
    taken = {(cell.dataset, cell.method, cell.experiment.seed) for cell in running}
    apart = (c for c in left if (c.dataset, c.method, c.experiment.seed) not in taken)
    return next(apart, left[0])


class StudyRunner:
    """Runs the cells of one study.

    Args:
        study: its cells, those of it that are chosen.
        workdir: where artifacts live; the study's own folder is below it.
        data_dir: folder with the raw data.
        jobs: cells at a time; times can only be compared when it is 1, or when every job has
            cores of its own.
    """

    def __init__(self, study: Study, workdir: Path, data_dir: Path | None, jobs: int = 1) -> None:
        self.study, self.workdir, self.data_dir, self.jobs = study, workdir, data_dir, jobs
        self.folder = workdir / "studies" / study.name
        self._stop = threading.Event()
        self._gpus: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def run(self) -> Outcome:
        """Run every cell that has no record of having been done with the same settings.

        Raises:
            CadcError: the study's folder cannot be written.
        """
        undone = {
            self.folder / "cells" / f"{cell.id}.json"
            for cell in self.study.cells
            if finished_record(self.folder / "cells", cell) is None
        }
        make_folder(self.folder / "cells", self.workdir)  # refused now, not after the first cell
        bring_files(self.folder, self.workdir, undone)  # what another machine has done
        write_atomically(self.folder / "study.json", _as_json(self.study.to_dict()))
        send_files(self.workdir, [self.folder / "study.json"])
        missing = self._missing_archives()
        outcome = Outcome()
        todo: list[Cell] = []
        for cell in self.study.chosen:
            if finished_record(self.folder / "cells", cell) is not None:
                outcome.kept.append(cell.id)
            elif cell.id in missing:
                self._write(cell, record_undone(cell, "unavailable", missing[cell.id]))
                outcome.unavailable.append(cell.id)
            else:
                todo.append(cell)
        if outcome.kept:
            log.info(
                "%d of %d cells were already finished", len(outcome.kept), len(self.study.chosen)
            )
        with track(f"study {self.study.name}", len(todo), "cells") as ticker:
            for cell, error in self._run_all(todo):
                (outcome.failed if error else outcome.done).append(cell.id)
                ticker.advance(1, f"{cell.id} failed" if error else cell.id)
                if error:
                    log.warning("%s failed: %s", cell.id, error)
        return outcome

    def warn_of_older_data(self) -> None:
        """Say which finished cells were run before their data changed."""
        cells = self.folder / "cells"
        records = [finished_record(cells, cell) for cell in self.study.chosen]
        runs = [read_by(record) for record in records if record is not None]
        older = of_older_data(run for run in runs if run is not None)
        if older:
            log.warning(
                "the data changed after %d of the cells were run, the first of them %s: their "
                "numbers do not compare with the others'; remove their files from %s, and start "
                "the study again",
                len(older),
                older[0],
                cells,
            )

    def _missing_archives(self) -> dict[str, str]:
        """The cells whose raw data is not here and cannot be downloaded, and why."""
        missing: dict[str, str] = {}
        for cells in by_data(self.study.chosen):
            try:
                with raw_input(cells[0].experiment.data, self.data_dir, self.workdir):
                    pass
            except CadcError as error:
                missing |= dict.fromkeys((cell.id for cell in cells), str(error))
                log.warning("%s is not available: %s", cells[0].dataset_title, error)
        return missing

    def _run_all(self, cells: list[Cell]) -> Iterable[tuple[Cell, str | None]]:
        on_gpus = self.jobs > 1 and any(c.experiment.compute.device != "cpu" for c in cells)
        for share in gpu_shares(visible_gpus() if on_gpus else [], self.jobs):
            self._gpus.put(share)
        left, running = list(cells), dict[Future[str | None], Cell]()
        told = set[str]()
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while left or running:
                    while left and len(running) < self.jobs:
                        cell = _next(left, running.values())
                        left.remove(cell)
                        running[pool.submit(self._run, cell)] = cell
                    for ended in wait(running, return_when=FIRST_COMPLETED).done:
                        cell, error = running.pop(ended), ended.result()
                        if error == _ELSEWHERE:  # last of all, to see what has come of it
                            left.append(cell)
                            if cell.id not in told:
                                told.add(cell.id)
                                log.info("%s: %s; it comes last here", cell.id, error)
                        else:
                            yield cell, error
            finally:  # when interrupted, end the running cells and start no other
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, cell: Cell) -> str | None:
        """Run one cell and record it; returns what went wrong, None when nothing did."""
        gpus = self._gpus.get()  # as many shares as threads, so there is always one
        lock = self.folder / "locks" / cell.id
        try:
            make_folder(lock.parent, self.workdir)
            with locked(lock) as mine:
                if not mine:
                    self._stop.wait(_BUSY_SECONDS)
                    return "interrupted" if self._stop.is_set() else _ELSEWHERE
                if finished_record(self.folder / "cells", cell) is not None:
                    return None  # another command's work, since this one began
                return self._recorded(cell, {} if gpus is None else {"CUDA_VISIBLE_DEVICES": gpus})
        finally:
            self._gpus.put(gpus)

    def _recorded(self, cell: Cell, environment: Mapping[str, str]) -> str | None:
        """`_run`, its process with these environment variables, too."""
        while not self._stop.is_set():
            commit = code_commit()  # which may be another by the time the cell has ended
            ended = self._spawn(cell, environment)
            if ended.busy and not self._stop.wait(_BUSY_SECONDS):
                continue
            break
        else:
            return "interrupted"
        # A terminal's Ctrl-C may reach the cell before it reaches us.
        if ended.code == ExitCode.INTERRUPTED or (self._stop.is_set() and ended.code):
            return "interrupted"  # no fault of the cell's: it gets no record
        try:
            if ended.code:
                raise CadcError(ended.reason)
            record = record_done(cell, json.loads(ended.out), self.folder, commit)
        except (CadcError, ValueError, KeyError, OSError) as error:
            reason = str(error) or type(error).__name__
            self._write(cell, record_undone(cell, "failed", reason))
            return reason
        self._write(cell, record)
        return None

    def _spawn(self, cell: Cell, environment: Mapping[str, str]) -> Ended:
        """Run the cell's process to its end; its standard error goes to the cell's log."""
        command = [sys.executable, "-m", "cadc_rec", "run", str(cell.config), "--json"]
        command += ["--workdir", str(self.workdir), "--method", cell.method]
        for override in cell.sets:
            command += ["--set", override]
        if self.data_dir is not None:
            command += ["--data-dir", str(self.data_dir)]
        path = self.folder / "logs" / f"{cell.id}.log"
        failure = path.with_name(f"{cell.id}.failure.json").resolve()
        make_folder(path.parent, self.workdir)
        with disk_explained(self.workdir):
            failure.unlink(missing_ok=True)
            path.touch()
        # With CHILD_MARK, a killed study leaves no cell training on.
        marks = {CHILD_MARK: str(os.getpid()), FAILURE_FILE: str(failure)}
        with path.open("w", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={**os.environ, **environment, **marks},
            )
            out = ""
            while True:
                try:
                    out, _ = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if self._stop.is_set():
                        process.terminate()
        ended = Ended(process.returncode, out, left_failure(failure))
        failure.unlink(missing_ok=True)
        return ended

    def _write(self, cell: Cell, record: dict[str, Any]) -> None:
        record["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        file = self.folder / "cells" / f"{cell.id}.json"
        write_atomically(file, _as_json(record))
        ranks = (record.get(name) for name in ("ranks", "cold_ranks"))
        # The record comes last: where it is, all that it names is.
        send_files(self.workdir, [*(self.folder / name for name in ranks if name), file])


def _as_json(value: Any) -> str:
    return strict_json.dumps(value, indent=2) + os.linesep
