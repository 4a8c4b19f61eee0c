"""Reading a study's folder: what is there, what is not, and what cannot be used."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.study.report.groups import Comparisons, stage_seconds, time_ratio
from cadc_rec.study.report.report import write_report
from cadc_rec.study.report.study_data import load_studies, told_apart
from cadc_rec.study.run.records import _cpu_seconds
from tests.study.report.conftest import DATASETS, StudyFolder

PLACE = ("ml-1m", "cadc", "init_frozen", 10.0)


def test_every_wanted_cell_is_there_in_the_order_of_the_grid(whole_study):
    (study,) = load_studies(whole_study / "table1")
    wanted = json.loads((whole_study / "table1" / "study.json").read_text())["cells"]
    assert [cell.id for cell in study.cells] == [place["id"] for place in wanted]
    states = [cell.status for cell in study.cells]
    counts = {state: states.count(state) for state in set(states)}
    assert counts == {"done": 33, "failed": 1, "unavailable": 1, "missing": 1}


def test_a_folder_of_studies_gives_all_of_them_tables_first(whole_study):
    assert [s.layout for s in load_studies(whole_study)] == ["table1", "table2", "figure1"]


def test_sets_of_one_title_are_told_apart_by_their_keys(tmp_path, monkeypatch):
    """Two cuts of one log in two studies: their lines and their rows would be one."""
    monkeypatch.setitem(DATASETS, "cut", DATASETS["ml-1m"])
    for name, dataset in (("one", "ml-1m"), ("two", "cut")):
        study = StudyFolder(tmp_path / name, layout="grid")
        for other in (dataset, "epinions-20core"):
            study.add_done(other, "mf", None, 1.0, 0, 55, (1.0, 0.0, 0.0))
    titles = [
        [cell.dataset_title for cell in study.cells] for study in told_apart(load_studies(tmp_path))
    ]
    assert titles == [
        ["MovieLens 1M (ml-1m)", "Epinions, 20-core"],
        ["MovieLens 1M (cut)", "Epinions, 20-core"],
    ]


def test_validation_is_in_no_stage_but_its_own(new_study):
    study = new_study()
    study.add_done(*PLACE, 0, 60, (10.0, 0.5, 30.0))
    (cell,) = load_studies(study.folder)[0].cells
    assert cell.seconds.train == 35.0
    assert stage_seconds(cell) == {"pretrain": 10, "select": 0.5, "train": 30, "validation": 5}


def test_validation_of_a_method_without_towers_is_in_its_pretraining(new_study):
    study = new_study()
    seconds = {"prepare": 1, "pretrain": 9, "select": None, "train": None, "evaluate": 1}
    seconds["validation"] = 2
    path = study.path(study.add_done("ml-1m", "mf", None, 1.0, 0, 55, (0, 0, 0)))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": seconds}))
    (cell,) = load_studies(study.folder)[0].cells
    assert stage_seconds(cell) == {"pretrain": 7, "select": 0, "train": 0, "validation": 2}


def test_times_are_compared_seed_by_seed(new_study):
    study = new_study()
    for seed, mine, gold in ((0, 10.0, 100.0), (1, 30.0, 200.0), (2, 60.0, None), (3, 50.0, 250.0)):
        study.add_done(*PLACE, seed, 60, (0.0, 0.0, mine))
        if gold:
            study.add_done("ml-1m", "gold", None, 1.0, seed, 70, (0.0, 0.0, gold))
    comparisons = Comparisons(load_studies(study.folder))
    cadc, gold = comparisons.groups(comparisons.studies[0])
    assert time_ratio(cadc, gold) == pytest.approx(0.15)  # of 0.1, 0.15 and 0.2


def test_what_a_failed_cell_had_measured_is_no_result(new_study):
    study = new_study()
    study.add(*PLACE, 0, "failed", error="killed", metrics={"hr@10": 0.5}, seconds={"prepare": 1})
    (cell,) = load_studies(study.folder)[0].cells
    assert (cell.status, cell.error, cell.metrics, cell.seconds) == ("failed", "killed", None, None)


def test_a_file_the_grid_does_not_name_is_named_and_not_read(new_study):
    study = new_study()
    study.add_done(*PLACE, 0, 60, (0.0, 0.0, 1.0))
    study.path("other").write_text("{")
    assert load_studies(study.folder)[0].unlisted == ("other",)


def damaged(study, change):
    name = study.add_done(*PLACE, 0, 60, (10.0, 0.5, 30.0))
    path = study.path(name)
    content = json.loads(path.read_text())
    path.write_text(change(content) or json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: "{", "is not JSON"),
        (lambda c: "[]", "is not usable"),
        (lambda c: c.pop("seed") and None, "the key seed is missing"),
        (lambda c: c["seconds"].pop("train") and None, "the key seconds.train is missing"),
        (lambda c: c.pop("metrics") and None, "a cell that is done needs metrics"),
        (lambda c: c["metrics"].pop("hr@10") and None, "needs hr@10"),
        (lambda c: c["metrics"].update({"hr@10": float("nan")}), "metrics.hr@10"),
        (lambda c: c.update(status="odd"), "status"),
        (lambda c: c.update(schema_version=2), "schema_version"),
        (lambda c: c.update(seed=9), "its seed is 9 where study.json has 0"),
    ],
)
def test_an_unusable_cell_is_one_sentence_that_names_the_file(new_study, change, said):
    study = new_study()
    path = damaged(study, change)
    with pytest.raises(CadcError) as error:
        write_report(study.folder)
    assert str(error.value).startswith(str(path))
    assert said in str(error.value)
    assert "run that cell of the study again" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (study.folder / "report").exists()


def test_a_folder_without_a_study_says_what_to_name(tmp_path):
    with pytest.raises(CadcError, match=r"holds no study\.json"):
        write_report(tmp_path)
    with pytest.raises(CadcError, match=r"holds no study\.json"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize(
    ("cells", "said"), [([], "cells"), ([{"id": "a"}], r"cells\.0\.dataset is missing")]
)
def test_a_grid_without_cells_or_places_is_an_error(tmp_path, cells, said):
    head = {"schema_version": 1, "name": "x", "title": "x", "layout": "grid", "cells": cells}
    (tmp_path / "study.json").write_text(json.dumps(head))
    with pytest.raises(CadcError, match=said):
        load_studies(tmp_path)


def test_a_cell_wanted_twice_is_an_error(new_study):
    study = new_study()
    for _ in range(2):
        study.add(*PLACE, 0)
    with pytest.raises(CadcError, match="twice"):
        load_studies(study.folder)


def test_ranks_of_other_users_name_both_cells(small_study):
    ranks = small_study.folder / "ranks" / "ml-1m-cadc-init_frozen-10-0.parquet"
    pq.write_table(pq.read_table(ranks).slice(1), ranks)
    with pytest.raises(CadcError, match=r"cadc-init_frozen-10-0\.json and .*gold.*different users"):
        write_report(small_study.folder)


def test_ranks_that_cannot_be_read_name_the_file(small_study):
    ranks = small_study.folder / "ranks" / "ml-1m-cadc-init_frozen-10-0.parquet"
    pq.write_table(pa.table({"user_id": [1], "rank": [0]}), ranks)
    with pytest.raises(CadcError, match="not a whole number from 1"):
        write_report(small_study.folder)
    ranks.write_text("nothing")
    with pytest.raises(CadcError, match=r"10-0\.parquet: cannot be read as ranks"):
        write_report(small_study.folder)
    ranks.unlink()
    with pytest.raises(CadcError, match=r"10-0\.parquet: cannot be read as ranks"):
        write_report(small_study.folder)


CPU = {
    "prepare": 1.0,
    "pretrain": 8.0,
    "select": 0.25,
    "train": 21.0,
    "evaluate": 1.0,
    "validation": 3.0,
}


def test_a_study_may_go_by_cpu_seconds_and_its_columns_say_so(new_study):
    study = new_study(time="cpu", layout="grid")
    study.add_done(*PLACE, 0, 60, (10.0, 0.5, 30.0), cpu_seconds=CPU)
    (read,) = load_studies(study.folder)
    assert read.cells[0].seconds.train == 35.0
    assert stage_seconds(read.cells[0]) == {
        "pretrain": 8, "select": 0.25, "train": 18, "validation": 3,
    }  # fmt: skip
    table = write_report(study.folder).page.with_name("grid-table.md")
    assert "- time s: CPU seconds of pre-training + (selection" in table.read_text("utf-8")


def test_a_cell_without_cpu_seconds_is_no_part_of_a_study_that_goes_by_them(new_study):
    study = new_study(time="cpu")
    name = study.add_done(*PLACE, 0, 60, (10.0, 0.5, 30.0))
    with pytest.raises(CadcError, match=rf"{name}\.json: has no CPU seconds of one process"):
        load_studies(study.folder)


def made(cpu, ranks=1, **info):
    return {
        "costs": {"ranks": ranks, "cpu_seconds": cpu},
        "info": {"validation_seconds": 1.0} | info,
    }


def test_cpu_seconds_of_a_record_are_those_of_its_stages_and_of_validation():
    stages = {"prepare": made(1.5), "train": made(20.0, validation_cpu_seconds=2.5)}
    found = _cpu_seconds(["prepare", "pretrain", "train"], stages)
    assert found == {"prepare": 1.5, "pretrain": 0.0, "train": 20.0, "validation": 2.5}
    several = stages | {"train": made(20.0, ranks=2, validation_cpu_seconds=2.5)}
    older = stages | {"train": made(20.0)}
    for unknown in (several, older):
        assert _cpu_seconds(["prepare"], unknown) is None
    # Preparation is no part of the time that is compared.
    found = _cpu_seconds(["prepare", "train"], stages | {"prepare": {"info": {}}})
    assert found == {"prepare": 0.0, "train": 20.0, "validation": 2.5}


def test_a_cell_of_other_settings_is_not_run_yet(new_study):
    study = new_study()
    done = study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 9.0), digest="before")
    study.add_done("ml-1m", "cadc", "init_frozen", 10.0, 0, 60, (1.0, 0.0, 9.0), digest="now")
    file = study.folder / "study.json"
    content = json.loads(file.read_text())
    for cell in content["cells"]:
        cell["digest"] = "now"
    file.write_text(json.dumps(content))
    (read,) = load_studies(study.folder)
    assert [(cell.status, cell.metrics is None) for cell in read.cells] == [
        ("missing", True),
        ("done", False),
    ]
    assert read.cells[0].id == done


def test_another_studys_group_counts_only_on_the_same_rows(new_study):
    mine = new_study("mine")
    mine.add_done("ml-1m", "cadc", "init_frozen", 10.0, 0, 60, (1.0, 0.0, 9.0))
    other = new_study("other", title="Other")
    place = ("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 99.0))
    other.add_done(*place, items=401)
    studies = [study for folder in (mine, other) for study in load_studies(folder.folder)]
    comparisons = Comparisons(studies)
    assert comparisons.find(studies[0], "ml-1m", lambda group: group.method == "gold") is None
    other.add_done("ml-1m", "gold", None, 1.0, 1, 70, (0.0, 0.0, 99.0), items=401)
    assert comparisons.find(studies[1], "ml-1m", lambda group: group.method == "gold") is not None
