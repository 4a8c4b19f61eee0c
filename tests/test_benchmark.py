"""What the benchmark says of results, on results made by hand."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.cadc_vs_gold import shortfalls, spent, table
from benchmarks.paper import PAGE, README, STUDIES, between, into_docs, summary
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
    assert cells == ["cadc", "100", "7.00", "3.40", "2.0", "0.5", "10.0", "2.0", "0.114", "0.105"]


def test_the_table_shows_the_spread_of_seeds():
    again = [{**r, "seed": 1, "metrics": {"hr@10": 0.08, "ndcg@10": 0.034}} for r in GOOD[:1]]
    row = next(x for x in table([*GOOD[:1], *again]).splitlines() if x.startswith("| cadc"))
    assert "7.50 ± 0.71" in row  # mean of 7 and 8, standard deviation of the two


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
    assert between(page, "x", r"new \1", PAGE) == page.replace("old", r"new \1")
    assert between(page, "y", "z", PAGE) == page.replace("y -->\n<", "y -->\nz\n<")
    with pytest.raises(CadcError, match=r"results.md: has 0 places marked z"):
        between(page, "z", "", PAGE)


def cell(method, seed, hr, ndcg, status="done", study="table1"):
    return {
        "study": study,
        "dataset": "d",
        "dataset_title": "D",
        "method": method,
        "seed": seed,
        "status": status,
        "metrics.hr@10": hr,
        "metrics.ndcg@10": ndcg,
    }


def test_the_summary_gives_mean_and_spread_of_table_1_alone():
    cells = [
        cell("gold", 0, 0.07, 0.03),
        cell("random", 0, 0.04, 0.02),
        cell("random", 1, 0.06, 0.02),
        cell("cadc", 0, None, None, status="failed"),
        cell("random", 2, 0.9, 0.9, study="figure1"),
    ]
    assert summary(cells).splitlines() == [
        "| method | D: HR@10 / NDCG@10 % |",
        "|---|---|",
        "| Random | 5.00 ± 1.41 / 2.00 ± 0.00 |",
        "| Gold standard | 7.00 / 3.00 |",
    ]


def test_the_results_page_takes_tables_and_figures_of_a_report(tmp_path):
    report, page = tmp_path / "report", tmp_path / "docs" / "results.md"
    report.mkdir()
    (page.parent / "images").mkdir(parents=True)
    page.write_text(PAGE.read_text("utf-8"))
    readme = tmp_path / "README.md"
    readme.write_text(README.read_text("utf-8"))
    pq.write_table(pa.Table.from_pylist([cell("gold", 0, 0.07, 0.03)]), report / "results.parquet")
    (report / "table1.md").write_text("| one |\n")
    (report / "figure1.svg").write_text("<svg/>")
    into_docs(report, page, readme)
    assert "| Gold standard | 7.00 / 3.00 |\n<!-- /results -->" in readme.read_text("utf-8")
    assert "<!-- table1 -->\n| one |\n<!-- /table1 -->" in page.read_text("utf-8")
    assert (page.parent / "images" / "figure1.svg").read_text() == "<svg/>"


def test_every_study_of_the_paper_has_its_grid():
    for name in STUDIES:
        assert (PAGE.parents[1] / "configs" / "study" / f"{name}.toml").exists()
