"""Tables whose ids do not meet are counted and said; on request their ids are written alike."""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.dataset import Dataset
from tests.data.own_tables import ids
from tests.data.prepare.test_spark import SPARK

pytestmark = pytest.mark.slow  # together; each by itself is quick

# Of each kind: the log's ids, the table's ids of the same items, the form, and what both become.
KINDS = {
    "floats": (["101.0", "102.0", "103.0"], ["101", "102", "103"], "integer-like", [101, 102, 103]),
    "zeros": (["1", "2", "3"], ["001", "002", "03"], "integer-like", [1, 2, 3]),
    "spaces": (["a", "b", "c"], ["a ", " b", "c\u00a0"], "trim", ["a", "b", "c"]),
    "accents": (["\u00e9", "\u00e8", "\u00ea"], ["e\u0301", "e\u0300", "e\u0302"], "nfc", None),
}


def log_of(items: list[str]) -> str:
    """Four users who took every item once."""
    rows = [f"u{n},{item},{n + 10 * k}" for n in range(4) for k, item in enumerate(items)]
    return "who,what,when\n" + "\n".join(rows) + "\n"


def table_of(items: list[str]) -> str:
    return "item_id,kind\n" + "".join(f"{item},k{n}\n" for n, item in enumerate(items))


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_meet_is_counted_and_mended_on_request(kind, tables, raw_folder, caplog):
    log, table, form, wanted = KINDS[kind]
    (raw_folder / "items.csv").write_text(table_of(table))
    items = {"path": "items.csv", "categorical": ["kind"]}
    with caplog.at_level(logging.INFO, "cadc_rec"):
        apart = tables(content=log_of(log), items=items)
    assert apart.info["item_rows_without_interactions"] == 3
    assert apart.info["interactions_without_item_row"] == 12
    lines = [line for line in caplog.messages if "meet" in line]
    assert len(lines) == 1
    assert f'set data.tables.normalize_ids = ["{form}"]' in lines[0]
    caplog.clear()
    with caplog.at_level(logging.INFO, "cadc_rec"):
        met = tables(items=items, normalize_ids=[form], workdir="met")
    assert met.info["item_rows_without_interactions"] == 0
    assert met.info["interactions_without_item_row"] == 0
    assert not [line for line in caplog.messages if "meet" in line]
    assert sorted(ids(met, "item")) == sorted(wanted or log)
    codes = Dataset.open(met).item_attributes[0].values
    assert sorted(codes) == [1, 2, 3], "every item has the attribute of its own row"


def test_a_log_of_floats_meets_a_table_of_integers(tables, raw_folder):
    """A missing value made pandas write the ids of the log as floats."""
    log = {"who": [7.0] * 3 + [8.0] * 3, "what": [1.0, 2.0, 3.0] * 2, "when": range(6)}
    pq.write_table(pa.table(log), raw_folder / "log.parquet")
    pq.write_table(
        pa.table({"item_id": [1, 2, 3], "kind": ["a", "b", "c"]}), raw_folder / "i.parquet"
    )
    items = {"path": "i.parquet", "categorical": ["kind"]}
    made = tables("log.parquet", items=items, normalize_ids=["integer-like"])
    assert (ids(made, "user"), ids(made, "item")) == ([7, 8], [1, 2, 3])
    assert made.info["interactions_without_item_row"] == 0


def test_users_and_rows_that_meet_partly_are_counted_too(tables, raw_folder, caplog):
    (raw_folder / "users.csv").write_text("user_id,plan\nu0,a\nu1,b\nu9,a\n")
    with caplog.at_level(logging.INFO, "cadc_rec"):
        made = tables(
            content=log_of(["a", "b", "c"]), users={"path": "users.csv", "categorical": ["plan"]}
        )
    assert made.info["user_rows"] == 3
    assert made.info["user_rows_without_interactions"] == 1
    assert made.info["interactions_without_user_row"] == 6
    assert "users: 1 of 3 rows of the users' table meet no interaction, and 6 of 12" in caplog.text


def test_what_is_below_the_least_rating_meets_nothing(tables, raw_folder):
    (raw_folder / "items.csv").write_text(table_of(["a", "b", "c", "d"]))
    rows = "".join(
        f"u{n},{item},{n},{5 if item != 'd' else 1}\n" for n in range(3) for item in "abcd"
    )
    made = tables(
        content="who,what,when,stars\n" + rows,
        items={"path": "items.csv", "categorical": ["kind"]},
        interactions={"rating": "stars", "min_rating": 3.0},
    )
    assert made.info["item_rows_without_interactions"] == 1


def test_two_spellings_of_one_row_are_one_id_twice(tables, raw_folder):
    (raw_folder / "items.csv").write_text("item_id,kind\na,x\na ,y\n")
    settings = {
        "items": {"path": "items.csv", "categorical": ["kind"]},
        "normalize_ids": ["trim"],
        "on_bad_row": "reject",
    }
    made = tables(content=log_of(["a", "b", "c"]), **settings)
    assert made.info["rejected_items"] == 1


@pytest.mark.slow
def test_spark_counts_and_mends_the_same(tables, raw_folder):
    pytest.importorskip("pyspark")
    log, table, form, _ = KINDS["floats"]
    (raw_folder / "items.csv").write_text(table_of([*table, "999"]))
    items = {"path": "items.csv", "categorical": ["kind"]}
    for forms in ([], [form]):
        ours, theirs = (
            tables(
                content=log_of(log),
                items=items,
                normalize_ids=forms,
                workdir=f"{name}{(*forms,)}",
                engine=name,
                spark=SPARK,
            )
            for name in ("duckdb", "spark")
        )
        assert theirs.fingerprint == ours.fingerprint
        assert theirs.info == ours.info
        assert ours.info["item_rows_without_interactions"] == (1 if forms else 4)
