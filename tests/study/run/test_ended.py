"""A study that is ended, by Ctrl-C, a signal or a crash: what it leaves, and where it goes on."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadc_rec.study.run.cells import Ended, StudyRunner
from cadc_rec.study.run.grid import read_study
from tests.study.run.conftest import CADC, MF, RANDOM, records, written


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_ends_the_running_cell_begins_no_other_and_records_neither(
    tiny_study, tmp_path, monkeypatch
):
    runner = StudyRunner(read_study(tiny_study()), tmp_path, None)
    ran = []

    def spawn(self, cell, environment):
        ran.append(cell.id)
        os.kill(os.getpid(), signal.SIGINT)
        assert self._stop.wait(20)  # the real one ends its process then
        return Ended(-signal.SIGTERM)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    assert ran == [CADC]
    assert records(tmp_path) == {}


# --- with processes, ended while their first cell prepares a world of millions ------------------

MILLIONS = ", ".join(
    f'"data.generated.{key}" = {n}'
    for key, n in (("users", 200_000), ("items", 20_000), ("interactions", 30_000_000))
)


@pytest.fixture
def preparing(tiny_study, spawn, tmp_path):
    """preparing(): the study command in a process, and that of its first cell."""
    started = []

    def start():
        process = spawn("study", tiny_study(sets=MILLIONS), "--workdir", tmp_path)
        started.append(process)
        end = time.monotonic() + 100
        while not list(tmp_path.glob(".tmp/prepare-*/")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        (cell,) = children(process.pid)
        assert lives(cell)
        return process, cell

    yield start
    for process in started:
        process.kill()


def cells_begun(workdir):
    """The cells of which there is a log."""
    return [path.stem for path in workdir.glob("studies/tiny-study/logs/*.log")]


def children(pid):
    """Processes that `pid` started, by any of its threads."""
    lists = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_study_that_is_ended_takes_its_cell_with_it(preparing, number, tmp_path):
    process, cell = preparing()
    process.send_signal(number)
    process.communicate(timeout=100)
    assert process.returncode == -number
    wait_for_the_end_of(cell)
    assert records(tmp_path) == {}


@pytest.mark.parametrize("heard_by", ["the study", "all, as on a terminal"])
def test_ctrl_c_ends_study_and_cell_with_code_130_and_begins_no_other_cell(
    preparing, heard_by, tmp_path
):
    process, cell = preparing()
    process.send_signal(signal.SIGINT)
    if heard_by != "the study":
        os.kill(cell, signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, ""), err
    assert "interrupted; finished cells are kept, and the same command continues from them" in err
    assert "Traceback" not in err
    assert not lives(cell)
    assert cells_begun(tmp_path) == [CADC]
    assert records(tmp_path) == {}


def test_a_cell_that_is_killed_is_recorded_and_the_next_one_begins(preparing, tmp_path):
    process, cell = preparing()
    os.kill(cell, signal.SIGKILL)
    end = time.monotonic() + 100
    while RANDOM not in cells_begun(tmp_path):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    assert records(tmp_path)[CADC]["error"] == "ended by signal 9"
    assert RANDOM not in records(tmp_path)


def lives(pid):
    """Whether a process runs, neither gone nor waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end_of(pid, seconds=100):
    end = time.monotonic() + seconds
    while lives(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.02)


# --- with processes ------------------------------------------------------------------------------

PATIENCE = 900  # seconds until a process is taken for stuck; on an idle machine it needs ten


