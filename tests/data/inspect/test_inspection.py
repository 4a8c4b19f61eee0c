"""What `inspect` counts, what it takes tables for, and that its config runs."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cadc_rec.cli.main import app
from cadc_rec.config.file import load_experiment
from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path
from cadc_rec.data.inspect.starting_config import starting_config
from cadc_rec.errors import CadcError

# 12 events of 4 customers; customer a takes pen twice, d has two items only.
EVENTS = """\
customer_id,sku,created_at,stars
a,pen,2024-01-01,5
a,ink,2024-01-02,4
a,cap,2024-01-03,4
a,pen,2024-01-04,3
b,pen,2024-01-01,5
b,ink,2024-01-02,1
b,cap,2024-01-03,2
c,pen,2024-01-01,5
c,ink,2024-01-02,
c,box,2024-01-03,2
d,pen,2024-01-01,5
d,ink,2024-01-02,1
"""
CUSTOMERS = "customer_id,plan,age,zip\n" + "".join(
    f"{name},{plan},{age},{code}\n"
    for name, plan, age, code in [
        *[(chr(97 + n), ("free", "pro")[n % 2], 20 + n, f"0{n}123") for n in range(25)],
        ("z", "free", "n/a", "99999"),
    ]
)
PRODUCTS = "id,name,tags\n" + "".join(
    f"{sku},The {sku},{tags}\n"
    for sku, tags in [("pen", "a|b"), ("ink", "b|c"), ("cap", "a|c"), ("box", "c|a"), ("jar", "a")]
)


@pytest.fixture
def folder(raw_folder: Path) -> Path:
    (raw_folder / "events.csv").write_text(EVENTS)
    (raw_folder / "customers.csv").write_text(CUSTOMERS)
    (raw_folder / "products.csv").write_text(PRODUCTS)
    return raw_folder


def test_tables_are_told_apart_and_counted(folder):
    found = inspect_path(str(folder), USUAL, None)
    roles = found.roles
    assert roles.interactions.files.files == (folder / "events.csv",)
    assert (roles.user, roles.item) == ("customer_id", "sku")
    assert (roles.timestamp, roles.rating) == ("created_at", "stars")
    assert found.repeated_pairs == 1
    assert (found.users_below_three, found.held_out_users) == (1, 3)
    assert found.median_items == 3, "a, b and c took three items, d two"
    # pen 5, ink 4, cap 2, box 1
    assert list(found.popularity) == [(1, 1, 1), (2, 1, 2), (4, 2, 9)]
    stars = roles.interactions.column("stars")
    assert (stars.known, stars.distinct, stars.least, stars.greatest) == (11, 5, "1", "5")
    assert (roles.users.id, roles.users.title) == ("customer_id", "")
    guesses = {g.column: (g.kind, g.missing) for g in roles.users.guesses}
    assert guesses == {
        "plan": ("categorical", ()),
        "age": ("numeric", ("n/a",)),
        "zip": (None, ()),
    }
    age = next(g for g in roles.users.guesses if g.column == "age")
    assert age.why == "numbers, 25 different, 20 to 44"
    assert (roles.items.id, roles.items.title) == ("id", "name")
    assert [(g.column, g.kind, g.separator) for g in roles.items.guesses] == [
        ("tags", "multi", "|")
    ]


def _log(folder: Path, users: int, items: int, stamp: str) -> Path:
    """A log in which every user took the same number of items."""
    rows = [
        f"{user},{item}" + stamp.format(place=item, clock=60 * item * (user + 1))
        for user in range(users)
        for item in range(items)
    ]
    header = "user,item,ts" if stamp else "user,item"
    (folder / "log.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder / "log.csv"


@pytest.mark.parametrize(
    ("users", "items", "stamp", "found"),
    [
        (200, 4, ",{place}", ["order", "short", "none"]),
        (200, 4, ",{clock}", ["clock", "short", "none"]),
        (200, 35, "", ["none", "short", "none"]),
        (200, 36, "", ["none", "between", "none"]),
        (199, 65, "", ["none", "long", "few", "none"]),
    ],
)
def test_it_says_which_methods_fit(raw_folder, users, items, stamp, found):
    inspected = inspect_path(str(_log(raw_folder, users, items, stamp)), USUAL, None)
    advice = inspected.advice()
    assert [one.finding for one in advice] == found
    assert f"(median {items} items a user)" in advice[1].text
    config = inspected.config()
    assert all(f"# Note: {one.text}.\n" in config for one in advice)
    assert tomllib.loads(config)["method"] == "auto"


def test_the_config_it_writes_prepares_and_has_what_was_guessed(folder, prepare, tmp_path):
    roles = inspect_path(str(folder), USUAL, None).roles
    path = tmp_path / "mine.toml"
    path.write_text(starting_config(roles, folder), "utf-8")
    experiment = load_experiment(path)
    assert experiment.data.tables.interactions.path == "events.csv"
    assert experiment.data.tables.users.missing == ("n/a",)
    settings = tomllib.loads(path.read_text("utf-8"))["data"]
    artifact = prepare(**settings)
    described = json.loads((artifact.path / "attributes.json").read_text("utf-8"))
    assert [(a["name"], a["kind"]) for a in described["user"]] == [
        ("plan", "categorical"),
        ("age", "numeric"),
    ]
    assert pq.read_table(artifact.path / "items.parquet")["title"].to_pylist() == [
        *("The box", "The cap", "The ink", "The pen"),
        "The jar",  # nobody took it
    ]
    assert artifact.info["duplicates_dropped"] == 1


@pytest.mark.slow
def test_parts_are_one_table_and_stay_one_in_the_config(raw_folder):
    (raw_folder / "log").mkdir()
    for n in range(3):
        table = pa.table({"user": [n, n], "item": ["x", "y"], "ts": [1, 2]})
        pq.write_table(table, raw_folder / f"log/part-{n}.parquet")
        pq.write_table(table, raw_folder / f"part-{n}.parquet")
    (raw_folder / "users.csv").write_text("user,plan\n0,a\n1,b\n2,a\n")
    found = inspect_path(str(raw_folder / "log"), USUAL, None)
    assert [(table.rows, len(table.files.files)) for table in found.tables] == [(6, 3)]
    assert 'path = "log"\n' in starting_config(found.roles, raw_folder)
    found = inspect_path(str(raw_folder / "*.*"), USUAL, None)
    assert sorted(table.rows for table in found.tables) == [3, 6]
    assert 'path = "part-*.parquet"\n' in starting_config(found.roles, raw_folder)


def test_without_interactions_there_is_no_config(raw_folder):
    (raw_folder / "a.csv").write_text(",x,y\n0,1,2\n")  # as pandas writes its index
    found = inspect_path(str(raw_folder / "a.csv"), USUAL, None)
    with pytest.raises(CadcError, match="no table names both a user and an item"):
        starting_config(found.roles, None)


def test_the_command_prints_tables_or_one_json_object_and_keeps_what_is_there(folder, tmp_path):
    out = tmp_path / "mine.toml"
    run = CliRunner().invoke
    shown = run(app, ["inspect", str(folder), "--out", str(out)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "events.csv: interactions, 12 rows" in shown.output
    assert "categorical: 2 values in 26 rows" in shown.output
    assert "method: histories are short (median 3 items a user)" in shown.output
    written = out.read_text("utf-8")
    assert 'categorical = ["plan"]' in written
    again = run(app, ["inspect", str(folder), "--out", str(out)])
    assert isinstance(again.exception, CadcError)
    assert out.read_text("utf-8") == written
    shown = run(app, ["inspect", str(folder), "--json"])
    document = json.loads(shown.stdout)
    assert {table["role"] for table in document["tables"]} == {"interactions", "users", "items"}
    assert document["median_items"] == 3
    assert {one["about"]: one["finding"] for one in document["advice"]} == {
        "times": "clock",  # so few users tell too little
        "histories": "short",
        "users": "few",
        "attributes": "items",
    }
    assert document["popularity"][0] == {"from": 1, "items": 1, "rows": 1}


@pytest.mark.slow
def test_tables_that_do_not_meet_are_named_and_the_config_mends_them(raw_folder, prepare, tmp_path):
    rows = EVENTS.splitlines()
    sku = {"pen": "1.0", "ink": "2.0", "cap": "3.0", "box": "4.0"}
    events = [rows[0], *(",".join(sku.get(part, part) for part in r.split(",")) for r in rows[1:])]
    (raw_folder / "events.csv").write_text("\n".join(events) + "\n")
    (raw_folder / "products.csv").write_text(
        "sku,kind\n" + "".join(f"{n},k\n" for n in range(1, 6))
    )
    found = inspect_path(str(raw_folder), USUAL, None)
    (met,) = found.meetings
    assert met.counts() == {
        "item_rows": 5,
        "item_rows_without_interactions": 5,
        "interactions_without_item_row": 12,
    }
    assert (met.reason, met.examples) == (("integer-like",), ("1", "1.0"))
    config = tmp_path / "shop.toml"
    config.write_text(found.config())
    assert "\n# item ids: '1' in the table is written '1.0' in the interactions\n" in found.config()
    data = load_experiment(config).data
    made = prepare(source="tables", tables=data.tables.model_dump())
    assert made.info["item_rows_without_interactions"] == 1, "nobody took number 5"
