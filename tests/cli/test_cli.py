import contextlib
import json
import os
import re
import shutil
import signal
import time
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec import __version__
from cadc_rec.cli.doctor import Check, Report
from cadc_rec.pipeline.pipeline import STAGES as EVERY_STAGE

STAGES = tuple(stage for stage in EVERY_STAGE if stage not in ("transitions", "prior"))  # of cadc
METHODS = ("cadc", "random", "gold")
USERS, TRAIN = 60, 780  # see conftest.TINY


@pytest.fixture
def workdir(finished, tmp_path):
    """A copy of the finished work folder, to change at will."""
    return Path(shutil.copytree(finished.workdir, tmp_path / "work"))


def artifacts_in(workdir):
    """The committed artifacts, as ``stage/key``, and when each was written, in nanoseconds."""
    return {
        f"{manifest.parts[-3]}/{manifest.parts[-2]}": manifest.stat().st_mtime_ns
        for manifest in sorted(workdir.glob("[!.]*/*/manifest.json"))
    }


def the_only_line(out):
    """The JSON object that is the one line of `out`."""
    assert out.endswith("\n")
    (line,) = out.splitlines()
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# --- run -------------------------------------------------------------------------------------


def test_run_json_is_one_line_with_exactly_the_promised_fields(finished):
    result = the_only_line(finished.out)
    assert set(result) == {
        *("method", "seed", "metrics", "validation", "seconds", "costs", "cached", "rows"),
        *("artifacts", "versions"),
        "split",  # sources without time say so in every result
    }
    assert (result["method"], result["seed"], result["split"]) == ("cadc", 0, "time")
    assert result["cached"] == []
    folders = {stage: Path(folder) for stage, folder in result["artifacts"].items()}
    assert result["rows"] == {
        "train": TRAIN,
        "selected": TRAIN // 10,
        "touched": None,  # there is no history
        "bytes": sum(f.stat().st_size for f in folders["select"].glob("shard-*.parquet")),
        "bytes_of": sum(f.stat().st_size for f in folders["prepare"].glob("train/*.parquet")),
    }
    assert set(result["metrics"]) == set(result["validation"]) == {"hr@10", "ndcg@10"}
    assert list(result["artifacts"]) == list(STAGES)
    assert list(result["seconds"]) == list(EVERY_STAGE)


def test_runs_seconds_are_those_of_the_manifests(finished):
    for stage, folder in finished.result["artifacts"].items():
        assert Path(folder).is_absolute()
        assert Path(folder).parent == finished.workdir.resolve() / stage
        manifest = json.loads((Path(folder) / "manifest.json").read_text())
        assert manifest["stage"] == stage
        assert finished.result["seconds"][stage] == manifest["seconds"] > 0
        assert finished.result["costs"][stage] == manifest["costs"]
        assert manifest["costs"]["ranks"] == 1
        assert 0 < manifest["costs"]["peak_memory_bytes"] <= 1.1 * manifest["peak_memory_bytes"]


def test_runs_metrics_are_unrounded_fractions_of_the_ranks(finished):
    folder = Path(finished.result["artifacts"]["evaluate"])
    ranks = pq.read_table(folder / "ranks.parquet")["rank"].to_numpy()
    assert len(ranks) == USERS
    hits = ranks <= 10
    expected = {
        "hr@10": hits.mean(),
        "ndcg@10": np.where(hits, 1 / np.log2(1 + ranks), 0).mean(),
    }
    assert finished.result["metrics"] == pytest.approx(expected, rel=1e-12, abs=0)
    assert finished.result["metrics"] != finished.result["validation"]


def test_runs_versions_are_those_installed(finished):
    versions = finished.result["versions"]
    assert versions["cadc-rec"] == __version__
    for name in ("torch", "torchrec", "numpy", "pyarrow", "duckdb"):
        assert versions[name] == metadata.version(name)
    assert "fbgemm" in versions


def test_everything_but_the_result_goes_to_standard_error(finished):
    for stage in STAGES:
        assert f"{stage}: made in " in finished.err


