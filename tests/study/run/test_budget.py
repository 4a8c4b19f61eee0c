"""What a study would take, before it runs: shared stages, finished cells, and the budget."""

import json
import math

import pytest

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.study.run import cells as cells_module
from cadc_rec.study.run.budget import plan_document, plan_lines, plan_study
from cadc_rec.study.run.estimates import (
    START_SECONDS,
    Corrections,
    Size,
    estimated_stages,
    measured_seconds,
)
from cadc_rec.study.run.grid import read_study

SIZE = Size(users=1_000, items=500, rows=100_000)
HEAD = """
title = "Two worlds"
seeds = [0]
set = { "compute.threads" = 1 }

[datasets.small]
title = "Small world"
config = "small.toml"
"""


@pytest.fixture
def write(tmp_path):
    """Write a study beside the experiment of its dataset."""
    (tmp_path / "small.toml").write_text(
        "[data.generated]\nusers = 1000\nitems = 500\ninteractions = 100000\n"
    )

    def to_file(grid, head=HEAD):
        path = tmp_path / "worlds.toml"
        path.write_text(head + grid)
        return path

    return to_file


def record(cell, seconds, **more):
    """A finished cell's record, as far as estimates read it."""
    return {
        **cell.to_dict(),
        "status": "done",
        "digest": cell.digest,
        "config": cell.experiment.model_dump(mode="json"),
        "users": 1_000,
        "items": 500,
        "rows": {"train": 100_000},
        "seconds": {**seconds, "validation": 1.0},
        "artifacts": dict.fromkeys(seconds, "/work/it"),
        "machine": {"threads": 1},
        **more,
    }


def keep(workdir, cell, seconds, study="worlds"):
    folder = workdir / "studies" / study / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{cell.id}.json").write_text(json.dumps(record(cell, seconds)))


def by_stage(experiment, size=SIZE):
    return {one.stage: one for one in estimated_stages(experiment, size)}


def an_experiment(**sections):
    return Experiment.model_validate(sections)


def test_stages_are_those_of_the_pipeline():
    from cadc_rec.config.methods import METHODS
    from cadc_rec.pipeline.table import TABLE

    for method in METHODS:
        for cell in cells_of_method(method):
            wanted = [stage.name for stage in TABLE.values() if stage.wanted(cell)]
            assert [one.stage for one in estimated_stages(cell, SIZE)] == wanted, method


def cells_of_method(method):
    from cadc_rec.config.methods import DEFAULTS, METHODS

    settings = {}
    for key, value in {**DEFAULTS.get(method, {}), **METHODS[method]}.items():
        section, *names = key.split(".")
        inner = settings.setdefault(section, {})
        for name in names[:-1]:
            inner = inner.setdefault(name, {})
        inner[names[-1]] = tuple(value) if isinstance(value, list) else value
    yield Experiment.model_validate(settings)


def test_time_grows_with_rows_epochs_and_the_share():
    """Ten times the rows of a step's size are ten times the steps; the rest is a few constants."""
    frozen = {"pretrain": {"model": "mf"}, "model": {"id_embedding": "init_frozen"}}
    base = by_stage(an_experiment(**frozen))
    larger = by_stage(an_experiment(**frozen), Size(1_000, 500, 1_000_000))
    rarer = by_stage(an_experiment(**frozen, select={"ratio": 100.0}))
    assert 8 < larger["pretrain"].seconds / base["pretrain"].seconds <= 10
    assert 5 < larger["train"].seconds / base["train"].seconds <= 10
    assert rarer["train"].seconds < base["train"].seconds
    half = by_stage(an_experiment(**frozen, train={"epochs": 20}))
    assert half["train"].seconds < base["train"].seconds < 2 * half["train"].seconds + 1


