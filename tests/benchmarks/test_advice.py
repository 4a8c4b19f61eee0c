import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.advice.__main__ import command, main
from benchmarks.advice.check import Checked, cheap_ratios, check_cells, costs_of
from benchmarks.advice.curves import Recorded, curves_of, read_curves
from benchmarks.advice.page import recorded_tables, shown, summary
from benchmarks.advice.usual import learned, usual_without
from benchmarks.recorded.studies import Noted, read, write
from cadc_rec.config.file import load_experiment
from cadc_rec.study import law as laws
from cadc_rec.study.report.study_data import load_studies
from cadc_rec.study.usual import BROAD, USUAL

RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0)
SEEDS = (0, 1, 2)
FOLDER = Path(__file__).parents[2] / "benchmarks" / "recorded"


@pytest.fixture(autouse=True)
def few_draws(request, monkeypatch):
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(laws, "DRAWS", 500)


def hits(ratio, top=0.12, split="test"):
    """HR@10 at a ratio; on validation a tenth more."""
    share = ratio**-0.8
    height = share * (1 + 0.05) / (share + 0.05)
    return top * math.exp(-0.5 * (1 - height)) * (1.1 if split == "validation" else 1.0)


@pytest.fixture
def studies(tiny, tmp_path):
    """The folder of a study of CADC on two sets, with gold's and MF's cells."""
    folder = tmp_path / "studies" / "curves"
    (folder / "cells").mkdir(parents=True)
    config = {m: load_experiment(tiny, method=m).model_dump(mode="json") for m in ("cadc", "mf")}
    places = []
    for dataset, top in (("one", 0.1), ("two", 0.2)):
        for seed in SEEDS:
            for method, ratio in [("mf", 1.0), *(("cadc", r) for r in RATIOS)]:
                place = {"dataset": dataset, "dataset_title": dataset, "method": method}
                place |= {"integration": "x", "ratio": ratio, "seed": seed}
                place["id"] = f"{dataset}.{method}.{ratio:g}.{seed}"
                places.append(place)
                noise = 1 + 0.01 * (seed - 1)
                values = {
                    s: (hits(ratio, top, s) if method == "cadc" else hits(1.0, top, s)) * noise
                    for s in ("test", "validation")
                }
                seconds = {"prepare": 9.0, "pretrain": 1.0, "select": 0.5, "evaluate": 9.0}
                seconds |= {"train": 100 / ratio + 2.0, "validation": 2.0}
                cell = place | {"schema_version": 1, "status": "done", "users": 5000}
                cell |= {"metrics": {"hr@10": values["test"], "ndcg@10": 0.1}, "split": "x"}
                cell |= {"validation": {"hr@10": values["validation"], "ndcg@10": 0.1}}
                cell |= {
                    "rows": {"train": 10**7, "selected": round(10**7 / ratio)},
                    "seconds": seconds,
                }
                cell |= {"config": config[method]}
                (folder / "cells" / f"{place['id']}.json").write_text(json.dumps(cell))
    head = {"schema_version": 1, "name": "curves", "title": "t", "layout": "grid"}
    (folder / "study.json").write_text(json.dumps(head | {"cells": places}))
    return folder


def test_the_cheap_cells_are_those_whose_shares_sum_to_a_twentieth():
    assert cheap_ratios(RATIOS) == [1000.0, 100.0, 50.0]  # 0.031; with 1 in 20 it were 0.081
    assert cheap_ratios((10.0, 2.0)) == []
    assert cheap_ratios((20.0, 10.0)) == [20.0]  # exactly 0.05


def test_curves_are_those_of_the_cells(studies):
    curves = {(c.set, c.split): c for c in curves_of(load_studies(studies))}
    assert set(curves) == {(s, split) for s in ("one", "two") for split in ("test", "validation")}
    one = curves["one", "test"]
    assert (one.method, one.kind, one.users) == ("cadc", "frozen", 5000)
    assert one.ratios() == sorted(RATIOS)
    assert one.truth(10.0).value == pytest.approx(hits(10.0, 0.1))
    assert one.truth(10.0).seeds == 3
    cheap = one.curve([50.0], "2")
    assert cheap.points[0].value == pytest.approx(1.01 * hits(50.0, 0.1))
    assert cheap.base.value == pytest.approx(1.01 * hits(1.0, 0.1))
    assert cheap.points[0].seeds == 1


def test_each_larger_share_is_predicted_from_one_seed_and_costs_are_counted(studies):
    ran = load_studies(studies)
    checked = list(check_cells(curves_of(ran), costs_of(ran)))
    larger = (1.0, 2.0, 5.0, 10.0, 20.0)
    assert len(checked) == 2 * 2 * len(SEEDS) * len(larger)  # sets and splits
    assert {one.ratio for one in checked} == set(larger)
    # MF 1 s, and of each run selection 0.5 s and 100 s over the ratio; of everything 100.5 s.
    spent = 1.0 + 3 * 0.5 + 0.1 + 1.0 + 2.0
    assert {round(one.cost, 6) for one in checked} == {round(spent / 100.5, 6)}
    of_test = next(o for o in checked if (o.set, o.split, o.ratio) == ("two", "test", 10.0))
    assert of_test.truth == pytest.approx(hits(10.0, 0.2))
    assert of_test.truth_seeds == 3
    rows = {row["split"]: row for row in summary(checked)}
    assert rows["test"]["pairs"] == 10
    assert rows["test"]["predictions"] == 30
    assert rows["test"]["inside"] >= 24
    assert "| validation | cadc | 10 | 30 |" in shown(checked)


