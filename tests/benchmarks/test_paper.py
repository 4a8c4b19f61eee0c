"""What the benchmarks say of results, on results made by hand."""

import json
from pathlib import Path

import pytest

from benchmarks import cadc_vs_gold, guard
from benchmarks.cadc_vs_gold import recorded, shortfalls, spent, table
from benchmarks.marks import ROOT, between
from benchmarks.paper import STUDIES
from benchmarks.peers import page as peers
from benchmarks.peers.record import Report
from cadc_rec.errors import CadcError


def result(method, seed, hr, ndcg, pretrain, train, validation):
    return {
        "method": method,
        "seed": seed,
        "metrics": {"hr@10": hr, "ndcg@10": ndcg},
        "rows": {"train": 1000, "selected": 100},
        "seconds": {
            "pretrain": pretrain,
            "select": 0.5,
            "train": train,
            "evaluate": 1.0,
            "validation": validation,
        },
    }


GOOD = [
    result("cadc", 0, 0.07, 0.034, 2.0, 10.0, 2.0),
    result("gold", 0, 0.08, 0.036, 0.0, 110.0, 10.0),
]


def test_spent_seconds_are_those_of_three_stages():
    assert spent(GOOD[0], validation=True) == 12.5
    assert spent(GOOD[0], validation=False) == 10.5


def test_the_table_gives_both_ratios_and_percent():
    row = next(line for line in table(GOOD).splitlines() if line.startswith("| cadc"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:8] == ["cadc", "100", "7.00", "3.40", "2.0", "0.5", "10.0", "2.0"]
    assert cells[8:] == ["0.944", "0.114", "0.105"]


def test_what_is_recorded_has_the_lowest_median_and_highest_seed():
    slower = [{**GOOD[0], "seed": 1}, {**GOOD[1], "seed": 1}]
    slower[0] = {**slower[0], "seconds": {**GOOD[0]["seconds"], "train": 20.0}}
    row = recorded([*GOOD, *slower], "gold")["time"][0]
    assert (row["method"], row["of"]) == ("cadc", "gold")
    # 2 + 0.5 + 10 - 2 and 2 + 0.5 + 20 - 2 s, of 110 - 10
    assert [row["lowest"], row["highest"]] == pytest.approx([0.105, 0.205])
    assert row["median"] == pytest.approx(0.155)
    assert row["with_validation"] == pytest.approx((12.5 + 22.5) / 2 / 110)


def test_any_method_can_be_the_reference_and_the_fit_of_tables_counts():
    rival = {**GOOD[1], "method": "recipe-gold"}
    rival["seconds"] = {**rival["seconds"], "prior": 25.0, "pretrain": 15.0}
    few = {**GOOD[0], "method": "recipe/100", "metrics": {"hr@10": 0.07, "ndcg@10": 0.0342}}
    found = table([few, rival], "recipe-gold").splitlines()
    assert "NDCG@10 / recipe-gold" in found[0]
    cells = [cell.strip() for cell in found[2].strip("|").split("|")]
    seconds = rival["seconds"]
    whole = 25 + 15 + seconds["train"]
    assert cells[0] == "recipe/100"
    assert cells[8:10] == ["0.950", f"{12.5 / whole:.3f}"]


def test_the_table_shows_the_spread_of_seeds():
    again = [{**r, "seed": 1, "metrics": {"hr@10": 0.08, "ndcg@10": 0.034}} for r in GOOD[:1]]
    row = next(x for x in table([*GOOD[:1], *again]).splitlines() if x.startswith("| cadc"))
    assert "7.50 ± 0.71" in row  # mean of 7 and 8, standard deviation of the two


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "cadc", "--reference", "gold"], "--reference: gold is none of --methods"),
        (["--methods", "prior", "recipe-gold", "--reference", "recipe-gold", "--check"], "--check"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_runs(monkeypatch, capsys, given, said):
    monkeypatch.setattr("sys.argv", ["cadc_vs_gold", "no-such.toml", *given])
    with pytest.raises(SystemExit) as ended:
        cadc_vs_gold.main()
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_nothing_is_missed_where_all_figures_are_reached():
    assert shortfalls(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metrics": {"hr@10": 0.0656, "ndcg@10": 0.034}}, "cadc: hr@10 is 0.0656"),
        ({"metrics": {"hr@10": 0.07, "ndcg@10": 0.0327}}, "cadc: ndcg@10 is 0.0327"),
        ({"seconds": {**GOOD[0]["seconds"], "train": 12.0}}, "of gold's time"),
    ],
)
def test_each_shortfall_is_named(change, said):
    (missed,) = shortfalls([GOOD[0] | change, GOOD[1]])
    assert said in missed


def test_what_stands_between_two_marks_is_replaced_and_nothing_else():
    page = "a\n<!-- x -->\nold\n<!-- /x -->\nb\n<!-- y -->\n<!-- /y -->\n"
    assert between(page, "x", r"new \1", ROOT) == page.replace("old", r"new \1")
    assert between(page, "y", "z", ROOT) == page.replace("y -->\n<", "y -->\nz\n<")
    with pytest.raises(CadcError, match=r"a.md: has 0 places marked z"):
        between(page, "z", "", Path("a.md"))


def test_every_study_of_the_paper_has_its_grid():
    for name in STUDIES:
        assert (ROOT / "configs" / "study" / f"{name}.toml").exists()


def test_the_guard_names_what_fell_beyond_the_threshold():
    baseline = {"a": 4.0, "b": 4.0, "gone": 9.0}
    measured = {"a": 2.39, "b": 2.41, "new": 0.1}
    assert guard.fallen(baseline, measured, 0.4) == ["a: 2.39 times as fast, the baseline is 4.00"]
    assert guard.fallen(baseline, {"a": 8.0, "b": 4.0}, 0.4) == []


def test_the_committed_baseline_has_ratios_of_every_guarded_section():
    baseline = json.loads(guard.BASELINE.read_text("utf-8"))
    assert {name.split(":")[0] for name in baseline} == set(guard.GUARDED)
    assert all(value > 0 for value in baseline.values())


def test_the_performance_page_has_its_places():
    path = ROOT / peers.PAGE
    page = path.read_text("utf-8")
    for mark in ("throughput", "busy", "growth"):
        assert between(page, mark, "new", path).count("new\n<!-- /") == 1


def test_a_report_is_recorded_and_then_written_into_the_page(tmp_path):
    folder, page = tmp_path / "recorded", tmp_path / peers.PAGE
    page.parent.mkdir()
    page.write_text("a\n<!-- busy -->\nold\n<!-- /busy -->\nb\n")
    report = Report.read(ROOT / "benchmarks" / "recorded" / "peers-busy.json")
    peers.into_docs(report, True, tmp_path, folder)
    assert Report.read(folder / "peers-busy.json") == report
    before, written = page.read_text().split("<!-- busy -->")
    assert before == "a\n"
    for name in ("Two-tower training", "Full ranking"):
        assert f"**{name}**" in written
    assert "old" not in written