def test_a_second_run_does_no_stage_again_and_never_imports_torch(finished, tiny, spawn_command):
    before = artifacts_in(finished.workdir)
    arguments = ("run", tiny, "--workdir", finished.workdir, "--json")
    process = spawn_command(*arguments, PYTHONPROFILEIMPORTTIME="1")
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    result = the_only_line(out)
    assert result.pop("cached") == list(STAGES)
    first = dict(finished.result)
    del first["cached"]
    assert result == first
    assert artifacts_in(finished.workdir) == before
    imported = {line.rsplit("|", 1)[1].strip() for line in err.splitlines() if "|" in line}
    assert "cadc_rec.pipeline.pipeline" in imported  # so that the next line could fail
    assert not imported & {"torch", "torchrec", "fbgemm_gpu"}


def imported(err):
    """The libraries that a process started with PYTHONPROFILEIMPORTTIME loaded."""
    lines = [line for line in err.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


@pytest.mark.slow
def test_training_alone_loads_no_library_that_prepares(workdir, tiny, spawn_command):
    """DuckDB and Ibis take a second of every launched worker."""
    shutil.rmtree(workdir / "train")
    process = spawn_command("train", tiny, "--workdir", workdir, PYTHONPROFILEIMPORTTIME="1")
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    loaded = imported(err)
    assert {"torch", "torchrec", "pyarrow"} <= loaded
    assert not loaded & {"duckdb", "ibis", "sqlglot"}


def test_help_loads_neither_the_settings_nor_any_library_of_a_stage(spawn_command):
    _, err = spawn_command("--help", PYTHONPROFILEIMPORTTIME="1").communicate(timeout=100)
    loaded = imported(err)
    assert {"typer", "rich"} <= loaded
    assert not loaded & {"pydantic", "numpy", "pyarrow", "torch", "duckdb"}


def test_run_without_json_prints_a_table(finished, tiny, cli):
    shown = cli("run", tiny, "--workdir", finished.workdir)
    assert shown.code == 0
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(shown.out)
    assert shown.out.startswith("cadc, seed 0")
    for stage in STAGES:
        assert re.search(rf"{stage} .*\(kept\)", shown.out)
        assert f"{stage}: kept" in shown.err
    assert "78 of 780 interactions (10.0%)" in shown.out
    made = [s for s in STAGES if s not in ("prepare", "evaluate")]
    cpu = sum(finished.result["costs"][stage]["cpu_seconds"] for stage in made)
    assert f"{cpu:,.1f} CPU seconds, at most " in shown.out
    metrics = finished.result["metrics"]
    assert f"HR@10 {100 * metrics['hr@10']:.2f}%" in shown.out
    assert f"NDCG@10 {100 * metrics['ndcg@10']:.2f}%" in shown.out
    seconds = finished.result["seconds"]
    spent = seconds["pretrain"] + seconds["select"] + seconds["train"]
    assert re.search(rf"pretrain \+ select \+ train .* {spent:,.1f} ", shown.out)


def test_random_shares_cadcs_sample_and_has_no_pretraining(workdir, tiny, cli):
    result = the_only_line(cli("run", tiny, "--workdir", workdir, "--method=random", "--json").out)
    assert result["method"] == "random"
    assert result["cached"] == ["prepare", "select"]
    assert list(result["artifacts"]) == ["prepare", "select", "train", "evaluate"]
    assert result["seconds"]["pretrain"] == 0
    assert list(result["seconds"]) == list(EVERY_STAGE)


def test_gold_trains_on_every_interaction(workdir, tiny, cli):
    result = the_only_line(cli("run", tiny, "--workdir", workdir, "--method=gold", "--json").out)
    assert result["method"] == "gold"
    assert result["cached"] == ["prepare"]
    assert (result["rows"]["train"], result["rows"]["selected"]) == (TRAIN, TRAIN)
    # the same again when the file or --set says gold
    again = cli("run", tiny, "--workdir", workdir, "--set", "method=gold", "--json")
    assert the_only_line(again.out)["artifacts"] == result["artifacts"]


def test_another_seed_is_another_result_on_the_same_data(workdir, tiny, cli, finished):
    result = the_only_line(cli("run", tiny, "--workdir", workdir, "--set", "seed=1", "--json").out)
    assert result["seed"] == 1
    assert result["cached"] == ["prepare"]
    files = {"evaluate": "ranks.parquet", "train": "model.safetensors"}
    for stage, file in files.items():
        mine, first = (Path(r["artifacts"][stage]) / file for r in (result, finished.result))
        assert mine.read_bytes() != first.read_bytes()


def test_the_same_seed_is_the_same_bytes_in_another_folder(tmp_path, tiny, cli, finished):
    result = the_only_line(cli("run", tiny, "--workdir", tmp_path / "other", "--json").out)
    assert result["cached"] == []
    for stage, folder in finished.result["artifacts"].items():
        mine, first = Path(result["artifacts"][stage]), Path(folder)
        files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
        assert Path("manifest.json") in files
        for file in files:
            if file.name != "manifest.json":  # it holds times
                assert (mine / file).read_bytes() == (first / file).read_bytes(), file
    assert result["metrics"] == finished.result["metrics"]


# --- a stage at a time -------------------------------------------------------------------------


def test_each_stage_command_does_its_stage_and_finds_the_ones_before(tmp_path, tiny, cli, finished):
    for number, stage in enumerate(STAGES):
        shown = cli(stage, tiny, "--workdir", tmp_path, "--json")
        assert shown.code == 0
        document = the_only_line(shown.out)
        assert set(document) - {"update"} == {"stage", "artifact", "cached", "seconds", "info"}
        assert ("update" in document) == (stage == "evaluate")
        assert document["stage"] == stage
        assert document["cached"] is False
        assert document["seconds"] > 0
        made = sorted(path.name for path in tmp_path.iterdir() if path.name in STAGES)
        assert made == sorted(STAGES[: number + 1])
        # the same work as `run`'s, under the same key
        folder = Path(document["artifact"])
        assert folder.is_dir()
        assert folder.name == Path(finished.result["artifacts"][stage]).name
        for before in STAGES[:number]:
            assert f"{before}: kept" in shown.err


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_command_says_what_came_of_it_and_where_it_is(finished, tiny, cli, stage):
    shown = cli(stage, tiny, "--workdir", finished.workdir)
    assert shown.code == 0
    summary, folder = shown.out.splitlines()
    seconds = finished.result["seconds"][stage]
    assert re.fullmatch(rf"{stage}: \S.* \({seconds:,.1f} s, kept\)", summary)
    assert folder == finished.result["artifacts"][stage]


def test_a_stage_command_makes_the_stages_it_needs(tmp_path, tiny, cli):
    shown = cli("select", tiny, "--workdir", tmp_path, "--method", "gold")
    assert shown.code == 0
    assert [name.split("/")[0] for name in artifacts_in(tmp_path)] == ["prepare", "select"]


@pytest.mark.parametrize("method", ["random", "gold"])
def test_pretraining_is_refused_for_a_method_without(finished, tiny, cli, method):
    shown = cli("pretrain", tiny, "--workdir", finished.workdir, "--method", method)
    assert (shown.code, shown.out) == (2, "")
    assert (
        f"error: method '{method}' has no pretrain stage; choose a method that has one" in shown.err
    )


def test_force_makes_the_named_stage_anew_and_keeps_the_others(workdir, tiny, cli):
    before = artifacts_in(workdir)
    document = the_only_line(cli("select", tiny, "--workdir", workdir, "--force", "--json").out)
    assert document["cached"] is False
    after = artifacts_in(workdir)
    assert after.keys() == before.keys()
    assert [name.split("/")[0] for name in after if after[name] != before[name]] == ["select"]


def test_run_with_force_makes_every_stage_anew_to_the_same_bytes(workdir, tiny, cli, finished):
    before = artifacts_in(workdir)
    result = the_only_line(cli("run", tiny, "--workdir", workdir, "--force", "--json").out)
    assert result["cached"] == []
    after = artifacts_in(workdir)
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert result["metrics"] == finished.result["metrics"]


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/no.toml"], "{tmp}/no.toml: no such config file; check the path."),
        (["{tmp}"], "{tmp}: cannot be read (Is a directory); name a TOML file."),
        (["{tiny}", "--method", "golden"], "method: 'golden' is unknown; choose one of"),
        (["{tiny}", "--set", "train.epoch=3"], "did you mean train.epochs?"),
        (["{tiny}", "--set", "train.epochs=x"], "train.epochs = 'x' is not allowed: "),
        (["{tiny}", "--set", "train.epochs"], "write it as section.key=value."),
        (["{tiny}", "--workdir", "{tiny}"], "{tiny}: is a file, not a folder; choose another"),
        (["{tiny}", "--set", "data.k_core=99"], "data.k_core = 99 leaves no interaction"),
        (
            ["{ml}", "--data-dir", "{tmp}/no"],
            "{tmp}/no: no such folder; correct --data-dir.",
        ),
        (
            ["{ml}", "--data-dir", "{tmp}"],
            "{tmp}: holds no ml-1m.zip",
        ),
        (["{tiny}", "--set", "compute.processes=3"], "set select.shards to at least 3"),
    ],
)
@pytest.mark.parametrize("command", ["run", "prepare"])
def test_bad_input_ends_with_one_sentence_and_code_2(
    tmp_path, tiny, cli, command, arguments, message
):
    ml = Path(__file__).parents[2] / "configs" / "ml-1m.toml"
    names = {"tmp": tmp_path, "tiny": tiny, "ml": ml}
    workdir = tmp_path / "work"
    arguments = [argument.format(**names) for argument in arguments]
    shown = cli(command, "--workdir", workdir, "--json", *arguments)
    assert (shown.code, shown.out) == (2, "")
    (line,) = shown.err.splitlines()
    assert line.startswith("error: ")
    assert message.format(**names) in line
    assert artifacts_in(workdir) == {}


