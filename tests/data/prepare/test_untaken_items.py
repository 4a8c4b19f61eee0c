"""Items that nobody took yet stay in the catalogue, behind the others, and change nothing else."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.tables import ItemsTable
from cadc_rec.data.dataset import Dataset
from tests.data.own_tables import ids
from tests.data.prepare.test_spark import SPARK

TAKEN = ["b", "d", "f"]
LOG = "who,what,when\n" + "".join(
    f"u{n},{item},{n + 10 * k}\n" for n in range(4) for k, item in enumerate(TAKEN)
)
# Nobody took g, a, e and c; blue, green and new are theirs alone.
ITEMS = """\
item_id,colour,tags,price,maker
g,blue,x|new,99,m1
b,red,x,1,m2
a,red,,,m3
d,grey,x|y,2,m4
e,green,z|y,0.5,
f,red,y,3,m1
c,,new,2.5,m9
"""
TABLE = {
    "path": "items.csv",
    "categorical": ["colour"],
    "multi": ["tags"],
    "numeric": ["price"],
    "hashed": ["maker"],
    "hash_codes": 8,
}


def described(artifact):
    sides = json.loads((artifact.path / "attributes.json").read_text("utf-8"))
    return {entry["name"]: entry for entry in sides["item"]}


@pytest.fixture
def catalogue(tables, raw_folder):
    """catalogue(keep=...): the dataset of LOG and ITEMS."""

    def make(workdir="work", keep="all", **settings):
        (raw_folder / "items.csv").write_text(ITEMS)
        items = {**TABLE, "keep": keep}
        return tables(content=LOG, items=items, workdir=workdir, **settings)

    return make


def test_they_are_counted_and_follow_the_others_in_ascending_order(catalogue):
    made = catalogue()
    assert ids(made, "item") == ["b", "d", "f", "a", "c", "e", "g"]
    assert (made.info["items"], made.info["untaken_items"]) == (3, 4)
    left_out = catalogue("taken", keep="taken")
    assert ids(left_out, "item") == ["b", "d", "f"]
    assert "untaken_items" not in left_out.info
    assert left_out.info["untaken_items_left_out"] == 4


def test_codes_are_those_of_the_taken_and_other_values_come_behind_them(catalogue):
    made, taken = catalogue(), catalogue("taken", keep="taken")
    ours, theirs = described(made), described(taken)
    assert theirs["colour"]["vocabulary"] == ["grey", "red"]
    assert ours["colour"]["vocabulary"] == ["grey", "red", "blue", "green"]
    assert theirs["tags"]["vocabulary"] == ["x", "y"]
    assert ours["tags"]["vocabulary"] == ["x", "y", "new", "z"]
    assert ours["price"] == theirs["price"]
    assert ours["price"]["vocabulary"] == [1, 2, 3]
    assert ours["maker"] == theirs["maker"]
    assert {n: e["size"] for n, e in ours.items()} == {n: e["size"] for n, e in theirs.items()}
    rows = pq.read_table(made.path / "items.parquet").to_pydict()
    assert rows["colour"] == [2, 1, 2, 2, 0, 4, 3]
    assert rows["tags"] == [[1], [1, 2], [2], [], [3], [2, 4], [3, 1]]
    assert rows["price"] == [1, 2, 3, 0, 2, 0, 3]
    assert rows["price:value"] == [1, 2, 3, None, 2.5, 0.5, 99], "a service filters by it"


@pytest.mark.slow
def test_what_learns_and_measures_sees_the_same_dataset(catalogue):
    made, taken = catalogue(), catalogue("taken", keep="taken")
    same = [*taken.path.glob("train/*"), *(taken.path / f"{n}.parquet" for n in ("val", "test"))]
    for file in [*same, taken.path / "users.parquet"]:
        assert (made.path / file.relative_to(taken.path)).read_bytes() == file.read_bytes()
    ours, theirs = Dataset.open(made), Dataset.open(taken)
    assert (ours.n_items, ours.n_untaken, theirs.n_untaken) == (3, 4, 0)
    assert ours.item_ids().to_pylist() == TAKEN
    for mine, other in zip(ours.item_attributes, theirs.item_attributes, strict=True):
        assert (mine.name, mine.kind, mine.size) == (other.name, other.kind, other.size)
        assert mine.indptr.tolist() == other.indptr.tolist()
        assert mine.values.tolist() == other.values.tolist()
    assert theirs.untaken_attributes()[0].values.tolist() == []


def test_a_value_that_no_taken_item_had_is_unknown_to_the_towers(catalogue):
    colour, tags, price, maker = Dataset.open(catalogue()).untaken_attributes()
    assert colour.values.tolist() == [2, 0, 0, 0]
    assert tags.indptr.tolist() == [0, 0, 0, 1, 2]
    assert tags.values.tolist() == [2, 1], "of e and of g; nothing is left of c's"
    assert price.values.tolist() == [0, 2, 0, 3]
    assert maker.values.max() <= 8
    assert maker.values.dtype == np.int32


def test_what_a_k_core_removed_nobody_took(catalogue, tables, raw_folder):
    rare = LOG + "u0,a,70\n"
    (raw_folder / "items.csv").write_text(ITEMS)
    made = tables(content=rare, items=TABLE, k_core=2)
    assert ids(made, "item") == ["b", "d", "f", "a", "c", "e", "g"]
    assert made.info["untaken_items"] == 4
    assert made.info["item_rows_without_interactions"] == 3, "one row met what the core removed"


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"title": "name"}, False),
        ({}, False),
        ({"keep": "all"}, True),
        ({"categorical": ["a"]}, True),
        ({"multi": ["a"]}, True),
        ({"numeric": ["a"]}, True),
        ({"hashed": ["a"]}, True),
        ({"hashed": ["a"], "keep": "taken"}, False),
    ],
)
def test_they_are_kept_by_default_where_items_have_attributes(settings, kept):
    assert ItemsTable.model_validate({"path": "items.csv", **settings}).keeps_all is kept


def test_a_table_without_attributes_can_be_kept_too(tables, raw_folder):
    (raw_folder / "items.csv").write_text("item_id\nz\nd\n")
    made = tables(content=LOG, items={"path": "items.csv", "keep": "all"})
    assert ids(made, "item") == ["b", "d", "f", "z"]


@pytest.mark.slow
def test_spark_gives_the_same_bytes(catalogue):
    pytest.importorskip("pyspark")
    ours, theirs = catalogue(), catalogue("spark", engine="spark", spark=SPARK)
    assert theirs.fingerprint == ours.fingerprint
    assert theirs.info == ours.info
