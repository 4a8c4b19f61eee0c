"""Runs a study's cells, each in a process of its own, and records each as soon as it ends.

In: a `Study`, a work folder. Out: ``WORKDIR/studies/NAME/`` with ``study.json`` (what is wanted),
``cells/ID.json`` (what came of it), ``ranks/ID.parquet`` and ``logs/ID.log``.

A cell is ``cadc-rec run`` with the cell's settings over the shared work folder. So cells share
stages (one matrix factorization serves all rows that can use it; its seconds count for each), a
killed study goes on where it stopped, and a cell that crashes takes nothing with it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadc_rec.data.sources.archives import raw_input
from cadc_rec.distributed.launch import CHILD_MARK
from cadc_rec.errors import CadcError
from cadc_rec.log import log, track
from cadc_rec.store.atomic import write_atomically
from cadc_rec.study.run.grid import Cell, Study
from cadc_rec.study.run.record import cell_digest, record_done, record_undone

_BUSY = "another job is making the same"  # what `atomic` says of a stage shared with another cell
_BUSY_SECONDS = 2.0
_INTERRUPTED = 130  # a terminal's Ctrl-C reaches the cell before us


@dataclass
class Outcome:
    """How many cells ended how."""

    done: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Done already by an earlier call."""
    failed: list[str] = field(default_factory=list)
    unavailable: list[str] = field(default_factory=list)


class StudyRunner:
    """Runs the cells of one study.

    Args:
        study: its cells.
        workdir: where artifacts live; the study's own folder is below it.
        data_dir: where raw archives lie.
        jobs: cells at a time; times can only be compared when it is 1, or when every job has
            cores of its own.
    """

    def __init__(self, study: Study, workdir: Path, data_dir: Path | None, jobs: int = 1) -> None:
        self.study, self.workdir, self.data_dir, self.jobs = study, workdir, data_dir, jobs
        self.folder = workdir / "studies" / study.name
        self._stop = threading.Event()

    def run(self) -> Outcome:
        """Run every cell that has no record of having been done with the same settings.

        Raises:
            CadcError: the study's folder cannot be written.
        """
        write_atomically(self.folder / "study.json", _as_json(self.study.described()))
        missing = self._missing_archives()
        outcome = Outcome()
        todo: list[Cell] = []
        for cell in self.study.cells:
            if self._is_done(cell):
                outcome.kept.append(cell.id)
            elif cell.dataset in missing:
                self._write(cell, record_undone(cell, "unavailable", missing[cell.dataset]))
                outcome.unavailable.append(cell.id)
            else:
                todo.append(cell)
        if outcome.kept:
            log.info("%d of %d cells were done before", len(outcome.kept), len(self.study.cells))
        with track(f"study {self.study.name}", len(todo), "cells") as ticker:
            for cell, error in self._run_all(todo):
                (outcome.failed if error else outcome.done).append(cell.id)
                ticker.advance(1, f"{cell.id} failed" if error else cell.id)
                if error:
                    log.warning("%s failed: %s", cell.id, error)
        return outcome

    def _missing_archives(self) -> dict[str, str]:
        """Datasets whose raw data is neither here nor to be had, and why."""
        missing = {}
        for cell in {cell.dataset: cell for cell in self.study.cells}.values():
            try:
                with raw_input(cell.experiment.data, self.data_dir, self.workdir):
                    pass
            except CadcError as error:
                missing[cell.dataset] = str(error)
                log.warning("%s is not available: %s", cell.dataset_title, error)
        return missing

    def _run_all(self, cells: list[Cell]) -> Iterable[tuple[Cell, str | None]]:
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                begun = {pool.submit(self._run, cell): cell for cell in cells}
                for ended in as_completed(begun):
                    yield begun[ended], ended.result()
            finally:  # interrupted: the cells that run are ended, the others are never begun
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def _run(self, cell: Cell) -> str | None:
        """Run one cell and record it; returns what went wrong, None when nothing did."""
        while not self._stop.is_set():
            code, out, said = self._spawn(cell)
            if code and _BUSY in said and not self._stop.wait(_BUSY_SECONDS):
                continue
            break
        else:
            return "interrupted"
        if code == _INTERRUPTED or (self._stop.is_set() and code):
            return "interrupted"  # no fault of the cell's: it gets no record
        try:
            if code:
                raise CadcError(_reason(code, said))
            record = record_done(cell, json.loads(out), self.folder)
        except (CadcError, ValueError, KeyError, OSError) as error:
            reason = str(error) or type(error).__name__
            self._write(cell, record_undone(cell, "failed", reason))
            return reason
        self._write(cell, record)
        return None

    def _spawn(self, cell: Cell) -> tuple[int, str, str]:
        """Exit code, standard output and standard error of the cell's process."""
        command = [sys.executable, "-m", "cadc_rec", "run", str(cell.config), "--json"]
        command += ["--workdir", str(self.workdir), "--method", cell.method]
        for override in cell.sets:
            command += ["--set", override]
        if self.data_dir is not None:
            command += ["--data-dir", str(self.data_dir)]
        path = self.folder / "logs" / f"{cell.id}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+", encoding="utf-8") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                env={
                    **os.environ,
                    CHILD_MARK: str(os.getpid()),
                },  # a killed study leaves no cell training on
            )
            out = ""
            while True:
                try:
                    out, _ = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if self._stop.is_set():
                        process.terminate()
            file.seek(0)
            return process.returncode, out, file.read()

    def _is_done(self, cell: Cell) -> bool:
        try:
            record = json.loads((self.folder / "cells" / f"{cell.id}.json").read_text("utf-8"))
            return bool(record["status"] == "done" and record["digest"] == cell_digest(cell))
        except (OSError, ValueError, KeyError, TypeError):
            return False  # none, or not one of ours: the cell runs again and replaces it

    def _write(self, cell: Cell, record: dict[str, Any]) -> None:
        record["finished"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        write_atomically(self.folder / "cells" / f"{cell.id}.json", _as_json(record))


def _reason(code: int, said: str) -> str:
    """The sentence a failed cell ended with."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = said.strip().splitlines()
    errors = [n for n, line in enumerate(lines) if line.startswith(("error:", "unexpected error:"))]
    if not errors:
        return f"ended with exit code {code}"
    # The process that started workers only says which of them failed; that one said why before.
    first = errors[0] if lines[errors[-1]].startswith("error: worker") else errors[-1]
    return " ".join(lines[first:]).removeprefix("error: ")


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2) + os.linesep
