"""Columns of the interaction that a request carries, prepared; and the codes made of them."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest

from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.request_codes import gap_codes, hour_codes, weekday_codes
from cadc_rec.errors import CadcError

FEATURES = ("device", "stars", "gap")
START = 1_700_000_000


def log() -> pd.DataFrame:
    """Sixty users with four to nine rows each; ``rare`` appears in held-out rows alone."""
    draw, rows = np.random.default_rng(5), []
    for user in range(60):
        count = int(draw.integers(4, 10))
        for place, item in enumerate(draw.choice(30, count, replace=False)):
            device = draw.choice(["phone", "web", None])
            rows.append(
                {
                    "user_id": user,
                    "item_id": int(item),
                    "at": START + user + 5000 * place**2 + int(draw.integers(0, 4000)),
                    "device": "rare" if place == count - 1 and user % 2 else device,
                    "stars": int(draw.integers(1, 6)),
                    "link": f"/items/{item}",
                    "always": "x",
                    "each": f"row {len(rows)}",
                }
            )
    return pd.DataFrame(rows)


@pytest.fixture
def prepared(tables):
    def prepare(**interactions) -> Dataset:
        columns = {"user": "user_id", "item": "item_id", "timestamp": "at", "unit": "s"}
        text = log().to_csv(index=False)
        return Dataset.open(tables("log.csv", text, interactions={**columns, **interactions}))

    return prepare


def test_each_interaction_has_the_codes_of_its_own_request(prepared):
    dataset = prepared(context=["device"], context_lagged=["stars"])
    context = RequestContext.of(dataset, FEATURES)
    known = {
        entry["name"]: [None, *entry["vocabulary"]]
        for entry in json.loads((dataset.path / "context.json").read_text())
    }
    names = dataset.user_ids().to_pylist()
    train = iter(context.train)
    for user, rows in log().sort_values(["user_id", "at"], kind="stable").groupby("user_id"):
        rows = rows.reset_index(drop=True)
        codes = [next(train) for _ in range(len(rows) - 2)]
        codes += [context.validation[names.index(user)], context.test[names.index(user)]]
        for place, (device, stars, gap) in enumerate(codes):
            expected = rows.device[place]
            known_there = isinstance(expected, str) and expected != "rare"  # learned of nobody
            assert known["device"][device] == (expected if known_there else None)
            if not place:
                assert (stars, gap) == (0, 0)
                continue
            assert int(known["stars"][stars]) == rows.stars[place - 1]
            seconds = rows["at"][place] - rows["at"][place - 1]
            assert 2 ** (gap - 1) <= seconds + 1 < 2**gap
    assert next(train, None) is None


def test_codes_follow_the_training_rows_alone(prepared):
    dataset = prepared(context=["device"])
    (entry,) = json.loads((dataset.path / "context.json").read_text())
    assert entry["size"] == 3
    assert entry["vocabulary"][2:] == ["rare"]


def test_hours_and_weekdays_are_those_of_the_clock():
    times = np.array([0.0, 1_700_000_000, 1_711_843_199, -1, np.nan])
    dates = [datetime.fromtimestamp(t, tz=UTC) for t in times[:-1]]
    assert hour_codes(times).tolist() == [1 + date.hour for date in dates] + [0]
    assert weekday_codes(times).tolist() == [1 + date.weekday() for date in dates] + [0]


def test_gaps_stay_within_their_codes():
    assert gap_codes(np.array([np.nan, 0, 1, 2.9, 3, 1e30])).tolist() == [0, 1, 2, 2, 3, 32]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["device", "link"], "'link' tells the item"),
        (["always"], "'always' has a single value"),
        (["nothing"], "no column 'nothing', which data.tables.interactions.context names"),
    ],
)
def test_a_column_that_no_request_could_use_is_refused(prepared, columns, sentence):
    with pytest.raises(CadcError, match=sentence):
        prepared(context=columns)


def test_a_column_that_tells_the_item_may_be_lagged(prepared):
    prepared(context_lagged=["link"])


def test_values_that_are_all_different_tell_nothing(prepared):
    assert RequestContext.of(prepared(context=["each"]), ["each"]).validation.max() == 0


@pytest.mark.parametrize("kind", ["order", "none"])
def test_times_that_are_no_clock_make_no_feature(prepared, kind):
    dataset = replace(prepared(), timestamp_kind=kind)
    with pytest.raises(CadcError, match="needs the times of a clock"):
        RequestContext.of(dataset, ["hour"])
