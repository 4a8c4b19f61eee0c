"""Which rows are kept and which are held out, against a few lines of plain Python."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.engine import DuckdbEngine, open_engine
from cadc_rec.data.prepare.interactions import time_before_latest
from cadc_rec.data.sources.raw_tables import guess_unit, parse_time
from cadc_rec.errors import CadcError
from tests.data.own_tables import ids, text

DAY = 86_400


def a_log(seed: int, rows: int = 400) -> list[tuple[str, str, int]]:
    """Ties of time and repeated pairs are frequent."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{rng.integers(25)}", f"i{rng.integers(12)}", int(rng.integers(60))) for _ in range(rows)
    ]


def ordered(log):
    """Rows by time and then file order; as (time, place, user, item)."""
    return sorted((time, place, user, item) for place, (user, item, time) in enumerate(log))


def first_of_pairs(rows):
    seen = set()
    return [r for r in rows if (r[2], r[3]) not in seen and not seen.add((r[2], r[3]))]


def splits(artifact):
    """user, item and timestamp of train, val and test, with the original ids."""
    users, items = ids(artifact, "user"), ids(artifact, "item")
    found = []
    for name in ("train", "val.parquet", "test.parquet"):
        table = pq.read_table(artifact.path / name).to_pydict()
        columns = table["user"], table["item"], table["timestamp"]
        found.append([(users[u], items[i], t) for u, i, t in zip(*columns, strict=True)])
    return found


def everything(artifact):
    return sorted(row for split in splits(artifact) for row in split)


@pytest.mark.parametrize("seed", range(3))
def test_the_window_holds_from_since_and_before_until(tables, seed):
    log = a_log(seed)
    artifact = tables(content=text(log), since="10", until="40")
    inside = [row for row in log if 10 <= row[2] < 40]
    assert artifact.info["outside_window"] == len(log) - len(inside)
    expected = [(user, item, time) for time, _, user, item in first_of_pairs(ordered(inside))]
    assert everything(artifact) == sorted(expected)


@pytest.mark.parametrize("seed", range(3))
def test_of_a_repeated_pair_the_last_row_may_be_the_one_that_counts(tables, seed):
    log = a_log(seed)
    artifact = tables(content=text(log), duplicates="last")
    last = first_of_pairs(ordered(log)[::-1])
    assert everything(artifact) == sorted((user, item, time) for time, _, user, item in last)
    assert artifact.info["duplicates_dropped"] == len(log) - len(last)


def test_a_sum_keeps_the_first_row_with_the_weights_of_all(tables):
    log = [("a", "x", 1, 0.25), ("a", "y", 2, 1), ("a", "x", 3, 0.125), ("b", "x", 1, 1e9)]
    content = text(log, ("who", "what", "when", "much"))
    artifact = tables(content=content, duplicates="sum", interactions={"weight": "much"})
    dataset = Dataset.open(artifact)
    assert dataset.train_item.tolist() == [0, 1, 0]
    assert dataset.train_weight.tolist() == [0.375, 1.0, 1e9]
    assert pq.read_table(artifact.path / "train")["timestamp"].to_pylist() == [1, 2, 1]
    kept = Dataset.open(tables(content=content, interactions={"weight": "much"}))
    assert kept.train_weight.tolist() == [0.25, 1.0, 1e9]
    counted = Dataset.open(tables(content=text(a_log(0)), duplicates="sum"))
    rows = Counter((user, item) for user, item, _ in a_log(0))
    users, items = counted.user_ids().to_pylist(), counted.item_ids().to_pylist()
    pairs = zip(counted.train_user, counted.train_item, strict=True)
    assert counted.train_weight.tolist() == [rows[users[u], items[i]] for u, i in pairs]
    assert Dataset.open(tables(content=text(a_log(0)))).train_weight is None


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e10", "", "much"])
def test_a_weight_is_a_number_above_zero(tables, value):
    content = text([("a", "x", 1, 1), ("a", "y", 1, value)], ("who", "what", "when", "much"))
    with pytest.raises(CadcError, match=r"log\.csv, line 3: much is "):
        tables(content=content, interactions={"weight": "much"})


