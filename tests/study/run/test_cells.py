"""A study's cells: what is recorded of each, what is run again, and what ends them."""

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadc_rec.errors import BusyError, CadcError, DefectError, left_failure
from cadc_rec.machine import visible_gpus
from cadc_rec.store.atomic import empty_folder, locked, make_folder
from cadc_rec.study.run import cells as cells_module
from cadc_rec.study.run.cells import Ended, StudyRunner, gpu_shares, run_study
from cadc_rec.study.run.grid import read_study
from cadc_rec.versions import code_commit

CADC, RANDOM, MF = "t.cadc.init_frozen.r10.s0", "t.random.trainable.r10.s0", "t.mf.none.r1.s0"


@pytest.fixture
def write(tiny, tmp_path):
    """write(methods, more): a study over the tiny world; `more` is TOML of its first part."""

    def to_file(methods=("cadc", "random"), more="", sets="", title="Tiny"):
        path = tmp_path / "tiny-study.toml"
        path.write_text(
            f'title = "{title}"\nseeds = [0]\nset = {{ {sets} }}\n'
            f'[datasets.t]\ntitle = "Tiny world"\nconfig = "{tiny}"\n'
            f"[[grid]]\nmethods = {json.dumps(list(methods))}\n{more}\n"
        )
        return path

    return to_file


def records(workdir):
    """The records of a work folder's study, by cell."""
    folder = workdir / "studies" / "tiny-study" / "cells"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def written(workdir):
    """When each record was written, in nanoseconds."""
    folder = workdir / "studies" / "tiny-study" / "cells"
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.json")}


# --- without processes: what a cell's exit code, output and failure come to ---------------------


@pytest.fixture
def pretend(monkeypatch, finished):
    """pretend(answers): cells end in these ways; returns the list of those that were run.

    A cell without an answer of its own ends as the undisturbed run of the tiny world did.
    """

    def start(answers=None):
        ran = []

        def spawn(self, cell, environment):
            ran.append(cell.id)
            mine = (answers or {}).get(cell.id, Ended(0, finished.out))
            return mine.pop(0) if isinstance(mine, list) else mine

        monkeypatch.setattr(StudyRunner, "_spawn", spawn)
        return ran

    return start


DIVERGED = Ended(2, "", CadcError("the loss is nan in epoch 1: lower it."))


def test_a_record_holds_what_the_run_printed_and_a_copy_of_its_ranks(
    write, pretend, finished, tmp_path
):
    pretend()
    folder = run_study(write(), tmp_path, None, 1)
    record = records(tmp_path)[CADC]
    result = finished.result
    assert (record["status"], record["error"]) == ("done", None)
    for key in ("metrics", "validation", "rows", "split", "artifacts", "versions"):
        assert record[key] == result[key], key
    seconds = dict(record["seconds"])
    spent_on_validation = seconds.pop("validation")
    assert seconds == result["seconds"]
    assert 0 < spent_on_validation < sum(seconds.values())
    assert (record["users"], record["items"]) == (60, 40)
    train = json.loads((Path(result["artifacts"]["train"]) / "manifest.json").read_text())
    assert record["history"] == train["info"]["history"]
    assert record["best_epoch"] == train["info"]["best_epoch"]
    assert record["interactions_per_second"] == train["info"]["positives_per_second"]
    assert record["peak_memory_bytes"] >= train["peak_memory_bytes"]
    of_stages = dict(record["costs"])
    of_all = of_stages.pop("all")
    assert of_stages == result["costs"]
    assert of_stages["train"] == train["costs"]
    cpu = [of["cpu_seconds"] for of in of_stages.values()]
    assert of_all["cpu_seconds"] == pytest.approx(sum(cpu))
    assert of_all["peak_memory_bytes"] == max(of["peak_memory_bytes"] for of in of_stages.values())
    assert record["commit"] == code_commit()
    ranks = Path(result["artifacts"]["evaluate"]) / "ranks.parquet"
    assert (folder / record["ranks"]).read_bytes() == ranks.read_bytes()
    assert record["machine"]["threads"] == 1
    assert record["config"]["method"] == "cadc"
    identity = ("id", "dataset", "dataset_title", "method", "integration", "ratio", "variant")
    identity += ("seed", "digest")
    wanted = json.loads((folder / "study.json").read_text())
    assert [
        {key: records(tmp_path)[c["id"]][key] for key in identity} for c in wanted["cells"]
    ] == (wanted["cells"])


