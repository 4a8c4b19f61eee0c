"""A study's cells at the same time: several jobs, several commands, and the GPUs of each."""

import threading
import time

import pytest

from cadc_rec.machine import visible_gpus
from cadc_rec.store.atomic import locked, make_folder
from cadc_rec.study.run import cells as cells_module
from cadc_rec.study.run.cells import Ended, StudyRunner, gpu_shares, run_study
from cadc_rec.study.run.grid import read_study
from tests.study.run.conftest import CADC, RANDOM, records, written


def test_two_jobs_run_two_cells_at_a_time(tiny_study, tmp_path, monkeypatch, finished):
    together = threading.Barrier(2, timeout=20)

    def spawn(self, cell, environment):
        together.wait()  # would be broken if one cell waited for the other to end
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(tiny_study(), tmp_path, None, 2)
    assert {record["status"] for record in records(tmp_path).values()} == {"done"}


def test_of_two_jobs_none_waits_for_a_pretraining_while_other_cells_are_left(
    tiny_study, tmp_path, monkeypatch, finished
):
    """The two that begin are not those of one method, though these are first in the study."""
    together, begun = threading.Barrier(2, timeout=20), []

    def spawn(self, cell, environment):
        begun.append(cell.id)
        together.wait()
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(tiny_study(more="ratios = [10, 100]"), tmp_path, None, 2)
    assert sorted(begun[:2]) == [CADC, RANDOM]
    assert sorted(begun[2:]) == sorted([CADC.replace("r10", "r100"), RANDOM.replace("r10", "r100")])


@pytest.mark.parametrize("by_the_first", [True, False], ids=["done", "left undone"])
def test_two_commands_divide_the_cells_and_run_none_twice(
    tiny_study, tmp_path, pretend, by_the_first, monkeypatch
):
    """The first holds `cadc`: the second runs `random`, then `cadc` if it is still to do."""
    monkeypatch.setattr(cells_module, "_BUSY_SECONDS", 0.05)
    study = read_study(tiny_study())
    ran, outcomes = pretend(), []
    locks = tmp_path / "studies" / "tiny-study" / "locks"
    make_folder(locks, tmp_path)
    with locked(locks / CADC) as mine:
        assert mine
        second = StudyRunner(study, tmp_path, None)
        thread = threading.Thread(target=lambda: outcomes.append(second.run()))
        thread.start()
        end = time.monotonic() + 60
        while RANDOM not in records(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.01)
        if by_the_first:
            cadc = next(cell for cell in study.cells if cell.id == CADC)
            assert StudyRunner(study, tmp_path, None)._recorded(cadc, {}) is None
            written_by_the_first = written(tmp_path)[CADC]
    thread.join(60)
    assert ran == [RANDOM, CADC]  # each once, whoever ran it
    assert sorted(outcomes[0].done) == [CADC, RANDOM]
    if by_the_first:
        assert written(tmp_path)[CADC] == written_by_the_first


def test_jobs_at_a_time_have_gpus_of_their_own(tiny_study, tmp_path, monkeypatch, finished):
    """Two cells at once on a machine that offers three GPUs by name."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-1f, 6")
    together, seen = threading.Barrier(2, timeout=20), []

    def spawn(self, cell, environment):
        together.wait()
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(tiny_study(sets='"compute.device" = "auto"'), tmp_path, None, 2)
    assert sorted(seen) == ["4,6", "GPU-1f"]


@pytest.mark.parametrize(
    ("gpus", "jobs", "shares"),
    [
        ([], 2, [None, None]),
        (["0", "1"], 1, [None]),
        (["0", "1"], 2, ["0", "1"]),
        (["0", "1"], 3, ["0", "1", "0"]),
        (list("01234567"), 2, ["0,2,4,6", "1,3,5,7"]),
    ],
)
def test_gpus_are_dealt_to_jobs(gpus, jobs, shares):
    assert gpu_shares(gpus, jobs) == shares


@pytest.mark.parametrize(("named", "seen"), [("", []), ("-1", []), ("2", ["2"]), ("1,-1,0", ["1"])])
def test_gpus_are_named_as_cuda_reads_them(named, seen, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == seen


def test_a_cells_process_is_given_its_gpus(tiny_study, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nprintf "%s" "$CUDA_VISIBLE_DEVICES"\n')
    script.chmod(0o755)
    monkeypatch.setattr(cells_module.sys, "executable", str(script))
    runner = StudyRunner(read_study(tiny_study()), tmp_path, None, 2)
    cell = runner.study.cells[0]
    assert runner._spawn(cell, {"CUDA_VISIBLE_DEVICES": "3"}).out == "3"
