"""A dataset after a day: old places kept, everything else as if all rows had come at once."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.dataset import Dataset
from cadc_rec.errors import CadcError
from cadc_rec.updates.dataset import NothingNew
from cadc_rec.updates.day import find_day
from cadc_rec.updates.merge import admitted
from tests.updates.conftest import (
    INTERACTIONS,
    after_day,
    day_rows,
    item,
    item_table,
    shop_rows,
    split_by_hand,
    split_of,
    user,
    user_table,
    write_table,
)


def ids(artifact, side):
    return pq.read_table(artifact.path / f"{side}s.parquet")[f"{side}_id"].to_pylist()


@pytest.mark.parametrize("late", [0, 130])
def test_the_split_is_that_of_all_rows_together(prepared, day, late):
    """Also where the day has repetitions, ties, and rows older than those known."""
    rows = [(who, what, at - late) for who, what, at in day_rows()]
    rows += [shop_rows()[0], rows[3], (*shop_rows()[5][:2], 1000)]
    made = prepared(day(rows))
    expected, found = split_by_hand([*shop_rows(), *rows]), split_of(made.after)
    for part in ("train", "val", "test"):
        assert sorted(found[part]) == sorted(expected[part])
    # within a user the order counts, since histories are read from it
    for who in ("u1", "u7", "u99"):
        assert [p for p in found["train"] if p[0] == who] == [
            p for p in expected["train"] if p[0] == who
        ]


def test_known_ids_keep_their_places_and_new_ones_follow_in_order(prepared, day):
    rows = [*day_rows(), (user(5), item(500), 250), (user(500), item(3), 250)]
    made = prepared(day(rows))
    for side, came in (("user", ["u500", "u99"]), ("item", ["i500", "i77"])):
        before = ids(made.before, side)
        assert ids(made.after, side) == before + came


def test_what_was_held_out_and_is_no_longer_the_latest_is_learned_from(prepared, day):
    made = prepared(day([(user(1), item(77), 400)]))
    before, after = (split_of(made.before), split_of(made.after))
    (old_val,) = [i for u, i in before["val"] if u == "u1"]
    (old_test,) = [i for u, i in before["test"] if u == "u1"]
    assert ("u1", old_val) in after["train"]
    assert ("u1", old_test) in after["val"]
    assert ("u1", "i77") in after["test"]
    others = {p for p in before["test"] if p[0] != "u1"}
    assert others == {p for p in after["test"] if p[0] != "u1"}


def test_every_row_of_the_day_is_counted(prepared, day):
    known = shop_rows()[0]
    rows = [
        (user(1), item(77), 400),  # new
        (user(1), item(77), 401),  # repeats it
        (known[0], known[1], 500),  # known
        (user(200), item(0), 50),  # a new user's, older than everything
    ]
    made = prepared(day(rows))
    counts = made.after.info["update"]
    assert (made.after.info["timestamp_kind"], made.after.info["time_unit"]) == ("clock", "")
    assert counts["rows_read"] == 4
    assert counts["interactions"] == 2
    assert counts["duplicates"] == 2
    assert counts["older_than_newest"] == 1
    assert (counts["new_users"], counts["new_items"]) == (1, 1)
    info = made.after.info
    total = len(shop_rows()) + 2
    assert info["train"] + info["val"] + info["test"] == total
    assert info["users_train_only"] == 1


def test_the_order_of_the_days_files_decides_between_equal_times(prepared, day):
    made = prepared(day([(user(1), item(80), 400), (user(1), item(79), 400)]))
    found = split_of(made.after)
    assert ("u1", "i80") in found["val"]
    assert ("u1", "i79") in found["test"]


def test_codes_keep_their_meaning_and_new_values_follow(prepared, day):
    users = [("u99", "gold", 400.0), ("u1", "pro", 21.0)]
    items = [("i77", "New", ["green", "red"])]
    made = prepared(day(users=users, items=items))
    described = {
        name: json.loads((a.path / "attributes.json").read_text())
        for name, a in (("before", made.before), ("after", made.after))
    }
    plan = [described[name]["user"][0] for name in ("before", "after")]
    assert plan[0]["vocabulary"] == ["free", "pro"]
    assert plan[1]["vocabulary"] == ["free", "pro", "gold"]
    assert plan[1]["size"] == 4
    ages = [described[name]["user"][1] for name in ("before", "after")]
    assert ages[0] == ages[1]
    old, new = Dataset.open(made.before), Dataset.open(made.after)
    at = {who: n for n, who in enumerate(ids(made.after, "user"))}
    for before, after in zip(old.user_attributes, new.user_attributes, strict=True):
        others = [n for who, n in at.items() if who not in ("u1", "u99")]
        np.testing.assert_array_equal(after.values[others], before.values[others])
    codes = {a.name: a.values for a in new.user_attributes}
    assert codes["plan"][at["u99"]] == 3
    assert codes["plan"][at["u1"]] == 2  # told anew; it was "pro" by 1 % 3 already
    assert codes["age"][at["u99"]] == 3  # above the last edge
    (tags,) = new.item_attributes
    assert described["after"]["item"][0]["vocabulary"] == ["blue", "red", "green"]
    last = new.n_items - 1
    assert sorted(tags.values[tags.indptr[last] : tags.indptr[last + 1]]) == [2, 3]
    assert new.item_titles().to_pylist()[last] == "New"
    assert made.after.info["update"]["renewed_users"] == 1


def test_entities_nobody_described_have_unknown_attributes(prepared, day):
    made = prepared(day())
    new = Dataset.open(made.after)
    for attribute in new.user_attributes:
        assert attribute.values[-1] == 0
    (tags,) = new.item_attributes
    assert tags.indptr[-1] == tags.indptr[-2]
    assert new.item_titles().to_pylist()[-1] is None


def test_a_known_users_new_attributes_replace_the_old(prepared, day):
    made = prepared(day(users=[("u1", "free", 24.0)], items=[("i3", "Renamed", ["red"])]))
    old, new = Dataset.open(made.before), Dataset.open(made.after)
    who, what = ids(made.after, "user").index("u1"), ids(made.after, "item").index("i3")
    plan = old.user_attributes[0].values[who], new.user_attributes[0].values[who]
    assert plan == (2, 1)
    assert new.item_titles().to_pylist()[what] == "Renamed"


def test_without_times_the_day_comes_after_what_was_known(prepared, day, tmp_path, experiment):
    tables = experiment().data.tables
    timeless = tables.model_copy(
        update={"interactions": tables.interactions.model_copy(update={"timestamp": ""})}
    )
    rows = [(user(2), item(n), 0) for n in (71, 72, 73, 74)]
    made = prepared(day(rows), tables=timeless, split_seed=3)
    # the preparation's own draw: md5 of the seed and the row
    drawn = sorted(range(4), key=lambda row: hashlib.md5(f"3:{row}".encode()).hexdigest())
    names = [rows[n][1] for n in drawn]
    found = split_of(made.after)
    assert ("u2", names[3]) in found["test"]
    assert ("u2", names[2]) in found["val"]
    mine = [what for who, what in found["train"] if who == "u2"]
    assert mine[-2:] == names[:2]
    assert len(mine) == 12 + 2
    assert made.after.info["update"]["older_than_newest"] == 0


def test_under_a_k_core_a_newcomer_needs_k_partners_and_the_known_stay():
    #               known user 0 takes new item 5, twice; new users 3 and 4 take it too
    user_ids = np.array([0, 0, 3, 4, 3, 4, 3], np.int32)
    item_ids = np.array([5, 5, 5, 5, 1, 1, 6], np.int32)
    kept = admitted(user_ids, item_ids, n_users=3, n_items=5, k=2)
    # item 6 has one partner; the others have two or more, item 5 not counting the repetition
    assert kept.tolist() == [True, True, True, True, True, True, False]
    kept = admitted(user_ids, item_ids, n_users=3, n_items=5, k=3)
    # user 3 has 3 partners (5, 1, 6) until item 6 goes; then 3 and 4 go, then item 5
    assert not kept.any()
    assert admitted(user_ids, item_ids, n_users=3, n_items=5, k=1).all()


def test_two_days_are_the_same_as_one_with_the_rows_of_both(prepared, day, tmp_path, experiment):
    first, second = day_rows(1), [(user(8), item(200), 350), (user(99), item(4), 360)]
    two = prepared(day(first, "one"))
    last = after_day(tmp_path, experiment().data, two.after, day(second, "two"))
    at_once = prepared(day([*first, *second], "both")).after
    assert split_of(last).keys() == split_of(at_once).keys()
    for part, pairs in split_of(last).items():
        assert sorted(pairs) == sorted(split_of(at_once)[part])


def test_a_day_of_known_rows_only_is_told_apart(prepared, day):
    with pytest.raises(NothingNew) as raised:
        prepared(day(shop_rows()[:5]))
    assert raised.value.counts["duplicates"] == 5


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d: (d / "interactions.parquet").unlink(), "holds no table of interactions"),
        (lambda d: (d / "interactions.csv").write_text("a\n1\n"), "leave one table"),
        (
            lambda d: write_table(
                d / "interactions.parquet", [("u1", "i1", 5)], ("user_id", "item", "at")
            ),
            "has no column 'item_id', which data.tables.interactions.item names",
        ),
        (lambda d: write_table(d / "interactions.parquet", [], INTERACTIONS), "has no rows"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(prepared, day, spoil, words):
    folder = day()
    try:
        spoil(folder)
    except ValueError:  # no rows: the columns have to be made otherwise
        table = pq.read_table(folder / "interactions.parquet")
        pq.write_table(table.slice(0, 0), folder / "interactions.parquet")
    with pytest.raises(CadcError, match=words) as raised:
        prepared(folder)
    assert str(folder) in str(raised.value)


def test_times_of_another_unit_are_refused(tmp_path, day, experiment, prepared):
    seconds = [(who, what, at + 1_700_000_000) for who, what, at in shop_rows()]
    write_table(tmp_path / "epoch.parquet", seconds, INTERACTIONS)
    tables = experiment().data.tables
    path = {"path": str(tmp_path / "epoch.parquet")}
    config = tables.model_copy(update={"interactions": tables.interactions.model_copy(update=path)})
    folder = day([("u1", "i77", 1_700_000_500_000)])
    with pytest.raises(CadcError, match="different units"):
        prepared(folder, tables=config)


def test_a_table_of_numbers_where_ids_are_text_is_read_as_text(prepared, day, tmp_path):
    folder = day()
    (folder / "interactions.parquet").unlink()
    (folder / "interactions.csv").write_text("user_id,item_id,at\n17,i1,300\nu1,12,301\n")
    made = prepared(folder)
    assert ids(made.after, "user")[-1] == "17"
    assert ids(made.after, "item")[-1] == "12"


def test_user_and_item_tables_of_the_fixture_have_all_kinds():
    assert {row[1] for row in user_table(range(3))} == {"free", "pro", None}
    assert {tuple(row[2]) for row in item_table(range(2))} == {("red",), ("red", "blue")}


def test_a_days_tables_that_do_not_meet_are_counted(prepared, day):
    """What is known counts as met: a day need not describe it again."""
    items = [(" i77", "New", ["red"]), ("i5", "Known", ["blue"])]
    counts = prepared(day(items=items)).after.info["update"]
    assert counts["item_rows"] == 2
    assert counts["item_rows_without_interactions"] == 1
    of_new = sum(1 for row in day_rows() if row[1] == "i77")
    assert counts["interactions_without_item_row"] == of_new


def test_a_days_ids_are_brought_into_the_form_of_the_dataset(prepared, day, experiment):
    rows = [(f" {u} ", f"{i}\u00a0", at) for u, i, at in day_rows()]
    items = [("i77 ", "New", ["red"])]
    forms = experiment().data.tables.model_copy(update={"normalize_ids": ("trim",)})
    made = prepared(day(rows, items=items), tables=forms)
    assert split_of(made.after) == split_of(prepared(day(name="plain")).after)
    assert made.after.info["update"]["interactions_without_item_row"] == 0


def test_a_dataset_with_cold_items_has_no_updates(tmp_path, day, experiment, prepared):
    folder = tmp_path / "cold"
    folder.mkdir()
    (folder / "cold.parquet").touch()
    with pytest.raises(CadcError, match="would learn from the items that are held out"):
        find_day(experiment().data, day(), SimpleNamespace(path=folder))
