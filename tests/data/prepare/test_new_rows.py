"""Items of a file that came after preparation are coded as the dataset's own are."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.prepare.build_dataset import build_dataset
from cadc_rec.data.prepare.new_rows import Columns, read_log, read_new_rows
from cadc_rec.data.sources.raw_input import find_raw
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import run_stage


def stock(names, first=0):
    """Items with a colour, tags, a picture of three numbers, a price, words and a shape.

    The dataset has its shapes from a file of their own.
    """
    rng = np.random.default_rng(8)
    pictures = rng.normal(size=(40, 3)).tolist()
    shapes = rng.normal(size=(40, 5))
    return pa.table(
        {
            "item_id": names,
            "colour": [("red", "blue", None)[n % 3] for n in range(first, first + len(names))],
            "tags": [["a", "b"][: n % 3] for n in range(first, first + len(names))],
            "picture": [pictures[n] if n % 4 else None for n in range(first, first + len(names))],
            "price": [float(n * n) for n in range(first, first + len(names))],
            "shape": shapes[first : first + len(names)].tolist(),
            "words": [("a blue hat", None)[n % 2] for n in range(first, first + len(names))],
        }
    )


@pytest.fixture
def prepared(tmp_path):
    names = [f"i{n:02}" for n in range(20)]
    items = stock(names)
    np.save(tmp_path / "shape.npy", np.array(items["shape"].to_pylist()))
    (tmp_path / "shape.txt").write_text("\n".join(names))
    pq.write_table(items.drop(["shape"]), tmp_path / "items.parquet")
    rows = [(f"u{u}", names[(u + t) % 15], t) for u in range(6) for t in range(9)]
    log = dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table(log), tmp_path / "log.parquet")
    config = DataConfig.model_validate(
        {
            "source": "tables",
            "text": {"encoder": "hashed-ngrams", "dim": 16},
            "tables": {
                "interactions": {
                    "path": "log.parquet", "user": "user_id", "item": "item_id",
                    "timestamp": "timestamp",
                },
                "items": {
                    "path": "items.parquet", "id": "item_id", "categorical": ["colour"],
                    "multi": ["tags"], "vector": ["picture"], "continuous": ["price"],
                    "text": ["words"],
                    "vector_files": {"shape": {"path": "shape.npy", "ids": "shape.txt"}},
                },
            },
        }
    )  # fmt: skip
    raw = find_raw(config, tmp_path)
    made = run_stage(
        tmp_path / "work",
        "prepare",
        config.decisive(),
        {"raw": raw.fingerprint},
        lambda draft: build_dataset(config, raw, draft),
    )
    return config, made


@pytest.mark.parametrize("through_json", [False, True])
def test_rows_that_are_the_datasets_own_are_coded_as_it_has_them(prepared, tmp_path, through_json):
    config, made = prepared
    file = tmp_path / "new.parquet"
    pq.write_table(stock(["n1", "n2", "n3", "n4", "n5"], first=6), file)
    columns = Columns.of_dataset(config, made)
    if through_json:  # as a bundle keeps them
        kept = json.loads(json.dumps(columns.to_json()))
        assert "log.parquet" not in str(kept)
        columns = Columns.of_json(kept, columns.attributes, columns.dense)
    found = read_new_rows(columns, "item", file, "--items")
    assert found.ids.to_pylist() == ["n1", "n2", "n3", "n4", "n5"]
    data = Dataset.open(made)
    for mine, theirs in zip(found.attributes, data.every_item_attributes(), strict=True):
        ends = theirs.indptr[6:12]
        assert mine.indptr.tolist() == (ends - ends[0]).tolist()
        assert mine.values.tolist() == theirs.values[ends[0] : ends[-1]].tolist()
    for mine, theirs in zip(found.dense, data.every_item_dense(), strict=True):
        np.testing.assert_allclose(mine.values, theirs.values[6:11], atol=1e-7)


def test_a_log_is_read_in_the_order_of_its_times(prepared, tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("item_id,user_id,timestamp\ni3,new,9\ni1,new,7\ni2,other,8\n")
    log = read_log(Columns.of_dataset(*prepared), file, "--history")
    assert log.to_pydict() == {"user_id": ["new", "other", "new"], "item_id": ["i1", "i2", "i3"]}


@pytest.mark.parametrize(
    ("duplicates", "items"),
    [("first", ["i1", "i2", "i3"]), ("last", ["i2", "i1", "i3"]), ("sum", ["i1", "i2", "i3"])],
)
def test_a_logs_repeated_pairs_count_as_in_training(prepared, tmp_path, duplicates, items):
    config, made = prepared
    rows = [("i1", 1), ("i2", 2), ("i1", 3), ("i3", 4), ("i3", 5)]
    times = {"item_id": [item for item, _ in rows], "timestamp": [time for _, time in rows]}
    pq.write_table(pa.table({"user_id": ["u"] * 5, **times}), tmp_path / "log.parquet")
    config = config.model_copy(update={"duplicates": duplicates})
    columns = Columns.of_dataset(config, made)
    columns = Columns.of_json(columns.to_json(), columns.attributes, columns.dense)
    assert read_log(columns, tmp_path / "log.parquet", "--history")["item_id"].to_pylist() == items
    # As prepare keeps them, of a dataset with this log.
    raw = find_raw(config, tmp_path)
    again = run_stage(
        tmp_path / "again",
        "prepare",
        config.decisive(),
        {"raw": raw.fingerprint},
        lambda draft: build_dataset(config, raw, draft),
    )
    data = Dataset.open(again)
    order = [*data.train_item[:1], data.val_item[0], data.test_item[0]]
    assert [data.item_ids()[int(n)].as_py() for n in order] == items


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.null()])
def test_new_items_may_all_lack_a_vector(prepared, tmp_path, kind):
    rows = stock(["n1", "n2"], first=1)
    rows = rows.set_column(3, "picture", pa.array([None, None], kind))
    pq.write_table(rows, tmp_path / "new.parquet")
    found = read_new_rows(
        Columns.of_dataset(*prepared), "item", tmp_path / "new.parquet", "--items"
    )
    tables = {table.name: table.values for table in found.dense}
    assert not tables["picture"].any()
    assert tables["shape"].any(1).all()


def test_vectors_of_another_width_are_refused(prepared, tmp_path):
    config, made = prepared
    file = tmp_path / "new.parquet"
    rows = stock(["n1"], first=1)
    wide = rows.set_column(3, "picture", pa.array([[1.0, 2.0]]))
    pq.write_table(wide, file)
    with pytest.raises(CadcError, match="vectors of 2 numbers, and those of the dataset have 3"):
        read_new_rows(Columns.of_dataset(config, made), "item", file, "--items")
