"""What the report writes: numbers worked out by hand, escaped texts, and whole folders."""

import html
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.study.report.report import write_report
from cadc_rec.study.report.study_data import load_studies


def rows_of(markdown):
    """Method to texts of the first table of a Markdown file."""
    lines = [line for line in markdown.split("\n\n")[2].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], {row[0]: row[1:] for row in cells[1:]}


def test_the_markdown_table_holds_numbers_worked_out_by_hand(whole_report):
    heads, rows = rows_of((whole_report.page.parent / "table1.md").read_text())
    assert list(rows) == [
        "Random",
        "Over-Sampling",
        "Under-Sampling",
        "LogQ",
        "CADC-MLP",
        "CADC",
        "Gold standard",
        "Popularity",
        "MF alone",
    ]
    assert heads[:5] == ["method", "HR@10 %", "HR@10 %: paper", "vs gold", "vs gold: verdict"]
    # Hits of 68 and 70 in 1,000 users: 6.9, and the root of 2 * 0.1^2 as deviation.
    assert rows["CADC"][:2] == ["6.90 ± 0.14", "6.57"]
    # Gold has 70 and 72 hits: (6.9 - 7.1) / 7.1.
    assert rows["CADC"][2] == "−2.8%"
    assert rows["CADC"][3].startswith("cannot tell (")
    # Random has 40 and 42: 6.9 / 4.1 - 1.
    assert rows["CADC"][8] == "+68.3%"
    assert rows["CADC"][9].startswith("better (+")
    # 10 + (0.1 + 34), over gold's 344.1; the paper's 18 + 136 over 1464; a tenth of 50,000 rows.
    assert rows["CADC"][10:16] == ["10+34", "18+136", "0.128", "0.105", "5,000", "2 of 2"]
    # Without histories it touches its own rows; this record has no bytes of D_sel.
    assert heads[15:] == ["labelled", "seeds", "touched", "of all"]
    assert rows["CADC"][16:] == ["5,000", "10.0%"]
    assert rows["Random"][3].startswith("worse (−")
    assert rows["Gold standard"][2:4] == ["–", ""]
    assert rows["Gold standard"][10:14] == ["344", "1,464", "1.000", "1.000"]
    assert rows["Popularity"][10:14] == ["–", "", "–", ""]
    # The second seed failed: one value, no deviation.
    assert rows["LogQ"][0] == "4.40"
    assert rows["LogQ"][15] == "1 of 2"


def test_integration_techniques_are_compared_with_init_frozen(whole_report):
    heads, rows = rows_of((whole_report.page.parent / "table2.md").read_text())
    assert heads[0] == "integration"
    assert list(rows) == ["Hybrid", "Init", "Init-Frz", "Linear", "MLP", "Residual"]
    assert heads[3] == "vs Init-Frz"
    assert [row[1] for row in rows.values()] == ["6.03", "6.23", "6.57", "6.56", "6.59", ""]
    # Means of 60.5 and 68.5 hits.
    assert rows["Hybrid"][2] == "−11.7%"
    assert rows["Init-Frz"][2] == "–"


def test_the_papers_numbers_stand_beside_its_own_filtering_ratio_only(whole_report):
    _, rows = rows_of((whole_report.page.parent / "figure1-table.md").read_text())
    assert rows["CADC, 1/10"][1] == "6.57"
    assert rows["CADC, 1/20"][1] == ""
    # Gold is found in the study of Table 1: 72 and 74 hits against 70 and 72.
    assert rows["CADC, 1/10"][2] == "+2.8%"


def test_variants_are_rows_that_say_what_they_refer_to(new_study):
    """Compared with the recipe on everything and with gold; 900 of 50,000 rows are 1.8%."""
    study = new_study(layout="grid", baseline="recipe-gold", second="gold")
    rows = {"train": 50_000, "selected": 500}
    reach = rows | {"touched": 900, "bytes": 3 << 20, "bytes_of": 4 << 20}
    seconds = (1.0, 0.0, 9.0)
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, seconds)
    study.add_done("ml-1m", "recipe-gold", "init_frozen", 1.0, 0, 250, seconds)
    study.add_done("ml-1m", "recipe", "init_frozen", 100.0, 0, 200, seconds, rows=reach)
    more = {"rows": rows, "variant": "uniform"}
    study.add_done("ml-1m", "recipe", "init_frozen", 100.0, 0, 150, seconds, **more)
    table = (write_report(study.folder).page.parent / "grid-table.md").read_text()
    head = next(line for line in table.splitlines() if line.startswith("| method"))
    cells = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")
        for line in table.splitlines()
        if line.startswith("| Recipe")
    }
    assert list(cells) == ["Recipe", "Recipe, uniform", "Recipe on everything"]
    titles = head.removeprefix("| ").removesuffix(" |").split(" | ")
    assert titles[-6:] == [
        *("labelled", "seeds", "touched", "touched: of all", r"D\_sel", r"D\_sel: of all")
    ]
    assert cells["Recipe"][-6:] == ["500", "1 of 1", "900", "1.8%", "3.0 MiB", "75.0% |"]
    assert cells["Recipe, uniform"][-6:] == ["500", "1 of 1", "500", "1.0%", "–", " |"]
    against = titles.index("vs recipe")
    assert cells["Recipe"][against] == "−20.0%"  # 200 users of 250
    assert cells["Recipe, uniform"][against] == "−40.0%"
    assert cells["Recipe"][titles.index("vs gold standard")] == "+185.7%"  # 200 of 70


