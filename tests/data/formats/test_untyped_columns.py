"""A column of Parquet's type null has no values: missing where one is wanted, unknown elsewhere."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError

pytestmark = pytest.mark.slow  # together; each by itself is quick

N = 12
LOG = {
    "user_id": [n % 3 for n in range(N)],
    "item_id": list(range(N)),
    "at": list(range(100, 100 + N)),
}


@pytest.fixture
def prepared(prepare, tmp_path):
    """prepared(column, items=..., ...): the log with `column` of type null, prepared."""

    def run(column, items=None, **keys):
        path = tmp_path / "log.parquet"
        pq.write_table(pa.table({**LOG, column: pa.nulls(N)}), path)
        tables = {"interactions": {"path": str(path), "timestamp": "at", **keys}}
        if items is not None:
            file = tmp_path / "items.parquet"
            pq.write_table(pa.table({"item_id": LOG["item_id"], "a": pa.nulls(N)}), file)
            tables["items"] = {"path": str(file), **items}
        return prepare(source="tables", tables=tables)

    return run


@pytest.mark.parametrize(
    ("column", "keys"),
    [
        ("user_id", {}),
        ("item_id", {}),
        ("at", {}),
        ("stars", {"rating": "stars", "min_rating": 3}),
        ("weight", {"weight": "weight"}),
    ],
)
def test_where_a_value_is_wanted_it_is_missing(prepared, column, keys):
    with pytest.raises(CadcError) as refused:
        prepared(column, **keys)
    assert "unknown(" not in str(refused.value)
    assert "log.parquet" in str(refused.value)


@pytest.mark.parametrize("kind", ["categorical", "multi", "numeric", "hashed"])
def test_as_an_attribute_nothing_is_known(prepared, kind):
    artifact = prepared("extra", items={kind: ["a"]})
    (described,) = json.loads((artifact.path / "attributes.json").read_text())["item"]
    codes = pq.read_table(artifact.path / "items.parquet")["a"].to_pylist()
    assert described["name"] == "a"
    assert codes == [[] if kind == "multi" else 0] * N
