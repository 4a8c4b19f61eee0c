"""A matrix factorization that was ended between two epochs goes on to the same tables."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline
from tests.faults.world import begin

SETS = ["method=cadc", "pretrain.epochs=5", "pretrain.evaluate_every=2", "checkpoint.keep_last=99"]
# The clock says so after each epoch.
SAVED = [
    "checkpoint.every_seconds=1e-9",
    "checkpoint.max_share=1",
    "checkpoint.background=false",
    "checkpoint.keep_finished=true",
]
LOSSES = ("binary", "softmax")


def on_one(config, workdir, *more):
    experiment = load_experiment(config, overrides=[*SETS, *more])
    return Pipeline(experiment, workdir).run("pretrain")["pretrain"]


def on_two(config, workdir, *more):
    sets = [each for value in [*SETS, *more] for each in ("--set", value)]
    run = begin(["pretrain", config, "--workdir", workdir, *sets, "--json"], 2)
    assert run.wait(250) == [0, 0], run.err
    return on_one(config, workdir, *more)  # finds it made


def ended_after(workdir, epochs):
    """Leave what a kill would, some epochs after the start."""
    shutil.rmtree(workdir / "pretrain")
    folders = sorted(workdir.glob("checkpoints/pretrain-*/0*-step-*"))
    assert [folder.name.split("-")[-1] for folder in folders] == ["1", "2", "3", "4"]
    for folder in folders[epochs:]:
        shutil.rmtree(folder)


def tables(artifact):
    return {
        side: load_file(artifact.path / f"{side}.safetensors")["weight"]
        for side in ("user", "item")
    }


def history(artifact):
    """Of each epoch, without its seconds."""
    return [
        {k: v for k, v in entry.items() if not k.endswith("seconds")}
        for entry in artifact.info["history"]
    ]


@pytest.mark.parametrize("loss", LOSSES)
def test_it_goes_on_to_the_bytes_of_one_that_was_not_ended(loss, tiny, tmp_path):
    by_epochs = ("checkpoint.every_seconds=0", "checkpoint.every_epochs=1")  # not of pre-training
    whole = on_one(tiny, tmp_path / "whole", f"pretrain.loss={loss}", *by_epochs)
    assert not list((tmp_path / "whole").glob("checkpoints/pretrain-*/0*"))
    sets = (f"pretrain.loss={loss}", *SAVED)
    on_one(tiny, tmp_path / "ended", *sets)
    ended_after(tmp_path / "ended", 3)
    resumed = on_one(tiny, tmp_path / "ended", *sets)
    (from_where,) = resumed.info["resumed"]
    assert (from_where["epoch"], from_where["ranks"]) == (4, 1)
    assert history(resumed) == history(whole)
    assert resumed.fingerprint == whole.fingerprint


def test_a_finished_one_keeps_no_checkpoints(tiny, tmp_path):
    on_one(tiny, tmp_path, *SAVED, "checkpoint.keep_finished=false")
    assert not list(tmp_path.glob("checkpoints/pretrain-*/0*"))


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("kind", ["replicated", "partitioned"])
def test_two_ranks_save_their_own_rows_and_one_or_two_go_on_from_them(kind, tiny, tmp_path):
    sets = (f"compute.mf_tables={kind}", *SAVED)
    whole = on_two(tiny, tmp_path / "two", *sets)
    (newest, *_) = sorted((tmp_path / "two").glob("checkpoints/pretrain-*/0*-step-4"))
    written = {file.name: load_file(file) for file in newest.glob("rank-*.safetensors")}
    rows = {
        rank: sum(
            len(values)
            for name, tensors in written.items()
            for key, values in tensors.items()
            if name.startswith(f"rank-0000{rank}") and key.startswith("weights/user[")
        )
        for rank in (0, 1)
    }
    users = len(tables(whole)["user"])
    assert rows == {0: users // 2, 1: users - users // 2}
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    ended_after(tmp_path / "two", 2)
    resumed = on_two(tiny, tmp_path / "two", *sets)
    assert resumed.info["resumed"][0]["ranks"] == 2
    assert resumed.fingerprint == whole.fingerprint
    ended_after(tmp_path / "one", 2)
    alone = on_one(tiny, tmp_path / "one", *sets)
    assert alone.info["resumed"][0]["ranks"] == 2
    for side, values in tables(whole).items():
        np.testing.assert_allclose(tables(alone)[side], values, rtol=1e-3, atol=1e-5)
