"""A day's attribute values are those of the dataset, in whatever type its file has them."""

from __future__ import annotations

import csv
import json
import math
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.prepare.vocabulary import hash_code
from cadc_rec.errors import CadcError
from tests.updates.conftest import after_day, base_dataset

pytestmark = pytest.mark.slow  # together; each by itself is quick

NAN = math.nan
ITEMS = ["i0", "i1", "i2"]
BASE = {
    "year": pa.array([2000.0, 2001.5, None]),
    "new": pa.array([True, False, None]),
    "shelf": pa.array([1, 2, 3]),
    "label": pa.array(["2000", "x", "7"]),
    "flag": pa.array(["True", "False", None]),
    "made": pa.array([date(2024, 1, 1), date(2024, 1, 2), None]),
    "version": pa.array(["1.1", "1.10", "2.0"]),
    "tags": pa.array([[1, 7], [2], None]),
    "seller": pa.array([2000.0, 5.0, None]),
    "owner": pa.array([True, None, None]),
}
CATEGORICAL = ["year", "new", "shelf", "label", "flag", "made", "version"]
TYPED = {
    "year": pa.array([2000, 2002]),
    "new": pa.array(["True", "FALSE"]),
    "shelf": pa.array([1.0, NAN]),
    "label": pa.array([2000.0, NAN]),
    "flag": pa.array([True, False]),
    "made": pa.array([datetime(2024, 1, 1), datetime(2024, 1, 2, 12)]),
    "version": pa.array(["1.10", "1.1"]),
    "tags": pa.array([[1.0, NAN], [7.0, 9.0]]),
    "seller": pa.array([2000, 5]),
    "owner": pa.array(["True", None]),
}
TEXT = {
    "year": ["2000", "2001.50"],
    "new": ["true", "False"],
    "shelf": ["1.0", ""],
    "label": ["2000", "7"],
    "flag": ["true", "FALSE"],
    "made": ["2024-01-01", "2024-01-02 00:00:00"],
    "version": ["2.0", "1.10"],
    "tags": ["7|2.0", "1"],
    "seller": ["2000", "5.0"],
    "owner": ["TRUE", ""],
}


@pytest.fixture
def base(tmp_path):
    """The config and the dataset of three items, and a function that makes a day's folder."""
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "log.parquet", {"user_id": ["u", "u", "u"], "item_id": ITEMS, "at": [1, 2, 3]})
    write(raw / "items.parquet", {"item_id": ITEMS, **BASE})
    tables = {
        "interactions": {"path": str(raw / "log.parquet"), "timestamp": "at"},
        "items": {
            "path": str(raw / "items.parquet"),
            "categorical": CATEGORICAL,
            "multi": ["tags"],
            "hashed": ["seller", "owner"],
            "hash_codes": 1000,
        },
    }
    config = DataConfig.model_validate({"source": "tables", "tables": tables})
    return config, base_dataset(tmp_path, config)


def write(path, columns):
    pq.write_table(pa.table(columns), path)


def a_day(folder, items, suffix="parquet"):
    folder.mkdir()
    write(
        folder / "interactions.parquet",
        {"user_id": ["u"] * 2, "item_id": ["n0", "n1"], "at": [4, 5]},
    )
    columns = {"item_id": ["n0", "n1"], **items}
    if suffix == "parquet":
        write(folder / "items.parquet", columns)
    else:
        with (folder / "items.csv").open("w", newline="") as out:
            csv.writer(out).writerows([list(columns), *zip(*columns.values(), strict=True)])
    return folder


def described(artifact):
    entries = json.loads((artifact.path / "attributes.json").read_text())["item"]
    return {entry["name"]: entry["vocabulary"] for entry in entries}


def codes(artifact):
    found = pq.read_table(artifact.path / "items.parquet").to_pydict()
    return {name: values[-2:] for name, values in found.items()}


