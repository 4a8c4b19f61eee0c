"""What is fitted again on all rows is what these rows give, by as many steps; the run stays as is.

What is expected of tables is learned from a dataset that is put together here, of the Parquet
files of the run.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.distributed.processes import processes
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.finished import runs_of
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.refit import refit
from cadc_rec.pipeline.stages.pretrain import build_tables
from cadc_rec.pipeline.stages.train import CHECKPOINT, build_checkpoint
from cadc_rec.pipeline.stages.transitions import build_transitions
from cadc_rec.store.artifact import Draft
from cadc_rec.training.repeat import Repeat

pytestmark = pytest.mark.slow
USERS, ITEMS, ROWS = 60, 40, 900
TOWERS = {
    "train.epochs": 5,
    "train.schedule": "cosine",
    "train.batch_size": 16,
    "select.ratio": 3,
    "seed": 3,
}


@pytest.fixture(scope="module", params=["cadc", "recipe", "prior"])
def done(request, tiny, tmp_path_factory):
    """A run, and the same fitted again."""
    more = {"pretrain.factors": 15, "pretrain.epochs": 3} if request.param == "cadc" else {}
    if request.param == "recipe":
        more = {"model.keep": "towers", "prior.fit": "none"}
    towers = {} if request.param == "prior" else TOWERS
    experiment = load_experiment(tiny, method=request.param, overrides={**towers, **more})
    workdir = tmp_path_factory.mktemp(request.param) / "work"
    pipeline = Pipeline(experiment, workdir)
    artifacts = pipeline.run()
    again = refit(pipeline, artifacts)
    return SimpleNamespace(
        experiment=experiment,
        workdir=workdir,
        pipeline=pipeline,
        artifacts=artifacts,
        again=again,
        fitted=again.run(),
    )


def whole_log(prepared):
    """Every row by user, and by time within a user: items ``[rows]``, and how many each has."""
    files = [*sorted((prepared / "train").glob("*.parquet"))]
    files += [prepared / "val.parquet", prepared / "test.parquet"]
    rows = [
        row
        for place, file in enumerate(files)
        for row in zip(
            *(pq.read_table(file)[name].to_pylist() for name in ("user", "timestamp")),
            range(place * 10_000, (place + 1) * 10_000),
            pq.read_table(file)["item"].to_pylist(),
            strict=False,
        )
    ]
    rows.sort()
    counts = np.bincount([row[0] for row in rows], minlength=USERS)
    times = np.array([row[1] for row in rows], np.float64)
    return np.array([row[3] for row in rows], np.int32), counts, times


def by_hand(done):
    """The run's dataset in memory, with all rows to learn from."""
    before = Dataset.open(done.artifacts["prepare"])
    items, counts, times = whole_log(before.path)
    nobody = np.full(USERS, -1, np.int32)
    return replace(
        before,
        train_user=np.repeat(np.arange(USERS, dtype=np.int32), counts),
        train_item=items,
        user_indptr=np.concatenate([[0], np.cumsum(counts)]),
        train_time=times,
        by_item=None,
        val_item=nobody,
        test_item=nobody,
    )


def test_all_rows_are_learned_from_in_their_order(done):
    expected, dataset = by_hand(done), done.again.dataset
    assert len(dataset.train_item) == ROWS
    for name in ("train_user", "train_item", "user_indptr", "train_timestamp"):
        assert np.array_equal(getattr(dataset, name), getattr(expected, name)), name
    indptr, users = dataset.csr_by_item
    assert np.array_equal(np.diff(indptr), np.bincount(expected.train_item, minlength=ITEMS))
    assert np.array_equal(np.sort(users), np.sort(expected.train_user))
    assert not (np.asarray(dataset.val_item) >= 0).any()
    assert not (np.asarray(dataset.test_item) >= 0).any()
    for file in ("users.parquet", "items.parquet", "attributes.json"):
        assert (dataset.path / file).read_bytes() == (expected.path / file).read_bytes()


def test_tables_are_those_that_all_rows_give(done, tmp_path):
    e, data = done.experiment, by_hand(done)
    for stage, build in (
        ("pretrain", lambda *to: build_tables(e.pretrain, e.seed, data, *to)),
        (
            "transitions",
            lambda *to: build_transitions(
                e.transitions, e.pretrain.scale, e.seed, data, *to, e.sharding, "auto"
            ),
        ),
    ):
        if stage not in done.artifacts:
            continue
        folder = tmp_path / stage
        folder.mkdir()
        with processes(e.compute) as alone:
            build(alone, Draft(folder))
        files = sorted(folder.glob("*.safetensors"))
        assert files
        for file in files:
            found = load_file(done.fitted[stage].path / file.name)
            old = load_file(done.artifacts[stage].path / file.name)
            for name, expected in load_file(file).items():
                assert torch.equal(found[name], expected), (stage, file.name, name)
            assert any(
                old[name].shape != each.shape or not torch.equal(old[name], each)
                for name, each in found.items()
            )


