"""The Python face: lazy, checked, and equal to what the commands do."""

import doctest
import json
import os
import re
import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import cadc_rec
from cadc_rec import api
from cadc_rec.config.file import load_experiment

HEAVY = ("torch", "torchrec", "duckdb", "ibis", "numpy", "pyarrow", "pydantic", "rich", "typer")


def imported_by(code):
    """The modules that are loaded after `code` has run in a new interpreter."""
    command = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", command], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def done(tiny, finished):
    """The finished run of the commands, found again from Python (read only!)."""
    return cadc_rec.run(cadc_rec.load(tiny), workdir=finished.workdir)


def test_importing_the_package_loads_no_library():
    loaded = imported_by("import cadc_rec; dir(cadc_rec)")
    assert not loaded & set(HEAVY)
    assert {name for name in loaded if name.startswith("cadc_rec.")} == set()


def test_loading_an_experiment_loads_neither_torch_nor_duckdb(tiny):
    loaded = imported_by(f"import cadc_rec; cadc_rec.load({str(tiny)!r})")
    assert "pydantic" in loaded
    assert not loaded & {"torch", "torchrec", "duckdb", "ibis"}


@pytest.mark.slow
@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}])
def test_torchs_threads_sleep_while_they_wait_unless_the_user_says_otherwise(given):
    environment = {name: v for name, v in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", "import cadc_rec, torch"],
        env=environment | {"OMP_DISPLAY_ENV": "true"} | given,
        capture_output=True,
        text=True,
        check=True,
    )
    # What torch's OpenMP says that it read.
    expected = given.get("OMP_WAIT_POLICY", "passive").upper()
    assert re.search(rf"OMP_WAIT_POLICY\s*=\s*'{expected}'", done.stderr)


@pytest.mark.slow
def test_evaluating_tables_alone_loads_nothing_that_trains_towers():
    loaded = imported_by("import cadc_rec.pipeline.stages.evaluate")
    assert "torch" in loaded
    assert not loaded & {"cadc_rec.training.trainer", "cadc_rec.training.build"}


def test_every_public_name_is_there_and_no_other():
    for name in cadc_rec.__all__:
        assert getattr(cadc_rec, name).__doc__
        assert name in dir(cadc_rec)
    with pytest.raises(AttributeError, match="module 'cadc_rec' has no attribute 'nothing'"):
        cadc_rec.nothing  # noqa: B018


def test_load_lays_values_over_the_file_as_the_command_line_lays_text(tiny):
    values = {"train.epochs": 3, "train.learning_rate": 0.5, "model.tower": [32, 16], "seed": 7}
    values |= {"data.generated.users": 70, "compute.device": "auto"}
    text = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    expected = load_experiment(tiny, method="random", overrides=text)
    assert cadc_rec.load(str(tiny), method="random", set=values) == expected


def test_a_setting_that_is_not_allowed_is_one_sentence(tiny):
    with pytest.raises(cadc_rec.CadcError, match=r"train\.epochs.*-3") as caught:
        cadc_rec.load(tiny, set={"train.epochs": -3})
    assert "--set train.epochs=-3" in str(caught.value)


def test_a_run_has_what_the_command_prints(done, finished):
    result = dict(finished.result)
    assert done.metrics == result["metrics"]
    assert done.seconds == result["seconds"]
    assert {s: str(a.path.resolve()) for s, a in done.artifacts.items()} == result["artifacts"]
    assert done.result == result | {"cached": list(done.artifacts)}


def test_recommendations_are_what_evaluation_ranks_first(done):
    evaluated = done.artifacts["evaluate"].path
    ranks = pq.read_table(evaluated / "ranks.parquet").to_pylist()
    users = [row["user_id"] for row in ranks]
    best = done.recommend(users, k=40)
    assert best.item_ids.shape == best.scores.shape == (60, 40)
    # by hand: float64 scores of all items, less the training and validation items
    prepared = done.artifacts["prepare"].path
    user_ids = pq.read_table(prepared / "users.parquet")["user_id"].to_pylist()
    item_ids = pq.read_table(prepared / "items.parquet")["item_id"].to_pylist()
    taken = [
        pq.read_table(file, columns=["user", "item"]).to_pylist()
        for file in (*sorted(prepared.glob("train/*.parquet")), prepared / "val.parquet")
    ]
    vectors = {
        side: load_file(evaluated / f"{side}_vectors.safetensors")["vectors"].astype(np.float64)
        for side in ("user", "item")
    }
    for place, row in enumerate(ranks):
        user = user_ids.index(row["user_id"])
        scores = vectors["item"] @ vectors["user"][user]
        out = {pair["item"] for part in taken for pair in part if pair["user"] == user}
        kept = [item for item in np.argsort(-scores, kind="stable") if item not in out]
        assert best.lists()[place] == [item_ids[item] for item in kept]
        # a rank counts equal scores against the item, so it may stand before its rank
        found = best.lists()[place].index(row["item_id"]) + 1
        assert found <= row["rank"]
        assert found == row["rank"] or scores[kept[found - 1]] == scores[kept[row["rank"] - 1]]


