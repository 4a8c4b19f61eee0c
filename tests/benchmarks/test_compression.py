"""The page of compression: tables cut out of one study, of results that can be counted by hand."""

import json

import pytest

from benchmarks import beyond, compression, compression_tables
from benchmarks.marks import ROOT
from benchmarks.recorded.studies import read

USERS = 1000


def cell(dataset, method, ratio, hr, variant="", **rows):
    name = f"{dataset}/{method}@{ratio:g}" + (f"~{variant}" if variant else "")
    place = {"id": name, "dataset": dataset, "dataset_title": dataset.upper(), "method": method}
    place |= {"ratio": ratio, "variant": variant, "seed": 0, "status": "done", "split": "time"}
    train = 0.0 if method == "prior" else 100.0 / ratio
    seconds = {"pretrain": 5.0, "select": 0.0, "train": train, "evaluate": 1.0, "validation": 0.0}
    size = {"train": 2000, "selected": round(2000 / ratio), **rows}
    measured = {"metrics": {"hr@10": hr, "ndcg@10": hr / 2}, "validation": {"hr@10": hr}}
    return place | measured | {"rows": size, "seconds": seconds | {"prepare": 0.0}}


def versus(dataset, a, b, mine, theirs, metric="hr@10"):
    """A comparison whose interval reaches four percent to either side."""
    relative = 100 * (mine / theirs - 1)
    verdict = "better" if relative > 4 else "worse" if relative < -4 else "cannot tell"
    numbers = {"difference": mine - theirs, "interval": [0, 0], "relative": relative}
    numbers |= {"relative_interval": [relative - 4, relative + 4], "verdict": verdict}
    numbers |= {"users": USERS, "p": 2e-4, "deviation": 0.2, "reference": theirs}
    return {"of": [f"scale/{dataset}/{a}", f"scale/{dataset}/{b}", metric], **numbers}


@pytest.fixture
def page(tmp_path):
    a = {
        ("gold", 1.0, ""): 0.10,
        ("prior", 1.0, ""): 0.15,
        ("random", 10.0, ""): 0.05,
        ("recipe", 1.0, ""): 0.20,
        ("recipe", 10.0, ""): 0.18,
        ("recipe", 100.0, ""): 0.16,
        ("recipe", 100.0, "as-trained"): 0.136,
        ("recipe", 100.0, "recent"): 0.17,
        ("auto", 10.0, ""): 0.19,
    }
    sizes = {"touched": 600, "bytes": 30, "bytes_of": 40}
    cells = [
        cell("a", method, ratio, hr, variant, **(sizes if method == "recipe" else {}))
        for (method, ratio, variant), hr in a.items()
    ]
    cells.append(cell("a-by-time", "prior", 1.0, 0.03))
    pairs = [(key, ("recipe", 1.0, "")) for key in a if key[0] == "recipe"]
    pairs += [(key, ("gold", 1.0, "")) for key in a if key[0] != "gold"]
    pairs.append((("recipe", 100.0, "recent"), ("recipe", 100.0, "as-trained")))
    pairs.append((("recipe", 100.0, "as-trained"), ("recipe", 100.0, "")))
    pairs += [(("recipe", ratio, ""), ("prior", 1.0, "")) for ratio in (1.0, 10.0, 100.0)]
    pairs += [(("prior", 1.0, ""), ("recipe", 1.0, "")), (("auto", 10.0, ""), ("prior", 1.0, ""))]
    of_ranks = [
        versus("a", *(f"{m}@{r:g}" + (f"~{v}" if v else "") for m, r, v in pair),
               *(a[key] for key in pair), metric)
        for pair in pairs
        for metric in ("hr@10", "ndcg@10")
    ]  # fmt: skip
    study = {"name": "scale", "title": "Scale", "layout": "grid", "baseline": "gold"}
    content = {"schema_version": 1, "study": study | {"second": ""}, "common": {}}
    content |= {"datasets": {"a": {}, "a-by-time": {}}, "cells": cells, "of_ranks": of_ranks}
    (tmp_path / "scale.json").write_text(json.dumps(content))
    return read(["scale"], tmp_path)


def rows(table):
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[text.strip() for text in line.strip("|").split(" | ")] for line in lines[2:]]


