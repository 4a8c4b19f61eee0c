"""Events are counted at once: as a log would have them, each once, and beside those who ask."""

import sys
import threading
import time as clock
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict import events as module
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.events import Counted, Event, LiveEvents, Placed
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.recent import RecentState
from cadc_rec.serving.predict.requests import Requests
from cadc_rec.serving.predict.retrieval import IndexSearch
from cadc_rec.serving.predict.top_k import ItemVectors
from tests.serving.toy import ranking, toy

WINDOW, FACTOR, END = 100.0, 3.0, 1000.0
LOG = [(910.0, 4), (950.0, 7), (950.0, 4), (1000.0, 9)]  # the bundle's last window


def scores_at(rows, n_items=50):
    """What is recent just after the last of some rows, by hand."""
    last = max(time for time, _ in rows)
    counts = np.zeros(n_items)
    for time, item in rows:
        counts[item] += time > last - WINDOW
    return (FACTOR * np.log1p(counts)).astype(np.float32)


def with_recent(untaken=0, **parts):
    """A toy whose vectors end with what is recent when the bundle's log ends."""
    predictor = toy(untaken=untaken, **parts)
    items, users = predictor.item_vectors.vectors, predictor.user_vectors
    items[:, -1], users[:, -1] = scores_at(LOG), 1
    times, rows = (np.array(column) for column in zip(*LOG, strict=True))
    state = RecentState(WINDOW, FACTOR, times, rows.astype(np.int32))
    vectors = ItemVectors(items)
    taken = ItemVectors(items[: 50 - untaken]) if untaken else vectors
    live = LiveEvents(state, 50, END)
    return replace(predictor, item_vectors=vectors, retrieval=taken, events=live)


def told(predictor, rows):
    return predictor.count([Event(1000 + item, time) for time, item in rows])


def expected(predictor, row, recent, out):
    vectors, query = predictor.item_vectors.vectors.copy(), predictor.user_vectors[row]
    vectors[:, -1] = recent
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    scores[list(out)] = -np.inf
    order = np.argsort(-scores, kind="stable")
    return order, scores[order]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.floats(900, 1300), st.integers(0, 49)), min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    )
)
def test_answers_are_those_of_a_log_that_ended_with_the_events(batches):
    predictor, log = with_recent(), list(LOG)
    for batch in batches:
        newest = max(time for time, _ in log + batch)
        counted = told(predictor, batch)
        taken = [row for row in batch if row[0] > max(END, newest - WINDOW - 1e-9)]
        assert counted.taken == len(taken)
        log += taken
        recent = scores_at(log)
        for row in (0, 7):
            found = predictor.recommend([100 + row], 10)
            order, scores = expected(predictor, row, recent, predictor.known.of(row))
            assert found.rows[0].tolist() == order[:10].tolist()
            np.testing.assert_allclose(found.scores[0], scores[:10], rtol=1e-12)


def test_many_users_at_once_and_pairs_get_the_same():
    predictor = with_recent()
    told(predictor, [(1001.0, 3), (1002.0, 3), (1050.0, 12)])
    recent = scores_at([*LOG, (1001.0, 3), (1002.0, 3), (1050.0, 12)])
    found = predictor.recommend(100 + np.arange(20), 5)
    for row in range(20):
        order, scores = expected(predictor, row, recent, predictor.known.of(row))
        assert found.rows[row].tolist() == order[:5].tolist()
        pair = predictor.score([(100 + row, 1000 + int(order[0]))])
        np.testing.assert_allclose(pair, scores[:1], rtol=1e-12)


def test_a_vector_leaves_out_the_popularity_that_stands_beside_the_product():
    predictor = with_recent()
    users, items = predictor.user_vectors[:2], predictor.item_vectors.vectors
    before, known = predictor.vectors_of_users([100, 101, -7])
    assert known.tolist() == [True, True, False]
    np.testing.assert_array_equal(before[:2], users)
    told(predictor, [(1001.0, 3), (1002.0, 3)])
    recent = scores_at([*LOG, (1001.0, 3), (1002.0, 3)])
    vectors, _ = predictor.vectors_of_users([100, 101, -7])
    np.testing.assert_array_equal(vectors[:2], [[*user[:-1], 0] for user in users])
    pairs = [(100, 1003), (101, 1007)]
    # The weight of recent popularity is 1 in these users' vectors.
    wanted = [
        vectors[n].astype(np.float64) @ items[row] + recent[row] for n, row in ((0, 3), (1, 7))
    ]
    np.testing.assert_allclose(predictor.score(pairs), wanted, rtol=1e-5)


def test_without_events_a_bundle_answers_as_before():
    predictor = with_recent()
    found = predictor.recommend([103], 5)
    own = ranking(predictor, predictor.user_vectors[3], predictor.known.of(3))[0]
    assert found.rows[0].tolist() == own[:5]


