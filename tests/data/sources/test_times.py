"""Whether times are a clock or only an order: what rows tell, what is said, what is refused."""

from __future__ import annotations

import logging
import tomllib
from dataclasses import replace

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cadc_rec.config.experiment import DataConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.engine import DuckdbEngine
from cadc_rec.data.formats.lines import USUAL
from cadc_rec.data.inspect.inspect import inspect_path
from cadc_rec.data.sources.times import Gaps
from cadc_rec.errors import CadcError
from tests.data.own_tables import quick_first, text
from tests.data.raw_files import members_1m, text_of

DAY = 86_400
START = 956_703_932


def places(users=25, start=0, gap=1, clocks=0):
    """A log whose times are places in each user's order; the first users' are a clock's."""
    draw = np.random.default_rng(0)
    return [
        (f"u{user:02d}", f"i{place}", START + int(draw.integers(900 * DAY)) if user < clocks else
         start + gap * place)
        for user in range(users)
        for place in range(3 + user % 5)
    ]  # fmt: skip


def kind(artifact):
    return artifact.info["timestamp_kind"], artifact.info["time_unit"]


@pytest.fixture(scope="module")
def engine():
    backend = ibis.duckdb.connect()
    yield DuckdbEngine(backend)
    backend.disconnect()


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (places(), "order"),
        (places(start=START, gap=60), "order"),
        (places(start=-(2**61), gap=10**15), "order"),
        (places(users=25, clocks=1), "order"),  # 96%
        (places(users=25, clocks=2), "clock"),
        (places(clocks=25), "clock"),
        (places(users=20), "order"),
        (places(users=19), "clock"),  # too few
        (places(gap=0), "clock"),  # one time says nothing of an order
        (places(users=60)[:1] * 2, "clock"),
    ],
)
def test_times_with_one_gap_are_an_order_and_others_a_clock(log, expected, engine):
    user, _, time = zip(*log, strict=True)
    gaps = Gaps.of(engine, ibis.memtable(pa.table({"user_id": user, "timestamp": time})))
    assert gaps.kind == expected
    assert (gaps.least, gaps.greatest) == (min(time), max(time))
    assert gaps.users == sum(user.count(who) > 2 for who in set(user))


def test_the_farthest_times_there_are_have_no_gap(tables):
    low, high = ("far", "i0", -(2**63)), [("far", f"i{n}", 2**63 - 1) for n in (1, 2)]
    assert kind(tables(content=text([*places(), low, *high]))) == ("order", "")


def test_a_word_in_the_config_decides_and_changes_no_file(tables, caplog):
    with caplog.at_level(logging.INFO):
        made = [
            tables(content=text(places()), interactions={"timestamp_kind": word})
            for word in ("", "order", "clock")
        ]
    assert caplog.text.count("taken for an order, not for a clock: 25 of 25 users") == 1
    assert [kind(artifact)[0] for artifact in made] == ["order", "order", "clock"]
    assert len({artifact.fingerprint for artifact in made}) == 1


@pytest.mark.slow
def test_rows_below_the_least_rating_still_tell_an_order(tables):
    log = [(*row, 5 - n % 3) for n, row in enumerate(places())]
    content = text(log, ("who", "what", "when", "stars"))
    rated = {"rating": "stars", "min_rating": 4.0}
    assert kind(tables(content=content, interactions=rated))[0] == "order"
    assert kind(tables(interactions={**rated, "timestamp_kind": "clock"}))[0] == "clock"


@pytest.mark.slow
def test_copies_of_movielens_with_places_are_told_from_the_archive(zip_1m, prepare):
    for number, (clocks, expected) in enumerate([(0, "order"), (25, "clock")]):
        log = places(start=START, gap=60, clocks=clocks)
        ratings = [(int(user[1:]) + 1, int(item[1:]) + 1, 5, time) for user, item, time in log]
        zip_1m(members_1m(text_of(ratings)))
        assert kind(prepare(f"work{number}")) == (expected, "s")
        if expected == "order":
            with pytest.raises(CadcError) as caught:
                prepare("refused", split="time")
            assert str(caught.value) == (
                "data.split = 'time' needs the times of a clock, and these are only each user's "
                "order (25 of 25 users have times 60 apart on average); leave it out."
            )


def test_generated_times_are_a_clock_and_epinions_has_none(prepare, epinions):
    small = {"users": 30, "items": 30, "interactions": 200}
    made = prepare(source="generated", generated=small)
    assert kind(made) == ("clock", "s")
    epinions(text_of([(user, item, 5) for user in range(3) for item in range(4)], " "))
    assert kind(prepare(source="epinions")) == ("none", "")