def test_what_was_kept_of_towers_and_tables_is_counted_beside_the_other(new_study):
    study = new_study(layout="grid", baseline="prior", second="gold")
    # 3 s of the fit belong to pre-training, which a method without towers has nothing else of.
    fit = {"more_seconds": {"prior": 3.0}}
    study.add_done("ml-1m", "prior", None, 1.0, 0, 70, (2.0, 0.0, 0.0), **fit)
    for seed, (kept, other, hits) in enumerate(
        (("towers", "tables", 0.05), ("towers", "tables", 0.07), ("tables", "towers", 0.03))
    ):
        beside = {"of": other, "test": {"hr@10": hits, "ndcg@10": hits / 2}}
        more = {"kept": kept, "beside": beside}
        study.add_done("ml-1m", "auto", "init_frozen", 10.0, seed, 70, (2.0, 0.0, 9.0), **more)
    lines = (write_report(study.folder).page.parent / "grid-table.md").read_text().splitlines()
    titles, auto, prior = (
        next(line for line in lines if line.startswith(f"| {name}")).strip("| ").split(" | ")
        for name in ("method", "auto", "Prior")
    )
    assert titles[-2:] == ["kept", "the other"]
    assert auto[-2:] == ["towers 2 of 3, tables 1 of 3", "5.00 / 2.50"]
    assert prior[titles.index("time s")] == "5.0+0"


def test_metrics_beside_hr_and_ndcg_have_columns_where_a_cell_has_them(new_study):
    study = new_study()
    seconds, known = (0.0, 0.0, 100.0), {"hr@10": 0.07, "ndcg@10": 0.04}
    sample = {"users": 500, "of": 1000, "interval": {"hr@10": [0.06, 0.08]}}
    for seed, mrr in enumerate((0.02, 0.04)):
        more = {"metrics": known | {"mrr@10": mrr, "gini@5": 0.9}, "validation_sample": sample}
        study.add_done("ml-1m", "cadc", "init_frozen", 10.0, seed, 70, seconds, **more)
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, seconds)
    report = write_report(study.folder)
    heads, rows = rows_of((report.page.parent / "table1.md").read_text())
    place = heads.index("MRR@10 %") - 1
    assert heads[place + 2] == "GINI@5 %"
    assert rows["CADC"][place : place + 2] == ["3.00 ± 1.41", "90.00 ± 0.00"]
    assert rows["Gold standard"][place : place + 2] == ["–", "–"]
    results = pq.read_table(report.page.parent / "results.parquet").to_pylist()
    assert [row["validation_sample.of"] for row in results] == [1000, 1000, None]


def test_what_did_not_run_is_never_a_number(new_study):
    study = new_study()
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 100.0))
    study.add("ml-1m", "random", None, 10.0, 0, "failed", error="out of memory")
    study.add("ml-1m", "logq", None, 10.0, 0, "unavailable", error="no archive")
    study.add("ml-1m", "cadc", "init_frozen", 10.0, 0)
    report = write_report(study.folder)
    assert (report.done, report.failed, report.unavailable, report.missing) == (1, 1, 1, 1)
    heads, rows = rows_of((report.page.parent / "table1.md").read_text())
    found = {name: row[0] for name, row in rows.items() if name != "Gold standard"}
    assert found == {"Random": "failed", "LogQ": "not available", "CADC": "not run yet"}
    del heads[0]
    for name in found:
        numbers = [t for head, t in zip(heads, rows[name], strict=True) if head != "seeds"]
        assert not re.search(r"\d", "".join(numbers))
    assert "failed: out of memory" in report.page.read_text()


def test_a_study_without_a_finished_cell_has_a_page(new_study):
    study = new_study()
    study.add("ml-1m", "cadc", "init_frozen", 10.0, 0)
    report = write_report(study.folder)
    assert "no cell is done yet" in report.page.read_text()
    assert sorted(file.name for file in report.files) == [
        "index.html",
        "results.parquet",
        "table1.md",
    ]


