"""A run killed at any moment, started again, ends as if nothing had happened.

`tests/store/test_artifact.py` kills at every file operation of a commit; here it is the whole
program.
"""

import random
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cadc_rec.pipeline.pipeline import STAGES
from cadc_rec.store.artifact import open_artifact


@pytest.fixture(params=["cadc", "recipe"])
def experiment(request):
    """A config, its undisturbed run, and its stages."""
    if request.param == "cadc":
        names, stages = ("tiny", "finished"), [s for s in STAGES if s != "transitions"]
    else:
        names, stages = ("tiny_recipe", "finished_recipe"), list(STAGES)
    config, finished = (request.getfixturevalue(name) for name in names)
    return SimpleNamespace(config=config, finished=finished, stages=stages)


@pytest.fixture
def kill_when(experiment, spawn, tmp_path):
    """Start ``run`` on a work folder and kill it once a condition holds."""

    def start(condition, patience=100):
        process = spawn("run", experiment.config, "--workdir", tmp_path / "work")
        end = time.monotonic() + patience
        while process.poll() is None and not condition(tmp_path / "work"):
            assert time.monotonic() < end
            time.sleep(0.001)
        process.kill()
        _, err = process.communicate()
        assert process.returncode in (-9, 0), err
        return process.returncode == -9

    return start


def drafting(stage):
    """The moment at which a stage has begun."""
    return lambda workdir: any(path.is_dir() for path in workdir.glob(f".tmp/{stage}-*"))


def committed(stage):
    """The moment at which a stage has ended."""
    return lambda workdir: any(workdir.glob(f"{stage}/*/manifest.json"))


def whole_artifacts(workdir, stages):
    """The stages whose artifact is there; each is checked against its manifest."""
    folders = [folder for stage in stages for folder in workdir.glob(f"{stage}/*/")]
    return [open_artifact(folder).stage for folder in folders]


def finish(workdir, experiment, spawn):
    """Run to the end and compare with the undisturbed run."""
    process = spawn("run", experiment.config, "--workdir", workdir)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert whole_artifacts(workdir, experiment.stages) == experiment.stages
    for stage, file in (("evaluate", "ranks.parquet"), ("train", "model.safetensors")):
        first = Path(experiment.finished.result["artifacts"][stage])
        assert (workdir / stage / first.name / file).read_bytes() == (first / file).read_bytes()
    assert [path.name for path in (workdir / ".tmp").iterdir() if path.suffix != ".lock"] == []


def test_killed_at_every_stage_it_goes_on_and_ends_with_the_same_ranks(
    tmp_path, experiment, spawn, kill_when
):
    workdir, stages = tmp_path / "work", experiment.stages
    kills = 0
    for stage in stages:
        for moment in (drafting, committed):
            kills += kill_when(moment(stage))
            # a commit may slip in between the look and the kill, never half of one
            done = whole_artifacts(workdir, stages)
            assert done == stages[: len(done)]
            assert len(done) >= stages.index(stage) + (moment is committed)
    assert kills >= len(stages)
    finish(workdir, experiment, spawn)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_at_random_it_ends_with_the_same_ranks(
    tmp_path, experiment, spawn, kill_when, seed
):
    draw = random.Random(seed)
    workdir = tmp_path / "work"
    kills = 0
    while kills < 8:
        # the first one in the first half of a run, so that there is one
        until = time.monotonic() + draw.uniform(
            0, experiment.finished.seconds / (1 if kills else 2)
        )
        if not kill_when(lambda _, until=until: time.monotonic() > until):
            break
        kills += 1
        done = whole_artifacts(workdir, experiment.stages)
        assert done == experiment.stages[: len(done)]
    assert kills > 0
    finish(workdir, experiment, spawn)