def test_a_few_recommendations_are_the_first_of_many(done):
    users = done.recommend([1], k=1).lists() + done.recommend([2], k=3).lists()
    many = done.recommend([1, 2], k=40).lists()
    assert users == [many[0][:1], many[1][:3]]


@pytest.mark.parametrize(
    ("users", "k", "sentence"),
    [
        ([1, 12345], 5, "no user has the id 12345; a run answers for users of its own data only"),
        (["1"], 5, "user ids are whole numbers"),
        ([1], 0, "k = 0 is not between 1 and"),
        ([1], 41, "k = 41 is not between 1 and the catalogue's 40 items"),
    ],
)
def test_what_cannot_be_recommended_is_one_sentence(done, users, k, sentence):
    with pytest.raises(cadc_rec.CadcError, match=re.escape(sentence)):
        done.recommend(users, k)


def test_force_makes_every_stage_anew_and_the_numbers_are_the_same(tiny, done, tmp_path):
    experiment = cadc_rec.load(tiny)
    first = cadc_rec.run(experiment, workdir=tmp_path)
    again = cadc_rec.run(experiment, workdir=str(tmp_path), force=True)
    assert not any(artifact.cached for artifact in again.artifacts.values())
    assert again.metrics == first.metrics == done.metrics
    fingerprints = [{s: a.fingerprint for s, a in r.artifacts.items()} for r in (first, again)]
    assert fingerprints[0] == fingerprints[1]


def test_an_inspection_has_tables_roles_and_a_config_that_loads(tmp_path):
    rows = [f"{user},{item},{user + item}" for user in range(30) for item in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["customer,sku,ts", *rows]) + "\n")
    found = cadc_rec.inspect(tmp_path / "log.csv")
    assert isinstance(found, cadc_rec.Inspection)
    (table,) = found.tables
    assert (table.rows, found.repeated_pairs) == (150, 0)
    assert (found.roles.user, found.roles.item, found.roles.timestamp) == ("customer", "sku", "ts")
    config = tmp_path / "first.toml"
    config.write_text(found.config())
    assert cadc_rec.load(config).data.source == "tables"
    with pytest.raises(cadc_rec.CadcError, match="at most four bytes"):
        cadc_rec.inspect(tmp_path / "log.csv", delimiter="|||||")


@pytest.mark.distributed
@pytest.mark.slow
def test_two_processes_from_python_are_those_of_the_command(tiny, spawn, tmp_path, forked_python):
    """The workers are handed the experiment itself, whatever file it came from."""
    sets = {"compute.processes": 2, "train.epochs": 1}
    process = spawn(
        "run", tiny, "--workdir", tmp_path / "a", "--json", *more(sets), "--method", "random"
    )
    experiment = cadc_rec.load(tiny, method="random", set=sets)
    made = cadc_rec.run(experiment, workdir=tmp_path / "b")
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert made.metrics == result["metrics"]
    assert {s: a.path.name for s, a in made.artifacts.items()} == {
        stage: os.path.basename(folder) for stage, folder in result["artifacts"].items()
    }


@pytest.mark.slow
@pytest.mark.distributed
def test_what_a_worker_is_refused_is_raised_in_the_caller(tiny, tmp_path, forked_python):
    experiment = cadc_rec.load(tiny, method="random", set={"compute.processes": 2})
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "train").write_text("a file")
    with pytest.raises(cadc_rec.CadcError, match="train: is a file, not a folder"):
        cadc_rec.run(experiment, workdir=tmp_path / "work")


def more(sets):
    return [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]


def test_the_examples_of_the_docstrings_run(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(tiny.read_text())
    for module in (cadc_rec, api):
        ended = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
        assert ended.attempted
        assert not ended.failed
