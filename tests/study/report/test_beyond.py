"""The study of the recipe, and what its page says of the parts."""

from benchmarks import beyond
from cadc_rec.study.report.report import write_report


def test_the_tables_of_the_recipe_go_between_their_marks(tmp_path, new_study):
    page = tmp_path / "accuracy.md"
    marks = "<!-- beyond -->\nold\n<!-- /beyond -->\n<!-- parts -->\nold\n<!-- /parts -->\n"
    page.write_text("before\n" + marks)
    study = new_study("studies/beyond", layout="grid")
    study.head["name"] = "beyond"
    seconds = (1.0, 0.0, 9.0)
    study.add_done("ml-1m", "prior", None, 1.0, 0, 200, seconds)
    study.add_done("ml-1m", "recipe", "init_frozen", 10.0, 0, 250, seconds)
    study.add_done("ml-1m", "recipe", "init_frozen", 10.0, 0, 125, seconds, variant="uniform")
    study.add_done("ml-1m", "recipe", "init_frozen", 100.0, 0, 220, seconds)
    report = write_report(tmp_path / "studies").page.parent
    beyond.into_docs(report, tmp_path / "studies", page)
    text = page.read_text()
    assert "| Recipe, 1/10, uniform |" in text.split("<!-- parts -->")[0]
    parts = text.split("<!-- parts -->")[1].split("<!-- /parts -->")[0]
    assert "Many comparisons: of 6 in this table" in parts  # HR@10 and NDCG@10 of three
    lines = [line for line in parts.splitlines() if line.startswith("|")]
    rows = [line.split(" | ")[:4] for line in lines[2:]]
    name = "| MovieLens 1M"
    assert rows == [  # of 200, 250 and 125 hits
        [name, "Recipe, 1/10", "Prior alone", "+25.0%"],
        [name, "Recipe, 1/10, uniform", "Recipe, 1/10", "−50.0%"],
        [name, "Recipe, 1/100", "Prior alone", "+10.0%"],
    ]
    for mark in ("beyond", "parts"):
        assert f"<!-- {mark} -->" in beyond.PAGE.read_text("utf-8")


def test_the_table_of_the_defaults_goes_between_its_marks(tmp_path, new_study):
    page = tmp_path / "accuracy.md"
    page.write_text("before\n<!-- defaults -->\nold\n<!-- /defaults -->\n")
    study = new_study("studies/defaults", layout="grid", baseline="prior")
    study.add_done("ml-1m", "prior", None, 1.0, 0, 200, (1.0, 0.0, 0.0))
    study.add_done("ml-1m", "auto", "init_frozen", 10.0, 0, 250, (1.0, 0.0, 9.0))
    report = write_report(study.folder).page.parent
    beyond.into_docs(report, study.folder, page)
    assert "+25.0%" in page.read_text()
    assert "old" not in page.read_text()
    assert "<!-- defaults -->" in beyond.PAGE.read_text("utf-8")