def test_training_that_diverges_is_said_in_one_sentence_and_loses_nothing(workdir, tiny, cli):
    before = artifacts_in(workdir)
    shown = cli("run", tiny, "--workdir", workdir, "--set", "train.learning_rate=1e30")
    assert (shown.code, shown.out) == (2, "")
    assert "lower train.learning_rate (it is 1e+30)" in shown.err
    assert "Traceback" not in shown.err
    assert artifacts_in(workdir) == before
    assert all(path.suffix == ".lock" for path in (workdir / ".tmp").iterdir())


def test_a_damaged_artifact_stops_the_run_and_its_removal_mends_it(workdir, tiny, cli, finished):
    stage, file = "pretrain", "item.safetensors"
    folder = workdir / stage / Path(finished.result["artifacts"][stage]).name
    damaged = bytearray((folder / file).read_bytes())
    damaged[-1] ^= 1
    (folder / file).write_bytes(damaged)
    shown = cli("run", tiny, "--workdir", workdir, "--json")
    assert (shown.code, shown.out) == (2, "")
    assert f"error: {folder / file} changed since it was written; delete {folder} " in shown.err
    shutil.rmtree(folder)  # as it says
    result = the_only_line(cli("run", tiny, "--workdir", workdir, "--json").out)
    assert result["cached"] == ["prepare", "select", "train", "evaluate"]
    assert result["metrics"] == finished.result["metrics"]