@pytest.mark.parametrize("seed", range(3))
def test_a_cap_keeps_the_latest_of_each_user(tables, seed):
    log = a_log(seed)
    artifact = tables(content=text(log), max_per_user=5)
    pairs = first_of_pairs(ordered(log))
    kept = []
    for who in {row[2] for row in pairs}:
        kept += [row for row in pairs if row[2] == who][-5:]
    assert everything(artifact) == sorted((user, item, time) for time, _, user, item in kept)
    assert artifact.info["removed_by_cap"] == len(pairs) - len(kept)


@pytest.mark.slow
def test_without_time_a_cap_keeps_what_the_seeded_order_puts_last(tables):
    log = [(f"u{n % 5}", f"i{n // 5}", 0) for n in range(100)]
    whole = tables(content=text(log), interactions={"timestamp": ""})
    capped = tables(content=text(log), interactions={"timestamp": ""}, max_per_user=4)
    (train, val, test), (all_train, all_val, all_test) = splits(capped), splits(whole)
    assert (val, test) == (all_val, all_test)
    for who in {row[0] for row in log}:
        mine = [row for row in all_train if row[0] == who]
        assert [row for row in train if row[0] == who] == mine[-2:]


@pytest.mark.parametrize("seed", range(4))
def test_a_split_by_time_learns_from_the_past_and_holds_out_the_next(tables, seed):
    log = a_log(seed, rows=120)
    artifact = tables(content=text(log), split="time", validation_from="40", test_from="50")
    train, val, test = [], [], []
    pairs = first_of_pairs(ordered(log))
    begun = {row[2] for row in pairs if row[0] < 40}
    for who in sorted(begun):
        mine = [(user, item, time) for time, _, user, item in pairs if user == who]
        train += [row for row in mine if row[2] < 40]
        val += [row for row in mine if 40 <= row[2] < 50][:1]
        test += [row for row in mine if row[2] >= 50][:1]
    assert splits(artifact) == [train, val, test]
    info, kept = artifact.info, [row for row in pairs if row[2] in begun]
    assert info["removed_by_late_start"] == len(pairs) - len(kept)
    assert info["after_held_out"] == len(kept) - len(train) - len(val) - len(test)
    assert (info["validation_from"], info["test_from"]) == (40, 50)


@pytest.mark.parametrize("shares", [(0.1, 0.1), (0.3, 0.2), (0.01, 0.5)])
@pytest.mark.slow
def test_shares_decide_the_times_where_no_times_are_given(tables, shares):
    log = a_log(1)
    times = [row[0] for row in first_of_pairs(ordered(log))]
    artifact = tables(content=text(log), split="time", time_shares=list(shares))
    n = len(times)
    begins = [times[n - round(share * n)] for share in (sum(shares), shares[1])]
    assert [artifact.info["validation_from"], artifact.info["test_from"]] == begins


@pytest.mark.parametrize("spread", [1, 1000, 10**15])
@pytest.mark.slow
def test_the_time_from_which_on_a_share_lies_is_that_of_the_sorted_times(tmp_path, spread):
    rng = np.random.default_rng(2)
    times = rng.integers(-spread, spread + 1, 500)
    with open_engine(tmp_path) as backend:
        known = ibis.memtable(pa.table({"timestamp": times})).mutate(one=1)
        rows = backend.create_table("rows", known)
        for latest in (500, 350, 115, 1):
            expected = int(np.sort(times)[500 - latest])
            assert time_before_latest(DuckdbEngine(backend), rows, latest / 500) == expected


def test_a_split_that_nobody_begins_before_is_refused(tables):
    with pytest.raises(CadcError, match=r"data\.validation_from leaves no interaction at all"):
        tables(content=text(a_log(0)), split="time", validation_from="0", test_from="9")


@pytest.mark.parametrize(
    ("time", "unit", "expected"),
    [
        ("1970-01-02", "s", DAY),
        ("1969-12-31T23:59:59.5", "us", -500_000),
        ("2024-02-29T12:00:00+02:00", "ms", 1_709_200_800_000),
        ("30000-01-01", "s", None),
        ("-17", "", -17),
        ("12345", "us", 12345),
        ("noon", "us", None),
    ],
)
def test_a_time_is_counted_in_the_unit_of_the_source(time, unit, expected):
    if expected is None:
        with pytest.raises(CadcError, match=rf"data\.since = '{time}' is not a time; write a date"):
            parse_time(time, "data.since", unit)
    else:
        assert parse_time(time, "data.since", unit) == expected


