"""Later commands go on with a run's newest update, and name the runs there are where none fits."""

import json
import logging

import pytest

import cadc_rec
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import item, user


@pytest.fixture
def monday(workdir, experiment, day):
    """The shop after a day in a folder called monday, with a new user and a new item."""
    carry_on(experiment(), workdir, day(name="monday"))
    return workdir


def lines(caplog):
    return [record.message for record in caplog.records]


def test_the_newest_update_is_taken_and_named(monday, experiment, day, caplog):
    caplog.set_level(logging.INFO)
    base = Pipeline(experiment(), monday)
    assert str(take_update(base)) == "monday, update 1 of 1"
    assert "takes monday, update 1 of 1" in lines(caplog)
    carry_on(experiment(), monday, day([(user(8), item(200), 350)], "tuesday"))
    for wanted, name in (
        ("newest", "tuesday, update 2 of 2"),
        (2, "tuesday, update 2 of 2"),
        (1, "monday, update 1 of 2"),
        (0, "the run itself, before its 2 updates"),
    ):
        assert str(take_update(Pipeline(experiment(), monday), wanted)) == name
    with pytest.raises(cadc_rec.CadcError, match="has no update 3 of this experiment; it has 2"):
        take_update(base, 3)


def test_a_run_without_updates_is_its_own_newest_state_and_nothing_is_said(
    workdir, experiment, caplog
):
    caplog.set_level(logging.INFO)
    taken = take_update(Pipeline(experiment(), workdir))
    assert (taken.update, taken.of, str(taken)) == (None, 0, "")
    assert not any(line.startswith("takes") for line in lines(caplog))


def test_evaluate_takes_it_with_other_settings_of_its_own_and_trains_nothing(cli, monday, config):
    asked = ["evaluate", config, "--workdir", monday, "--json"]
    trained = set((monday / "train").iterdir())
    for options in ([], ["--set", "evaluate.k=[3]"]):
        done = cli(*asked, *options)
        assert done.code == 0, done.err
        assert "takes monday, update 1 of 1" in done.err
        found = json.loads(done.out)
        assert found["update"] == {
            "text": "monday, update 1 of 1",
            "day": "monday",
            "number": 1,
            "of": 1,
        }
        assert found["info"]["users"] == 41  # of 40, and the new one
    done = cli(*asked, "--force")
    assert "evaluate: made in" in done.err
    assert json.loads(done.out)["cached"] is False
    done = cli(*asked, "--update", "none")
    assert json.loads(done.out)["update"] is None
    assert json.loads(done.out)["info"]["users"] == 40
    assert set((monday / "train").iterdir()) == trained
    for wrong in ("x", "-1", "1.0", "newer"):
        done = cli(*asked, "--update", wrong)
        assert (done.code, done.out) == (2, "")
        assert f"--update {wrong}: give a number from 1 on, or none for the run" in done.err


def test_in_python_finished_is_the_newest_state_and_run_the_run_itself(monday, experiment, caplog):
    newest = cadc_rec.finished(experiment(), workdir=monday)
    assert (newest.update.name, newest.update.number) == ("monday", 1)
    assert len(newest.recommend([user(99)], k=3).lists()[0]) == 3
    itself = cadc_rec.run(experiment(), workdir=monday)
    assert itself.update is None
    assert "this is the run itself, before monday, update 1 of 1" in caplog.text
    with pytest.raises(
        cadc_rec.CadcError, match=r"before monday, update 1 of 1: cadc_rec.finished"
    ):
        itself.recommend([user(99)])
    before = cadc_rec.finished(experiment(), workdir=monday, update=0)
    assert before.artifacts["evaluate"].path == itself.artifacts["evaluate"].path


@pytest.mark.slow
def test_a_bundle_is_of_the_newest_update_and_knows_its_user(cli, monday, config, tmp_path):
    asked = ["export", config, "--workdir", monday, "--precision", "none", "--json"]
    done = cli(*asked, "--out", tmp_path / "after")
    assert done.code == 0, done.err
    assert json.loads(done.out)["update"]["text"] == "monday, update 1 of 1"
    after = cadc_rec.Predictor.load(tmp_path / "after")
    assert after.recommend([user(99)], k=3).sources.tolist() == [0]
    assert "It is of monday, update 1 of 1." in (tmp_path / "after/model_card.md").read_text()
    assert cli(*asked, "--out", tmp_path / "before", "--update", "none").code == 0
    before = cadc_rec.Predictor.load(tmp_path / "before")
    assert before.recommend([user(99)], k=3).sources.tolist() != [0]