def test_what_is_usual_is_never_learned_from_the_set_itself(monkeypatch):
    def curve(name, top):
        values = {f"{r:g}": {"0": hits(r, top)} for r in RATIOS}
        return Recorded(name, "cadc", "frozen", "test", 5000, {"0": 0.1}, values)

    used = []
    monkeypatch.setattr("benchmarks.advice.usual.learn", lambda curves, start: used.append(curves))
    one, two = curve("one-20core", 0.1), curve("two", 0.2)
    same = [curve(name, 0.3) for name in ("one", "one-by-time", "one-5core")]
    usual_without([one, two, *same], one)
    assert used == [[two.curve()]]


def test_what_is_usual_has_one_curve_a_set_and_method(monkeypatch):
    def curve(split):
        values = {f"{r:g}": {"0": hits(r, split=split)} for r in RATIOS}
        return Recorded("one", "cadc", "frozen", split, 5000, {"0": 0.1}, values)

    used = []
    start = BROAD["frozen"]
    monkeypatch.setattr(
        "benchmarks.advice.usual.learn", lambda found, _: used.append(found) or start
    )
    for order in (("test", "validation"), ("validation", "test")):
        learned([curve(split) for split in order])
    assert used == [[curve("validation").curve()]] * 2


def test_coverage_and_widths_are_counted():
    def one(low, high, truth, cost=0.04):
        return Checked("s", "cadc", "test", 10.0, "0", cost, 0.1, low, high, truth, 3)

    checked = [one(0.09, 0.11, 0.1), one(0.08, 0.12, 0.13), one(0.095, 0.105, 0.095, None)]
    row = summary(checked)[0]
    assert (row["inside"], row["predictions"], row["pairs"]) == (2, 3, 1)
    assert row["coverage"] == pytest.approx(2 / 3)
    assert row["half_width_median"] == pytest.approx(0.1)
    assert row["half_width_largest"] == pytest.approx(0.2)
    assert row["error_median"] == pytest.approx(np.median([0.0, 0.03 / 0.13, 0.005 / 0.095]))
    assert row["cost_largest"] == pytest.approx(0.04)


def test_the_command_writes_curves_that_it_reads_again(studies, tmp_path, capsys):
    curves, out = tmp_path / "curves.json", tmp_path / "out.json"
    main([tmp_path / "curves.toml"], tmp_path, record=curves, out=out)
    assert json.loads(out.read_text())["summary"][0]["predictions"] == 30
    capsys.readouterr()
    main(learn_from=curves)
    frozen = capsys.readouterr().out.split('"frozen"')[1]
    top = re.search(r"top=Around\(([-.\d]+), ", frozen)
    assert float(top[1]) == pytest.approx(0.0, abs=0.02)  # MF reaches what everything does


def test_what_was_written_makes_the_tables_of_the_page(studies, tmp_path, capsys):
    out = tmp_path / "out.json"
    main([tmp_path / "curves.toml"], tmp_path, out=out)
    head, *printed = capsys.readouterr().out.strip().splitlines()
    shown = recorded_tables(json.loads(out.read_text()))["advice"].splitlines()
    summed = printed.index("")
    each = [row for row in printed[:summed] if "| validation | 0 |" in row or row.startswith("|--")]
    assert shown == [head, *each, *printed[summed:]]
    assert 1 < len(each) < summed


def test_a_recorded_study_is_checked_as_it_was_when_it_was_run(studies, tmp_path, monkeypatch):
    ran, recorded = tmp_path / "ran.json", tmp_path / "recorded.json"
    main([tmp_path / "curves.toml"], tmp_path, out=ran)
    page = Noted(load_studies(studies))
    write(page.studies[0], page, tmp_path)
    monkeypatch.setattr("benchmarks.advice.__main__.read", lambda names: read(names, tmp_path))
    main(recorded=["curves"], out=recorded)
    of_run, of_record = (json.loads(path.read_text())["predictions"] for path in (ran, recorded))
    assert len(of_run) == len(of_record) == 60  # 30 of each split
    for one, other in zip(of_run, of_record, strict=True):
        for name, value in one.items():
            same = pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
            assert other[name] == same  # a record has six digits


@pytest.mark.slow
def test_what_is_shipped_as_usual_is_what_the_recorded_curves_say():
    assert learned(read_curves(FOLDER / "curves.json")) == USUAL


def test_a_study_that_was_not_run_is_a_sentence(tmp_path, monkeypatch):
    asked = ["advice", "nowhere.toml", "--workdir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit, match=r"error: .*nowhere: holds no study\.json"):
        command()
