"""Vectors, texts and numbers over a day: known items keep theirs, others have what the day says.

The expected values are worked out by NumPy from the tables and the first dataset's scales.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.prepare.text import HashedNgrams
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.store.artifact import run_stage
from cadc_rec.updates.dataset import build_updated_dataset
from cadc_rec.updates.day import find_day

RNG = np.random.default_rng(5)
PICTURES, SHAPES = RNG.normal(size=(60, 3)), RNG.normal(size=(60, 5))
ITEMS = {
    "path": "items.parquet",
    "vector": ["picture"],
    "vector_precision": "float16",
    "continuous": ["price"],
    "text": ["words"],
    "vector_files": {"shape": {"path": "shape.npy", "ids": "shape.txt"}},
}


def stock(numbers, price):
    """Items by number; every fourth has no picture, every third no words."""
    return pa.table(
        {
            "item_id": [f"i{n:02}" for n in numbers],
            "picture": [PICTURES[n].tolist() if n % 4 else None for n in numbers],
            "price": [float(price + n) for n in numbers],
            "words": [f"a hat of size {n}" if n % 3 else None for n in numbers],
        }
    )


def log(rows):
    names = ("user_id", "item_id", "timestamp")
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


@pytest.fixture
def updated(tmp_path):
    """A dataset of 20 items, 15 of them taken, and one after a day that brings five more."""
    pq.write_table(stock(range(20), 0), tmp_path / "items.parquet")
    np.save(tmp_path / "shape.npy", SHAPES[:20])
    (tmp_path / "shape.txt").write_text("\n".join(f"i{n:02}" for n in range(20)))
    rows = [(f"u{u}", f"i{(u + t) % 15:02}", t) for u in range(6) for t in range(9)]
    pq.write_table(log(rows), tmp_path / "log.parquet")
    config = DataConfig.model_validate(
        {
            "source": "tables",
            "text": {"dim": 16},
            "tables": {
                "interactions": {"path": "log.parquet", "timestamp": "timestamp"},
                "items": ITEMS,
            },
        }
    )
    raw = find_raw(config, tmp_path)
    work, inputs = tmp_path / "work", {"raw": raw.fingerprint}
    first = run_stage(work, "prepare", {}, inputs, lambda draft: build_dataset(config, raw, draft))
    folder = tmp_path / "monday"
    folder.mkdir()
    # A known item, i03, is described anew; i17 is taken for the first time; i20 to i24 are new.
    pq.write_table(log([("u1", "i17", 50), ("u2", "i22", 51)]), folder / "interactions.parquet")
    numbers = [3, *range(20, 25)]
    day = stock(numbers, 1000).append_column("shape", pa.array(SHAPES[numbers].tolist()))
    pq.write_table(day, folder / "items.parquet")
    return config, first, after(config, first, folder, work)


def after(config, first, folder, work):
    """The dataset after the day in a folder."""
    day = find_day(config, folder, first)
    return run_stage(
        work,
        "prepare",
        {},
        {"raw": first.fingerprint, "day": day.fingerprint},
        lambda draft: build_updated_dataset(config, first, day, draft),
    )


def test_tables_after_a_day_have_old_rows_and_those_of_the_day(updated):
    _, first, second = updated
    ids = pq.read_table(second.path / "items.parquet")["item_id"].to_pylist()
    assert len(ids) == 25
    numbers = [int(name[1:]) for name in ids]
    described = json.loads((first.path / "dense.json").read_text())["item"]
    (column,) = next(entry["columns"] for entry in described if entry["kind"] == "numbers")
    mean, deviation = column["knots"]
    tables = {each.name: each.values for each in Dataset.open(second).every_item_dense()}
    words = HashedNgrams(16)
    for row, n in enumerate(numbers):
        price = (1000 + n if n == 3 or n >= 20 else n) - mean
        found = tables["continuous"][row, :2]
        np.testing.assert_allclose(found, [price / deviation, 1], rtol=1e-6)
        for name, vector in (
            ("picture", PICTURES[n] * bool(n % 4)),
            ("shape", SHAPES[n]),
            ("words", words.encode([f"a hat of size {n}" if n % 3 else ""])[0]),
        ):
            length = np.linalg.norm(vector) or 1
            found = tables[name][row, : len(vector)]
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, vector / length, atol=1e-3)
    now = json.loads((second.path / "dense.json").read_text())["item"]
    picture = next(entry for entry in now if entry["name"] == "picture")
    assert picture["items_without_vector"] == sum(n % 4 == 0 for n in numbers)
    assert [entry["table_width"] for entry in now] == [e["table_width"] for e in described]


def test_a_day_without_a_table_of_items_keeps_what_was_known(updated, tmp_path):
    config, first, _ = updated
    folder = tmp_path / "tuesday"
    folder.mkdir()
    pq.write_table(log([("u1", "i18", 50)]), folder / "interactions.parquet")
    second = after(config, first, folder, tmp_path / "work")
    before, now = (
        pq.read_table(of.path / "items.parquet")["item_id"].to_pylist() for of in (first, second)
    )
    order = [before.index(name) for name in now]
    old, new = (Dataset.open(of).every_item_dense() for of in (first, second))
    for mine, theirs in zip(new, old, strict=True):
        np.testing.assert_array_equal(mine.values, theirs.values[order])


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.null()])
def test_all_items_of_a_day_may_lack_a_vector(updated, tmp_path, kind):
    config, first, _ = updated
    folder = tmp_path / "wednesday"
    folder.mkdir()
    pq.write_table(log([("u1", "i30", 50)]), folder / "interactions.parquet")
    day = stock([30, 31], 0).append_column("shape", pa.nulls(2, kind))
    day = day.set_column(1, "picture", pa.nulls(2, kind))
    pq.write_table(day, folder / "items.parquet")
    second = after(config, first, folder, tmp_path / "work")
    ids = pq.read_table(second.path / "items.parquet")["item_id"].to_pylist()
    new = [ids.index("i30"), ids.index("i31")]
    tables = {each.name: each.values for each in Dataset.open(second).every_item_dense()}
    assert not tables["picture"][new].any()
    assert not tables["shape"][new].any()
    assert tables["shape"][ids.index("i03")].any()
