"""An update on two processes is the update of one, to the last bits of sums in another order."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import run_stage
from cadc_rec.updates.chain import STAGE, line_of
from cadc_rec.updates.sample import sampled_rows
from cadc_rec.updates.update import _base_of, carry_on
from tests.updates.conftest import as_toml, settings

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.distributed]

# A change near the border between two steps may be rounded to either.
_EXACT = {"round_changes": 0.0, "sweeps": 2, "towers": "day"}
KINDS = {
    "mf": {"update": {"epochs": 3, "train_epochs": 1, **_EXACT}},
    "als": {
        "pretrain": {"model": "als", "factors": 7},
        "history": {"length": 3},
        "transitions": {"window": 2, "form": "factors", "dim": 4},
        "prior": {"use": True},
        "update": {"train_epochs": 1, **_EXACT},
    },
}


def launched(workdir, config, day):
    """`cadc-rec update` on two ranks; what it printed, once, and its standard error."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    update = ["update", config, "--new", day, "--workdir", workdir, "--json"]
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "cadc_rec", *map(str, update)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_two_ranks_is_that_of_one(shop, day, kind, tmp_path):
    tree, config = settings(shop, **KINDS[kind]), tmp_path / "config.toml"
    of_method = ("pretrain", "history", "transitions", "prior")
    tree["methods"] = {"cadc": {name: tree.pop(name) for name in of_method if name in tree}}
    config.write_text(as_toml(tree))
    e = load_experiment(config)
    assert e.pretrain.model == kind
    workdir, of_two = tmp_path / "work", tmp_path / "of-two"
    Pipeline(e, workdir).run()
    shutil.copytree(workdir, of_two)
    alone = carry_on(e, workdir, day()).update
    printed, said = launched(of_two, config, tmp_path / "day")
    assert len(printed) == 1, printed  # one rank speaks
    told = json.loads(printed[0])
    assert told["report"]["day"] == alone.report["day"]
    stages = ["prepare", "pretrain", "select", "train", "evaluate"]
    stages += ["transitions"] if kind == "als" else []
    assert set(told["artifacts"]) == set(alone.artifacts) >= set(stages)
    one = {stage: workdir / folder for stage, folder in alone.artifacts.items()}
    two = {stage: Path(folder) for stage, folder in told["artifacts"].items()}
    dataset = ("users.parquet", "items.parquet", "val.parquet", "test.parquet")
    for name in dataset:
        assert (one["prepare"] / name).read_bytes() == (two["prepare"] / name).read_bytes()
    for stage in ("pretrain", "transitions"):
        for file in sorted(one[stage].glob("*.safetensors")) if stage in one else ():
            mine, theirs = (load_file(folder[stage] / file.name) for folder in (one, two))
            np.testing.assert_allclose(theirs["weight"], mine["weight"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sampled_rows(two["select"]), sampled_rows(one["select"]))
    # Ranks read other batches than one process does, so towers are others; each update is its own.
    ids = [pq.read_table(folder["evaluate"] / "user_ids.parquet") for folder in (one, two)]
    assert ids[0] == ids[1]
    assert told["report"]["seconds"].keys() == alone.report["seconds"].keys()
    # The same command again finds it, on however many ranks.
    again = carry_on(e, of_two, tmp_path / "day")
    assert again.kept
    assert "error" not in said.lower()


def test_of_two_runs_the_one_that_was_updated_last_is_carried_on(workdir, experiment, config, day):
    e = experiment()
    of_two = experiment(compute={**e.compute.model_dump(), "processes": 2})
    run = ["run", config, "--workdir", workdir, "--set", "compute.processes=2"]
    subprocess.run(
        [sys.executable, "-m", "cadc_rec", *map(str, run)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=240,
    )
    runs = {1: Pipeline(e, workdir).found(), 2: Pipeline(of_two, workdir).found()}
    lines = {of: line_of(run) for of, run in runs.items()}
    assert lines[1] != lines[2]

    def carried_on(config):
        return line_of(_base_of(config, workdir, None, 2))

    # Without updates it is the one that commands of one process take.
    assert (carried_on(e), carried_on(of_two)) == (lines[1], lines[2])
    carry_on(e, workdir, day())
    assert (carried_on(e), carried_on(of_two)) == (lines[1], lines[2])
    time.sleep(1.1)  # records tell whole seconds
    record = run_stage(
        workdir,
        STAGE,
        {"of": "two ranks"},
        {},
        lambda draft: draft.info.update(line=lines[2], number=1, day="", artifacts={}, report={}),
    )
    assert record.path.is_dir()
    assert carried_on(e) == lines[2]
    shutil.rmtree(record.path)
    shutil.rmtree(runs[1]["evaluate"].path)
    assert carried_on(e) == lines[2]
