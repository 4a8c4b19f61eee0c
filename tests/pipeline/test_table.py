"""The table of stages holds together, and a row is all that a stage takes."""

import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.config.methods import METHODS
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stage import Stage
from cadc_rec.pipeline.table import TABLE
from cadc_rec.updates.table import UPDATE_TABLE


@pytest.mark.parametrize("method", METHODS)
def test_a_stage_reads_what_stages_before_it_make(tiny, method):
    experiment = load_experiment(tiny, method=method)
    made = {"raw"}
    for stage in TABLE.values():
        assert made >= set(stage.reads(experiment)), stage.name
        made.add(stage.makes)
    before = {f"{name}_before" for name in made} | {"day"}
    for stage in UPDATE_TABLE:
        assert made | before >= set(stage.reads(experiment)), stage.name


@pytest.mark.parametrize("stage", [*TABLE.values(), *UPDATE_TABLE], ids=lambda stage: stage.name)
def test_one_rank_or_all_of_them_carry_a_stage_out(stage):
    if stage is TABLE["select"]:  # alone without torch, together where ranks were launched
        assert stage.alone is not None
        assert stage.together is not None
    else:
        assert (stage.alone is None) != (stage.together is None)


def test_an_updates_artifacts_are_called_as_those_of_a_run():
    for stage in UPDATE_TABLE:
        assert TABLE[stage.name].makes == stage.makes


def test_a_new_stage_takes_one_row(tiny, tmp_path, monkeypatch):
    def count(job):
        def fill(draft):
            (draft.path / "rows").write_text(str(len(job.open_dataset().train_item)))

        return fill

    row = Stage(
        "count",
        makes="count",
        version=1,
        reads=lambda _: ["dataset"],
        settings=lambda job: {"seed": job.experiment.seed},
        line=lambda info: "counted",
        alone=count,
    )
    monkeypatch.setitem(TABLE, "count", row)
    pipeline = Pipeline(load_experiment(tiny), tmp_path)
    made = pipeline.artifact("count")
    assert pipeline.stages()[-1] == "count"
    assert (made.path / "rows").read_text() == str(pipeline.artifact("prepare").info["train"])
    assert Pipeline(load_experiment(tiny), tmp_path).artifact("count").cached
    other = load_experiment(tiny, overrides=["seed=5"])
    assert not Pipeline(other, tmp_path).artifact("count").cached