def test_an_item_that_nobody_took_before_is_counted_where_it_is_ranked():
    predictor = with_recent(untaken=5)
    told(predictor, [(1001.0, 48)] * 3)
    assert 48 not in predictor.recommend([100], 45).rows
    found = predictor.recommend([100], 50, candidates=[1048, 1020])
    recent = scores_at([*LOG, *[(1001.0, 48)] * 3])
    order, scores = expected(predictor, 0, recent, set(range(50)) - {48, 20})
    assert found.rows[0, :2].tolist() == order[:2].tolist()
    np.testing.assert_allclose(found.scores[0, :2], scores[:2], rtol=1e-12)


class Everything:
    """An index that proposes its first rows, in order."""

    def search(self, queries, k, params=None):
        return None, np.tile(np.arange(k), (len(queries), 1))


def test_an_index_of_the_items_that_were_taken_ranks_events_on_the_others_too():
    predictor = with_recent(untaken=5)
    searched = IndexSearch(Everything(), predictor.retrieval)
    predictor = replace(predictor, retrieval=searched)
    rows = [(1001.0, 48), (1002.0, 48), (1003.0, 30), (1004.0, 49)]
    told(predictor, rows)
    recent = scores_at([*LOG, *rows])
    broad = {"year": {">=": 1900}}  # all but every seventh item, which have no year
    found = predictor.recommend([100, 101], 8, filter=broad)
    for place in range(2):
        out = {*predictor.known.of(place).tolist(), *range(0, 50, 7)}
        order, scores = expected(predictor, place, recent, out)
        assert found.rows[place].tolist() == order[:8].tolist()
        np.testing.assert_allclose(found.scores[place], scores[:8], rtol=1e-12)


def test_what_was_told_before_or_is_too_old_changes_nothing():
    predictor = with_recent()
    assert predictor.count([Event(1003, 1500.0, id="a")]) == Counted(1)
    before = predictor.recommend([100], 20)
    again = [
        Event(1003, 1500.0, id="a"),  # told before
        Event(1003, 1501.0, id="a"),  # whatever else it says now
        Event(1003, END),  # the bundle's log holds it
        Event(1003, 1399.0),  # out of the window of what is newest
        Event(77, 1500.0, id="b"),  # no such item
    ]
    assert predictor.weigh(again) == ["duplicate", "duplicate", "old", "old", "unknown"]
    assert predictor.count(again) == Counted(0, 2, 2, 1)
    assert predictor.count([Event(77, clock.time())]).unknown == 1  # which moves no window
    after = predictor.recommend([100], 20)
    assert after.rows.tolist() == before.rows.tolist()
    assert after.scores.tolist() == before.scores.tolist()
    twice = [Event(1003, 1502.0, id="c"), Event(1003, 1502.0, id="c")]
    assert predictor.count(twice) == Counted(1, 1)


@pytest.mark.parametrize(
    ("event", "named"),
    [
        (Event(1003, clock.time() + 3600), "lies more than 60 s in the future"),
        (Event(1003, clock.time() * 1000), "not milliseconds"),
        (Event(1003, float("nan")), "a time is seconds since 1970"),
        (Event(1003, True), "a time is seconds since 1970"),
        (Event("x", 1500.0), "item ids are whole numbers"),
        (Event(1003, 1500.0, user="x"), "user ids are whole numbers"),
    ],
)
def test_a_wrong_event_is_refused_with_all_that_come_with_it(event, named):
    predictor = with_recent()
    with pytest.raises(CadcError, match=named):
        predictor.count([Event(1003, 1001.0), event])
    assert predictor.events.recent is None


def test_a_clock_that_is_a_little_ahead_is_trusted():
    assert with_recent().count([Event(1003, clock.time() + 30)]).taken == 1


def noting(seen):
    def program(users, history):
        seen.append((users.tolist(), history.tolist()))
        return torch.ones(len(users), 8)

    return program


def test_an_event_joins_what_its_user_took():
    seen = []
    predictor = replace(with_recent(), requests=Requests(None, noting(seen), 4, True))
    taken = predictor.known.of(2).tolist()
    new = [row for row in range(50) if row not in taken][:4]
    one, two, three, four = (1000 + row for row in new)
    predictor.count([Event(two, 1002.0, user=102), Event(one, 1001.0, user=102)])
    found = predictor.recommend([102], 50)
    assert seen.pop() == ([2], [[new[1], new[0], taken[-1], taken[-2]]])
    assert not set(found.rows[0].tolist()) & {*taken, *new[:2]}
    # What the request tells comes after what was counted; alone, it replaces all of it.
    predictor.recommend([102], 5, history=[[three]])
    assert seen.pop()[1] == [[new[2], new[1], new[0], taken[-1]]]
    found = predictor.recommend([102], 50, history=[[four]], history_mode="replace")
    assert seen.pop()[1] == [[new[3], -1, -1, -1]]
    assert not set(found.rows[0].tolist()) & {*taken, *new[:2], new[3]}
    predictor.recommend([102], 5, history=[[]], history_mode="replace")
    assert seen.pop()[1] == [[new[1], new[0], taken[-1], taken[-2]]]
    predictor.recommend([103], 5)  # nobody else is concerned
    assert not seen