def fill(disk, spare):
    """Leave `spare` bytes on a disk."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        with contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))
        filler.truncate(filler.tell() - spare)


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_too_small_for_a_stage_ends_with_a_sentence_and_keeps_the_stages_before(
    small_disk, tiny, cli, finished, stage
):
    disk = small_disk("4m")
    for before in STAGES[: STAGES.index(stage)]:
        shutil.copytree(finished.workdir / before, disk / before)
    kept = artifacts_in(disk)
    fill(disk, spare=8192)
    shown = cli("run", tiny, "--workdir", disk, "--json")
    assert (shown.code, shown.out) == (2, ""), shown.err
    assert re.search(r"error: .*no space left; nothing was committed", shown.err)
    assert "Traceback" not in shown.err
    assert artifacts_in(disk) == kept
    assert [path.name for path in (disk / ".tmp").iterdir() if path.suffix != ".lock"] == []
    (disk / "filler").unlink()  # free some, as it says
    again = cli("run", tiny, "--workdir", disk, "--json")
    assert the_only_line(again.out)["cached"] == list(STAGES[: STAGES.index(stage)])


def test_debug_adds_the_traceback_to_the_sentence(tmp_path, tiny, cli):
    arguments = ("run", tiny, "--workdir", tmp_path, "--set", "data.k_core=99")
    plain, debug = cli(*arguments), cli(*arguments, "--debug")
    assert plain.code == debug.code == 2
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.splitlines()[-1] == plain.err.splitlines()[-1]


def test_a_defect_of_ours_is_code_1_and_says_how_to_see_where(tmp_path, tiny, cli, monkeypatch):
    def load(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("cadc_rec.config.file.load_experiment", load)
    shown = cli("run", tiny, "--workdir", tmp_path)
    assert (shown.code, shown.out) == (1, "")
    assert shown.err.splitlines() == [
        "unexpected error: ZeroDivisionError: by zero",
        "This is a defect of cadc-rec; --debug shows where.",
    ]
    assert "Traceback" in cli("run", tiny, "--workdir", tmp_path, "--debug").err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bogus"], "bogus"),
        (["run"], "CONFIG"),
        (["run", "{tiny}", "--bogus"], "--bogus"),
        (["run", "{tiny}", "extra"], "extra"),
        (["run", "{tiny}", "--workdir"], "--workdir"),
    ],
)
def test_a_wrong_command_line_is_code_2_and_names_what_is_wrong(cli, tiny, arguments, named):
    shown = cli(*(argument.format(tiny=tiny) for argument in arguments))
    assert (shown.code, shown.out) == (2, "")
    assert named in shown.err
    assert "Traceback" not in shown.err


def test_ctrl_c_ends_with_code_130_keeps_finished_stages_and_leaves_no_draft(workdir, tiny, spawn):
    arguments = ["--set", "train.epochs=1000000"]
    before = artifacts_in(workdir)
    process = spawn("run", tiny, "--workdir", workdir, *arguments, "--json")
    wait_until(lambda: list((workdir / ".tmp").glob("train-*/")), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert out == ""
    assert "interrupted; finished stages are kept, and the same command continues from them" in err
    assert "Traceback" not in err
    assert artifacts_in(workdir) == before
    assert all(path.suffix == ".lock" for path in (workdir / ".tmp").iterdir())


def wait_until(condition, process, seconds=100):
    """Poll `condition` while `process` lives."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


