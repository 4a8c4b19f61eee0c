"""The replay of a day: who asks, and that nothing is told before it has happened."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.days.cells import Period, Study
from benchmarks.days.clicks import Log
from benchmarks.live import asked_of, replay

DAY = 1000
CLICKS = [  # user, item, milliseconds: two days that are known, and the third
    (1, 10, 100), (2, 11, 200), (3, 12, 1500), (1, 11, 1600),
    (1, 12, 2001), (4, 10, 2002), (2, 99, 2003), (2, 10, 2004), (3, 10, 2004), (1, 99, 2005),
]  # fmt: skip


class Told(Study):
    """Days of a second."""

    def day(self, number):
        return Period(f"{number:02d}", (number - 1) * DAY, number * DAY)


@pytest.fixture
def study(tmp_path):
    user, item, time = zip(*CLICKS, strict=True)
    columns = {"user_id": user, "item_id": item, "timestamp": time, "rating": [1.0] * len(user)}
    return Told(Log(pa.table(columns)), tmp_path, "prior", 0)


def test_clicks_on_known_items_ask_and_first_ones_of_who_came_back(study):
    asked = asked_of(study, 100)
    rows = [(int(study.log.time[row]), int(study.log.users[study.log.user[row]])) for row in
            asked.some]  # fmt: skip
    assert rows == [(2001, 1), (2002, 4), (2004, 2), (2004, 3)]
    # User 4 is new, and user 2 came back with an item that nobody knew.
    assert study.log.time[asked.first].tolist() == [2001, 2004]
    assert len(asked_of(study, 2).some) == 2


@pytest.mark.parametrize(("told", "users"), [(False, False), (True, False), (True, True)])
def test_a_click_is_told_after_it_asked(study, told, users):
    heard, at_request = [], []

    class Predictor:
        def count(self, events):
            heard.extend(events)

        def recommend(self, who, k):
            at_request.append((who[0], len(heard)))
            return SimpleNamespace(lists=lambda: [[10]])

    asked = asked_of(study, 100)
    hits = replay(Predictor(), study, asked, told, users)
    assert study.log.time[hits].tolist() == [2002, 2004, 2004]
    before = [0, 1, 3, 3] if told else [0] * 4  # strictly before each
    assert at_request == list(zip([1, 4, 2, 3], before, strict=True))
    assert [event.time for event in heard] == ([2.001, 2.002, 2.003] if told else [])
    assert [event.user for event in heard] == ([1, 4, 2] if users else [None] * len(heard))
    assert np.isin(hits, asked.some).all()