def test_an_item_taken_again_is_no_new_row_and_comes_last_in_the_session():
    seen = []
    predictor = replace(with_recent(), requests=Requests(None, noting(seen), 4, True))
    taken = predictor.known.of(2).tolist()
    again = 1000 + taken[0]
    assert predictor.count([Event(again, 1001.0, user=102)]).taken == 1
    assert predictor.events.recent is None  # a log has a pair of user and item once
    predictor.recommend([102], 5)
    assert seen.pop()[1][0][:2] == [taken[0], taken[-1]]
    new = next(row for row in range(50) if row not in taken)
    predictor.count([Event(1000 + new, 1002.0 + n, user=102) for n in range(3)])
    predictor.count([Event(1000 + new, 1001.5, user=102)])
    recent = np.zeros(50, np.float32)
    recent[predictor.events.recent.rows] = predictor.events.recent.scores
    np.testing.assert_allclose(recent, scores_at([*LOG, (1002.0, new)]))


def test_somebody_new_gets_a_vector_of_what_was_counted():
    seen = []

    def newcomers(history):
        seen.append(history.tolist())
        return np.ones((len(history), 8), np.float32)

    predictor = with_recent(newcomers=newcomers)
    assert predictor.recommend([-5], 5).sources.tolist() == [Source.POPULARITY]
    predictor.count([Event(1011, 1001.0, user=-5), Event(1012, 1002.0, user=-5)])
    found = predictor.recommend([-5], 50)
    assert found.sources.tolist() == [Source.HISTORY]
    assert seen == [[[12, 11, -1, -1]]]
    assert not {11, 12} & set(found.rows[0].tolist())
    predictor.recommend([-5], 5, history=[[1013]], history_mode="replace")
    assert seen[-1] == [[13, -1, -1, -1]]


def test_somebody_new_is_one_user_in_every_form_of_the_id():
    forms = ("trim", "integer-like")
    users = IdMap("user", np.array([f"u{n}" for n in range(20)], object), forms)
    predictor = with_recent(newcomers=lambda h: np.ones((len(h), 8), np.float32))
    predictor = replace(predictor, users=users)
    predictor.count([Event(1011, 1001.0, user=" 007"), Event(1012, 1002.0, user=7)])
    for name in ("7", 7, 7.0, " +07 "):
        found = predictor.recommend([name], 50)
        assert found.sources.tolist() == [Source.HISTORY]
        assert not {11, 12} & set(found.rows[0].tolist())
    assert predictor.recommend(["77", None], 5).sources.tolist() == [Source.POPULARITY] * 2


def test_what_is_kept_of_users_and_names_is_bounded(monkeypatch):
    monkeypatch.setattr(module, "_MOST_USERS", 3)
    monkeypatch.setattr(module, "_MOST_OF_USER", 2)
    monkeypatch.setattr(module, "_MOST_IDS", 2)
    predictor = toy()
    for n in range(5):
        events = [Event(1000 + n + m, 1.0 + n, user=-9 - n, id=f"{n}-{m}") for m in range(3)]
        predictor.count(events)
    live = predictor.events
    kept = live.of([str(-9 - n) for n in range(5)])
    assert [len(items) for items in kept] == [0, 0, 2, 2, 2]
    assert kept[4].tolist() == [6, 5]
    assert len(live._ids) == 2


def test_a_session_is_there_while_an_event_is_put_into_it():
    """Whoever reads between any two lines of the writer finds what was there before."""
    live, seen = LiveEvents(n_items=50), []
    live.take([Placed(3, 1.0, "a")])

    def look(frame, event, arg):
        seen.append(live.of(["a"]))
        return look

    before = sys.gettrace()
    sys.settrace(look)
    live.take([Placed(4, 2.0, "a")])
    sys.settrace(before)
    assert [3] in [each and each[0].tolist() for each in seen]
    assert None not in seen
    assert live.of(["a"])[0].tolist() == [4, 3]


def test_readers_see_what_was_put_in_place_whole():
    """Each batch takes an item of its own as often as the one before: the ranking says which."""
    predictor, wrong, going = with_recent(), [], True

    def read():
        while going:
            now = predictor.events.recent
            if now is not None and len(set(now.scores[-2:].tolist())) != 1:
                wrong.append(now)
            predictor.recommend([100, 101], 5)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for n in range(200):  # both items in each batch, so they always count the same
        told(predictor, [(1001.0 + n, 48), (1001.0 + n, 49)])
    going = False
    for reader in readers:
        reader.join()
    assert not wrong
    recent = np.zeros(50, np.float32)
    recent[predictor.events.recent.rows] = predictor.events.recent.scores
    rows = [*LOG, *[(1001.0 + n, item) for n in range(200) for item in (48, 49)]]
    np.testing.assert_allclose(recent, scores_at(rows))
