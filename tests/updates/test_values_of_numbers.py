"""The values of numeric attributes follow a day, beside codes whose buckets stay."""

import pyarrow as pa

from cadc_rec.updates.entities import GrownIds, grown_entities

PRICE = {"name": "price", "kind": "numeric", "size": 3, "vocabulary": [1.0, 10.0]}
BEFORE = {"item_id": ["a", "b", "c"], "price": pa.array([1, 2, 0], pa.int32())}


def grown(before, **day):
    ids = GrownIds(pa.array(["a", "b", "c"]), pa.array(["d", "e"]))
    came = pa.table({"item_id": ["d", "b"], **day})
    return grown_entities("item", pa.table(before), ids, came, [PRICE]).rows.to_pydict()


def test_known_items_take_the_days_values_and_new_ones_have_theirs():
    before = {**BEFORE, "price:value": pa.array([2.5, 11.0, None])}
    rows = grown(before, price=pa.array([12.25, 0.5]))
    assert rows["item_id"] == ["a", "b", "c", "d", "e"]
    assert rows["price"] == [1, 0, 0, 2, 0]
    assert rows["price:value"] == [2.5, 0.5, None, 12.25, None]


def test_a_dataset_without_values_gets_none():
    rows = grown(BEFORE, price=pa.array([12.25, 0.5]))
    assert list(rows) == ["item_id", "price"]
    assert rows["price"] == [1, 0, 0, 2, 0]