def test_texts_from_data_are_escaped_everywhere(new_study):
    evil = "\"'><script>alert(1)"
    study = new_study(title=evil)
    for seed in (0, 1):
        study.add_done("ml-1m", evil, evil, 10.0, seed, 60, (1.0, 0.0, 9.0), dataset_title=evil)
    study.add("ml-1m", "gold", None, 1.0, 0, "failed", error=evil)
    report = write_report(study.folder)
    assert report.page.read_text().count("<script>") == 1  # its own
    for file in report.files:
        if file.suffix == ".svg":
            assert "<script" not in file.read_text()
    assert r"\<script\>" in (report.page.parent / "table1.md").read_text()


def test_pictures_are_well_formed_and_load_nothing(whole_report):
    names = [file.name for file in whole_report.files if file.suffix == ".svg"]
    wanted = {"overview.svg", "figure1.svg", "pareto.svg", "time.svg", "validation.svg"}
    assert wanted <= set(names)
    for name in names:
        text = (whole_report.page.parent / name).read_text()
        root = ElementTree.fromstring(text)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        spaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert set(re.findall(r"https?://[^\"]+", text)) == spaces
        assert not re.search("<(script|image|style|use|foreignObject)", text)


def test_the_page_is_one_small_file_and_needs_no_script_to_show_its_charts(whole_report):
    """Charts are drawn before; what hovering shows is in the page as each mark's name."""
    text = whole_report.page.read_text("utf-8")
    assert len(text.encode()) < 1_000_000
    before_scripts = text[: text.index("<script")]
    # Three of Table 1 on each of its two sets, three of Table 2, two of Figure 1, and the overview.
    assert before_scripts.count("<svg xmlns") == 2 * 3 + 3 + 2 + 1
    assert "CADC, 44 s\nHR@10 6.90 ± 0.14%\n2 seeds" in html.unescape(before_scripts)
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", text.replace("xlink:href", ""))


def test_results_have_a_row_for_every_cell_with_its_numbers(whole_report, whole_study):
    (study, *_) = load_studies(whole_study)
    table = pq.read_table(whole_report.page.parent / "results.parquet").to_pylist()
    table = [row for row in table if row["study"] == "table1"]
    assert [row["id"] for row in table] == [cell.id for cell in study.cells]
    row = next(row for row in table if row["id"] == "ml-1m-cadc-init_frozen-10-1")
    assert row["metrics.hr@10"] == 0.07
    assert row["seconds.pretrain"] == 10.0
    assert row["rows.selected"] == 5000
    assert row["machine.cpu"] == "Toy CPU"
    assert row["config"] == '{"train": {"epochs": 6}}'
    failed = next(row for row in table if row["status"] == "failed")
    assert failed["metrics.hr@10"] is None
    assert failed["error"].startswith("loss is")


def test_the_overview_is_a_file_for_other_pages_too(whole_report):
    """70 and 68 hits at 1/20 of MovieLens 1M, against gold's 70 and 72: 6.9 of 7.1."""
    text = (whole_report.page.parent / "overview.md").read_text("utf-8")
    said = [line for line in text.splitlines() if line.startswith("- **What")]
    assert [line.split(".")[0] for line in said] == [
        "- **What can be left out",
        "- **What it costs",
        "- **What it saves",
    ]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    head, first, second = rows
    assert head[:5] == ["set", "method", "share", "examples", "HR@10 kept %"]
    assert first[:5] == ["MovieLens 1M", "CADC", "1/20", "2,500 of 50,000", "97.2"]
    assert second[:5] == ["Epinions, 20-core", "CADC", "1/10", "5,000 of 50,000", "97.2"]


def test_what_a_study_says_of_a_set_stands_on_its_page(new_study):
    study = new_study(about={"ml-1m": "GroupLens; <genuine> ratings."})
    study.add("ml-1m", "cadc", "init_frozen", 10.0, 0)
    assert "GroupLens; &lt;genuine&gt; ratings." in write_report(study.folder).page.read_text()


def test_a_report_is_replaced_and_nothing_else_is(small_study):
    first = write_report(small_study.folder)
    (first.page.parent / "old").touch()
    second = write_report(small_study.folder)
    assert all(file.is_file() for file in second.files)
    assert not (first.page.parent / "old").exists()
    leftovers = {path.name for path in small_study.folder.iterdir()}
    assert leftovers == {"study.json", "cells", "ranks", "report"}
    with pytest.raises(CadcError, match="exists and is not a report"):
        write_report(small_study.folder, small_study.folder / "cells")
    assert any((small_study.folder / "cells").iterdir())


def test_a_report_goes_into_the_folder_one_is_in(small_study, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_report(small_study.folder, Path("."))
    assert (tmp_path / "here" / "index.html").is_file()


def test_out_is_made_where_it_is_asked_for(small_study, tmp_path):
    report = write_report(small_study.folder, tmp_path / "deep" / "there")
    assert report.page == tmp_path / "deep" / "there" / "index.html"
    assert report.page.is_file()