def test_a_stage_is_shared_by_what_decides_it_alone():
    towers = {"pretrain": {"model": "mf"}, "model": {"id_embedding": "init_frozen"}}
    first = by_stage(an_experiment(**towers))
    of_ratio = by_stage(an_experiment(**towers, select={"ratio": 50.0}))
    of_seed = by_stage(an_experiment(**towers, seed=1))
    shared = {s: first[s].digest == of_ratio[s].digest for s in first}
    assert shared == {
        "prepare": True,
        "pretrain": True,
        "select": False,
        "train": False,
        "evaluate": False,
    }
    assert [s for s in first if first[s].digest == of_seed[s].digest] == ["prepare"]
    everything = an_experiment(select={"kind": "everything"})
    uniform = an_experiment(select={"kind": "uniform", "ratio": 1.0})
    assert by_stage(everything)["train"].digest == by_stage(uniform)["train"].digest


def test_a_plan_counts_what_cells_share_once(write, tmp_path):
    study = read_study(write('[[grid]]\nmethods = ["cadc", "mf"]\nratios = [10, 100]\n'))
    plan = plan_study(study, tmp_path / "work", None)
    assert [one.cell.id for one in plan.cells] == [cell.id for cell in study.cells]
    one, two, third = (stages(cell) for cell in study.cells)
    expected = [
        START_SECONDS + sum(one.values()),
        START_SECONDS + sum(two[stage] for stage in ("select", "train", "evaluate")),
        START_SECONDS + third["evaluate"],
    ]
    assert [cell.method for cell in study.cells] == ["cadc", "cadc", "mf"]
    assert [planned.seconds for planned in plan.cells] == [pytest.approx(s) for s in expected]
    assert plan.left == pytest.approx(sum(expected) / 3600)
    assert plan.spent == 0


def stages(cell):
    return {one.stage: one.seconds for one in estimated_stages(cell.experiment, SIZE)}


def test_finished_cells_count_as_they_were_measured_and_correct_the_others(write, tmp_path):
    study = read_study(write('[[grid]]\nmethods = ["cadc"]\nratios = [10, 100]\n'))
    done, other = study.cells
    estimate = stages(done)
    took = {stage: 3 * seconds for stage, seconds in estimate.items()}  # a slow machine
    keep(tmp_path / "work", done, took)
    first, second = plan_study(study, tmp_path / "work", None).cells
    assert (first.done, second.done) == (True, False)
    assert first.seconds == pytest.approx(START_SECONDS + sum(took.values()))
    of_other = stages(other)
    left = 3 * sum(of_other[stage] for stage in ("select", "train", "evaluate"))
    assert second.seconds == pytest.approx(START_SECONDS + left)


def test_a_record_with_other_settings_or_of_a_failure_is_no_finished_cell(write, tmp_path):
    path = write('[[grid]]\nmethods = ["cadc"]\n')
    (cell,) = read_study(path).cells
    keep(tmp_path / "work", cell, {"train": 100.0})
    changed = read_study(write('[[grid]]\nmethods = ["cadc"]\nset = { "train.epochs" = 3 }\n'))
    (one,) = plan_study(changed, tmp_path / "work", None).cells
    assert not one.done
    file = tmp_path / "work" / "studies" / "worlds" / "cells" / f"{cell.id}.json"
    for text in ('{"status": "failed"}', "[]", "{", "null"):
        file.write_text(text)
        (one,) = plan_study(read_study(path), tmp_path / "work", None).cells
        assert not one.done


def test_the_most_alike_cells_correct_an_estimate():
    e = an_experiment(pretrain={"model": "mf"}, model={"id_embedding": "init_frozen"})
    train = by_stage(e)["train"]

    def took(factor, **more):
        base = {"status": "done", "dataset": "a", "method": "cadc", "users": 1_000, "items": 500}
        base |= {"rows": {"train": 100_000}, "config": e.model_dump(mode="json")}
        base |= {"artifacts": {"train": "/x"}, "seconds": {"train": factor * train.seconds}}
        return base | more

    records = [took(2.0), took(8.0), took(32.0, dataset="b"), took(5.0, status="failed")]
    found = Corrections(records)
    assert found.factor(train, "a", "cadc") == pytest.approx(4.0)  # the median of logs
    assert found.factor(train, "b", "other") == pytest.approx(32.0)
    assert found.factor(train, "c", "cadc") == pytest.approx(8.0)
    assert Corrections([]).factor(train, "a", "cadc") == 1.0
    assert math.isclose(Corrections([took(2.0, config={})]).factor(train, "a", "cadc"), 1.0)