def test_the_commit_is_that_of_when_the_cell_was_begun(write, finished, tmp_path, monkeypatch):
    """Somebody commits while a cell runs."""
    commits = {"now": "before"}

    def spawn(self, cell, environment):
        commits["now"] = "after"
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    for module in ("cells", "records"):
        monkeypatch.setattr(f"cadc_rec.study.run.{module}.code_commit", lambda: commits["now"])
    run_study(write(), tmp_path, None, 1)
    assert {name: one["commit"] for name, one in records(tmp_path).items()} == {
        CADC: "before",
        RANDOM: "after",
    }


def test_a_second_call_runs_nothing_and_writes_no_record(write, pretend, tmp_path, cli):
    ran = pretend()
    path = write()
    assert cli("study", path, "--workdir", tmp_path).code == 0
    before = written(tmp_path)
    assert ran == [CADC, RANDOM]
    shown = cli("study", path, "--workdir", tmp_path)
    assert (shown.code, ran) == (0, [CADC, RANDOM])
    assert written(tmp_path) == before
    assert shown.out == f"{tmp_path / 'studies' / 'tiny-study'}\n"
    assert "2 of 2 cells were already finished" in shown.err
    assert "2 cells done (2 of them earlier), 0 failed, 0 not available" in shown.err


def test_a_dataset_at_a_time_is_one_study(write, pretend, tmp_path, cli, tiny):
    ran = pretend()
    path = write(["cadc"])
    path.write_text(
        path.read_text() + f'[datasets.u]\ntitle = "Another"\nconfig = "{tiny}"\n'
        'set = { "train.epochs" = 2 }\n'
    )
    other = CADC.replace("t.", "u.", 1)
    command = ("study", path, "--workdir", tmp_path)
    shown = cli(*command, "--dataset", "u")
    assert (shown.code, ran) == (0, [other])
    assert "1 cells done (0 of them earlier)" in shown.err
    wanted = json.loads((tmp_path / "studies" / "tiny-study" / "study.json").read_text())
    assert [cell["id"] for cell in wanted["cells"]] == [CADC, other]
    planned = cli(*command, "--plan", "--json", "--dataset", "t")
    assert [cell["id"] for cell in json.loads(planned.out)["cells"]] == [CADC, other]  # one is done
    assert cli(*command).code == 0
    assert ran == [other, CADC]
    refused = cli(*command, "--dataset", "v")
    assert (refused.code, ran) == (2, [other, CADC])
    assert "dataset 'v' is unknown; choose from t, u." in refused.err


def test_a_failed_cell_is_recorded_with_its_sentence_the_rest_goes_on_and_the_code_is_2(
    write, pretend, tmp_path, cli
):
    pretend({CADC: DIVERGED})
    shown = cli("study", write(), "--workdir", tmp_path)
    assert (shown.code, shown.out) == (2, "")
    assert records(tmp_path)[CADC]["status"] == "failed"
    assert records(tmp_path)[CADC]["error"] == "the loss is nan in epoch 1: lower it."
    assert records(tmp_path)[RANDOM]["status"] == "done"
    last = shown.err.splitlines()[-1]
    assert last.startswith(f"error: 1 of 2 cells failed, the first of them {CADC}; ")
    assert str(tmp_path / "studies" / "tiny-study" / "logs") in last


def test_a_later_call_tries_only_what_failed(write, pretend, tmp_path, cli):
    pretend({CADC: DIVERGED})
    cli("study", write(), "--workdir", tmp_path)
    before = written(tmp_path)
    ran = pretend()
    assert cli("study", write(), "--workdir", tmp_path).code == 0
    assert ran == [CADC]
    assert records(tmp_path)[CADC]["status"] == "done"
    assert written(tmp_path)[RANDOM] == before[RANDOM]


def test_cells_from_before_their_data_changed_are_named(write, pretend, finished, tmp_path, cli):
    """Two cells of one log, then a third that finds other contents of it."""
    pretend()
    assert "data changed" not in cli("study", write(), "--workdir", tmp_path).err
    grown = tmp_path / "prepare" / "0123456789abcdef"
    shutil.copytree(finished.result["artifacts"]["prepare"], grown)
    result = finished.result | {"artifacts": finished.result["artifacts"] | {"prepare": str(grown)}}
    pretend({MF: Ended(0, json.dumps(result))})
    for path in (tmp_path / "studies" / "tiny-study" / "cells").glob("*.json"):
        path.write_text(path.read_text().replace('"finished": "2', '"finished": "1'))  # long ago
    said = cli("study", write(("cadc", "random", "mf")), "--workdir", tmp_path)
    assert said.code == 0
    assert "the data changed after 2 of the cells were run" in said.err
    assert "remove their files from" in said.err


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Ended(-9), "ended by signal 9"),
        (Ended(1), "ended with exit code 1"),
        (Ended(2, "", CadcError("one sentence\nof two lines.")), "sentence of two lines."),
        (
            Ended(1, "", DefectError("KeyError: 'x'")),
            "unexpected error: KeyError: 'x'",
        ),
        (Ended(0, '{"artifacts": {}'), "Expecting"),
        (Ended(0, '{"artifacts": {"evaluate": "/nowhere"}}'), "/nowhere has no manifest.json"),
        (Ended(0, "{}"), "artifacts"),
    ],
)
def test_however_a_cell_ends_its_record_says_why(write, pretend, tmp_path, answer, reason):
    pretend({CADC: answer})
    with pytest.raises(CadcError, match="1 of 2 cells failed"):
        run_study(write(), tmp_path, None, 1)
    record = records(tmp_path)[CADC]
    assert record["status"] == "failed"
    assert reason in record["error"]
    assert records(tmp_path)[RANDOM]["status"] == "done"


