"""A report takes the newest update that all cells of a dataset have, and says so."""

import json
import logging

import pyarrow.parquet as pq
import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.summary import run_result
from cadc_rec.study.report.study_data import load_studies
from cadc_rec.study.report.updated import as_updated
from cadc_rec.study.run.grid import read_study
from cadc_rec.study.run.records import record_done
from cadc_rec.updates.chain import take_update
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import item, user


@pytest.fixture
def study(workdir, config, tmp_path):
    """The folder of a study of two methods on the shop, and their experiments."""
    file = tmp_path / "shop-study.toml"
    file.write_text(
        f'title = "Shop"\nseeds = [0]\n[datasets.shop]\ntitle = "The shop"\nconfig = "{config}"\n'
        'set = { "select.ratio" = 3 }\n[[grid]]\nmethods = ["mf", "popularity"]\n'
    )
    wanted, folder = read_study(file), workdir / "studies" / "shop-study"
    (folder / "cells").mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(wanted.to_dict()))
    for cell in wanted.cells:
        experiment = load_experiment(config, method=cell.method)
        made = Pipeline(experiment, workdir).run()
        result = run_result(cell.method, 0, made)
        record = record_done(cell, result, folder) | {"finished": "2026-01-02T03:04:05Z"}
        (folder / "cells" / f"{cell.id}.json").write_text(json.dumps(record))
    return folder


PLAIN = {"mf": (40, ""), "popularity": (40, "")}
MONDAY = dict.fromkeys(PLAIN, (41, "monday, update 1 of 1"))


def taken(folder, wanted="newest"):
    """Users and the update in the words of the split, by method, as a report takes them."""
    (study,) = as_updated(load_studies(folder), wanted)
    return {cell.method: (cell.users, cell.split.partition("; ")[2]) for cell in study.cells}


@pytest.mark.slow
def test_a_report_takes_what_all_cells_have_and_says_so(cli, study, workdir, config, day, caplog):
    caplog.set_level(logging.INFO)
    assert taken(study) == PLAIN
    assert "The shop: takes" not in caplog.text
    ours = {name: load_experiment(config, method=name) for name in PLAIN}

    monday = day(name="monday")
    carry_on(ours["mf"], workdir, monday)
    assert taken(study) == PLAIN
    assert "The shop: takes the runs themselves, no update: 1 of 2 finished cells have" in (
        caplog.text
    )
    with pytest.raises(CadcError, match="not all 2 finished cells have update 1; all have 0: "):
        taken(study, 1)

    carry_on(ours["popularity"], workdir, monday)
    assert taken(study) == taken(study, 1) == MONDAY
    caplog.clear()
    assert taken(study, 0) == PLAIN
    assert "The shop: takes the runs themselves, before their updates" in caplog.text
    carry_on(ours["mf"], workdir, day([(user(8), item(20), 350)], "tuesday"))
    assert taken(study) == MONDAY

    done = cli("report", study)
    assert done.code == 0, done.err
    assert "The shop: takes monday, update 1 of 1" in done.err
    rows = pq.read_table(study / "report" / "results.parquet").to_pylist()
    for row in rows:
        first = take_update(Pipeline(ours[row["method"]], workdir), 1).pipeline
        measured = first.artifact("evaluate").info["test"]
        assert row["metrics.hr@10"] == measured["hr@10"]
    assert "monday, update 1 of 1" in (study / "report" / "index.html").read_text()
    assert cli("report", study, "--update", "x").code == 2