# --- two processes -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_end_with_one_result_near_to_that_of_one(workdir, tiny, spawn, finished):
    process = spawn("run", tiny, "--workdir", workdir, "--set", "compute.processes=2", "--json")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    result = the_only_line(out)
    assert result["cached"] == ["prepare", "pretrain", "select"]
    manifest = json.loads((Path(result["artifacts"]["train"]) / "manifest.json").read_text())
    assert manifest["info"]["world_size"] == 2
    # 60 users: one of them is 0.017; the ranks draw negatives of their own, so a few may differ
    for name, value in finished.result["metrics"].items():
        assert result["metrics"][name] == pytest.approx(value, abs=0.1)


@pytest.mark.distributed
@pytest.mark.slow
def test_a_failing_worker_ends_the_run_with_its_sentence_and_code_2(workdir, tiny, spawn):
    before = artifacts_in(workdir)
    arguments = ["--set", "compute.processes=2", "--set", "train.learning_rate=1e30"]
    process = spawn("run", tiny, "--workdir", workdir, *arguments, "--json")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, "")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "lower train.learning_rate" in errors[0]
    assert "Traceback" not in err
    assert artifacts_in(workdir) == before
    assert all(path.suffix == ".lock" for path in (workdir / ".tmp").iterdir())


@pytest.mark.distributed
@pytest.mark.slow
def test_what_rank_0_alone_is_refused_is_said_once_and_no_other_rank_calls_it_a_defect(
    workdir, tiny, spawn
):
    shutil.rmtree(workdir / "train")
    (workdir / "train").write_text("a file")
    process = spawn("run", tiny, "--workdir", workdir, "--set", "compute.processes=2")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (2, "")
    assert err.count("train: is a file, not a folder; choose another one with --workdir.") == 1
    assert "defect" not in err
    assert "Traceback" not in err, err


# --- doctor, help, version ---------------------------------------------------------------------