def test_a_cell_that_cannot_wait_for_another_is_tried_again(
    write, pretend, tmp_path, finished, monkeypatch
):
    monkeypatch.setattr(cells_module, "_BUSY_SECONDS", 0.01)
    busy = Ended(2, "", BusyError("whatever the sentence is."))
    ran = pretend({CADC: [busy, busy, Ended(0, finished.out)]})
    run_study(write(["cadc"]), tmp_path, None, 1)
    assert ran == [CADC] * 3
    assert records(tmp_path)[CADC]["status"] == "done"


def test_a_changed_setting_is_run_again_and_a_changed_address_of_curves_is_not(
    write, pretend, tmp_path
):
    ran = pretend()
    run_study(write(), tmp_path, None, 1)
    run_study(write(sets='"tracking.tensorboard" = false', title="Renamed"), tmp_path, None, 1)
    assert ran == [CADC, RANDOM]
    run_study(write(sets='"train.epochs" = 3'), tmp_path, None, 1)
    assert ran == [CADC, RANDOM] * 2


def test_what_is_said_of_a_study_runs_no_cell_again_and_another_seed_runs_its_own(
    write, pretend, tmp_path, cli
):
    ran = pretend()
    assert cli("study", write(), "--workdir", tmp_path).code == 0
    before = written(tmp_path)
    path = write(more="seeds = [0, 5]")
    text = path.read_text().replace("seeds = [0]", "seeds = [0]\nbudget_hours = 10", 1)
    said = 'about = "Made up."\nsize = { users = 9, items = 9, interactions = 9 }\n[[grid]]'
    path.write_text(text.replace("[[grid]]", said))
    assert cli("study", path, "--workdir", tmp_path).code == 0
    assert ran == [CADC, RANDOM, *(name.replace(".s0", ".s5") for name in (CADC, RANDOM))]
    assert before.items() <= written(tmp_path).items()
    kept = json.loads((tmp_path / "studies" / "tiny-study" / "study.json").read_text())
    assert kept["about"] == {"t": "Made up."}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "done"}', "3"])
def test_a_record_that_is_none_of_ours_is_replaced(write, pretend, tmp_path, text):
    ran = pretend()
    run_study(write(["cadc"]), tmp_path, None, 1)
    (tmp_path / "studies" / "tiny-study" / "cells" / f"{CADC}.json").write_text(text)
    run_study(write(["cadc"]), tmp_path, None, 1)
    assert ran == [CADC] * 2
    assert records(tmp_path)[CADC]["status"] == "done"


def test_a_dataset_without_its_archive_is_not_available_and_the_code_is_0(
    write, pretend, tmp_path, cli, tiny
):
    ran = pretend()
    (tmp_path / "ml.toml").write_text('[data]\nsource = "movielens-10m"\n')
    path = write(["cadc"])
    path.write_text(path.read_text().replace(str(tiny), str(tmp_path / "ml.toml")))
    (tmp_path / "empty").mkdir()
    arguments = ("--workdir", tmp_path / "work", "--data-dir", tmp_path / "empty")
    shown = cli("study", path, *arguments)
    assert (shown.code, ran) == (0, [])
    record = records(tmp_path / "work")[CADC]
    assert record["status"] == "unavailable"
    assert record["error"].startswith(f"{tmp_path / 'empty'}: holds no ml-10m.zip")
    assert "Tiny world is not available" in shown.err
    assert "0 cells done (0 of them earlier), 0 failed, 1 not available" in shown.err