@pytest.mark.parametrize(
    ("least", "greatest", "unit"),
    [
        (874_724_710, 893_286_638, "s"),
        (874_724_710_000, 1_704_067_200_000, "ms"),
        (1_704_067_200_000_000, 1_704_067_200_000_001, "us"),
        (1_704_067_200 * 10**9, 1_704_067_201 * 10**9, "ns"),
        (0, 1_704_067_200, ""),
        (1_704_067_200, 1_704_067_200_000, ""),
        (1, 365, ""),
    ],
)
def test_the_unit_of_a_time_is_guessed_by_its_size_or_not_at_all(least, greatest, unit):
    assert guess_unit(least, greatest) == unit


@pytest.mark.slow
def test_dates_of_the_configuration_meet_times_of_any_kind(tables):
    at = {day: datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)}
    forms = {
        "s": [int(t.timestamp()) for t in at.values()],
        "ms": [int(t.timestamp()) * 1000 for t in at.values()],
        "": [t.date().isoformat() for t in at.values()],
    }
    for unit, times in forms.items():
        content = text([("a", f"i{n}", time) for n, time in enumerate(times)])
        wanted = {"since": "2024-01-02", "until": "2024-01-04"}
        artifact = tables(content=content, interactions={"unit": unit}, **wanted)
        assert ids(artifact, "item") == ["i1", "i2"]
    with pytest.raises(CadcError, match=r"set data\.tables\.interactions\.unit"):
        tables(content=text(a_log(0)), since="2024-01-02")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"since": "70"}, "data.since and data.until leaves no interaction"),
        # What only the source's unit and the times there are can tell: the config cannot.
        (
            {
                "split": "time",
                "validation_from": "9",
                "test_from": "1970-01-01T00:00:09",
                "interactions": {"unit": "s"},
            },
            "validation begins at 9 and test at 9; the test has to begin later",
        ),
        (
            {"split": "time", "time_shares": [0.001, 0.001]},
            "validation begins at 59 and test at 59; the test has to begin later",
        ),
    ],
)
def test_what_leaves_nothing_or_has_no_meaning_is_refused(tables, options, sentence):
    with pytest.raises(CadcError) as caught:
        tables(content=text(a_log(0)), **options)
    assert sentence in str(caught.value)


BALANCE = (
    *("rejected", "below_min_rating", "outside_window", "duplicates_dropped", "removed_by_cap"),
    *("removed_by_k_core", "removed_by_late_start", "train", "val", "test", "after_held_out"),
)


@pytest.mark.parametrize("split", ["leave-last-two", "time"])
def test_every_row_that_was_read_is_counted_once(tables, split):
    rows = [(*row, n % 5) for n, row in enumerate(a_log(3))] + [("", "x", 1, 5)] * 7
    artifact = tables(
        content=text(rows, ("who", "what", "when", "stars")),
        on_bad_row="reject",
        interactions={"rating": "stars", "min_rating": 1.0},
        since="5",
        max_per_user=9,
        k_core=5,
        split=split,
    )
    counts = {name: artifact.info.get(name, 0) for name in BALANCE}
    assert artifact.info["rows_read"] == len(rows) == sum(counts.values())
    late = ("removed_by_late_start", "after_held_out")
    assert all(counts[name] for name in BALANCE if name not in late), counts


def test_only_options_that_have_a_say_are_part_of_the_key():
    def settings(**changes):
        return DataConfig.model_validate({"source": "movielens-1m", **changes}).decisive()

    plain = settings()
    assert settings(k_core=1, spill="elsewhere", memory="1GiB") == plain
    assert settings(since="9") != plain
    assert settings(split="time") != plain
    assert settings(split="time", time_shares=[0.2, 0.1]) != settings(split="time")
    spans = {"split": "time", "validation_from": "9", "test_from": "10"}
    assert settings(**spans) != settings(**spans | {"test_from": "11"})
