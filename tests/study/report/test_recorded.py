"""Recorded results: a study as one file, from which its tables are made without ranks."""

import json
import shutil

import pytest

from benchmarks import beyond, cold, paper
from benchmarks.marks import ROOT
from benchmarks.recorded.studies import read
from cadc_rec.errors import CadcError
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.study_data import load_studies


@pytest.fixture
def new_root(tmp_path):
    """A repository with the marks of some docs; returns its folder."""

    def make(docs):
        for mark, name in docs.marks.items():
            page = tmp_path / "root" / name
            page.parent.mkdir(parents=True, exist_ok=True)
            old = page.read_text("utf-8") if page.exists() else "before\n"
            page.write_text(old + f"<!-- {mark} -->\nold\n<!-- /{mark} -->\n")
        (tmp_path / "root" / "docs" / "images").mkdir(exist_ok=True)
        return tmp_path / "root"

    return make


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "recorded").mkdir()
    return tmp_path / "recorded"


@pytest.fixture
def paper_studies(new_study):
    """The paper's three studies in small; returns their folder."""
    table1 = new_study("studies/table1")
    for seed in (0, 1):
        table1.add_done("ml-1m", "gold", None, 1.0, seed, 70 + seed, (0.0, 0.1, 100.0))
        table1.add_done("ml-1m", "cadc", "init_frozen", 10.0, seed, 68, (1.0, 0.1, 9.0 + seed))
    table1.add("epinions-20core", "gold", None, 1.0, 0, "unavailable", error="no archive")
    table2 = new_study("studies/table2", layout="table2", title="Table 2: integration")
    for technique, hits in (("init", 60), ("init_frozen", 68)):
        table2.add_done("ml-1m", "cadc", technique, 10.0, 0, hits, (1.0, 0.1, 9.0))
    figure1 = new_study("studies/figure1", layout="figure1", title="Figure 1: ratios")
    for ratio, hits in ((2.0, 69), (100.0, 40)):
        figure1.add_done("ml-1m", "cadc", "init_frozen", ratio, 0, hits, (1.0, 0.1, 90 / ratio))
    return table1.folder.parent


def test_tables_and_pictures_of_a_record_are_those_of_the_ranks(paper_studies, new_root, folder):
    root = new_root(paper.DOCS)
    files = paper.DOCS.record(paper_studies, folder)
    assert [file.name for file in files] == ["table1.json", "table2.json", "figure1.json"]
    run = Comparisons([s for name in paper.STUDIES for s in load_studies(paper_studies / name)])
    paper.DOCS.write(root, folder)
    for mark, table in paper.tables(run).items():
        page = (root / paper.DOCS.marks[mark]).read_text("utf-8")
        assert f"<!-- {mark} -->\n{table}\n<!-- /{mark} -->" in page
    for name, title in (("pareto", "Accuracy against time"), ("figure1", "filtering ratio")):
        assert title in (root / "docs" / "images" / f"{name}.svg").read_text("utf-8")
    assert paper.DOCS.write(root, folder) == []  # nothing is left to change


def test_the_summary_gives_mean_and_spread_of_table_1_alone(new_study, new_root, folder):
    study = new_study("studies/table1")
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 100.0))
    for seed, hits in ((0, 40), (1, 60)):
        study.add_done("ml-1m", "random", None, 10.0, seed, hits, (0.0, 0.0, 10.0))
    study.add("ml-1m", "cadc", "init_frozen", 10.0, 0, "failed", error="no")
    study.add_done("epinions-20core", "random", None, 10.0, 0, 90, (0.0, 0.0, 10.0))  # no gold
    paper.DOCS.record(study.folder.parent, folder)
    rows = paper.tables(paper.DOCS.recorded(folder))["results"].splitlines()
    assert rows[0] == "| method | MovieLens 1M: HR@10 / NDCG@10 % |"
    assert [row.rpartition(" / ")[0] for row in rows[2:]] == [
        "| Random | 5.00 ± 1.41",  # of 4 and 6: mean 5, deviation the square root of 2
        "| Gold standard | 7.00",
    ]


def test_a_file_holds_no_folder_of_the_machine_and_little_twice(new_study, folder):
    study = new_study("studies/defaults", layout="grid")
    study.head["name"] = "defaults"
    config = {"data": {"tables": {"interactions": {"path": "/srv/logs/mine.csv"}}}, "seed": 0}
    for seed in (0, 1):
        place = ("ml-1m", "gold", None, 1.0, seed, 70 + seed, (0.0, 0.0, 100.123456789))
        study.add_done(*place, config=config | {"seed": seed}, digest=f"d{seed}")
    study.add("ml-1m", "auto", None, 10.0, 0, "failed", error="/srv/logs/mine.csv: is empty.")
    (file,) = beyond.DOCS["defaults"].record(study.folder.parent, folder)
    text = file.read_text("utf-8")
    assert "/srv" not in text
    assert "100.123456789" not in text
    content = json.loads(text)
    assert content["common"]["config"]["data"]["tables"]["interactions"] == {"path": "mine.csv"}
    assert content["common"]["machine"]["cpu"] == "Toy CPU"
    first, second, failed = content["cells"]
    assert "machine" not in first
    assert (first["digest"], second["digest"]) == ("d0", "d1")
    assert second["config"] == {"seed": 1}
    assert failed["error"] == "mine.csv: is empty."
    (read_again,) = read(["defaults"], folder).studies
    assert read_again.cells[1].config["data"] == content["common"]["config"]["data"]
    assert read_again.cells[1].config["seed"] == 1
    assert read_again.cells[2].machine.cpu == ""