def test_processor_time_is_taken_where_it_was_measured():
    made = {"status": "done", "artifacts": {"train": "/x"}, "seconds": {"train": 7.0, "prior": 0.0}}
    assert measured_seconds(made | {"machine": {"threads": 2}}) == {"train": 14.0}
    costs = {"costs": {"train": {"cpu_seconds": 5.0}}}
    assert measured_seconds(made | costs) == {"train": 5.0}
    assert measured_seconds(made | {"status": "failed"}) == {}


@pytest.mark.parametrize("where", ["file", "option"])
def test_a_study_beyond_its_budget_is_refused_before_it_runs(
    write, tmp_path, cli, monkeypatch, where
):
    head, options = HEAD, ["--budget", "0.001"]
    if where == "file":
        head, options = HEAD.replace("seeds", "budget_hours = 0.001\nseeds"), []
    path = write('[[grid]]\nmethods = ["cadc"]\n', head)
    shown = cli("study", path, "--workdir", tmp_path / "work", *options)
    assert shown.code == 2
    assert f"{path}: its cells would take about 0.0 hours of a core (0.0 of them" in shown.err
    assert "more than its budget of 0.001; cadc-rec study --plan shows which" in shown.err
    assert not (tmp_path / "work" / "studies").exists()
    ran = []
    monkeypatch.setattr(cells_module.StudyRunner, "run", lambda self: ran.append(1) or none())
    assert cli("study", path, "--workdir", tmp_path / "work", "--budget", "100").code == 0
    assert ran == [1]


def none():
    return cells_module.Outcome()


def test_a_budget_that_cannot_count_every_cell_says_so_before_it_runs(
    write, tmp_path, cli, monkeypatch
):
    """The three of the sized world, and none of a log that nobody has read yet."""
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    (tmp_path / "own.toml").write_text(
        '[data]\nsource = "tables"\n[data.tables.interactions]\npath = "log.csv"\n'
    )
    own = '[datasets.own]\ntitle = "Mine"\nconfig = "own.toml"\n'
    path = write('[[grid]]\nmethods = ["mf", "cadc", "gold"]\n', HEAD + own)
    monkeypatch.setattr(cells_module.StudyRunner, "run", lambda self: none())
    asked = ("study", path, "--workdir", tmp_path / "work", "--data-dir", tmp_path)
    assert "the budget counts 3 of 6 cells" in cli(*asked, "--budget", "9").err
    assert "the budget counts" not in cli(*asked).err


def test_a_plan_is_printed_and_nothing_is_made(write, tmp_path, cli):
    head = HEAD.replace("seeds", "budget_hours = 1\nseeds")
    absent = '[datasets.ml]\ntitle = "Films"\nconfig = "ml.toml"\n'
    mine = '[datasets.own]\ntitle = "Mine"\nconfig = "own.toml"\n'
    (tmp_path / "ml.toml").write_text('[data]\nsource = "movielens-20m"\n')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "log.csv").write_text("user_id,item_id\n1,2\n")
    (tmp_path / "own.toml").write_text(
        '[data]\nsource = "tables"\n[data.tables.interactions]\npath = "log.csv"\n'
    )
    path = write('[[grid]]\nmethods = ["cadc", "mf"]\n', head + absent + mine)
    asked = ("study", path, "--workdir", tmp_path / "work", "--data-dir", tmp_path / "data")
    shown = cli(*asked, "--plan")
    assert shown.code == 0, shown.err
    assert "| Small world | cadc | 10 | 0 | 1 | 0 | " in shown.out
    assert "| Films | cadc | 10 | 0 | 1 | 0 | not at hand |" in shown.out
    assert "Films: not at hand, so its cells are not counted: no ml-20m.zip here" in shown.out
    assert "Mine: its size is not known, so its 2 cells are not counted" in shown.out
    counted = "That is within the budget of 1 hours, without the cells that are not counted."
    assert counted in shown.out
    assert not (tmp_path / "work").exists()
    found = json.loads(cli(*asked, "--plan", "--json").out)
    assert [cell["id"] for cell in found["cells"]] == [cell.id for cell in read_study(path).cells]
    assert found["hours"] == pytest.approx(
        sum(cell["core_seconds"] or 0 for cell in found["cells"]) / 3600
    )
    assert cli(*asked, "--json").code == 2


