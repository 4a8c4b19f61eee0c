"""Interrupted training goes on to the same bytes; a damaged checkpoint never goes unseen."""

import json
import logging
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.table import TABLE
from cadc_rec.store.checkpoints.store import CheckpointStore
from cadc_rec.training.training_state import TrainingState

# Ten steps an epoch, three epochs, a checkpoint after nearly every step.
SHORT = ["train.epochs=3", "train.batch_size=8", "train.average_epochs=1"]
OFTEN = [*SHORT, "checkpoint.every_seconds=0.0001", "checkpoint.max_share=1"]
OFTEN += ["checkpoint.background=false", "checkpoint.keep_last=99"]
KEPT = [*OFTEN, "checkpoint.keep_finished=true"]
UNSAVED = [*KEPT, "checkpoint.every_seconds=0.0"]
TRAININGS = {
    "cadc": ["method=cadc", "model.id_dropout=0.3", "train.schedule=cosine"],
    "gold": ["method=gold", "train.batch_size=80"],
    "gold, fused": ["method=gold", "train.batch_size=80", "sharding.trainable=table_wise"],
    "recipe": ["method=recipe", "model.id_dropout=0.5", "train.patience=1"],
    "prior": ["method=recipe", "prior.use=true"],
}


def pipeline(config, workdir, *sets, **arguments):
    return Pipeline(load_experiment(config, overrides=sets), workdir, **arguments)


def checkpoints(workdir):
    """Committed checkpoints, oldest first."""
    return sorted(workdir.glob("checkpoints/[!p]*/0*-step-*"))


