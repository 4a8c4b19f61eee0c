"""Rows and records of the page: each method on each set, and every run's settings once."""

import json
from pathlib import Path

from cadc_rec.config.file import load_experiment
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.page_table import Sets, cell_key, page_table, runs_table
from cadc_rec.study.report.run_records import Records
from cadc_rec.study.report.study_data import load_studies
from cadc_rec.study.report.tables import study_table

CONFIGS = Path(__file__).parents[3] / "configs"


def parts_of(study):
    """The study, its sets and its records."""
    studies = load_studies(study.folder)
    sets = Sets.of(studies)
    return studies[0], sets, Records(studies, sets)


def test_a_row_a_set_and_method_and_what_the_grid_lacks_is_no_row(new_study):
    study = new_study()
    for seed in (0, 1):
        study.add("ml-1m", "cadc", "init_frozen", 10.0, seed)
    study.add("epinions-20core", "cadc", "init_frozen", 10.0, 0)
    study.add("epinions-20core", "gold", None, 1.0, 0)
    loaded, sets, records = parts_of(study)
    view = study_table(loaded, Comparisons([loaded]))
    table = page_table(view, loaded, sets, records.numbers)
    assert [(row.dataset, row.label, row.first, row.runs) for row in table.rows] == [
        (1, "CADC", True, (0, 1)),
        (2, "CADC", True, (2,)),
        (2, "Gold standard", False, (3,)),
    ]
    assert all(len(row.entries) == len(table.columns) for row in table.rows)
    runs = runs_table([loaded], sets, records.numbers)
    assert [row.runs for row in runs.rows] == [(0,), (1,), (2,), (3,)]
    assert {row.entries[2].text for row in runs.rows} == {"not run yet"}


def test_a_second_heading_stands_where_a_row_has_something_below_it(new_study):
    """The paper has numbers of a tenth, and none of a fiftieth."""
    for ratio, second in ((10.0, "paper"), (50.0, "")):
        study = new_study(f"by-{ratio:g}")
        study.add_done("ml-1m", "cadc", "init_frozen", ratio, 0, 60, (1.0, 0.0, 9.0))
        loaded, sets, records = parts_of(study)
        view = study_table(loaded, Comparisons([loaded]))
        columns = page_table(view, loaded, sets, records.numbers).columns
        found = {column.title: column.second for column in columns}
        assert (found["HR@10 %"], found["labelled"]) == (second, "seeds")


def test_a_note_of_a_set_is_told_apart_from_one_of_all(small_study):
    loaded, sets, records = parts_of(small_study)
    view = study_table(loaded, Comparisons([loaded]))
    table = page_table(view, loaded, sets, records.numbers)
    assert {place: note.split(":")[0] for place, note in table.notes} == {
        0: "Many comparisons",
        1: "MovieLens 1M",
    }


def test_hundreds_of_runs_share_their_settings_and_all_come_back(new_study):
    """500 runs whose settings take 2 MB take less than a quarter of that, record and all."""
    study = new_study(layout="grid")
    experiment = load_experiment(CONFIGS / "ml-1m.toml", method="cadc").model_dump(mode="json")
    place = {"dataset": "ml-1m", "dataset_title": "MovieLens 1M", "method": "cadc"}
    wanted = {}
    for seed in range(500):
        config = experiment | {"seed": seed}
        config["select"] = config["select"] | {"ratio": 10.0 + seed % 5}
        wanted[f"run-{seed}"] = config
        cell = place | {"integration": "linear", "ratio": 10.0 + seed % 5, "seed": seed}
        study.wanted.append(cell | {"id": f"run-{seed}"})
        record = study.wanted[-1] | {"status": "failed", "error": "x", "config": config}
        study.path(f"run-{seed}").write_text(json.dumps(record))
    head = study.head | {"cells": study.wanted}
    (study.folder / "study.json").write_text(json.dumps(head))
    loaded, _, records = parts_of(study)
    text = records.as_json()
    assert len(json.dumps(list(wanted.values()))) > 2_000_000
    assert len(text) < 500_000
    read = json.loads(text)
    for cell in loaded.cells:
        run = read["runs"][records.numbers[cell_key(loaded, cell)]]
        config = {name: read["parts"][part] for name, part in run["config"].items()}
        assert config == wanted[run["record"]["id"]]


def test_no_text_of_a_record_can_end_its_element(new_study):
    study = new_study()
    evil = "</script><script>alert(1)</script><!--"
    study.add("ml-1m", "cadc", None, 10.0, 0, "failed", error=evil, config={"data": {"x": evil}})
    _, _, records = parts_of(study)
    text = records.as_json()
    assert not set("<>&") & set(text)
    assert json.loads(text)["runs"][0]["record"]["error"] == evil
