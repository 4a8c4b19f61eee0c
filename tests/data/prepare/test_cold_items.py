"""Cold items: what learns never sees a row of theirs, and what is ranked is what users took."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.cold_items import ColdItems
from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from tests.data.own_tables import ids, quick_first, text

SHARE, SEED = 0.3, 7
USERS, ITEMS = 12, 20
CATALOGUE = "item_id,colour\n" + "".join(f"i{n:02},c{n % 3}\n" for n in range(ITEMS + 2))


def is_cold(item):
    digest = hashlib.md5(f"{SEED}:cold:{item}".encode()).hexdigest()
    return int(digest, 16) < SHARE * 16**32


def taken(seed=0):
    """(user, item, time): everybody takes ten items, some twice."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        items = rng.permutation(ITEMS)[:10]
        rows += [(f"u{user:02}", f"i{i:02}", 10 * t) for t, i in enumerate(items)]
        rows.append((f"u{user:02}", f"i{items[3]:02}", 77))
    return rows


@pytest.fixture
def prepared(tables, raw_folder):
    def make(rows=None, workdir="cold", **settings):
        (raw_folder / "items.csv").write_text(CATALOGUE)
        return tables(
            content=text(taken() if rows is None else rows),
            items={"path": "items.csv", "categorical": ["colour"]},
            workdir=workdir,
            split_seed=SEED,
            **{"cold_items": SHARE, **settings},
        )

    return make


def rows_of(artifact, name):
    """(user, item) original ids of a file of the artifact, as a data frame with its columns."""
    frame = pd.concat(pq.read_table(file).to_pandas() for file in sorted(artifact.path.glob(name)))
    names = {side: np.array(ids(artifact, side)) for side in ("user", "item")}
    return frame.assign(**{side: names[side][frame[side]] for side in names})


def pairs(frame):
    return sorted(zip(frame.user, frame.item, strict=True))


def expected():
    """The distinct rows, first ones, as pandas gives them; warm ones and cold ones."""
    rows = pd.DataFrame(taken(), columns=["user", "item", "when"])
    rows = rows.drop_duplicates(["user", "item"]).sort_values(["user", "when"], kind="stable")
    cold = rows.item.map(is_cold)
    return rows[~cold], rows[cold]


def test_the_others_are_prepared_as_if_cold_items_had_never_been_taken(prepared, raw_folder):
    made = prepared()
    plain = prepared([row for row in taken() if not is_cold(row[1])], "plain", cold_items=0.0)
    for name in ("train/part-00000.parquet", "val.parquet", "test.parquet", "users.parquet"):
        assert (made.path / name).read_bytes() == (plain.path / name).read_bytes(), name
    assert (made.path / "attributes.json").read_bytes() == (
        plain.path / "attributes.json"
    ).read_bytes()
    for key in ("users", "items", "train", "val", "test", "duplicates_dropped"):
        assert made.info[key] == plain.info[key], key


def test_cold_items_follow_the_others_and_then_come_those_that_nobody_took(prepared):
    made = prepared()
    warm, cold = ({*frame.item} for frame in expected())
    assert ids(made, "item") == [*sorted(warm), *sorted(cold), "i20", "i21"]
    data = Dataset.open(made)
    assert (data.n_items, data.n_untaken) == (len(warm), len(cold) + 2)
    found = ColdItems.of(data)
    assert found.items.tolist() == list(range(len(warm), len(warm) + len(cold)))


@pytest.mark.parametrize("control", [False, True])
def test_a_users_last_cold_item_is_the_test_and_the_one_before_it_validation(prepared, control):
    made = prepared(cold_control=control)
    _, cold = expected()
    last = cold.groupby("user").nth(-1)
    before = cold.groupby("user").nth(-2)
    rows = rows_of(made, "cold.parquet")
    assert pairs(rows) == pairs(cold)
    assert pairs(rows[rows.held_out == 2]) == pairs(last)
    assert pairs(rows[rows.held_out == 1]) == pairs(before)


def test_the_control_learns_from_what_is_not_held_out_and_holds_out_the_same(prepared):
    made, control = prepared(), prepared(cold_control=True)
    warm, cold = expected()
    for name in ("val.parquet", "test.parquet"):
        assert pairs(rows_of(made, name)) == pairs(rows_of(control, name))
    rows = rows_of(made, "cold.parquet")
    more = rows[rows.held_out == 0]
    train = rows_of(control, "train/*.parquet")
    assert pairs(train) == sorted(pairs(rows_of(made, "train/*.parquet")) + pairs(more))
    assert train.timestamp.groupby(train.user).apply(lambda t: t.is_monotonic_increasing).all()
    assert ids(control, "item") == [*sorted({*warm.item, *cold.item}), "i20", "i21"]


def test_what_is_no_candidate_is_all_that_a_user_took_but_the_target(prepared):
    made = prepared()
    data = Dataset.open(made)
    cold = ColdItems.of(data)
    excluded = cold.excluded(data, cold.test_item)
    names = np.array(ids(made, "item"))
    every = pd.concat(expected()).groupby("user").item.agg(set)
    for user, name in enumerate(ids(made, "user")):
        target = {names[cold.test_item[user]]} if cold.test_item[user] >= 0 else set()
        found = names[excluded.of(user)].tolist()
        assert sorted(found) == sorted(every[name] - target)


@pytest.mark.slow
def test_a_split_by_time_holds_out_the_first_cold_item_of_each_period(prepared):
    made = prepared(split="time", validation_from="40", test_from="70")
    _, cold = expected()
    periods = [(1, cold[(cold.when >= 40) & (cold.when < 70)]), (2, cold[cold.when >= 70])]
    rows = rows_of(made, "cold.parquet")
    for number, of_period in periods:
        assert pairs(rows[rows.held_out == number]) == pairs(of_period.groupby("user").head(1))


def test_items_without_attributes_are_refused(tables):
    with pytest.raises(CadcError, match="the items have none but numbers"):
        tables(content=text(taken()), cold_items=SHARE)


@pytest.mark.parametrize(("share", "drawn"), quick_first([(1e-9, "none"), (1 - 1e-9, "every one")]))
def test_a_share_that_draws_nothing_or_everything_is_refused(prepared, share, drawn):
    with pytest.raises(CadcError, match=f"draws {drawn} of the items"):
        prepared(cold_items=share)