def as_interrupted(workdir, to, kept):
    """A copy of a work folder as a kill leaves it: without the artifact, with some checkpoints."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "train")
    for folder in checkpoints(to):
        if folder.name not in kept:
            shutil.rmtree(folder)


def model(artifact):
    """All that was trained, and how it ranks."""
    files = ("model.safetensors", "validation_ranks.parquet")
    return [(artifact.path / file).read_bytes() for file in files]


@pytest.fixture
def warnings(caplog, monkeypatch):
    """What was warned of so far."""
    monkeypatch.setattr(logging.getLogger("cadc_rec"), "propagate", True)
    caplog.set_level(logging.WARNING, "cadc_rec")
    return lambda: caplog.messages


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An undisturbed training of `tiny` with all its checkpoints (read only!)."""
    workdir = tmp_path_factory.mktemp("whole") / "work"
    return pipeline(tiny, workdir, *KEPT).run("train")["train"], workdir


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAININGS)
def test_gone_on_with_from_anywhere_it_ends_with_the_same_bytes(name, tiny, tiny_recipe, tmp_path):
    sets = [*KEPT, *TRAININGS[name]]
    config = tiny_recipe if "recipe" in TRAININGS[name][0] else tiny
    undisturbed = pipeline(config, tmp_path / "work", *sets).run("train")["train"]
    saved = checkpoints(tmp_path / "work")
    places = [json.loads((folder / "manifest.json").read_text())["progress"] for folder in saved]
    middle = next(
        folder
        for folder, place in zip(saved, places, strict=True)
        if place["epoch"] == 2 and place["done"]
    )
    for number, folder in enumerate([saved[0], middle]):
        workdir = tmp_path / f"again{number}"
        as_interrupted(tmp_path / "work", workdir, [folder.name])
        again = pipeline(config, workdir, *sets, UNSAVED[-1]).run("train")["train"]
        assert model(again) == model(undisturbed)
        for key in ("history", "best_epoch"):
            assert again.info[key] == undisturbed.info[key]
        (resumed,) = again.info["resumed"]
        assert (resumed["epoch"], resumed["ranks"]) == (
            places[saved.index(folder)]["epoch"],
            1,
        )
        before = json.loads((folder / "manifest.json").read_text())
        assert again.seconds > before["seconds"]
        assert again.costs["cpu_seconds"] > before["costs"]["cpu_seconds"] > 0


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGE = {
    "a flipped bit": lambda folder: flip(folder / "rank-00000-000.safetensors"),
    "a flipped bit in the index": lambda folder: flip(folder / "tensors.json"),
    "a flipped bit in the manifest": lambda folder: flip(folder / "manifest.json"),
    "a truncated file": lambda folder: (folder / "rank-00000-000.safetensors").write_bytes(b"x"),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "a missing file": lambda folder: (folder / "rank-00000-000.safetensors").unlink(),
    "a missing manifest": lambda folder: (folder / "manifest.json").unlink(),
    "an empty folder": lambda folder: [file.unlink() for file in folder.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_named_is_an_error(
    damage, tiny, whole, tmp_path, warnings
):
    undisturbed, workdir = whole
    good, bad = (folder.name for folder in checkpoints(workdir)[3:5])
    as_interrupted(workdir, tmp_path / "work", [good, bad])
    (_, damaged) = checkpoints(tmp_path / "work")
    DAMAGE[damage](damaged)
    with pytest.raises(CadcError, match="name another checkpoint, or none") as error:
        pipeline(tiny, tmp_path / "work", *UNSAVED, resume=damaged).run("train")
    assert str(damaged) in str(error.value)
    assert not list(tmp_path.glob("work/train/*"))
    again = pipeline(tiny, tmp_path / "work", *UNSAVED).run("train")["train"]
    assert any("checkpoint skipped" in line and str(damaged) in line for line in warnings())
    assert again.info["resumed"][0]["step"] == int(good.split("-")[-1]) % 10
    assert model(again) == model(undisturbed)


def test_with_all_of_them_damaged_it_begins_anew(tiny, whole, tmp_path):
    undisturbed, workdir = whole
    only = checkpoints(workdir)[2].name
    as_interrupted(workdir, tmp_path / "work", [only])
    flip(checkpoints(tmp_path / "work")[0] / "manifest.json")
    again = pipeline(tiny, tmp_path / "work", *UNSAVED).run("train")["train"]
    assert "resumed" not in again.info
    assert model(again) == model(undisturbed)


OTHERS = {
    "train.learning_rate=0.5": "train.learning_rate is 0.001 there and 0.5 here",
    "model.tower=[8,8]": r"model.tower is \[16, 8\] there and \[8, 8\] here",
    "data.generated.users=61": "its table has 60 users, but this one has 61",
    "data.generated.items=41": "its table has 40 items, but this one has 41",
    "data.generated.seed=5": "it was trained on another dataset",
    "select.ratio=5.0": "it was trained on another selection",
    "pretrain.l2=1.0": "it was trained on another tables",
}


@pytest.mark.parametrize("setting", OTHERS)
def test_a_named_checkpoint_of_another_training_is_refused(setting, tiny, whole, tmp_path):
    named = checkpoints(whole[1])[4]
    with pytest.raises(
        CadcError, match=f"{named}: this training cannot resume from it: {OTHERS[setting]}"
    ):
        pipeline(tiny, tmp_path / "work", *OFTEN, setting, resume=named).run("train")


def test_one_of_another_version_is_refused(tiny, whole, tmp_path, monkeypatch):
    named = checkpoints(whole[1])[4]
    monkeypatch.setitem(TABLE, "train", replace(TABLE["train"], version=9))
    with pytest.raises(CadcError, match="another version of cadc-rec wrote it"):
        pipeline(tiny, tmp_path / "work", *OFTEN, resume=named).run("train")


def test_a_folder_that_is_none_ends_the_command_with_code_2(cli, tiny, tmp_path):
    ran = cli("train", tiny, "--workdir", tmp_path / "work", "--resume", tmp_path)
    assert ran.code == 2
    assert f"{tmp_path} has no manifest.json; name another checkpoint, or none." in ran.err
    assert ran.out == ""


def test_named_by_hand_it_goes_on_from_there_and_started_again_from_its_own(tiny, whole, tmp_path):
    """What it saved after the named one is newer, and is what a second start goes on from."""
    undisturbed, workdir = whole
    named = checkpoints(workdir)[1]
    made = pipeline(tiny, tmp_path / "work", *KEPT, resume=named).run("train")["train"]
    assert model(made) == model(undisturbed)
    own = checkpoints(tmp_path / "work")
    shutil.rmtree(made.path)
    again = pipeline(tiny, tmp_path / "work", *KEPT, resume=named).run("train")["train"]
    assert model(again) == model(undisturbed)
    first, second = again.info["resumed"]
    assert first == made.info["resumed"][0]
    assert second["from"] == json.loads((own[-1] / "manifest.json").read_text())["digest"]


@pytest.mark.slow
def test_an_optimizer_of_another_kind_begins_anew_when_that_is_asked_for(tiny, tmp_path, warnings):
    adam, fused = (
        [*KEPT, *TRAININGS["gold"], f"sharding.trainable={kind}"]
        for kind in ("data_parallel", "table_wise")
    )
    pipeline(tiny, tmp_path / "work", *adam).run("train")
    newest = checkpoints(tmp_path / "work")[-1]
    anew = pipeline(tiny, tmp_path / "work", *fused).run("train")["train"]
    assert "resumed" not in anew.info
    assert any("--resume uses it nevertheless" in line for line in warnings())
    shutil.rmtree(anew.path)
    asked = pipeline(tiny, tmp_path / "work", *fused, resume=newest).run("train")["train"]
    assert len(asked.info["resumed"]) == 1
    (line,) = (line for line in warnings() if "optimizer state" in line)
    assert "item.ids.table.embedding_bags.item.weight, user.ids" in line


@pytest.mark.parametrize("more", [0, 3], ids=["told once", "told again while it saves"])
def test_on_sigterm_it_saves_itself_and_ends_and_the_same_command_goes_on(
    tiny, whole, tmp_path, monkeypatch, more
):
    """As a scheduler ends a job whose machine it needs: seconds before SIGKILL."""
    rarely = [*SHORT, "checkpoint.every_seconds=3600"]
    tensors = TrainingState.tensors

    def told_again(state):
        for _ in range(more):
            os.kill(os.getpid(), signal.SIGTERM)
        return tensors(state)

    monkeypatch.setattr(TrainingState, "tensors", told_again)

    def preempt(_):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as ended:
        pipeline(tiny, tmp_path, *rarely, on_epoch=preempt).run("train")
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    (saved,) = checkpoints(tmp_path)
    assert saved.name.endswith("-step-10")
    artifact = pipeline(tiny, tmp_path, *rarely).run("train")["train"]
    assert [step["step"] for step in artifact.info["resumed"]] == [0]  # of the second epoch
    assert model(artifact) == model(whole[0])


def test_checkpoints_end_with_their_training(tiny, whole, tmp_path):
    made = pipeline(tiny, tmp_path / "work", *OFTEN).run("train")["train"]
    assert model(made) == model(whole[0])
    assert list(tmp_path.glob("work/checkpoints/*")) == []
    # and those that a kill left after the artifact was there go with the next look at it
    shutil.copytree(whole[1] / "checkpoints", tmp_path / "work" / "checkpoints", dirs_exist_ok=True)
    assert pipeline(tiny, tmp_path / "work", *OFTEN).run("train")["train"].cached
    assert list(tmp_path.glob("work/checkpoints/*")) == []


def test_forced_it_begins_anew_and_not_from_what_is_there(tiny, whole, tmp_path):
    as_interrupted(whole[1], tmp_path / "work", [checkpoints(whole[1])[-1].name])
    made = pipeline(tiny, tmp_path / "work", *KEPT, force=("train",)).run("train")["train"]
    assert "resumed" not in made.info
    assert checkpoints(tmp_path / "work")[0].name == "000001-step-1"


@pytest.mark.slow
def test_the_newest_and_the_best_are_kept(tiny, tmp_path):
    sets = [*KEPT, "checkpoint.every_seconds=0.0", "checkpoint.every_epochs=1", "train.epochs=8"]
    sets += ["train.learning_rate=0.05", "train.average_epochs=0", "pretrain.l2=4"]
    everything = pipeline(tiny, tmp_path / "all", *sets).run("train")["train"]
    scores = [entry["ndcg@10"] for entry in everything.info["history"]][:-1]
    assert len(checkpoints(tmp_path / "all")) == 7  # the artifact follows the eighth at once
    best = max(range(7), key=lambda epoch: (scores[epoch], epoch))
    assert best < 5, "the best one must not be among the newest anyway"
    for keep_best, expected in ((True, {best, 5, 6}), (False, {5, 6})):
        few = [*sets, "checkpoint.keep_last=2", f"checkpoint.keep_best={str(keep_best).lower()}"]
        pipeline(tiny, tmp_path / f"{keep_best}", *few).run("train")
        names = {folder.name for folder in checkpoints(tmp_path / f"{keep_best}")}
        assert names == {f"{epoch + 1:06d}-step-{10 * (epoch + 1)}" for epoch in expected}


def test_what_a_kill_tore_is_no_checkpoint_and_is_swept_away(tiny, whole, tmp_path):
    as_interrupted(whole[1], tmp_path / "work", [checkpoints(whole[1])[1].name])
    (good,) = checkpoints(tmp_path / "work")
    for torn in (".draft-77", ".removed-000009-step-9"):
        shutil.copytree(good, good.with_name(torn))
    again = pipeline(tiny, tmp_path / "work", *UNSAVED).run("train")["train"]
    assert model(again) == model(whole[0])
    assert not list(good.parent.glob(".*"))


def test_two_jobs_of_one_training_in_one_work_folder_are_refused(tiny, tmp_path):
    with (
        CheckpointStore(tmp_path, "training").owned(),
        pytest.raises(CadcError, match="another job is running the same training"),
        CheckpointStore(tmp_path, "training").owned(),
    ):
        pass


def test_nothing_in_a_checkpoint_has_to_be_unpickled(whole):
    for folder in checkpoints(whole[1]):
        for file in folder.iterdir():
            if file.suffix == ".json":
                json.loads(file.read_text())
            else:
                assert "weights/user.mlp.1.bias[0]" in load_file(file)


def test_frozen_tables_are_not_saved(whole):
    index = json.loads((checkpoints(whole[1])[0] / "tensors.json").read_text())
    assert not [name for name in index if ".ids." in name]
    assert {name.partition("/")[0] for name in index} == {
        "weights",
        "average",
        "dense",
        "loss",
        "random",
    }


def test_a_checkpoint_belongs_to_its_work_folder_wherever_that_moves(tiny, whole, tmp_path):
    """No path is written into it."""
    for folder in checkpoints(whole[1]):
        assert str(whole[1]) not in Path(folder / "manifest.json").read_text()