@pytest.mark.parametrize(
    ("settings", "named"),
    quick_first(
        [
            ({"since": "2000-01-01"}, "data.since = '2000-01-01'"),
            ({"until": "2030-01-01"}, "data.until = '2030-01-01'"),
            ({"split": "time"}, "data.split = 'time'"),
        ]
    ),
)
def test_what_means_times_of_the_world_is_refused_on_an_order(settings, named, tables, tmp_path):
    log = text(places(start=START, gap=60))
    with pytest.raises(CadcError) as caught:
        tables(content=log, interactions={"unit": "s"}, **settings)
    assert str(caught.value) == (
        f"{named} needs the times of a clock, and these are only each user's order (25 of 25 users "
        "have times 60 apart on average); leave it out, or, if these are times, set "
        "data.tables.interactions.timestamp_kind = 'clock'."
    )
    assert not list((tmp_path / "work" / "prepare").glob("*"))
    with pytest.raises(ValidationError, match=rf"{named} needs the times of a clock, and these"):
        tables(interactions={"unit": "s", "timestamp_kind": "order"}, **settings)
    declared = tables(interactions={"unit": "s", "timestamp_kind": "clock"}, **settings)
    assert kind(declared) == ("clock", "s")


def test_a_bound_that_is_a_whole_number_is_one_of_the_orders_own(tables):
    artifact = tables(content=text(places()), since="1")
    assert kind(artifact)[0] == "order"
    assert artifact.info["outside_window"] == 25  # each user's first


@pytest.mark.parametrize(
    ("interactions", "sentence"),
    [
        ({"timestamp": "t", "timestamp_kind": "watch"}, "'clock' or 'order'"),
        ({"timestamp_kind": "order"}, "is about times, and no column holds them; set data.tables."),
    ],
)
def test_a_kind_that_is_none_or_of_no_times_is_refused(interactions, sentence):
    with pytest.raises(ValidationError, match=sentence):
        DataConfig.model_validate({"source": "tables", "tables": {"interactions": interactions}})


@pytest.mark.parametrize(
    ("unit", "second"), quick_first([("ms", 1000), ("s", 1), ("us", 10**6), ("ns", 10**9)])
)
@pytest.mark.slow
def test_a_dataset_gives_its_times_in_seconds(unit, second, tables):
    log = [("Ana", item, (START + DAY * n) * second) for n, item in enumerate("wxyz")]
    log += [("Bo", "x", START * second + second // 2)]
    dataset = Dataset.open(tables(content=text(log)))
    assert (dataset.timestamp_kind, dataset.time_unit) == ("clock", unit)
    half = second // 2 / second
    assert dataset.train_timestamp.tolist() == [START, START + DAY, START + half]
    nowhere = np.array([np.nan])
    np.testing.assert_array_equal(dataset.val_timestamp, [START + 2 * DAY, *nowhere])
    np.testing.assert_array_equal(dataset.test_timestamp, [START + 3 * DAY, *nowhere])


@pytest.mark.parametrize(
    ("kind", "unit", "sentence"),
    [
        (
            "none",
            "",
            "the times of a clock, and this dataset has none; leave it out, or",
        ),
        (
            "order",
            "s",
            "the times of a clock, and this dataset's are only each user's order",
        ),
        ("clock", "", "the unit of the interactions' times, which is not known; leave it out, or"),
    ],
)
def test_what_needs_a_clock_asks_the_dataset(kind, unit, sentence, tables):
    dataset = Dataset.open(tables(content=text(places(clocks=25))))
    dataset.require_clock("prior.recent = [60]")
    other = replace(dataset, timestamp_kind=kind, time_unit=unit)
    with pytest.raises(CadcError) as caught:
        other.require_clock("prior.recent = [60]")
    assert str(caught.value).startswith(f"prior.recent = [60] needs {sentence}")
    assert "data.tables.interactions." in str(caught.value)


@pytest.mark.parametrize(
    ("log", "line"),
    quick_first(
        [
            (places(), 'timestamp_kind = "order" # 25 of 25 users have times 1 apart on average'),
            (
                places(clocks=25),
                'timestamp_kind = "clock" # users\' gaps differ, as those of a clock',
            ),
            (places(users=4), 'timestamp_kind = "clock" # fewer than 20 users have 3 rows, which'),
        ]
    ),
)
def test_inspect_writes_the_kind_with_its_reason(log, line, raw_folder, prepare):
    (raw_folder / "log.csv").write_text(text(log, ("user", "item", "when")))
    written = inspect_path(str(raw_folder), USUAL, None).config(raw_folder)
    assert line in written
    artifact = prepare(**tomllib.loads(written)["data"])
    assert kind(artifact)[0] == line.split('"')[1]


@pytest.mark.slow
def test_inspect_reads_dates_of_places_as_prepare_does(raw_folder, prepare):
    days = [(user, item, f"{place + 1}.1.2024") for user, item, place in places()]
    (raw_folder / "log.csv").write_text(text(days, ("user", "item", "when")))
    written = inspect_path(str(raw_folder), USUAL, None).config(raw_folder)
    assert 'timestamp_kind = "order" # 25 of 25 users have times 86,400,000,000 apart' in written
    data = tomllib.loads(written)["data"]
    del data["tables"]["interactions"]["timestamp_kind"]
    assert kind(prepare(**data)) == ("order", "us")


def test_times_are_read_when_they_are_asked_for(tables):
    dataset = Dataset.open(tables(content=text(places(clocks=25))))
    stored = pq.read_table(dataset.path / "train")["timestamp"].to_numpy()
    assert "train_timestamp" not in vars(dataset)
    assert dataset.train_timestamp.tolist() == stored.astype(float).tolist()
    assert "train_timestamp" in vars(dataset)
