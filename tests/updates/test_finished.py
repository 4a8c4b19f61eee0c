"""Settings that name no finished run: what differs is said, and the options named find the run."""

from __future__ import annotations

import json
import shlex

import pyarrow.parquet as pq
import pytest

import cadc_rec
from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.finished import require_finished
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.manifest import write_sealed
from tests.updates.conftest import as_toml, settings


def refused(config, workdir, overrides=(), until="evaluate"):
    """What is said where these settings name no finished run: the head, and a line for each."""
    wanted = load_experiment(config, overrides=overrides)
    with pytest.raises(cadc_rec.CadcError) as error:
        require_finished(Pipeline(wanted, workdir), until)
    head, *lines = str(error.value).splitlines()
    assert head.startswith(f"{workdir}: no finished run has these settings (method ")
    return head, lines


def found_by(line, config, workdir, overrides=(), until="evaluate"):
    """Whether the options of a line, added to those that were given, find the run of the line."""
    options, path = line.split(" (asked: ")[0], line.rpartition(": ")[2]
    words = shlex.split(options.removesuffix(f": {path}"))
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert set(given) <= {"--set", "--method"}
    sets = [value for name, value in zip(words[::2], words[1::2], strict=True) if name == "--set"]
    again = load_experiment(config, method=given.get("--method"), overrides=[*overrides, *sets])
    made = require_finished(Pipeline(again, workdir), until)
    return until != "evaluate" or str(made["evaluate"].path) == path


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (["train.epochs=7"], "--set train.epochs=2 (asked: train.epochs=7)"),
        (
            ["seed=3", "pretrain.factors=15", "model.id_dim=16"],
            "--set pretrain.factors=7 --set seed=0 --set model.id_dim=8 (asked: "
            "pretrain.factors=15, seed=3, model.id_dim=16)",
        ),
        (
            ["data.tables.items.title="],
            "--set data.tables.items.title=title (asked: data.tables.items.title='\"\"')",
        ),
        (
            ["data.split=time", "data.time_shares=[0.1, 0.2]"],
            "--set data.split='\"leave-last-two\"' --set data.time_shares='[0.1, 0.1]' (asked: "
            "data.split=time, data.time_shares='[0.1, 0.2]'): ",
        ),
        (["loader.kind=stream"], "--set loader.kind=memory (asked: loader.kind=stream)"),
        (["select.shards=4"], "--set select.shards=2 (asked: select.shards=4)"),
        (["method=gold"], "--method cadc:"),
        (["method=popularity"], "--method cadc:"),
        (["method=prior"], "--method cadc:"),
        (["method=recipe", "history.length=20"], "--method cadc --set history.length=0"),
        (["method=popularity", "train.epochs=7"], "--method cadc --set train.epochs=2"),
    ],
)
def test_what_differs_is_said_and_nothing_is_made(workdir, config, asked, sentence):
    there = {path for path in workdir.rglob("*") if ".tmp" not in path.parts}
    head, (only,) = refused(config, workdir, asked)
    assert head.endswith("or add the options of one that is there:")
    assert sentence in only
    assert found_by(only, config, workdir, asked)
    assert {path for path in workdir.rglob("*") if ".tmp" not in path.parts} == there


def test_every_run_of_other_methods_is_found_by_its_options(workdir, config):
    more = {"prior": ["prior.decay=0.5"], "mf": [], "popularity": [], "random": ["train.epochs=1"]}
    for method, sets in more.items():
        asked = load_experiment(config, method=method, overrides=[*sets, "select.shards=0"])
        Pipeline(asked, workdir).run()
    for asked in (
        ["method=als"],
        ["method=cadc", "pretrain.epochs=9"],
        ["method=gold", "train.epochs=5", "data.k_core=2"],
    ):
        head, lines = refused(config, workdir, asked)
        assert head.endswith("or add the options of one that is there:")
        assert len(lines) == 5
        for line in lines:
            assert found_by(line, config, workdir, asked), line
        methods = {
            words[1].rstrip(":") for words in map(str.split, lines) if words[0] == "--method"
        }
        assert methods >= {"prior", "mf", "popularity", "random"}
    # What an evaluation alone reads decides nothing for a command that evaluates anew.
    asked = ["method=recipe", "evaluate.k=[3]"]
    for line in refused(config, workdir, asked, "train")[1]:
        assert "evaluate.k" not in line
        assert found_by(line, config, workdir, asked, "train"), line