def test_doctor_is_code_0_here_and_its_json_one_line(tmp_path, cli):
    shown = cli("doctor", "--workdir", tmp_path / "work", "--json")
    assert shown.code == 0
    report = the_only_line(shown.out)
    assert report["ok"] is True
    names = {check["name"] for check in report["checks"]}
    assert {"torch", "device", "backend", "threads", "memory", "disk", "work folder"} <= names
    shown = cli("doctor", "--workdir", tmp_path / "work")
    assert shown.code == 0
    assert "work folder" in shown.out


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_doctor_is_code_1_where_the_main_job_cannot_run(tmp_path, cli, monkeypatch, extra):
    report = Report((Check("torch", "missing", False, "torch is missing", "Run `make install`."),))
    monkeypatch.setattr("cadc_rec.cli.doctor.diagnose", lambda *_: report)
    shown = cli("doctor", "--workdir", tmp_path, *extra)
    assert shown.code == 1
    assert "torch is missing" in shown.out
    assert "make install" in shown.out


def test_doctor_finds_a_work_folder_that_is_a_file(cli, tiny):
    shown = cli("doctor", "--workdir", tiny)
    assert shown.code == 1
    assert "FAIL" in shown.out


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(cli, flag):
    shown = cli(flag)
    assert shown.code == 0
    for command in (*EVERY_STAGE, "run", "doctor"):
        assert re.search(rf"\b{command}\b +\S", shown.out)


@pytest.mark.parametrize("command", [*EVERY_STAGE, "run"])
def test_a_commands_help_names_its_options(cli, command):
    shown = cli(command, "-h")
    assert shown.code == 0
    for name in ("CONFIG", "--workdir", "--data-dir", "--method", "--set", "--force", "--json"):
        assert name in shown.out
    for method in METHODS:
        assert method in shown.out


def test_without_a_command_the_help_is_shown(cli):
    shown = cli()
    assert shown.code == 2
    assert "Usage" in shown.out + shown.err
    assert "doctor" in shown.out + shown.err


def test_version_is_the_packages(cli):
    shown = cli("--version")
    assert (shown.code, shown.out) == (0, f"{__version__}\n")


def test_a_child_whose_parent_died_while_it_was_loading_ends_at_once(spawn_command):
    """Nobody is left to signal it, so it has to look itself."""
    process = spawn_command("--version", _CADC_REC_CHILD="1")  # process 1 started no test
    out, err = process.communicate(timeout=100)
    assert (process.returncode, out) == (143, ""), err
    alive = spawn_command("--version", _CADC_REC_CHILD=str(os.getpid()))
    out, err = alive.communicate(timeout=100)
    assert (alive.returncode, out.strip()) == (0, __version__), err


def test_several_ratios_are_selected_at_once_and_found_by_a_run_of_each(tiny, tmp_path, cli):
    options = [tiny, "--workdir", tmp_path / "work", "--json"]
    done = cli("select", *options, "--ratios", "2, 5,2")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert [entry["ratio"] for entry in told] == [2, 5, 2]
    assert told[0]["artifact"] == told[2]["artifact"] != told[1]["artifact"]
    of = told[0]["info"]["of"]
    assert [entry["info"]["selected"] for entry in told] == [round(of / r) for r in (2, 5, 2)]
    alone = cli("select", *options, "--method", "random", "--set", "select.ratio=5")
    found = json.loads(alone.out)
    assert (found["artifact"], found["cached"]) == (told[1]["artifact"], True)
    lines = cli("select", *options[:-1], "--ratios", "2,5").out.splitlines()
    assert [line.split(":")[0] for line in lines[::2]] == ["select", "select"]
    assert lines[1::2] == [told[0]["artifact"], told[1]["artifact"]]


@pytest.mark.parametrize("ratios", ["2,x", "0.5", "2,,3", "inf"])
def test_ratios_that_are_none_are_named(tiny, tmp_path, cli, ratios):
    shown = cli("select", tiny, "--workdir", tmp_path / "work", "--ratios", ratios)
    assert shown.code == 2
    assert "is not a filtering ratio; give numbers of at least 1" in shown.err


def test_as_many_shards_as_the_processes_need(tiny, tmp_path, cli):
    options = [tiny, "--workdir", tmp_path / "work", "--json", "--method", "random"]
    sets = ["--set", "select.shards=0", "--set", "compute.processes=3"]
    done = cli("select", *options, *sets)
    assert done.code == 0, done.err
    assert len(json.loads(done.out)["info"]["shards"]) == 9