def test_a_size_in_the_file_stands_for_a_dataset_that_is_not_prepared(write, tmp_path, monkeypatch):
    (tmp_path / "log.csv").write_text("user_id,item_id\n1,2\n")
    (tmp_path / "own.toml").write_text(
        '[data]\nsource = "tables"\n[data.tables.interactions]\npath = "log.csv"\n'
    )
    own = '[datasets.own]\ntitle = "Mine"\nconfig = "own.toml"\n'
    own += "size = { users = 1000, items = 500, interactions = 100000 }\n"
    grid = '[[grid]]\nmethods = ["mf"]\ndatasets = ["own"]\n'
    study = read_study(write(grid, HEAD + own))
    (one,) = plan_study(study, tmp_path / "work", tmp_path).cells
    assert one.seconds == pytest.approx(START_SECONDS + sum(stages(one.cell).values()))
    lines = "\n".join(plan_lines(plan_study(study, tmp_path / "work", tmp_path), None))
    assert "budget" not in lines
    assert plan_document(plan_study(study, tmp_path / "work", tmp_path), 2.0)["budget_hours"] == 2.0


def test_a_finished_study_may_go_on_within_its_budget(write, tmp_path):
    """What was spent counts: a budget is of the whole study."""
    path = write('[[grid]]\nmethods = ["cadc"]\nratios = [10, 100]\n')
    study = read_study(path)
    keep(tmp_path / "work", study.cells[0], {"train": 7200.0})
    plan = plan_study(study, tmp_path / "work", None)
    assert plan.spent > 2
    plan.require(plan.hours + 0.1, path)
    with pytest.raises(CadcError, match=r"\(2\.0 of them spent\)"):
        plan.require(2.0, path)


def test_a_study_that_is_finished_is_within_any_budget(write, tmp_path):
    """Nothing is left to refuse, whatever it took: its report is written."""
    path = write('[[grid]]\nmethods = ["cadc"]\nratios = [10]\n')
    study = read_study(path)
    for cell in study.cells:
        keep(tmp_path / "work", cell, {"train": 7200.0})
    plan = plan_study(study, tmp_path / "work", None)
    assert plan.spent > 2
    plan.require(1.0, path)


def test_a_budget_counts_what_other_datasets_took(write, tmp_path):
    more = '[datasets.wide]\ntitle = "Wide world"\nconfig = "small.toml"\nset = { "seed" = 0 }\n'
    path = write('[[grid]]\nmethods = ["cadc"]\nratios = [10]\n', HEAD + more)
    study = read_study(path)
    first, second = {cell.dataset: cell for cell in study.cells}.values()
    keep(tmp_path / "work", first, {"train": 7200.0})
    plan = plan_study(read_study(path, [second.dataset]), tmp_path / "work", None)
    assert [one.cell.id for one in plan.cells] == [first.id, second.id]
    assert plan.spent > 2
    with pytest.raises(CadcError, match=r"\(2\.0 of them spent\)"):
        plan.require(2.0, path)
    plan = plan_study(read_study(path, [first.dataset]), tmp_path / "work", None)
    assert [one.cell.id for one in plan.cells] == [first.id]