def test_settings_that_manifests_leave_out_are_known(workdir, config):
    ways = (["prior.fit=none", "transitions.form=factors"], ["prior.fit=none"], [])
    for sets in ways:
        Pipeline(load_experiment(config, method="prior", overrides=sets), workdir).run()
    for sets in ways:
        asked = ["method=prior", *sets, "history.length=7"]
        lines = refused(config, workdir, asked)[1]
        assert len(lines) == 4
        for line in lines:
            assert found_by(line, config, workdir, asked), line


def test_the_options_it_names_name_the_run(workdir, config):
    done = require_finished(Pipeline(load_experiment(config), workdir))
    other = config.with_name("other.toml")
    other.write_text(config.read_text().replace("epochs = 2", "epochs = 9"))
    again = load_experiment(other, overrides=["train.epochs=2"])
    assert require_finished(Pipeline(again, workdir))["evaluate"].path == done["evaluate"].path


def test_other_files_are_other_data_and_no_option_gives_them(workdir, config, shop, tmp_path):
    users = pq.read_table(shop / "users.parquet")
    pq.write_table(users.slice(0, len(users) - 1), tmp_path / "users.parquet")
    moved = config.with_name("moved.toml")
    text = config.read_text()
    moved.write_text(text.replace(str(shop / "users.parquet"), str(tmp_path / "users.parquet")))
    head, (only,) = refused(moved, workdir)
    assert head.endswith("make it with cadc-rec run. Those that are there:")
    path = next((workdir / "evaluate").iterdir())
    assert only == (
        f"  no option means it: made of other data: its files had other contents: {path}"
    )
    only = refused(moved, workdir, ["train.epochs=7"])[1][0]
    assert "other contents; made with --set train.epochs=2 (asked: train.epochs=7): " in only


def test_another_source_is_named(workdir, config, shop):
    tree = settings(shop)
    generated = config.with_name("generated.toml")
    tree = {"data": {"source": "generated"}, "train": tree["train"], "compute": tree["compute"]}
    generated.write_text(as_toml(tree))
    (only,) = refused(generated, workdir)[1]
    assert "no option means it: made of other data; made with --set data.source=tables " in only


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], "which has no data.tables.normalize_ids: "),
        (
            ['data.tables.normalize_ids=["trim"]'],
            "which has no data.tables.normalize_ids; made with --set "
            "data.tables.normalize_ids='[]' (asked: data.tables.normalize_ids='[\"trim\"]'): ",
        ),
        (
            ["train.epochs=7"],
            "which has no data.tables.normalize_ids; made with --set train.epochs=2 (asked: "
            "train.epochs=7): ",
        ),
    ],
)
def test_a_setting_newer_than_the_run_is_no_other_data(workdir, config, asked, said):
    (folder,) = (workdir / "prepare").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["digest"], manifest["settings"]["tables"]["normalize_ids"]
    write_sealed(folder, manifest)
    old = folder.rename(folder.with_name("0" * 16))  # its key was another
    (only,) = refused(config, workdir, asked)[1]
    assert f"no option means it: made by another version of cadc-rec, {said}" in only
    assert old.exists()


def test_a_setting_that_no_option_unsets_is_named(workdir, config):
    asked = ["data.tables.interactions.rating=at", "data.tables.interactions.min_rating=1.0"]
    (only,) = refused(config, workdir, asked)[1]
    assert "data.tables.interactions.min_rating is unset there, so leave it out here" in only
    assert "(asked: data.tables.interactions.rating=at, " in only


@pytest.mark.parametrize("command", ["export", "evaluate", "update", "updates"])
def test_commands_that_need_a_run_say_that_there_is_none(cli, config, tmp_path, day, command):
    more = {"export": ["--out", tmp_path / "b"], "update": ["--new", day()]}.get(command, [])
    done = cli(command, config, "--workdir", tmp_path / "empty", *more)
    assert (done.code, done.out) == (2, "")
    assert "empty: holds no finished run; make one with cadc-rec run." in done.err