def test_a_set_is_one_line_in_short(page):
    table = compression.tables(page)["scale-short"]
    assert table.splitlines()[0].startswith("| set | Gold standard: HR@10 % | Random, 1/10 (time /")
    # Gold takes 105 s; a tenth 15, a hundredth 6, tables 5.
    assert rows(table) == [
        ["A", "10.00", "5.00 (0.143)", "–", "18.00 (0.143)", "16.00 (0.057)", "15.00 (0.048)"]
    ]


def test_what_is_left_out_stands_with_what_it_costs_and_saves(page):
    table = compression.tables(page)["scale-left"]
    # All take 105 s. 0.19 is 26.7% above the tables' 0.15.
    assert rows(table) == [
        [
            "A",
            "20.00",
            "90% (86 to 94) in 0.14",
            "80% (76 to 84) in 0.06",
            "75% (71 to 79) in 0.05",
            "+26.7%: better (+22.7 to +30.7%)",
        ]
    ]
    assert table.splitlines()[0].endswith("| auto, 1/10, over the tables alone |")
    assert "of 4 in this table, 4 say better or worse" in table


def test_a_share_stands_with_what_it_keeps_of_all_rows(page):
    table = compression.tables(page)["scale-curves"]
    assert rows(table) == [
        ["all", "2,000", "30.0%", "75% / –", "20.00 / 10.00", "–", "–", "–", "10.00 / 5.00", "–"],
        [
            "1/10",
            "200",
            "30.0%",
            "75% / –",
            "18.00 / 9.00",
            "90% (86 to 94)",
            "–",
            "–",
            "5.00 / 2.50",
            "50% (46 to 54)",
        ],
        ["1/100", "20", "30.0%", "75% / –", "16.00 / 8.00", "80% (76 to 84)", "–", "–", "–", "–"],
    ]
    assert table.startswith("A:\n\n")
    assert "of 3 in this table, 3 say better or worse" in table


def test_every_method_stands_beside_gold(page):
    assert rows(compression.tables(page)["scale-methods"]) == [
        ["Random, 1/10", "5.00 / 2.50 −"],
        ["Gold standard", "10.00 / 5.00"],
        ["Prior alone", "15.00 / 7.50 +"],
        ["Recipe, 1/10", "18.00 / 9.00 +"],
        ["Recipe, 1/100", "16.00 / 8.00 +"],
        ["auto, 1/10", "19.00 / 9.50 +"],
    ]


def test_what_tables_alone_reached_is_marked(page, tmp_path):
    assert not any("†" in table for table in compression.tables(page).values())
    content = json.loads((tmp_path / "scale.json").read_text())
    plain = {one["ratio"]: one for one in content["cells"] if not one["variant"]
             and one["method"] == "recipe"}  # fmt: skip
    plain[10.0]["kept"] = plain[100.0]["kept"] = "tables"
    content["cells"].append(plain[100.0] | {"id": "another", "seed": 1, "kept": "towers"})
    (tmp_path / "scale.json").write_text(json.dumps(content))
    tables = compression.tables(read(["scale"], tmp_path))
    assert rows(tables["scale-short"])[0][4:6] == ["18.00 † (0.143)", "16.00 ± 0.00 (†) (0.057)"]
    assert rows(tables["scale-curves"])[1][4] == "18.00 / 9.00 †"
    assert "16.00 ± 0.00 / 8.00 ± 0.00 (†) +" in tables["scale-methods"]
    assert all(
        "dropped" in tables[f"scale-{mark}"] for mark in ("short", "left", "curves", "methods")
    )
    assert "†" not in tables["scale-selections"]


def test_sets_that_are_split_by_time_stand_apart(page):
    assert rows(compression.tables(page)["scale-by-time"]) == [["Prior alone", "3.00 / 1.50"]]


def test_selections_stand_beside_a_uniform_one_whose_towers_are_kept_too(page):
    assert rows(compression.tables(page)["scale-selections"]) == [
        ["uniform", "13.60 / 6.80", "–", "30.0% / 75%"],
        ["recent", "17.00 / 8.50", "+25.0%: better (+21.0 to +29.0%)", "30.0% / 75%"],
    ]


def test_a_variant_that_keeps_its_towers_stands_beside_the_plain_one_that_does(page):
    found = {row[1]: row[2] for row in rows(beyond.parts(page.studies[0], page))}
    assert found == {
        "Recipe, 1/1": "Prior alone",
        "Recipe, 1/10": "Prior alone",
        "Recipe, 1/100": "Prior alone",
        "Recipe, 1/100, as-trained": "Recipe, 1/100",
        "Recipe, 1/100, recent": "Recipe, 1/100, as-trained",
    }


