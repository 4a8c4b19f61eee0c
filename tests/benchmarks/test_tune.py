"""The search on validation: its budget, its record, and how it goes on."""

import json

import pytest

pytest.importorskip("optuna")

from benchmarks import tune
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError

SPACE = """
"train.learning_rate" = { low = 0.001, high = 0.01, log = true }
"history.windows" = [[1, 3], [1, 2, 4]]
"pretrain.scale" = ["none", "unit"]
"""


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(SPACE)
    return tune.read_space(path)


@pytest.fixture
def measured(monkeypatch, tiny_recipe):
    """Trials in place of training: the smaller the rate, the better; all overrides are kept."""
    seen = []

    def measure(config, overrides, workdir):
        experiment = load_experiment(config, overrides=overrides)  # so that they are valid
        seen.append(experiment)
        return {"ndcg@10": 1 - experiment.train.learning_rate, "epoch": 1, "seconds": 1.0}

    monkeypatch.setattr(tune, "measure", measure)
    return seen


def test_a_search_keeps_its_budget_and_its_record_and_goes_on(
    space, measured, tiny_recipe, tmp_path
):
    first = tune.search(tiny_recipe, space, 4, tmp_path / "work", seed=0)
    assert len(first) == len(measured) == 4
    lines = (tmp_path / "work" / "trials.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == first
    more = tune.search(tiny_recipe, space, 6, tmp_path / "work", seed=0)
    assert more[:4] == first
    assert len(more) == len(measured) == 6  # the four were not run again
    for experiment, trial in zip(measured, more, strict=True):
        assert 0.001 <= experiment.train.learning_rate <= 0.01
        assert trial["ndcg@10"] == 1 - experiment.train.learning_rate
        windows = json.loads(trial["parameters"]["history.windows"])
        assert list(experiment.history.windows) == windows


def test_a_trial_is_trained_and_measured_on_validation_alone(tiny_recipe, tmp_path):
    result = tune.measure(tiny_recipe, ["train.epochs=2"], tmp_path / "work")
    assert 0 <= result["ndcg@10"] <= result["hr@10"] <= 1
    assert result["seconds"] > 0
    assert not (tmp_path / "work" / "evaluate").exists()


@pytest.mark.parametrize(
    "entry", ["3", "[]", "{ low = 1.0 }", "{ low = 1.0, high = 2.0, step = 1 }"]
)
def test_an_entry_that_is_no_choice_and_no_range_is_refused(entry, tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(f'"train.epochs" = {entry}')
    with pytest.raises(CadcError, match=r'"train\.epochs" must be a list of choices, or a table'):
        tune.read_space(path)