def study(spawn, path, workdir, *arguments):
    """The study command to its end: its exit code, output, words and seconds."""
    begun = time.monotonic()
    process = spawn("study", path, "--workdir", workdir, *arguments)
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    seconds = time.monotonic() - begun
    return SimpleNamespace(code=process.returncode, out=out, err=err, seconds=seconds)


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)  # it starts several processes one after the other
def test_a_study_runs_its_cells_goes_on_after_a_crash_and_does_nothing_twice(
    tiny_study, spawn, finished, tmp_path, cli
):
    gold = "t.gold.trainable.r1.s0"

    def with_rate(rate):
        part = f'[[grid]]\nmethods = ["cadc", "mf"]\n[[grid]]\nmethods = ["gold"]\nset = {rate}'
        return tiny_study(["popularity"], more=part)

    workdir = tmp_path / "work"
    crashed = study(spawn, with_rate('{ "train.learning_rate" = 1e30 }'), workdir)
    assert (crashed.code, crashed.out) == (2, "")
    found = records(workdir)
    assert {name: record["status"] for name, record in found.items()} == {
        "t.popularity.none.r1.s0": "done",
        CADC: "done",
        MF: "done",
        gold: "failed",
    }
    assert "training diverged; lower train.learning_rate (it is 1e+30)." in found[gold]["error"]
    assert "Traceback" not in crashed.err
    # The same seed in another work folder, by `run`: the same to the last digit.
    assert found[CADC]["metrics"] == finished.result["metrics"]
    assert found[CADC]["artifacts"]["pretrain"] == found[MF]["artifacts"]["pretrain"]
    assert found[MF]["seconds"]["pretrain"] == found[CADC]["seconds"]["pretrain"] > 0
    assert found[MF]["seconds"]["train"] == 0

    before = written(workdir)
    mended_path = with_rate('{ "train.learning_rate" = 1e-3 }')
    mended = study(spawn, mended_path, workdir)
    assert (mended.code, mended.out) == (0, f"{workdir / 'studies' / 'tiny-study'}\n"), mended.err
    assert "3 of 4 cells were already finished" in mended.err
    assert records(workdir)[gold]["status"] == "done"
    after = written(workdir)
    assert {name for name in after if after[name] != before[name]} == {gold}

    again = study(spawn, mended_path, workdir)
    assert again.code == 0
    assert "4 cells done (4 of them earlier), 0 failed, 0 not available" in again.err
    assert written(workdir) == after
    assert again.seconds < mended.seconds

    for name, method in ((CADC, "cadc"), (MF, "mf"), ("t.popularity.none.r1.s0", "popularity")):
        config = read_study(mended_path).cells[0].config
        shown = cli("run", config, "--workdir", workdir, "--method", method, "--json")
        result = json.loads(shown.out)
        assert "prepare" in result["cached"]
        assert set(result["cached"]) == set(result["artifacts"])  # nothing is made anew
        for key in ("metrics", "validation", "rows", "artifacts"):
            assert result[key] == records(workdir)[name][key]

    shown = cli("report", workdir / "studies" / "tiny-study")
    assert shown.code == 0
    assert "4 cells done, 0 failed" in shown.err


LONG = '[[grid]]\nmethods = ["random"]\nset = { "train.epochs" = %d }'


@pytest.fixture
def in_the_second_cell(tiny_study, spawn, tmp_path):
    """in_the_second_cell(epochs): a study whose first cell is done and whose second one trains."""
    started = []

    def start(epochs):
        path, workdir = tiny_study(["popularity"], more=LONG % epochs), tmp_path / "work"
        process = spawn("study", path, "--workdir", workdir)
        started.append(process)
        end = time.monotonic() + PATIENCE
        while not list(workdir.glob(".tmp/train-*/")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)
        (child,) = children(process.pid)
        return path, workdir, process, child

    yield start
    for process in started:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)  # it starts several processes one after the other
def test_a_killed_study_leaves_no_process_and_goes_on_from_the_cells_that_are_done(
    in_the_second_cell, spawn
):
    path, workdir, process, child = in_the_second_cell(300)
    assert lives(child)
    process.kill()
    process.communicate(timeout=PATIENCE)
    wait_for_the_end_of(child)
    before = written(workdir)
    assert list(before) == ["t.popularity.none.r1.s0"]

    ended = study(spawn, path, workdir)
    assert ended.code == 0, ended.err
    assert {name: record["status"] for name, record in records(workdir).items()} == {
        "t.popularity.none.r1.s0": "done",
        RANDOM: "done",
    }
    assert written(workdir) | before == written(workdir)  # the first one was left as it was
    assert "1 of 2 cells were already finished" in ended.err
    assert all(entry.suffix == ".lock" for entry in (workdir / ".tmp").iterdir())
