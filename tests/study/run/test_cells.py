"""A study's cells: what is recorded of each, what is run again, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from cadc_rec.errors import BusyError, CadcError, DefectError, left_failure
from cadc_rec.store.atomic import empty_folder
from cadc_rec.study.run import cells as cells_module
from cadc_rec.study.run.cells import Ended, StudyRunner, run_study
from cadc_rec.study.run.grid import read_study
from cadc_rec.versions import code_commit
from tests.study.run.conftest import CADC, MF, RANDOM, records, written

DIVERGED = Ended(2, "", CadcError("the loss is nan in epoch 1: lower it."))


def test_a_record_holds_what_the_run_printed_and_a_copy_of_its_ranks(
    tiny_study, pretend, finished, tmp_path
):
    pretend()
    folder = run_study(tiny_study(), tmp_path, None, 1)
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


def test_the_commit_is_that_of_when_the_cell_was_begun(tiny_study, finished, tmp_path, monkeypatch):
    """Somebody commits while a cell runs."""
    commits = {"now": "before"}

    def spawn(self, cell, environment):
        commits["now"] = "after"
        return Ended(0, finished.out)

    monkeypatch.setattr(StudyRunner, "_spawn", spawn)
    for module in ("cells", "records"):
        monkeypatch.setattr(f"cadc_rec.study.run.{module}.code_commit", lambda: commits["now"])
    run_study(tiny_study(), tmp_path, None, 1)
    assert {name: one["commit"] for name, one in records(tmp_path).items()} == {
        CADC: "before",
        RANDOM: "after",
    }


def test_a_second_call_runs_nothing_and_writes_no_record(tiny_study, pretend, tmp_path, cli):
    ran = pretend()
    path = tiny_study()
    assert cli("study", path, "--workdir", tmp_path).code == 0
    before = written(tmp_path)
    assert ran == [CADC, RANDOM]
    shown = cli("study", path, "--workdir", tmp_path)
    assert (shown.code, ran) == (0, [CADC, RANDOM])
    assert written(tmp_path) == before
    assert shown.out == f"{tmp_path / 'studies' / 'tiny-study'}\n"
    assert "2 of 2 cells were already finished" in shown.err
    assert "2 cells done (2 of them earlier), 0 failed, 0 not available" in shown.err


def test_a_dataset_at_a_time_is_one_study(tiny_study, pretend, tmp_path, cli, tiny):
    ran = pretend()
    path = tiny_study(["cadc"])
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
    tiny_study, pretend, tmp_path, cli
):
    pretend({CADC: DIVERGED})
    shown = cli("study", tiny_study(), "--workdir", tmp_path)
    assert (shown.code, shown.out) == (2, "")
    assert records(tmp_path)[CADC]["status"] == "failed"
    assert records(tmp_path)[CADC]["error"] == "the loss is nan in epoch 1: lower it."
    assert records(tmp_path)[RANDOM]["status"] == "done"
    last = shown.err.splitlines()[-1]
    assert last.startswith(f"error: 1 of 2 cells failed, the first of them {CADC}; ")
    assert str(tmp_path / "studies" / "tiny-study" / "logs") in last


def test_a_later_call_tries_only_what_failed(tiny_study, pretend, tmp_path, cli):
    pretend({CADC: DIVERGED})
    cli("study", tiny_study(), "--workdir", tmp_path)
    before = written(tmp_path)
    ran = pretend()
    assert cli("study", tiny_study(), "--workdir", tmp_path).code == 0
    assert ran == [CADC]
    assert records(tmp_path)[CADC]["status"] == "done"
    assert written(tmp_path)[RANDOM] == before[RANDOM]


def test_cells_from_before_their_data_changed_are_named(
    tiny_study, pretend, finished, tmp_path, cli
):
    """Two cells of one log, then a third that finds other contents of it."""
    pretend()
    assert "data changed" not in cli("study", tiny_study(), "--workdir", tmp_path).err
    grown = tmp_path / "prepare" / "0123456789abcdef"
    shutil.copytree(finished.result["artifacts"]["prepare"], grown)
    result = finished.result | {"artifacts": finished.result["artifacts"] | {"prepare": str(grown)}}
    pretend({MF: Ended(0, json.dumps(result))})
    for path in (tmp_path / "studies" / "tiny-study" / "cells").glob("*.json"):
        path.write_text(path.read_text().replace('"finished": "2', '"finished": "1'))  # long ago
    said = cli("study", tiny_study(("cadc", "random", "mf")), "--workdir", tmp_path)
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
def test_however_a_cell_ends_its_record_says_why(tiny_study, pretend, tmp_path, answer, reason):
    pretend({CADC: answer})
    with pytest.raises(CadcError, match="1 of 2 cells failed"):
        run_study(tiny_study(), tmp_path, None, 1)
    record = records(tmp_path)[CADC]
    assert record["status"] == "failed"
    assert reason in record["error"]
    assert records(tmp_path)[RANDOM]["status"] == "done"


def test_a_cell_that_cannot_wait_for_another_is_tried_again(
    tiny_study, pretend, tmp_path, finished, monkeypatch
):
    monkeypatch.setattr(cells_module, "_BUSY_SECONDS", 0.01)
    busy = Ended(2, "", BusyError("whatever the sentence is."))
    ran = pretend({CADC: [busy, busy, Ended(0, finished.out)]})
    run_study(tiny_study(["cadc"]), tmp_path, None, 1)
    assert ran == [CADC] * 3
    assert records(tmp_path)[CADC]["status"] == "done"


def test_a_changed_setting_is_run_again_and_a_changed_address_of_curves_is_not(
    tiny_study, pretend, tmp_path
):
    ran = pretend()
    run_study(tiny_study(), tmp_path, None, 1)
    run_study(tiny_study(sets='"tracking.tensorboard" = false', title="Renamed"), tmp_path, None, 1)
    assert ran == [CADC, RANDOM]
    run_study(tiny_study(sets='"train.epochs" = 3'), tmp_path, None, 1)
    assert ran == [CADC, RANDOM] * 2


def test_what_is_said_of_a_study_runs_no_cell_again_and_another_seed_runs_its_own(
    tiny_study, pretend, tmp_path, cli
):
    ran = pretend()
    assert cli("study", tiny_study(), "--workdir", tmp_path).code == 0
    before = written(tmp_path)
    path = tiny_study(more="seeds = [0, 5]")
    text = path.read_text().replace("seeds = [0]", "seeds = [0]\nbudget_hours = 10", 1)
    said = 'about = "Made up."\nsize = { users = 9, items = 9, interactions = 9 }\n[[grid]]'
    path.write_text(text.replace("[[grid]]", said))
    assert cli("study", path, "--workdir", tmp_path).code == 0
    assert ran == [CADC, RANDOM, *(name.replace(".s0", ".s5") for name in (CADC, RANDOM))]
    assert before.items() <= written(tmp_path).items()
    kept = json.loads((tmp_path / "studies" / "tiny-study" / "study.json").read_text())
    assert kept["about"] == {"t": "Made up."}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "done"}', "3"])
def test_a_record_that_is_none_of_ours_is_replaced(tiny_study, pretend, tmp_path, text):
    ran = pretend()
    run_study(tiny_study(["cadc"]), tmp_path, None, 1)
    (tmp_path / "studies" / "tiny-study" / "cells" / f"{CADC}.json").write_text(text)
    run_study(tiny_study(["cadc"]), tmp_path, None, 1)
    assert ran == [CADC] * 2
    assert records(tmp_path)[CADC]["status"] == "done"


def test_a_dataset_without_its_archive_is_not_available_and_the_code_is_0(
    tiny_study, pretend, tmp_path, cli, tiny
):
    ran = pretend()
    (tmp_path / "ml.toml").write_text('[data]\nsource = "movielens-10m"\n')
    path = tiny_study(["cadc"])
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


def test_a_record_is_sent_after_all_that_it_names(
    tiny_study, pretend, tmp_path, monkeypatch, finished
):
    pretend()
    sent = []
    monkeypatch.setattr(cells_module, "send_files", lambda workdir, files: sent.append(list(files)))
    run_study(tiny_study(["cadc"]), tmp_path, None, 1)
    folder = tmp_path / "studies" / "tiny-study"
    ranks, record = folder / "ranks" / f"{CADC}.parquet", folder / "cells" / f"{CADC}.json"
    assert sent[-1] == [ranks, record]
    runner, cell = (
        StudyRunner(read_study(tiny_study(["cadc"])), tmp_path, None),
        read_study(tiny_study()).cells[0],
    )
    runner._write(cell, {"ranks": "ranks/a.parquet", "cold_ranks": "ranks/a.cold.parquet"})
    assert [file.name for file in sent[-1]] == ["a.parquet", "a.cold.parquet", f"{CADC}.json"]


def test_a_mistyped_data_folder_is_refused_and_not_taken_for_missing_archives(
    tiny_study, tmp_path, cli
):
    shown = cli(
        "study", tiny_study(), "--workdir", tmp_path / "w", "--data-dir", tmp_path / "nowhere"
    )
    assert shown.code == 2
    assert f"{tmp_path / 'nowhere'}: no such folder; correct --data-dir." in shown.err
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize("name", ["logs", "cells", "locks"])
def test_a_file_in_the_place_of_a_studys_folder_is_named(tiny_study, tmp_path, cli, name):
    place = tmp_path / "work" / "studies" / "tiny-study" / name
    place.parent.mkdir(parents=True)
    place.write_text("")
    shown = cli("study", tiny_study(), "--workdir", tmp_path / "work")
    assert shown.code == 2
    assert f"error: {place}: is a file, not a folder; choose another one with" in shown.err
    assert not (tmp_path / "work" / "train").exists()  # before a cell has run, not after


def test_a_study_that_cannot_be_run_leaves_nothing_behind(tiny_study, tmp_path, cli):
    path = tiny_study(["cadc", "gold"], more='integrations = ["hybrid"]')
    shown = cli("study", path, "--workdir", tmp_path / "work")
    assert (shown.code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert "needs pre-trained vectors" in line
    assert not (tmp_path / "work").exists()


def test_a_cell_is_the_run_command_its_log_holds_what_it_printed_and_its_failure_is_recorded(
    tiny_study, tmp_path, monkeypatch, finished
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
    path = tiny_study(["cadc"], sets='"train.epochs" = 3, "model.tower" = [8, 4]')
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


def test_a_report_of_nothing_is_refused_in_one_sentence(tmp_path, cli, tiny_study):
    for folder in (tmp_path / "nowhere", tmp_path):
        shown = cli("report", folder)
        assert (shown.code, shown.out) == (2, "")
        (line,) = shown.err.splitlines()
        assert line.startswith("error: ")
        assert str(folder) in line


def test_a_report_says_what_there_is_and_where_it_lies(tiny_study, pretend, tmp_path, cli):
    pretend({RANDOM: DIVERGED})
    path = tiny_study(["cadc", "random"])
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