def test_a_record_is_sent_after_all_that_it_names(write, pretend, tmp_path, monkeypatch, finished):
    pretend()
    sent = []
    monkeypatch.setattr(cells_module, "send_files", lambda workdir, files: sent.append(list(files)))
    run_study(write(["cadc"]), tmp_path, None, 1)
    folder = tmp_path / "studies" / "tiny-study"
    ranks, record = folder / "ranks" / f"{CADC}.parquet", folder / "cells" / f"{CADC}.json"
    assert sent[-1] == [ranks, record]
    runner, cell = (
        StudyRunner(read_study(write(["cadc"])), tmp_path, None),
        read_study(write()).cells[0],
    )
    runner._write(cell, {"ranks": "ranks/a.parquet", "cold_ranks": "ranks/a.cold.parquet"})
    assert [file.name for file in sent[-1]] == ["a.parquet", "a.cold.parquet", f"{CADC}.json"]


def test_two_jobs_run_two_cells_at_a_time(write, tmp_path, monkeypatch, finished):
    together = threading.Barrier(2, timeout=20)

    def spawn(self, cell, environment):
        together.wait()  # would be broken if one cell waited for the other to end
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(write(), tmp_path, None, 2)
    assert {record["status"] for record in records(tmp_path).values()} == {"done"}


def test_of_two_jobs_none_waits_for_a_pretraining_while_other_cells_are_left(
    write, tmp_path, monkeypatch, finished
):
    """The two that begin are not those of one method, though these are first in the study."""
    together, begun = threading.Barrier(2, timeout=20), []

    def spawn(self, cell, environment):
        begun.append(cell.id)
        together.wait()
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(write(more="ratios = [10, 100]"), tmp_path, None, 2)
    assert sorted(begun[:2]) == [CADC, RANDOM]
    assert sorted(begun[2:]) == sorted([CADC.replace("r10", "r100"), RANDOM.replace("r10", "r100")])


@pytest.mark.parametrize("by_the_first", [True, False], ids=["done", "left undone"])
def test_two_commands_divide_the_cells_and_run_none_twice(write, tmp_path, pretend, by_the_first):
    """The first holds `cadc`: the second runs `random`, then `cadc` if it is still to do."""
    study = read_study(write())
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


def test_jobs_at_a_time_have_gpus_of_their_own(write, tmp_path, monkeypatch, finished):
    """Two cells at once on a machine that offers three GPUs by name."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-1f, 6")
    together, seen = threading.Barrier(2, timeout=20), []

    def spawn(self, cell, environment):
        together.wait()
        seen.append(environment["CUDA_VISIBLE_DEVICES"])
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    run_study(write(sets='"compute.device" = "auto"'), tmp_path, None, 2)
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


def test_a_cells_process_is_given_its_gpus(write, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\nprintf "%s" "$CUDA_VISIBLE_DEVICES"\n')
    script.chmod(0o755)
    monkeypatch.setattr(cells_module.sys, "executable", str(script))
    runner = StudyRunner(read_study(write()), tmp_path, None, 2)
    cell = runner.study.cells[0]
    assert runner._spawn(cell, {"CUDA_VISIBLE_DEVICES": "3"}).out == "3"


def test_a_mistyped_data_folder_is_refused_and_not_taken_for_missing_archives(write, tmp_path, cli):
    shown = cli("study", write(), "--workdir", tmp_path / "w", "--data-dir", tmp_path / "nowhere")
    assert shown.code == 2
    assert f"{tmp_path / 'nowhere'}: no such folder; correct --data-dir." in shown.err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["logs", "cells", "locks"])
def test_a_file_in_the_place_of_a_studys_folder_is_named(write, tmp_path, cli, name):
    place = tmp_path / "work" / "studies" / "tiny-study" / name
    place.parent.mkdir(parents=True)
    place.write_text("")
    shown = cli("study", write(), "--workdir", tmp_path / "work")
    assert shown.code == 2
    assert f"error: {place}: is a file, not a folder; choose another one with" in shown.err
    assert not (tmp_path / "work" / "train").exists()  # before a cell has run, not after


def test_a_study_that_cannot_be_run_leaves_nothing_behind(write, tmp_path, cli):
    path = write(["cadc", "gold"], more='integrations = ["hybrid"]')
    shown = cli("study", path, "--workdir", tmp_path / "work")
    assert (shown.code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert "needs pre-trained vectors" in line
    assert not (tmp_path / "work").exists()


@pytest.fixture
def hears_ctrl_c():
    """A shell starts its background jobs deaf to Ctrl-C, and a test run may be one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_ends_the_running_cell_begins_no_other_and_records_neither(
    write, tmp_path, monkeypatch
):
    runner = StudyRunner(read_study(write()), tmp_path, None)
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


