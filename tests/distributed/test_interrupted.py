"""Real ranks: a training ended in mid-epoch goes on, on as many ranks or on others."""

import json
import shutil
import signal
import time

import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline
from tests.faults.world import begin

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

SETS = ["method=gold", "train.epochs=3", "train.batch_size=20", "select.shards=5"]
SETS += ["checkpoint.every_seconds=0.02", "checkpoint.max_share=1", "checkpoint.keep_last=99"]
SETS += ["checkpoint.keep_finished=true"]
STEPS = 39  # of an epoch: ceil(780 / 20)


def two_ranks(config, workdir, *more):
    """`train` as two ranks of a job, under way."""
    sets = [each for value in SETS for each in ("--set", value)]
    return begin(["train", config, "--workdir", workdir, *sets, *more, "--json"], 2)


def on_two(config, workdir, *more):
    """What `train` says when it has ended."""
    run = two_ranks(config, workdir, *more)
    assert run.wait(250) == [0, 0], run.err
    return json.loads((run.output[0] / "stdout").read_text())["info"], run.err


def on_one(config, workdir):
    """The same on this process alone."""
    overrides = [*SETS, "checkpoint.every_seconds=0.0"]
    pipeline = Pipeline(load_experiment(config, overrides=overrides), workdir)
    return pipeline.run("train")["train"].info


def checkpoints(workdir):
    return sorted(workdir.glob("checkpoints/[!p]*/0*-step-*"))


def in_mid_epoch(workdir, to):
    """A copy of a work folder as a kill in an epoch's middle leaves it; the place in that epoch."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "train")
    middle = [
        folder
        for folder in checkpoints(to)
        if 3 <= int(folder.name.split("-")[-1]) % STEPS < STEPS - 3
    ]
    chosen = middle[len(middle) // 2]
    for folder in checkpoints(to):
        if folder != chosen:
            shutil.rmtree(folder)
    epoch, step = divmod(int(chosen.name.split("-")[-1]), STEPS)
    return {"epoch": epoch + 1, "step": step}


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    """An undisturbed training of two ranks, and its work folder (read only!)."""
    workdir = tmp_path_factory.mktemp("two") / "work"
    return on_two(tiny, workdir)[0], workdir


def losses(info):
    return [entry["loss"] for entry in info["history"]]


def test_two_ranks_killed_go_on_and_end_with_the_numbers_of_undisturbed_ones(tiny, two, tmp_path):
    workdir = tmp_path / "work"
    run = two_ranks(tiny, workdir)
    end = time.monotonic() + 200
    while run.running() and len(checkpoints(workdir)) < 3:
        assert time.monotonic() < end
        time.sleep(0.001)
    run.signal(signal.SIGKILL, [0, 1])
    assert run.wait() == [-signal.SIGKILL, -signal.SIGKILL]
    assert not list(workdir.glob("train/*"))
    info, err = on_two(tiny, workdir)
    assert "resuming from" in err
    assert [each["ranks"] for each in info["resumed"]] == [2]
    assert losses(info) == pytest.approx(losses(two[0]), rel=1e-5)
    assert info["best_epoch"] == two[0]["best_epoch"]


def test_an_epoch_that_two_ranks_began_is_ended_by_one(tiny, two, tmp_path):
    place = in_mid_epoch(two[1], tmp_path / "work")
    info = on_one(tiny, tmp_path / "work")
    (resumed,) = info["resumed"]
    assert resumed | place | {"ranks": 2} == resumed
    assert len(info["history"]) == 3
    # the rows of the rest are the same ones in other batches, so the losses only nearly agree
    assert losses(info) == pytest.approx(losses(two[0]), rel=0.05)
    before = place["epoch"] - 1
    assert losses(info)[:before] == losses(two[0])[:before]


def test_an_epoch_that_one_rank_began_is_ended_by_two(tiny, tmp_path):
    alone = tmp_path / "alone"
    one = Pipeline(load_experiment(tiny, overrides=SETS), alone).run("train")["train"].info
    place = in_mid_epoch(alone, tmp_path / "work")
    info, _ = on_two(tiny, tmp_path / "work")
    (resumed,) = info["resumed"]
    assert resumed | place | {"ranks": 1} == resumed
    assert losses(info) == pytest.approx(losses(one), rel=0.05)


def test_a_checkpoint_of_another_training_ends_all_ranks_with_one_sentence(tiny, two, tmp_path):
    named = checkpoints(two[1])[0]
    more = ["--resume", named, "--set", "train.learning_rate=0.5"]
    run = two_ranks(tiny, tmp_path / "work", *more)
    assert run.wait(200) == [2, 2]
    sentence = (
        f"{named}: this training cannot resume from it: train.learning_rate is 0.001 there and 0.5"
    )
    assert run.err.count(sentence) == 1
    assert "Traceback" not in run.err


def test_with_the_context_of_requests_two_ranks_learn_as_one_and_go_on_after_a_kill(tiny, tmp_path):
    context = 'context.features=["hour", "weekday", "gap"]'
    info, _ = on_two(tiny, tmp_path / "two", "--set", context)
    pipeline = Pipeline(load_experiment(tiny, overrides=[*SETS, context]), tmp_path / "one")
    alone = pipeline.run("train")["train"].info
    # Each rank shuffles its own rows: other batches of the same examples.
    assert losses(info) == pytest.approx(losses(alone), rel=0.05)
    place = in_mid_epoch(tmp_path / "two", tmp_path / "killed")
    after, err = on_two(tiny, tmp_path / "killed", "--set", context)
    assert "resuming from" in err
    (resumed,) = after["resumed"]
    assert resumed | place | {"ranks": 2} == resumed
    assert losses(after) == pytest.approx(losses(info), rel=1e-5)
    without, _ = on_two(tiny, tmp_path / "without")
    assert losses(without) != pytest.approx(losses(info), rel=1e-5)