def test_a_study_beside_which_another_stands_is_read_with_it(new_study, new_root, folder):
    root = new_root(beyond.DOCS["beyond"])
    table1 = new_study("studies/table1")
    table1.add_done("ml-1m", "gold", None, 1.0, 0, 200, (0.0, 0.0, 100.0))
    study = new_study("studies/beyond", layout="grid")
    study.head["name"] = "beyond"
    study.add_done("ml-1m", "prior", None, 1.0, 0, 250, (1.0, 0.0, 9.0))
    paper.DOCS.record(table1.folder.parent, folder)
    beyond.DOCS["beyond"].record(study.folder.parent, folder)
    beyond.DOCS["beyond"].write(root, folder)
    assert "+25.0%" in (root / beyond.PAGE).read_text("utf-8")
    # Gold is measured again; the comparison with it is of what it was.
    again = (folder / "table1.json").read_text("utf-8").replace('"hr@10": 0.2', '"hr@10": 0.21')
    (folder / "table1.json").write_text(again)
    said = r"beyond/ml-1m/prior@1 with table1/ml-1m/gold@1 by hr@10 as \+25.00%, but the recorded"
    with pytest.raises(CadcError, match=rf"beyond.json: compares {said} cells differ by \+19.05%"):
        beyond.DOCS["beyond"].pages(root, folder)


def test_a_study_is_recorded_a_dataset_at_a_time(new_study, folder):
    def run(name, finished, variants=("", "uniform")):
        study = new_study(f"{name}/defaults", layout="grid")
        study.head["name"] = "defaults"
        for dataset in ("ml-1m", "epinions-20core"):
            for variant in variants:
                place, more = (dataset, "cadc", "init_frozen", 10.0, 0), {"variant": variant}
                if dataset in finished:
                    study.add_done(*place, 60, (1.0, 0.0, 9.0), commit=name, **more)
                else:
                    study.add(*place, **more)
            place = (dataset, "gold", None, 1.0, 0)
            if dataset in finished:
                study.add_done(*place, 70, (0.0, 0.0, 99.0), commit=name)
            else:
                study.add(*place)
        return beyond.DOCS["defaults"].record(study.folder.parent, folder)

    def recorded():
        (study,) = read(["defaults"], folder).studies
        return {(cell.dataset, cell.variant, cell.method): cell.commit for cell in study.cells}

    run("first", ["ml-1m"])
    run("second", ["epinions-20core"])
    assert {key[0]: commit for key, commit in recorded().items()} == {
        "ml-1m": "first",
        "epinions-20core": "second",
    }
    content = json.loads((folder / "defaults.json").read_text())
    assert {key["of"][0].split("/")[1] for key in content["of_ranks"]} == {
        "ml-1m",
        "epinions-20core",
    }
    run("third", ["epinions-20core"], variants=("",))  # the grid has lost a variant
    assert ("ml-1m", "uniform", "cadc") not in recorded()
    assert recorded()["ml-1m", "", "cadc"] == "first"
    half = new_study("fourth/defaults", layout="grid")
    half.head["name"] = "defaults"
    half.add_done("ml-1m", "gold", None, 1.0, 0, 70, (0.0, 0.0, 99.0))
    half.add("ml-1m", "cadc", "init_frozen", 10.0, 0)
    with pytest.raises(CadcError, match="1 cells of ml-1m are recorded that are not finished here"):
        beyond.DOCS["defaults"].record(half.folder.parent, folder)


def test_what_a_record_lacks_is_a_sentence(paper_studies, folder, tmp_path):
    paper.DOCS.record(paper_studies, folder)
    file = folder / "table2.json"
    content = json.loads(file.read_text("utf-8"))
    content["of_ranks"].pop(0)
    file.write_text(json.dumps(content))
    with pytest.raises(CadcError, match=r"recorded/table2.json: has nothing of table2/ml-1m/\S+, "):
        paper.tables(paper.DOCS.recorded(folder))
    file.write_text("{}")
    with pytest.raises(CadcError, match=r"table2.json: cannot be used as the results of a study"):
        paper.DOCS.recorded(folder)
    with pytest.raises(CadcError, match="has none of the studies table1, table2, figure1"):
        paper.DOCS.record(tmp_path, folder)
    shutil.rmtree(folder)
    assert paper.DOCS.recorded(folder) is None
    assert paper.DOCS.pages(ROOT, folder) == {}


@pytest.mark.parametrize("docs", [paper.DOCS, *beyond.DOCS.values(), *cold.DOCS.values()])
def test_every_mark_stands_on_its_page(docs):
    for mark, page in docs.marks.items():
        assert (ROOT / page).read_text("utf-8").count(f"<!-- {mark} -->\n") == 1
