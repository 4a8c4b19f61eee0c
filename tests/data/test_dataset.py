"""The arrays everything else reads, on the graph of `test_prepare`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cadc_rec.data.dataset import Dataset
from tests.data.raw_files import members_1m


@pytest.fixture
def dataset(zip_1m, prepare) -> Dataset:
    zip_1m(members_1m())
    return Dataset.open(prepare())


def test_train_rows_by_user(dataset):
    assert (dataset.n_users, dataset.n_items) == (3, 4)
    assert dataset.train_user.tolist() == [0, 0, 1, 2, 2]
    assert dataset.train_item.tolist() == [1, 0, 0, 0, 3]
    assert dataset.user_indptr.tolist() == [0, 2, 3, 5]
    types = (dataset.train_user.dtype, dataset.train_item.dtype, dataset.user_indptr.dtype)
    assert types == ("int32", "int32", "int64")


def test_train_rows_by_item(dataset):
    indptr, users = dataset.csr_by_item
    # item 0 (10): users 0, 1, 2; item 1 (20): user 0; item 2 (30): nobody; item 3 (400): user 2
    assert indptr.tolist() == [0, 3, 4, 4, 5]
    assert users.tolist() == [0, 1, 2, 0, 2]
    assert (indptr.dtype, users.dtype) == ("int64", "int32")
    assert dataset.csr_by_item is dataset.csr_by_item


def test_held_out_items_are_minus_one_where_there_are_none(dataset):
    assert dataset.val_item.tolist() == [3, 1, -1]
    assert dataset.test_item.tolist() == [2, 2, -1]
    assert dataset.test_item.dtype == "int32"


def test_attributes_are_csr(dataset):
    gender, age_group, _ = dataset.user_attributes
    assert (gender.name, gender.kind, gender.size) == ("gender", "categorical", 3)
    assert gender.values.tolist() == [1, 2, 1]
    assert gender.indptr.tolist() == [0, 1, 2, 3]
    assert age_group.values.tolist() == [1, 3, 2]
    genres, decade = dataset.item_attributes
    assert (genres.name, genres.kind, genres.size) == ("genres", "multi", 5)
    assert genres.indptr.tolist() == [0, 3, 4, 6, 6]
    assert genres.values.tolist() == [1, 2, 3, 4, 3, 4]
    assert decade.values.tolist() == [1, 1, 0, 0]
    assert (genres.values.dtype, genres.indptr.dtype) == ("int32", "int64")


def test_original_ids_and_titles(dataset):
    assert dataset.user_ids().to_pylist() == [1, 2, 7]
    assert dataset.item_ids().to_pylist() == [10, 20, 30, 400]
    assert dataset.item_titles().to_pylist()[:2] == ["Toy Story (1995)", "Misérables, Les (1998)"]


def test_a_source_without_attributes_has_none(epinions, prepare):
    epinions("".join(f"{user} {item} 5\n" for user in (3, 5) for item in (1, 2, 4)))
    dataset = Dataset.open(prepare(source="epinions"))
    assert dataset.user_attributes == dataset.item_attributes == []
    assert dataset.item_titles() is None
    assert dataset.user_ids().to_pylist() == [3, 5]


def sequences_dataset(sequences, val_item):
    """A `Dataset` of these training sequences; nothing of it is on disk."""
    lengths = [len(s) for s in sequences]
    return Dataset(
        path=Path(),
        n_users=len(sequences),
        n_items=100,
        train_user=np.repeat(np.arange(len(sequences)), lengths).astype(np.int32),
        train_item=np.concatenate(sequences).astype(np.int32),
        user_indptr=np.concatenate([[0], np.cumsum(lengths)]),
        val_item=np.array(val_item, np.int32),
        test_item=np.full(len(sequences), -1, np.int32),
        user_attributes=[],
        item_attributes=[],
        order="time",
    )


def test_a_history_holds_what_came_before_the_row_and_nothing_else():
    data = sequences_dataset([[10, 11, 12, 13], [20, 21]], [14, 22])
    got = data.history_before(np.array([0, 1, 3, 4, 5]), 2)
    assert got.tolist() == [[-1, -1], [10, -1], [12, 11], [-1, -1], [20, -1]]


def test_what_is_known_at_test_begins_with_the_validation_item():
    data = sequences_dataset([[10, 11, 12], [20]], [14, -1])
    assert data.last_items(2, with_validation=False).tolist() == [[12, 11], [20, -1]]
    assert data.last_items(2, with_validation=True).tolist() == [[14, 12], [20, -1]]
    assert data.last_items(0, with_validation=True).shape == (2, 0)
    assert data.last_items(2, True, np.array([1, 0, 1])).tolist() == [[20, -1], [14, 12], [20, -1]]
    assert data.last_items(2, True, slice(0, 1)).tolist() == [[14, 12]]
    assert data.last_items(5, with_validation=True).tolist() == [
        [14, 12, 11, 10, -1],
        [20, -1, -1, -1, -1],
    ]
