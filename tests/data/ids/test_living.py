"""Rows of ids that come and go, against a plain model of dicts and sorted lists."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.data.ids.living import Limits, LivingIds, generations
from cadc_rec.data.ids.waiting import DEPTH, Sketch, hashes
from cadc_rec.errors import CadcError


class Model:
    """The same law, an id at a time: row -> [id, generation, seen, last], and who waits."""

    def __init__(self, limits):
        self.limits, self.rows, self.waiting = limits, [], {}

    def day(self, came):
        """Takes (id, time) pairs; rows that changed their owner."""
        seen = Counter(i for i, _ in came)
        newest = {i: max(t for j, t in came if j == i) for i in seen}
        row_of = {row[0]: n for n, row in enumerate(self.rows)}
        for i in seen.keys() & row_of.keys():
            row = self.rows[row_of[i]]
            row[2] += seen[i]
            row[3] = max(row[3], newest[i])
        for i in seen.keys() - row_of.keys():
            before, last = self.waiting.get(i, (0, newest[i]))
            self.waiting[i] = before + seen[i], max(last, newest[i])
        new = seen.keys() - row_of.keys()
        asking = [i for i in new if self.waiting[i][0] >= self.limits.admission]
        asking.sort(key=lambda i: (-self.waiting[i][0], -newest[i], i))
        free = min(self.limits.rows - len(self.rows), len(asking))
        admitted, reused = asking[:free], []
        others = [n for n, row in enumerate(self.rows) if row[0] not in seen]
        now = max([row[3] for row in self.rows] + [t for _, t in came], default=0)
        if self.limits.eviction == "ttl":
            others = [n for n in others if self.rows[n][3] <= now - self.limits.ttl]
        by = (2, 3) if self.limits.eviction == "lfu" else (3, 2)
        others.sort(key=lambda n: (self.rows[n][by[0]], self.rows[n][by[1]], n))
        for i, n in zip(asking[free:], others, strict=False):
            if self.limits.eviction == "lfu" and self.rows[n][2] >= self.waiting[i][0]:
                break
            admitted.append(i)
            reused.append(n)
        reused.sort()
        for place, i in enumerate(sorted(admitted)):
            count = self.waiting.pop(i)[0]
            if place < free:
                self.rows.append([i, 0, count, newest[i]])
            else:
                n = reused[place - free]
                self.rows[n] = [i, self.rows[n][1] + 1, count, newest[i]]
        if len(self.waiting) > self.limits.rows:
            kept = sorted(self.waiting, key=lambda i: (-self.waiting[i][1], -self.waiting[i][0], i))
            self.waiting = {i: self.waiting[i] for i in kept[: self.limits.rows]}
        return reused


@st.composite
def logs(draw):
    """Limits, and days of (id, time) in no order of time within a day; ids of text or numbers."""
    limits = Limits(
        rows=draw(st.integers(1, 12)),
        admission=draw(st.integers(1, 3)),
        eviction=draw(st.sampled_from(["lru", "lfu", "ttl"])),
        ttl=draw(st.integers(0, 30)),
    )
    as_text = draw(st.booleans())
    days = []
    for n in range(draw(st.integers(1, 8))):
        pairs = st.tuples(st.integers(0, 25), st.integers(10 * n, 10 * n + 14))
        came = draw(st.lists(pairs, max_size=20))
        days.append([(f"ü{i}" if as_text else i - 3, t) for i, t in came])
    return limits, as_text, days


@settings(max_examples=60, deadline=None)
@given(logs())
def test_it_is_the_plain_model(tmp_path_factory, log):
    limits, as_text, days = log
    kind = pa.string() if as_text else pa.int64()
    none = np.zeros(0, np.int64)
    model, living = Model(limits), LivingIds.of(pa.array([], kind), none, none, limits)
    folder = tmp_path_factory.mktemp("dataset")
    for came in days:
        before = [row[:2] for row in model.rows]
        reused = model.day(came)
        ids, times = pa.array([i for i, _ in came], kind), np.array([t for _, t in came], np.int64)
        moves = living.take_in(ids, times, limits)
        assert moves.reused.tolist() == reused
        columns = living.ids.to_pylist(), living.generation, living.seen, living.last
        assert [list(row) for row in zip(*columns, strict=True)] == model.rows
        rows = {row[0]: n for n, row in enumerate(model.rows)}
        assert living.rows_of(ids).tolist() == [rows.get(i, -1) for i, _ in came]
        waiting = living.waiting
        held = zip(
            waiting.ids.to_pylist(), zip(waiting.counts, waiting.newest, strict=True), strict=True
        )
        assert dict(held) == model.waiting
        for n, (owner, generation) in enumerate(
            before
        ):  # one pair of row and generation, one owner
            if model.rows[n][1] == generation:
                assert model.rows[n][0] == owner
        living.save(folder, "item")
        assert generations(folder, "item", len(rows)).tolist() == [row[1] for row in model.rows]
        living = LivingIds.open(folder, "item", living.ids, limits)


@settings(max_examples=60, deadline=None)
@given(logs(), st.integers(1, 40))
def test_a_sketch_admits_nobody_too_late(log, width):
    _, as_text, days = log
    kind = pa.string() if as_text else pa.int64()
    sketch, counted, halved = Sketch.empty(width), Counter(), False
    for came in days:
        day = Counter(i for i, _ in came)
        ids = pa.array(list(day), kind)
        counts = np.array(list(day.values()), np.int64)
        found = sketch.add(ids, counts, np.zeros(len(counts), np.int64))
        counted += day
        if not halved:
            assert all(found >= [counted[i] for i in day])
        halved |= sum(counted.values()) >= 10 * width
        assert sketch.counters.shape == (DEPTH, width)


def test_a_sketch_that_is_wide_enough_is_exact():
    """500 ids in 2**16 counters a line: all four of an id are shared with odds of about 1e-8."""
    for ids in (pa.array(np.arange(500) * 7 - 900), pa.array([f"id-{n}" for n in range(500)])):
        counts = np.arange(1, 501)
        sketch = Sketch.empty(2**16)
        assert sketch.add(ids, counts, counts).tolist() == counts.tolist()
        assert sketch.add(ids, counts, counts).tolist() == (2 * counts).tolist()


def test_a_sketch_halves_its_counters_once_they_are_full():
    sketch = Sketch.empty(4)
    one = pa.array([5])
    nothing = np.zeros(1, np.int64)
    assert sketch.add(one, np.array([39]), nothing)[0] == 39
    assert sketch.add(one, np.array([1]), nothing)[0] == 40  # ten for each of four: halved after it
    assert sketch.add(one, np.array([1]), nothing)[0] == 21


def test_hashes_of_text_tell_slices_and_likes_apart():
    ids = pa.array(
        ["", "a", "b", "ab", "ba", "aa", "a\x00", "\x00a", "ü"] + [f"{n}" for n in range(9999)]
    )
    found = hashes(ids)
    assert len(np.unique(found)) == len(ids)
    assert hashes(ids.slice(3, 4)).tolist() == found[3:7].tolist()
    assert hashes(pa.array([], pa.string())).tolist() == []


def test_who_was_seen_this_day_keeps_its_row():
    limits = Limits(rows=3)
    at = np.zeros(3, np.int64)
    living = LivingIds.of(pa.array([1, 2, 3]), at + 9, at + 5, limits)
    moves = living.take_in(pa.array([1, 2, 3, 4]), np.array([6, 6, 6, 6]), limits)
    assert (len(moves.reused), moves.waiting) == (0, 1)
    assert living.ids.to_pylist() == [1, 2, 3]


def test_a_file_of_another_size_is_refused(tmp_path):
    limits, none = Limits(rows=3), np.zeros(1, np.int64)
    LivingIds.of(pa.array([1]), none, none, limits).save(tmp_path, "user")
    with pytest.raises(CadcError, match=r"user_rows.parquet: has 1 rows, and there are 2 users"):
        LivingIds.open(tmp_path, "user", pa.array([1, 2]), limits)