def test_costs_name_labels_what_they_refer_to_and_bytes(page):
    found = rows(compression.tables(page)["scale-costs"])
    none = ["–"] * 3
    assert found[0] == ["A", "Gold standard", "2,000", "100.0%", "–", "5.0+100", "1.000", *none]
    assert found[1] == ["A", "Recipe, all", "2,000", "30.0%", "75%", "5.0+100", "1.000", *none]
    assert found[2] == ["A", "Recipe, 1/10", "200", "30.0%", "75%", "5.0+10", "0.143", *none]
    assert found[-1] == ["A", "Prior alone", "0", "100.0%", "–", "5.0+0", "0.048", *none]


def test_costs_have_what_was_read_and_dollars(page):
    """Half an hour of a core is 0.02; 4 GiB for the 100 s that training took are 0.00056."""
    (study,) = page.studies
    used = {"cpu_seconds": 1800.0, "peak_memory_bytes": 4 * 2**30, "read_bytes": 3e6}
    cells = [
        cell.model_copy(update={"costs": {"train": used}}) if cell.method == "gold" else cell
        for cell in study.cells
    ]
    study = study.model_copy(update={"cells": tuple(cells)})
    grid = compression_tables.Grid(study, type(page)([study], {}))
    found = rows(compression_tables.costs(grid, {"a": "A"}))
    assert found[0][-2:] == ["2.9 MiB", "20.56"]


def test_what_the_study_has_not_is_said(page):
    assert compression.tables(page)["scale-content"] == "Not measured yet."
    page.studies = [page.studies[0].model_copy(update={"cells": page.studies[0].cells[:1]})]
    alone = type(page)(page.studies, {})
    assert compression.tables(alone)["scale-curves"] == "Not measured yet."


def test_what_has_no_figure_says_why(page):
    (study,) = page.studies
    states = {"prior": "failed", "auto": "missing"}
    cells = [
        cell.model_copy(update={"status": states[cell.method]})
        if cell.dataset == "a" and cell.method in states
        else cell
        for cell in study.cells
    ]
    absent = study.cells[0].model_copy(
        update={"id": "b", "dataset": "b", "dataset_title": "B", "status": "unavailable"}
    )
    study = study.model_copy(update={"cells": (*cells, absent)})
    grid = compression_tables.Grid(study, type(page)([study], page._found))
    table = compression_tables.methods(grid, {"a": "A"})
    found = dict(rows(table))
    assert "Prior alone" not in found  # no set has it
    assert table.splitlines()[-1] == "- B: not available."
    both = compression_tables.methods(grid, {"a": "A", "a-by-time": "A-BY-TIME"})
    assert ["Prior alone", "failed", "3.00 / 1.50"] in rows(both)
    assert ["Gold standard", "10.00 / 5.00", "–"] in rows(both)  # the grid does not ask for it


def test_users_that_would_tell_a_small_difference_are_counted(page):
    """(1.96 + 0.8416)^2 (0.2 / (0.02 x 0.1))^2 users, rounded to two digits."""
    assert (
        "A: to tell a difference of 2% with 80% power takes of HR@10 78,000 users"
        in (compression.tables(page)["scale-methods"])
    )


def test_every_table_has_its_place_on_the_page():
    text = (ROOT / compression.PAGE).read_text("utf-8")
    for mark in compression.DOCS["scale"].marks:
        assert text.count(f"<!-- {mark} -->\n") == 1


def test_the_picture_has_a_panel_a_method_and_one_of_time(page):
    (drawn,) = compression.pictures(page).values()
    for text in ("Recipe: what a share keeps", "Random: what a share keeps"):
        assert text in drawn
    assert "CADC: what a share keeps" not in drawn  # nothing was measured of it
    assert "Recipe: what a share takes" in drawn
    # A tenth reaches 0.18 of 0.20, in 15 of gold's 105 seconds.
    assert "A, Recipe on 1/10" in drawn
    assert "90.0% (86.0 to 94.0%)" in drawn
    assert "14.3% of the time" in drawn
    assert "A-BY-TIME" not in drawn
    assert drawn.count(">0</text>") == 3  # one scale: Recipe's values alone would not reach to 0
