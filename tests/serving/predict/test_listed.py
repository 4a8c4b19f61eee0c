"""What stands on top of dot products is, of each query, what adding up by hand gives."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.listed import listed_among, listed_below, of_query, scores_at
from cadc_rec.serving.predict.recent import RecentNow
from cadc_rec.serving.predict.top_k import ItemVectors, NotCandidates


def dense(listed, n, n_items):
    found = np.zeros((n, n_items), np.float32)
    for query in range(n):
        more = of_query(listed, query)
        assert (np.diff(more.rows) > 0).all()
        found[query, more.rows] = more.scores
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 30), st.booleans())
def test_lists_and_what_is_recent_are_added_up(seed, n, n_items, with_lists):
    draw = np.random.default_rng(seed)
    lists = draw.integers(-3, 4, (n, n_items)) * (draw.random((n, n_items)) < 0.4)
    lists = lists.astype(np.float32) * with_lists
    rows = np.flatnonzero(draw.random(n_items + 5) < 0.4).astype(np.int32)
    scores = draw.integers(1, 9, len(rows)).astype(np.float32)
    factors = draw.integers(-2, 3, n).astype(np.float32)
    given_lists = sparse.csr_array(lists) if with_lists else None
    listed = RecentNow(rows, scores).on_top(given_lists, factors, n_items)
    recent = np.zeros(n_items + 5, np.float32)
    recent[rows] = scores
    expected = lists + factors[:, None] * recent[:n_items]
    assert dense(listed, n, n_items).tolist() == expected.tolist()
    asked = draw.integers(0, n_items, 7)
    for query in range(n):
        assert scores_at(listed, query, asked).tolist() == expected[query, asked].tolist()
    some = draw.integers(0, n, 4)
    assert dense(listed[some], 4, n_items).tolist() == expected[some].tolist()
    few = np.flatnonzero(draw.random(n_items) < 0.5).astype(np.int32)
    assert dense(listed_among(listed, few), n, len(few)).tolist() == expected[:, few].tolist()
    first = int(draw.integers(0, n_items + 1))
    below = dense(listed_below(listed, first), n, first)
    assert below.tolist() == expected[:, :first].tolist()


@pytest.mark.parametrize("n", [2, 64])
def test_many_queries_hold_what_is_recent_once(n):
    items, dim = 100_000, 2
    vectors = ItemVectors(np.zeros((items, dim), np.float32))
    now = RecentNow(np.arange(items, dtype=np.int32), np.arange(items, dtype=np.float32))
    nothing = UserItems(np.zeros(n + 1, np.int64), np.zeros(0, np.int32))
    out = NotCandidates(nothing, np.zeros(0, np.int64))
    queries, factors = np.zeros((n, dim), np.float32), np.ones(n, np.float32)
    tracemalloc.start()
    best = vectors.best(queries, 3, out, now.on_top(None, factors, items))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert best.rows.tolist() == [[items - 1, items - 2, items - 3]] * n
    assert most < 30 * items * 4, "64 copies of rows and scores would be 128"