def test_a_cell_is_the_run_command_its_log_holds_what_it_printed_and_its_failure_is_recorded(
    write, tmp_path, monkeypatch, finished
):
    """A shell script in the interpreter's place: it notes what it was called with."""
    said = tmp_path / "said"
    script = tmp_path / "python"
    failure = '{"kind": "refused", "message": "the cause"}'
    script.write_text(
        f'#!/bin/sh\necho "$@" > {said}\necho "error: printed" >&2\n'
        f"echo '{failure}' > $_CADC_REC_FAILURE\nexit 2\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(cells_module.sys, "executable", str(script))
    path = write(["cadc"], sets='"train.epochs" = 3, "model.tower" = [8, 4]')
    with pytest.raises(CadcError, match="1 of 1 cells failed"):
        run_study(path, tmp_path / "work", tmp_path, 1)
    config = read_study(path).cells[0].config
    assert said.read_text().strip() == (
        f"-m cadc_rec run {config} --json --workdir {tmp_path / 'work'} --method cadc "
        f"--set train.epochs=3 --set model.tower=[8, 4] --set seed=0 --data-dir {tmp_path}"
    )
    log = tmp_path / "work" / "studies" / "tiny-study" / "logs" / f"{CADC}.log"
    assert log.read_text() == "error: printed\n"
    assert [path.name for path in log.parent.iterdir()] == [log.name]
    assert records(tmp_path / "work")[CADC]["error"] == "the cause"


def test_a_command_leaves_its_failure_for_the_process_that_started_it(
    tiny, tmp_path, cli, monkeypatch, finished
):
    """Its kind is the type of the error; a failure that is there already was the cause."""
    path = tmp_path / "failure.json"
    monkeypatch.setenv("_CADC_REC_FAILURE", str(path))
    key = Path(finished.result["artifacts"]["prepare"]).name
    with empty_folder(tmp_path / "work", "prepare", key):
        shown = cli("run", tiny, "--workdir", tmp_path / "work", "--no-wait")
    assert shown.code == 2
    assert type(left_failure(path)) is BusyError
    assert shown.err.endswith(f"error: {left_failure(path)}\n")
    assert cli("run", tmp_path / "absent.toml").code == 2
    assert type(left_failure(path)) is BusyError
    path.unlink()
    shown = cli("run", tmp_path / "absent.toml")
    refused = left_failure(path)
    assert type(refused) is CadcError
    assert str(refused) == shown.err.removeprefix("error: ").strip()
    assert left_failure(tmp_path / "nothing") is None


def test_a_report_of_nothing_is_refused_in_one_sentence(tmp_path, cli, write):
    for folder in (tmp_path / "nowhere", tmp_path):
        shown = cli("report", folder)
        assert (shown.code, shown.out) == (2, "")
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert str(folder) in line


def test_a_report_says_what_there_is_and_where_it_lies(write, pretend, tmp_path, cli):
    pretend({RANDOM: DIVERGED})
    path = write(["cadc", "random"])
    cli("study", path, "--workdir", tmp_path)
    folder = tmp_path / "studies" / "tiny-study"
    shown = cli("report", folder)
    assert shown.code == 0
    assert shown.out == f"{folder / 'report' / 'index.html'}\n"
    assert "1 cells done, 1 failed, 0 not run yet, 0 not available" in shown.err
    page = (folder / "report" / "index.html").read_text()
    assert "Tiny world" in page
    assert cli("report", tmp_path / "studies", "--out", tmp_path / "page").code == 0
    assert (tmp_path / "page" / "index.html").is_file()


# --- with processes, ended while their first cell prepares a world of millions ------------------

MILLIONS = ", ".join(
    f'"data.generated.{key}" = {n}'
    for key, n in (("users", 200_000), ("items", 20_000), ("interactions", 30_000_000))
)


@pytest.fixture
def preparing(write, spawn, tmp_path):
    """preparing(): the study command in a process, and that of its first cell."""
    started = []

    def start():
        process = spawn("study", write(sets=MILLIONS), "--workdir", tmp_path)
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
    write, spawn, finished, tmp_path, cli
):
    gold = "t.gold.trainable.r1.s0"

    def with_rate(rate):
        part = f'[[grid]]\nmethods = ["cadc", "mf"]\n[[grid]]\nmethods = ["gold"]\nset = {rate}'
        return write(["popularity"], more=part)

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
def in_the_second_cell(write, spawn, tmp_path):
    """in_the_second_cell(epochs): a study whose first cell is done and whose second one trains."""
    started = []

    def start(epochs):
        path, workdir = write(["popularity"], more=LONG % epochs), tmp_path / "work"
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
