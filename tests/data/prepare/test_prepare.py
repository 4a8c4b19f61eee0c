"""The prepare stage on graphs small enough to work out by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ibis.backends.duckdb import Backend

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.engine import open_engine
from cadc_rec.errors import CadcError
from cadc_rec.store.artifact import Artifact
from tests.data.raw_files import USERS, members_1m, text_of


def rows(artifact: Artifact, name: str) -> list[tuple[int, int, int]]:
    table = pq.read_table(artifact.path / name)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def train_bytes(artifact: Artifact) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (artifact.path / "train").iterdir()}


def test_last_two_interactions_are_held_out_and_ties_follow_file_order(zip_1m, prepare):
    zip_1m(members_1m())
    artifact = prepare()

    # dense ids: users 1, 2, 7 -> 0, 1, 2; items 10, 20, 30, 400 -> 0, 1, 2, 3
    # user 1 in time: 20 (t 5), 10 (t 5, later in the file), 400 (t 7), 30 (t 9)
    # user 2: 10 (t 1; the copy at t 2 is dropped), 20 (t 3), 30 (t 4)
    # user 7: two interactions, so train only
    assert rows(artifact, "train") == [(0, 1, 5), (0, 0, 5), (1, 0, 1), (2, 0, 1), (2, 3, 2)]
    assert rows(artifact, "val.parquet") == [(0, 3, 7), (1, 1, 3)]
    assert rows(artifact, "test.parquet") == [(0, 2, 9), (1, 2, 4)]
    assert artifact.info == {
        "users": 3,
        "items": 4,
        "train": 5,
        "val": 2,
        "test": 2,
        "duplicates_dropped": 1,
        "removed_by_k_core": 0,
        "users_train_only": 1,
        "has_time": True,
        "timestamp_kind": "clock",
        "time_unit": "s",
        "order": "time",
    }
    assert artifact.manifest["rows"] == 10


def test_the_schema_is_int32_ids_and_int64_seconds(zip_1m, prepare):
    zip_1m(members_1m())
    artifact = prepare()
    expected = pa.schema([("user", pa.int32()), ("item", pa.int32()), ("timestamp", pa.int64())])
    for name in ("train/part-00000.parquet", "val.parquet", "test.parquet"):
        assert pq.read_schema(artifact.path / name).equals(expected)


def test_attributes_get_codes_from_one_and_unknown_is_zero(zip_1m, prepare):
    zip_1m(members_1m(users=USERS.replace("2::M::56::16", "2::::56::16")))
    artifact = prepare()
    described = json.loads((artifact.path / "attributes.json").read_text("utf-8"))
    users = pq.read_table(artifact.path / "users.parquet").to_pydict()
    items = pq.read_table(artifact.path / "items.parquet").to_pydict()

    # user 9 and film 50 have no interaction: neither id nor vocabulary knows them
    assert described["user"] == [
        {"name": "gender", "kind": "categorical", "size": 2, "vocabulary": ["F"]},
        {"name": "age_group", "kind": "categorical", "size": 4, "vocabulary": [1, 25, 56]},
        {"name": "occupation", "kind": "categorical", "size": 4, "vocabulary": [10, 15, 16]},
    ]
    assert users == {
        "user_id": [1, 2, 7],
        "gender": [1, 0, 1],
        "age_group": [1, 3, 2],
        "occupation": [1, 3, 2],
    }
    genres = ["Animation", "Children's", "Comedy", "Drama"]
    assert described["item"] == [
        {"name": "genres", "kind": "multi", "size": 5, "vocabulary": genres},
        {"name": "decade", "kind": "categorical", "size": 2, "vocabulary": [1990]},
    ]
    # film 400 is not in movies.dat, film 30 has no year
    assert items == {
        "item_id": [10, 20, 30, 400],
        "title": ["Toy Story (1995)", "Misérables, Les (1998)", "Nameless", None],
        "genres": [[1, 2, 3], [4], [3, 4], []],
        "decade": [1, 1, 0, 0],
    }


def test_dense_ids_rank_numbers_as_numbers(zip_1m, prepare):
    ratings = text_of([(user, item, 5, 1) for user in (10, 9) for item in (100, 99, 9)])
    zip_1m(members_1m(ratings))
    artifact = prepare()
    assert pq.read_table(artifact.path / "users.parquet")["user_id"].to_pylist() == [9, 10]
    assert pq.read_table(artifact.path / "items.parquet")["item_id"].to_pylist() == [9, 99, 100]


def test_k_core_is_repeated_until_stable(zip_1m, prepare):
    # Item 4 has one row only; without it user 3 has one, and without that item 3 has one, and
    # so on until the square {1, 2} x {1, 2} remains.
    edges = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 3), (3, 4)]
    zip_1m(members_1m(text_of([(*edge, 5, t) for t, edge in enumerate(edges)])))
    artifact = prepare(k_core=2)
    assert pq.read_table(artifact.path / "users.parquet")["user_id"].to_pylist() == [1, 2]
    assert pq.read_table(artifact.path / "items.parquet")["item_id"].to_pylist() == [1, 2]
    assert artifact.info["removed_by_k_core"] == 3


def test_a_k_core_that_leaves_nothing_is_refused(zip_1m, prepare, tmp_path):
    zip_1m(members_1m())
    with pytest.raises(CadcError, match=r"data\.k_core = 50 leaves no interaction at all"):
        prepare(k_core=50)
    assert not list((tmp_path / "work" / "prepare").glob("*"))


def test_the_same_input_gives_the_same_bytes(zip_1m, prepare, monkeypatch):
    generator = np.random.default_rng(0)
    pairs = generator.choice(200 * 50, size=3000, replace=False)
    table = [(p // 50 + 1, p % 50 + 1, 3, generator.integers(1000)) for p in pairs]
    zip_1m(members_1m(text_of(table)))
    first = prepare("a")
    monkeypatch.setattr("cadc_rec.data.prepare.build_dataset.open_engine", _one_thread)
    second = prepare("b")
    assert first.fingerprint == second.fingerprint


@contextmanager
def _one_thread(*arguments: Any) -> Iterator[Backend]:
    with open_engine(*arguments) as backend:
        backend.con.execute("SET threads = 1")
        yield backend


def test_held_out_items_reach_nothing_that_learns(zip_1m, prepare, select):
    """Permute the held-out items among users: everything but val and test is byte-identical."""
    # User u takes items u, u + 1, ... u + 5 (mod 40). Half a turn away, the last two become
    # another user's, and no pair occurs twice.
    users = items = 40
    original = [
        (user, (user + place) % items, 5, place) for user in range(users) for place in range(6)
    ]
    permuted = [
        (user, (item + 20) % items if place >= 4 else item, 5, place)
        for user, item, _, place in original
    ]
    assert sorted(row[1] for row in original) == sorted(row[1] for row in permuted)

    zip_1m(members_1m(text_of(original)))
    before = prepare()
    zip_1m(members_1m(text_of(permuted)))
    after = prepare()

    assert rows(before, "test.parquet") != rows(after, "test.parquet")
    assert rows(before, "val.parquet") != rows(after, "val.parquet")
    assert train_bytes(before) == train_bytes(after)
    for name in ("users.parquet", "items.parquet", "attributes.json"):
        assert (before.path / name).read_bytes() == (after.path / name).read_bytes()
    sample, sample_after = select(before, ratio=3), select(after, ratio=3)
    assert sample.fingerprint == sample_after.fingerprint


def test_without_time_the_order_is_seeded_and_said(epinions, prepare):
    table = [(user, item, 4) for user in range(1, 31) for item in range(1, 11)]
    epinions(text_of(table, " "))
    first = prepare("a", source="epinions")
    again = prepare("b", source="epinions")
    other = prepare("c", source="epinions", split_seed=1)

    assert first.fingerprint == again.fingerprint
    assert rows(first, "test.parquet") != rows(other, "test.parquet")
    assert first.info["order"] == "seeded random, split_seed=0"
    assert other.info["order"] == "seeded random, split_seed=1"
    assert first.info["has_time"] is False
    assert {time for _, _, time in rows(first, "train")} == {0}
    # a random order: the held-out items are not those at the end of the file (9 and 10)
    held_out = [item for _, item, _ in rows(first, "test.parquet")]
    assert len(set(held_out)) > 4
    # every row is in exactly one split
    everything = rows(first, "train") + rows(first, "val.parquet") + rows(first, "test.parquet")
    assert sorted((u, i) for u, i, _ in everything) == [(u - 1, i - 1) for u, i, _ in table]


def test_without_time_held_out_items_reach_nothing_that_learns(epinions, prepare):
    """The random order must not depend on the items that are held out."""
    table = [[user, (7 * user + step) % 60, 4] for user in range(60) for step in range(5)]
    epinions(text_of(table, " "))
    before = prepare(source="epinions")
    held_out = {(u, i): p for p, (u, i, _) in enumerate(table)}
    tests = [held_out[user, item] for user, item, _ in rows(before, "test.parquet")]
    for place, new in zip(tests, np.roll([table[p][1] for p in tests], 30), strict=True):
        table[place][1] = int(new)
    assert len({(u, i) for u, i, _ in table}) == len(table)
    epinions(text_of(table, " "))
    after = prepare(source="epinions")
    assert rows(before, "test.parquet") != rows(after, "test.parquet")
    assert train_bytes(before) == train_bytes(after)


def test_split_seed_and_k_core_make_another_artifact_only_where_they_matter():
    def settings(**changes: object) -> dict[str, object]:
        return DataConfig.model_validate(changes).decisive()

    assert settings(source="movielens-1m", split_seed=1) == settings(source="movielens-1m")
    assert settings(source="epinions", split_seed=1) != settings(source="epinions")
    assert settings(k_core=1) == settings(k_core=0) != settings(k_core=5)


@pytest.mark.parametrize("seed", range(3))
def test_the_split_agrees_with_a_few_lines_of_python(
    zip_1m: Callable[..., Path], prepare: Callable[..., Artifact], seed: int
):
    generator = np.random.default_rng(seed)
    n = 400
    table = np.column_stack(
        [
            generator.integers(1, 60, n),
            generator.integers(1, 30, n),
            generator.integers(1, 6, n),
            generator.integers(0, 20, n),  # plenty of ties
        ]
    ).tolist()
    zip_1m(members_1m(text_of(table)))
    artifact = prepare()

    first: dict[tuple[int, int], tuple[int, int]] = {}
    for place, (user, item, _, time) in enumerate(table):
        first[user, item] = min(first.get((user, item), (time, place)), (time, place))
    user_code = {u: c for c, u in enumerate(sorted({u for u, _ in first}))}
    item_code = {i: c for c, i in enumerate(sorted({i for _, i in first}))}
    train, val, test = [], [], []
    for user, code in user_code.items():
        taken = sorted((key, item) for (u, item), key in first.items() if u == user)
        ordered = [(code, item_code[item], time) for (time, _), item in taken]
        cut = len(ordered) if len(ordered) < 3 else len(ordered) - 2
        train += ordered[:cut]
        val += ordered[cut : cut + 1]
        test += ordered[cut + 1 :]
    assert rows(artifact, "train") == train
    assert rows(artifact, "val.parquet") == val
    assert rows(artifact, "test.parquet") == test
    assert artifact.info["duplicates_dropped"] == n - len(first)