def test_towers_take_as_many_steps_as_the_chosen_epoch_had(done):
    if "train" not in done.artifacts:
        assert "train" not in done.fitted
        return
    before, after = done.artifacts["train"].info, done.fitted["train"].info
    steps = before["best_epoch"] * before["steps_per_epoch"]
    assert after["repeats"]["steps"] == steps
    assert after["steps_per_epoch"] > before["steps_per_epoch"]  # the same share of more rows
    assert done.fitted["select"].info["selected"] == round(ROWS / done.experiment.select.ratio)
    trained = after["positives"] * steps / after["steps_per_epoch"]
    assert done.fitted["train"].manifest["rows"] == round(trained)
    assert not (done.fitted["train"].path / "validation_ranks.parquet").exists()


def test_a_repeated_training_on_the_same_rows_gives_the_same_towers(done, tmp_path):
    """Steps, learning rates, averages and the weight: any other would give other bits."""
    if "train" not in done.artifacts:
        pytest.skip("tables alone")
    p, trained = done.pipeline, done.artifacts["train"]
    said = Repeat.of(trained.info)
    if done.experiment.method == "recipe":
        assert said.epoch < done.experiment.train.epochs  # else nothing is left out
    with processes(done.experiment.compute) as alone:
        build_checkpoint(
            done.experiment,
            p.dataset,
            done.artifacts["select"],
            p.pretrained,
            alone,
            Draft(tmp_path),
            repeat=replace(said, choice={"kept": "towers", "weight": 0.5}),
        )
    found, expected = (load_file(of / CHECKPOINT) for of in (tmp_path, trained.path))
    assert found.keys() == expected.keys()
    halved = [name for name in found if not torch.equal(found[name], expected[name])]
    assert all(torch.equal(found[name], expected[name] * 0.5) for name in halved)
    assert {name.split(".")[0] for name in halved} == {"user"}
    assert len(halved) == 2


def test_the_run_is_as_it_was(done):
    """Nothing that is fitted on held-out items stands where a command looks for the run."""
    found = Pipeline(done.experiment, done.workdir).found()
    assert {s: made.fingerprint for s, made in found.items()} == {
        s: made.fingerprint for s, made in done.artifacts.items()
    }
    (run,) = runs_of(done.workdir)
    assert run.artifacts["evaluate"].path == done.artifacts["evaluate"].path
    ours, theirs = (
        {made.path for stage, made in of.items() if stage != "prior"}
        for of in (done.artifacts, done.fitted)
    )
    assert not ours & theirs


def test_a_second_time_nothing_is_made(done):
    again = refit(Pipeline(done.experiment, done.workdir), done.artifacts)
    assert all(made.cached for made in again.run().values())


def test_what_was_chosen_on_validation_stands(done):
    if "prior" not in done.artifacts:
        pytest.skip("nothing was chosen")
    assert done.fitted["prior"].path == done.artifacts["prior"].path
    assert "ndcg@10" not in str(done.fitted["evaluate"].info)


class Stop(Exception):
    pass


def test_a_killed_training_goes_on(tiny, tmp_path):
    overrides = {**TOWERS, "train.evaluate_every": 5, "checkpoint.every_epochs": 1}
    experiment = load_experiment(tiny, overrides=overrides)
    pipeline = Pipeline(experiment, tmp_path / "work")
    artifacts = pipeline.run()
    shutil.copytree(tmp_path / "work", tmp_path / "other")
    expected = refit(pipeline, artifacts).run()["train"]

    def stop(entry):
        if entry["epoch"] == 3:
            raise Stop

    other = Pipeline(experiment, tmp_path / "other", on_epoch=stop)
    made = other.run()
    with pytest.raises(Stop):
        refit(other, made).run()
    other = Pipeline(experiment, tmp_path / "other")
    found = refit(other, other.run()).run()["train"]
    assert found.info["resumed"]
    assert found.fingerprint == expected.fingerprint


def test_tables_that_towers_do_not_beat_are_fitted_alone(tiny, tmp_path):
    experiment = load_experiment(tiny, method="recipe")
    pipeline = Pipeline(experiment, tmp_path / "work")
    artifacts = pipeline.run()
    assert artifacts["train"].info["kept"] == "tables"
    fitted = refit(pipeline, artifacts).run()
    assert {"select", "train"} & fitted.keys() == set()


def test_weights_of_held_out_rows_are_not_made_up(tiny, tmp_path):
    experiment = load_experiment(tiny, method="als", overrides={"data.duplicates": "sum"})
    pipeline = Pipeline(experiment, tmp_path / "work")
    artifacts = pipeline.run()
    with pytest.raises(CadcError, match=r"their weights .* are not kept; leave --refit out"):
        refit(pipeline, artifacts)
