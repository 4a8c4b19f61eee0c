"""The table of cold items: shares, baselines and verdicts worked out by hand."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import cold
from cadc_rec.errors import CadcError
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.report import write_report
from cadc_rec.study.report.study_data import load_studies

USERS = 200


def add(study, seed, hits, variant="", control=False, baselines=None, dropout=0.0):
    """A recipe's cell; of 200 users the first so many have rank 1 among the cold, and among all."""
    name = f"cold{variant}{seed}"
    columns = {f"among_{of}": n for of, n in zip(("cold", "all"), hits, strict=True)}
    columns |= baselines or {}
    users = np.arange(USERS)
    ranks = {key: np.where(users < n, 1, 11) for key, n in columns.items()}
    # Validation rows, which the table leaves out, would be hits of everybody.
    of = np.repeat(["validation", "test"], USERS)
    table = {"user_id": np.tile(users, 2), "item": np.zeros(2 * USERS, int), "of": of}
    table |= {key: np.concatenate([np.ones(USERS, int), each]) for key, each in ranks.items()}
    pq.write_table(pa.table(table), study.folder / "ranks" / f"{name}.parquet")
    more = {"variant": variant, "cold_ranks": f"ranks/{name}.parquet"}
    more["cold"] = {"items": 9, "control": control, "test": {}}
    more["config"] = {
        "seed": seed,
        "data": {"cold_control": control, "cold_items": 0.1},
        "model": {"cold_dropout": dropout},
        "train": {"epochs": 3},
    }
    study.add_done("ml-1m", "recipe", "init_frozen", 10.0, seed, 70, (1.0, 0.0, 9.0), **more)


def columns_of(study):
    table = (
        (write_report(study.folder).page.parent / "cold-table.md").read_text().replace("\\_", "_")
    )
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    titles, rows = lines[0], lines[2:]
    return titles, {row[0]: row for row in rows}


def test_cold_items_stand_beside_both_baselines_and_what_they_reach_when_known(new_study):
    study = new_study(layout="grid", baseline="recipe")
    baselines = {
        "attribute_popularity_among_cold": 10,
        "neighbours_among_cold": 62,
        "attribute_popularity_among_all": 4,
        "neighbours_among_all": 30,
    }
    add(study, 0, (60, 28), baselines=baselines)
    add(study, 1, (64, 32), baselines=baselines)
    add(study, 0, (120, 40), variant="known", control=True)
    add(study, 1, (120, 40), variant="known", control=True)
    titles, rows = columns_of(study)
    mine, known = rows["Recipe"], rows["Recipe, known"]
    place = titles.index("HR@10 % among cold")
    assert mine[place] == "31.00 ± 1.41"  # 60 and 64 of 200
    beside = [
        *("attribute popularity", "attribute popularity: verdict"),
        *("neighbours", "neighbours: verdict"),
    ]
    assert titles[place + 1 : place + 5] == beside
    assert mine[place + 1] == "5.00"
    assert mine[place + 2].startswith("better (")
    assert mine[place + 3] == "31.00"
    assert mine[place + 4].startswith("cannot tell (")  # 62 users on average, both
    assert mine[titles.index("HR@10 % among all")] == "15.00 ± 1.41"
    assert mine[titles.index("of known %")] == "75"  # 30 of 40
    assert known[place + 1] == "–"
    assert known[titles.index("of known %")] == "–"
    page = (study.folder / "report" / "index.html").read_text()
    assert "Cold items" in page


def test_a_control_counts_over_the_common_seeds_and_is_named_with_its_settings(new_study):
    study = new_study(layout="grid", baseline="recipe")
    add(study, 0, (60, 30))
    add(study, 1, (60, 60))
    add(study, 0, (60, 20), variant="dropout", dropout=0.5)
    add(study, 0, (120, 40), variant="known", control=True, dropout=0.5)
    add(study, 2, (120, 90), variant="known", control=True, dropout=0.5)
    titles, rows = columns_of(study)
    share, named = titles.index("of known %"), titles.index("known in")
    assert rows["Recipe"][share] == "75"  # 30 of 40, of seed 0 alone
    assert rows["Recipe"][named] == "known; seeds 0; model.cold_dropout = 0.5"
    assert rows["Recipe, dropout"][share] == "50"
    assert rows["Recipe, dropout"][named] == "known"
    add(study, 0, (120, 60), variant="known-plain", control=True)
    titles, rows = columns_of(study)
    assert rows["Recipe"][share] == "50"
    assert rows["Recipe"][named] == "known-plain; seeds 0"
    assert rows["Recipe, dropout"][named] == "known"


def test_a_record_has_the_same_table_without_the_ranks(new_study, tmp_path):
    study = new_study("studies/cold", layout="grid", baseline="recipe")
    study.head["name"] = "cold"
    baselines = {"neighbours_among_cold": 62, "attribute_popularity_among_all": 4}
    add(study, 0, (60, 28), baselines=baselines)
    add(study, 1, (64, 32), baselines=baselines, dropout=0.5)
    add(study, 0, (120, 40), variant="known", control=True)
    before = cold.cold_tables(Comparisons(load_studies(study.folder)))
    assert "known; seeds 0" in before["cold"]
    (file,) = cold.DOCS["cold"].record(study.folder.parent, tmp_path)
    shutil.rmtree(study.folder)
    assert cold.cold_tables(cold.DOCS["cold"].recorded(file.parent)) == before


def test_a_study_without_cold_items_has_no_such_table(new_study):
    study = new_study(layout="grid")
    study.add_done("ml-1m", "gold", None, 1.0, 0, 70, (1.0, 0.0, 9.0))
    report = write_report(study.folder)
    assert not (report.page.parent / "cold-table.md").exists()
    assert "Cold items" not in report.page.read_text()


def test_ranks_of_cold_items_that_cannot_be_read_name_the_file(new_study):
    study = new_study(layout="grid")
    add(study, 0, (60, 28))
    (study.folder / "ranks" / "cold0.parquet").write_text("no Parquet")
    with pytest.raises(CadcError, match=r"cold0\.parquet: cannot be read as ranks of cold items"):
        write_report(study.folder)
