"""Counts of recent interactions, held to a count by hand of every row, and blind to the future."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.data import recent_popularity
from cadc_rec.data.recent_popularity import RecentCounts, RecentPopularity

N_ITEMS = 6
WINDOWS = (1.0, 3.5, 20.0)
times = st.integers(0, 30).map(lambda half: half / 2)  # ties, and requests at an interaction's time
logs = st.lists(st.tuples(times, st.integers(0, N_ITEMS - 1)), max_size=40)
requests = st.lists(times, max_size=12)


def by_hand(log, at, window) -> np.ndarray:
    """[requests, items], one row at a time."""
    counts = np.zeros((len(at), N_ITEMS), int)
    for request, now in enumerate(at):
        for time, item in log:
            counts[request, item] += now - window <= time < now
    return counts


def index(log) -> RecentPopularity:
    time, item = np.array([t for t, _ in log], float), np.array([i for _, i in log], np.int32)
    return RecentPopularity(time, item, N_ITEMS)


@settings(max_examples=25, deadline=None)
@given(logs, requests, st.sampled_from([1, 200, 64 << 20]))
def test_every_request_has_the_counts_of_its_windows_whatever_the_memory(log, at, most_bytes):
    seen = []
    for places, counts in index(log).blocks(np.array(at, float), WINDOWS, most_bytes):
        seen += places.tolist()
        for window, counted in zip(WINDOWS, counts, strict=True):
            expected = by_hand(log, [at[place] for place in places], window)
            assert counted.toarray().tolist() == expected.tolist()
            assert counted.has_sorted_indices
            assert (counted.data > 0).all()
    assert sorted(seen) == list(range(len(at)))


@settings(max_examples=25, deadline=None)
@given(logs, requests, st.sampled_from(WINDOWS))
def test_one_array_has_the_counts_of_all_requests(log, at, window):
    found, expected = index(log), by_hand(log, at, window)
    times = np.array(at, float)
    assert found.counts(times, window).toarray().tolist() == expected.tolist()


@pytest.mark.parametrize("own", [range(N_ITEMS), range(2, 5), range(0)])
def test_a_long_log_is_sorted_run_by_run_in_a_file_that_nobody_sees(own, tmp_path, monkeypatch):
    monkeypatch.setattr(recent_popularity, "_PIECE", 16)
    rng = np.random.default_rng(2)
    time, item = rng.integers(0, 40, 999) / 2, rng.integers(0, N_ITEMS, 999).astype(np.int32)
    part = RecentPopularity(time, item, N_ITEMS, tmp_path).of_items(own)
    mine = np.isin(item, own)
    order = np.argsort(time[mine], kind="stable")
    assert part.items.tolist() == (item[mine][order] - own.start).tolist()
    assert isinstance(part.items.base, np.memmap) == (len(own) > 0)
    assert not list(tmp_path.iterdir())
    at = np.array([3.0, 19.5, 7.25])
    log = list(zip(time.tolist(), item.tolist(), strict=True))
    counts = part.counts(at, 3.5).toarray()
    assert counts.tolist() == by_hand(log, at, 3.5)[:, own.start : own.stop].tolist()
    last = by_hand(log, [np.nextafter(time.max(), np.inf)], 3.5)[0]
    assert RecentPopularity(time, item, N_ITEMS).latest(3.5).tolist() == last.tolist()


def test_rows_of_one_time_are_not_sorted_however_many_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_popularity, "_PIECE", 16)
    rng = np.random.default_rng(4)
    time = rng.choice([1.0, 2.0, 3.0, 4.0], 2000, p=[0.005, 0.595, 0.395, 0.005])  # days
    item = rng.integers(0, N_ITEMS, 2000).astype(np.int32)
    expected = sorted(range(2000), key=lambda row: time[row])  # stable
    log, sort, sorted_rows = RecentPopularity(time, item, N_ITEMS, tmp_path), np.argsort, []

    def watched(values, **options):
        sorted_rows.append(len(values))
        return sort(values, **options)

    monkeypatch.setattr(np, "argsort", watched)
    assert log.items.tolist() == item[expected].tolist()
    assert max(sorted_rows) <= 32


def test_a_system_that_cannot_set_room_aside_keeps_a_log_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_popularity, "_PIECE", 16)
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    log = RecentPopularity(np.arange(99.0)[::-1], np.arange(99) % N_ITEMS, N_ITEMS, tmp_path)
    assert log.items.tolist() == [row % N_ITEMS for row in range(98, -1, -1)]
    assert not isinstance(log.items.base, np.memmap)


def test_a_log_that_no_file_can_hold_stays_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(recent_popularity, "_PIECE", 16)
    log = RecentPopularity(np.arange(99.0)[::-1], np.arange(99) % N_ITEMS, N_ITEMS, tmp_path / "no")
    assert log.items.tolist() == [row % N_ITEMS for row in range(98, -1, -1)]


@settings(max_examples=25, deadline=None)
@given(logs, logs, times, st.randoms())
def test_nothing_from_the_moment_of_the_request_on_changes_a_count(log, others, now, random):
    before = [row for row in log if row[0] < now]
    later = [(now + time, item) for time, item in others]  # at that moment, too
    rows = before + later
    random.shuffle(rows)
    live = RecentCounts(WINDOWS, N_ITEMS)
    for time, item in rows:
        live.feed(time, item)
    for window, (items, counted) in zip(WINDOWS, live.counts(now), strict=True):
        expected = by_hand(before, [now], window)[0]
        assert index(rows).counts(np.array([now]), window).toarray()[0].tolist() == (
            expected.tolist()
        )
        assert dict(zip(items.tolist(), counted.tolist(), strict=True)) == {
            item: count for item, count in enumerate(expected.tolist()) if count
        }


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(logs, times), max_size=6))
def test_a_growing_log_is_counted_like_one_that_is_known(steps):
    live, log, asked = RecentCounts(WINDOWS, N_ITEMS), [], 0.0
    for more, ahead in steps:
        log += more
        live.feed(np.array([t for t, _ in more], float), np.array([i for _, i in more], int))
        asked = max(asked, ahead)  # late rows come, but no late question
        for window, (items, counted) in zip(WINDOWS, live.counts(asked), strict=True):
            expected = by_hand(log, [asked], window)[0]
            assert items.tolist() == np.flatnonzero(expected).tolist()
            assert counted.tolist() == expected[expected > 0].tolist()


def test_an_earlier_moment_is_answered_while_its_rows_are_kept_and_refused_after():
    live = RecentCounts([10.0], N_ITEMS)
    live.feed(np.arange(20.0), np.arange(20) % N_ITEMS)
    assert [c.sum() for _, c in live.counts(12.0)] == [10]
    assert [c.sum() for _, c in live.counts(11.5)] == [10]
    assert [c.sum() for _, c in live.counts(29.0)] == [1]
    with pytest.raises(ValueError, match=r"interactions before 19\.0 are forgotten"):
        live.counts(28.0)


def test_a_request_without_a_time_has_no_counts():
    log = [(1.0, 0), (2.0, 1)]
    assert index(log).counts(np.array([np.nan, 2.0]), 5.0).toarray().tolist() == [
        [0] * N_ITEMS,
        [1] + [0] * (N_ITEMS - 1),
    ]


@pytest.mark.parametrize("window", [0.0, -1.0, np.nan])
def test_a_window_without_length_is_refused(window):
    with pytest.raises(ValueError, match="a window is above 0 seconds"):
        RecentCounts([window], N_ITEMS)
    with pytest.raises(ValueError, match="a window is above 0 seconds"):
        index([(1.0, 0)]).counts(np.array([1.0]), window)


@pytest.mark.parametrize(("time", "item"), [(1.0, N_ITEMS), (1.0, -1), (np.nan, 0)])
def test_what_is_no_interaction_is_not_fed(time, item):
    live = RecentCounts([5.0], N_ITEMS)
    with pytest.raises(ValueError, match=r"items are numbered|a finite time"):
        live.feed([0.0, time], [0, item])
    assert [c.sum() for _, c in live.counts(2.0)] == [0]
