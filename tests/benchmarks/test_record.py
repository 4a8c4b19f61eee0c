"""The JSON of a report, its checks and its tables."""

import json
import math

import pytest

from benchmarks.peers.record import Check, Entry, Figures, Machine, Ratio, Report, Section
from benchmarks.peers.tables import report_text
from cadc_rec.errors import CadcError


def report(**section):
    figures = Figures.of([100.0, 300.0, 200.0])
    told = {
        "title": "Towers",
        "unit": "positives/s",
        "better": "more",
        "measured": "2026-01-01T00:00:00Z",
        "entries": {
            "ours": Entry(what="ours", figures=figures, ceiling="copy GB/s", share=0.25),
            "plain": Entry(what="plain PyTorch", figures=Figures.of([50.0, 100.0, 100.0])),
        },
        "ratios": [Ratio(ours="ours", other="plain", times=Figures.of([2.0, 3.0, 2.0]))],
        "missing": {"torch-rechub": "not installed"},
        **section,
    }
    return Report(
        machine=Machine(processor="P", cores=2, memory_bytes=2**30, versions={"torch": "2"}),
        workload={"source": "generated", "batch_size": 8192},
        short=True,
        sections={"towers": Section(**told)},
    )


def test_a_report_comes_back_from_json_as_it_was(tmp_path):
    path = tmp_path / "bench" / "results.json"
    before = report()
    before.save(path)
    assert Report.read(path) == before
    raw = json.loads(path.read_text())
    assert raw["schema_version"] == 1
    assert raw["sections"]["towers"]["entries"]["ours"]["figures"] == {
        "median": 200.0,
        "low": 100.0,
        "high": 300.0,
        "rounds": [100.0, 300.0, 200.0],
    }


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: raw.pop("machine"), r"no report of this version \(machine\)"),
        (lambda raw: raw["sections"]["towers"].update(speed=1), r"sections.towers.speed"),
    ],
)
def test_what_is_no_report_is_refused_by_the_key(tmp_path, damage, said):
    path = tmp_path / "results.json"
    report().save(path)
    raw = json.loads(path.read_text())
    damage(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(CadcError, match=said):
        Report.read(path)


def test_a_report_that_is_not_there_says_to_measure(tmp_path):
    with pytest.raises(CadcError, match="measure first"):
        Report.read(tmp_path / "results.json")


def test_ratios_carry_their_section():
    assert report().ratios() == {"towers: ours / plain": 2.0}


def test_a_check_that_does_not_hold_is_named_and_nan_holds_nothing():
    checks = [
        Check(what="one", value=1e-6, limit=1e-5),
        Check(what="two", value=1e-4, limit=1e-5),
        Check(what="three", value=math.nan, limit=1e-5),
    ]
    broken = report(checks=checks).broken()
    assert [sentence.split(" is ")[0] for sentence in broken] == ["towers: two", "towers: three"]


def test_the_table_tells_medians_ranges_shares_and_who_is_missing():
    lines = report_text(report()).splitlines()
    assert "| ours | 200 | 100 to 300 | 25% of copy GB/s | ours |" in lines
    assert "| plain | 100 | 50 to 100 |  | plain PyTorch |" in lines
    assert "| torch-rechub | not installed | | | |" in lines
    assert "| ours | plain | 2.00 | 2 to 3 |" in lines
