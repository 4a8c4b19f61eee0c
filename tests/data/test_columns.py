"""D_full as raw columns: the rows of the Parquet parts, and their order by item sorted by NumPy."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from cadc_rec.data import columns
from cadc_rec.data.columns import FOLDER, Columns, rows_of_items, write_columns
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.streams import parquet_writer
from tests.data.raw_files import members_1m

USERS, ITEMS, ROWS = 40, 23, 3000


@pytest.fixture
def rows():
    """Users ascending, some without rows; items unevenly frequent, one that nobody has; pairs
    that are repeated; weights."""
    rng = np.random.default_rng(3)
    item = np.minimum(rng.geometric(0.15, ROWS), ITEMS - 2).astype(np.int32)
    user = np.sort(rng.integers(1, USERS - 1, ROWS)).astype(np.int32)
    return SimpleNamespace(user=user, item=item, weight=rng.random(ROWS).astype(np.float32))


def written(rows, folder, weighted=True) -> Columns:
    names = ["user", "item", "weight"] if weighted else ["user", "item"]
    table = pa.table({name: getattr(rows, name) for name in names})
    (folder / "train").mkdir(parents=True)
    (folder / "scratch").mkdir()
    for part, cut in enumerate([slice(0, 1700), slice(1700, None)]):
        with parquet_writer(folder / "train" / f"part-{part:05d}.parquet", table.schema) as file:
            file.write_table(table[cut], row_group_size=700)
    write_columns(folder, USERS, ITEMS, folder / "scratch")
    assert not any((folder / "scratch").iterdir())
    return Columns.open(folder, ROWS, USERS)


@pytest.mark.parametrize("run_rows", [10**6, 400, 7])
def test_both_orders_are_the_rows_sorted_stably_however_many_runs_it_takes(
    run_rows, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(columns, "_RUN_ROWS", run_rows)
    monkeypatch.setattr(columns, "_PIECE", 500)
    found = written(rows, tmp_path)
    for name in ("user", "item", "weight"):
        values = getattr(found, name)
        np.testing.assert_array_equal(values, getattr(rows, name))
        assert values.dtype == getattr(rows, name).dtype
        assert not values.flags.owndata
    np.testing.assert_array_equal(
        np.diff(found.user_indptr), np.bincount(rows.user, minlength=USERS)
    )
    indptr, users = found.by_item
    np.testing.assert_array_equal(np.diff(indptr), np.bincount(rows.item, minlength=ITEMS))
    np.testing.assert_array_equal(users, rows.user[np.argsort(rows.item, kind="stable")])
    assert (indptr.dtype, users.dtype) == (np.int64, np.int32)


def test_a_dataset_from_before_there_were_columns_is_read_to_the_same(rows, tmp_path):
    found = written(rows, tmp_path, weighted=False)
    assert found.weight is None
    for file in (tmp_path / FOLDER).iterdir():
        file.unlink()
    (tmp_path / FOLDER).rmdir()
    before = Columns.open(tmp_path, ROWS, USERS)
    assert before.by_item is before.weight is None
    for name in ("user", "item", "user_indptr"):
        np.testing.assert_array_equal(getattr(before, name), getattr(found, name))


def test_rows_of_consecutive_items_come_by_item_and_in_their_order(rows, monkeypatch):
    monkeypatch.setattr(columns, "_PIECE", 500)
    every = np.argsort(rows.item, kind="stable")
    for items in (range(ITEMS), range(3, 9), range(ITEMS - 1, ITEMS), range(4, 4)):
        wanted = every[np.isin(rows.item[every], items)]
        indptr, found = rows_of_items(rows.item, items)
        np.testing.assert_array_equal(found, wanted)
        each = [np.count_nonzero(rows.item == n) for n in items]
        np.testing.assert_array_equal(np.diff(indptr), each)


def test_a_prepared_dataset_has_its_order_by_item_and_its_counts_from_them(zip_1m, prepare):
    zip_1m(members_1m())
    dataset = Dataset.open(prepare())
    assert dataset.by_item is not None
    assert dataset.csr_by_item is dataset.by_item
    assert dataset.item_counts.tolist() == np.bincount(dataset.train_item, minlength=4).tolist()


def test_times_are_mapped_and_those_that_reading_gives(zip_1m, prepare):
    zip_1m(members_1m())
    dataset = Dataset.open(prepare())
    read = replace(dataset, train_time=None).train_timestamp
    np.testing.assert_array_equal(dataset.train_timestamp, read)
    assert (dataset.train_timestamp.dtype, read.dtype) == (np.float64, np.float64)
    assert not dataset.train_timestamp.flags.owndata
