"""A report takes the newest update that all cells of a dataset have, and says so."""

import json

import pyarrow.parquet as pq
import pytest

from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.summary import run_result
from cadc_rec.study.run.grid import read_study
from cadc_rec.study.run.records import record_done
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


def reported(folder):
    """Users and the update in the words of the split, by method."""
    rows = pq.read_table(folder / "report" / "results.parquet").to_pylist()
    return {row["method"]: (row["users"], row["split"].partition("; ")[2]) for row in rows}


def test_a_report_takes_what_all_cells_have_and_says_so(cli, study, workdir, config, day):
    command = ["report", study]
    plain = {"mf": (40, ""), "popularity": (40, "")}
    done = cli(*command)
    assert done.code == 0, done.err
    assert "update" not in done.err
    assert reported(study) == plain
    ours = {name: load_experiment(config, method=name) for name in plain}

    monday = day(name="monday")
    carry_on(ours["mf"], workdir, monday)
    done = cli(*command)
    assert "The shop: takes the runs themselves, no update: 1 of 2 finished cells have" in done.err
    assert reported(study) == plain
    done = cli(*command, "--update", "1")
    assert (done.code, done.out) == (2, "")
    assert "The shop: not all 2 finished cells have update 1; all have 0: " in done.err

    carry_on(ours["popularity"], workdir, monday)
    done = cli(*command)
    assert done.code == 0, done.err
    assert "The shop: takes monday, update 1 of 1" in done.err
    assert reported(study) == dict.fromkeys(plain, (41, "monday, update 1 of 1"))
    assert "monday, update 1 of 1" in (study / "report" / "index.html").read_text()

    done = cli(*command, "--update", "none")
    assert "The shop: takes the runs themselves, before their updates" in done.err
    assert reported(study) == plain

    carry_on(ours["mf"], workdir, day([(user(8), item(20), 350)], "tuesday"))
    assert "The shop: takes monday, update 1 of 1" in cli(*command).err
