"""Bitmaps hold the rows that Python's sets hold."""

import contextlib
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict import bitmaps
from cadc_rec.serving.predict.bitmaps import Bitmap, InOrder, compile_ahead, nothing
from cadc_rec.serving.predict.catalogue import CodedAttribute
from cadc_rec.serving.predict.conditions import Every
from cadc_rec.serving.predict.filters import condition_of
from cadc_rec.serving.predict.numbers import NumericAttribute
from cadc_rec.serving.predict.top_k import ItemVectors, NotCandidates

WAYS = pytest.mark.parametrize("way", ["compiled", "NumPy"])


def in_this(way):
    compile_ahead()
    return (
        mock.patch.object(bitmaps, "_change", None) if way == "NumPy" else contextlib.nullcontext()
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.data())
def test_sets_are_joined_as_pythons_sets_are(n, data):
    sets = st.sets(st.integers(0, n - 1))
    a, b = data.draw(sets), data.draw(sets)
    one, other = (Bitmap.of(np.array(sorted(rows), np.int64), n) for rows in (a, b))
    for made, expected in (
        (one, a),
        (one & other, a & b),
        (one | other, a | b),
        (~one, set(range(n)) - a),
    ):
        assert made.rows().tolist() == sorted(expected)
        assert made.least == made.most == len(expected)
        assert made.holds(np.arange(n)).tolist() == [row in expected for row in range(n)]
        assert np.flatnonzero(made.mask()).tolist() == sorted(expected)


@WAYS
@pytest.mark.parametrize("step", [1, 7, 64, 1000])
def test_a_piece_of_an_order_is_a_slice_of_its_rows(way, step):
    draw = np.random.default_rng(step)
    # Three orders behind each other: a row stands once in each.
    rows = np.concatenate([draw.permutation(500) for _ in range(3)]).astype(np.int32)
    with in_this(way):
        entries = InOrder(rows, 500, step)
        for part in range(3):
            for start, stop in np.sort(draw.integers(0, 501, (30, 2)), 1) + 500 * part:
                packed = nothing(500)
                entries.add(packed, int(start), int(stop))
                assert Bitmap(packed, 500).rows().tolist() == sorted(rows[start:stop].tolist())


@WAYS
@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize("k", [5, 200])
def test_many_rows_that_match_are_those_of_python(way, queries, k):
    """Of so many items that pieces of the attributes' orders come from bitmaps."""
    n, draw = 9_000, np.random.default_rng(k)
    years = draw.integers(0, 100, n).astype(float)
    years[::7] = np.nan
    kinds = draw.integers(0, 30, n)  # 0 is unknown
    tags = [draw.integers(1, 4, draw.integers(0, 4)).tolist() for _ in range(n)]
    vectors = draw.integers(-3, 4, (n, 4)).astype(np.float32)
    asked = draw.integers(-3, 4, (queries, 4)).astype(np.float32)
    with in_this(way):
        attributes = {
            "year": NumericAttribute("year", years),
            "kind": CodedAttribute.of_column(
                "kind", pa.array(kinds.astype(np.int32)), [f"kind {code}" for code in range(1, 30)]
            ),
            "tags": CodedAttribute.of_column(
                "tags", pa.array(tags, pa.list_(pa.int32())), ["one", "two", "three"]
            ),
        }
        wanted = {
            "year": {">=": 11, "<": 83},
            "kind": {"not in": ["kind 3", "kind 4", "kind 9"]},
            "or": [{"tags": ["one", "three"]}, {"kind": ["kind 5"]}, {"year": [40, 41, 60]}],
        }
        only = condition_of(wanted, attributes, n)
        rows = only.bitmap().rows()
        none = UserItems(np.zeros(queries + 1, np.int64), np.zeros(0, np.int32))
        blocked = rows[::3].astype(np.int64)
        best = ItemVectors(vectors).best(asked, k, NotCandidates(none, blocked, only))
    passing = [
        row
        for row in range(n)
        if 11 <= years[row] < 83
        and kinds[row] not in (3, 4, 9)
        and ({1, 3} & set(tags[row]) or kinds[row] == 5 or years[row] in (40, 41, 60))
    ]
    assert rows.tolist() == passing
    left = np.setdiff1d(passing, passing[::3])
    for place, query in enumerate(asked):
        scores = (vectors[left] * query).sum(1)  # small whole numbers: exact
        order = np.lexsort([left, -scores])[:k]
        assert best.rows[place].tolist() == left[order].tolist()
        assert best.scores[place].tolist() == scores[order].tolist()


def test_a_bitmap_that_matches_little_is_not_read_as_one(monkeypatch):
    """Halves of the items that have two rows in common: their two vectors are gathered."""
    n = 3_000
    halves = [Bitmap.of(np.arange(0, n // 2 + 1), n), Bitmap.of(np.arange(n // 2 - 1, n), n)]
    vectors = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    none = UserItems(np.zeros(2, np.int64), np.zeros(0, np.int32))
    read = []
    gather = ItemVectors.best_of
    monkeypatch.setattr(
        ItemVectors,
        "best_of",
        lambda self, rows, *rest: read.append(rows) or gather(self, rows, *rest),
    )
    only = Every(halves)
    best = ItemVectors(vectors).best(
        vectors[:1], 5, NotCandidates(none, np.zeros(0, np.int64), only)
    )
    assert sorted(best.rows[0].tolist()) == [-1, -1, -1, n // 2 - 1, n // 2]
    assert [rows.tolist() for rows in read] == [[n // 2 - 1, n // 2]]