def test_a_value_of_another_type_has_the_code_that_it_had(base, tmp_path):
    config, before = base
    made = after_day(tmp_path, config, before, a_day(tmp_path / "day", TYPED))
    was, now, code = described(before), described(made), codes(made)
    new = {"year": ["2002.0"], "made": ["2024-01-02 12:00:00"], "tags": ["9"]}
    assert {name: now[name][len(was[name]) :] for name in new} == new
    assert {name: now[name] for name in was if name not in new} == {
        name: was[name] for name in was if name not in new
    }
    assert code["year"] == [1, 3]
    assert code["new"] == [now["new"].index(value) + 1 for value in ("true", "false")]
    assert code["shelf"] == [1, 0]
    assert code["label"] == [now["label"].index("2000") + 1, 0]
    assert code["flag"] == [now["flag"].index(value) + 1 for value in ("True", "False")]
    assert code["made"] == [1, 3]
    assert code["version"] == [now["version"].index(value) + 1 for value in ("1.10", "1.1")]
    assert [sorted(row) for row in code["tags"]] == [
        [now["tags"].index("1") + 1],
        sorted(now["tags"].index(value) + 1 for value in ("7", "9")),
    ]
    assert code["seller"] == [hash_code("2000.0", 1000), hash_code("5.0", 1000)]
    assert code["owner"] == [hash_code("true", 1000), 0]
    assert made.info["update"]["new_values"] == 3


def test_a_day_in_text_has_the_codes_that_its_values_had(base, tmp_path, caplog):
    caplog.set_level("INFO")
    config, before = base
    first = after_day(tmp_path, config, before, a_day(tmp_path / "day", TEXT, "csv"))
    assert described(first) == described(before)
    assert first.info["update"]["new_values"] == 0
    now, code = described(first), codes(first)
    for name, values in {
        "year": ("2000.0", "2001.5"),
        "new": ("true", "false"),
        "label": ("2000", "7"),
        "flag": ("True", "False"),
        "made": ("2024-01-01", "2024-01-02"),
        "version": ("2.0", "1.10"),
    }.items():
        assert code[name] == [now[name].index(value) + 1 for value in values], name
    assert code["shelf"] == [1, 0]
    assert code["seller"] == [hash_code("2000.0", 1000), hash_code("5.0", 1000)]
    assert code["owner"] == [hash_code("true", 1000), 0]
    assert "nobody had before" not in caplog.text


def test_a_text_where_whole_numbers_were_is_refused_by_value(base, tmp_path):
    config, before = base
    folder = a_day(tmp_path / "day", {**TEXT, "shelf": ["1", "low"]}, "csv")
    words = "column shelf: its values were whole numbers of 64 bits, and 'low' in the new table"
    with pytest.raises(CadcError, match=words):
        after_day(tmp_path, config, before, folder)


def test_new_values_are_told(base, tmp_path, caplog):
    caplog.set_level("INFO")
    config, before = base
    after_day(
        tmp_path, config, before, a_day(tmp_path / "day", {**TEXT, "label": ["new", "8"]}, "csv")
    )
    assert "items: label has values nobody had before: '8', 'new'" in caplog.text


def test_a_day_may_have_ids_and_times_of_19_digits(tmp_path):
    raw, snow, time = tmp_path / "raw", 1_790_000_000_000_000_001, 1_704_067_200 * 10**9
    raw.mkdir()
    write(raw / "log.parquet", {"user_id": [snow] * 3, "item_id": [1, 2, 3], "at": [time] * 3})
    log = {"path": str(raw / "log.parquet"), "timestamp": "at"}
    config = DataConfig.model_validate({"source": "tables", "tables": {"interactions": log}})
    before = base_dataset(tmp_path, config)
    folder = tmp_path / "day"
    folder.mkdir()
    rows = f"user_id,item_id,at\n{snow},{snow + 1},{time + 1}\n{snow + 2},1,{time + 2}\n"
    (folder / "interactions.csv").write_text(rows)
    made = after_day(tmp_path, config, before, folder)
    assert pq.read_table(made.path / "users.parquet")["user_id"].to_pylist() == [snow, snow + 2]
    assert pq.read_table(made.path / "items.parquet")["item_id"].to_pylist() == [1, 2, 3, snow + 1]
