"""The k best of all items are those of a float64 ranking, ties and rounding included."""

import contextlib
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict import best_few as best_few_module
from cadc_rec.serving.predict import top_k
from cadc_rec.serving.predict.best_few import _by_sorting, best_few, compile_ahead
from cadc_rec.serving.predict.bitmaps import Bitmap
from cadc_rec.serving.predict.top_k import ItemVectors, NotCandidates, load_ahead

ROWS = 30
NONE = np.zeros(0, np.int64)


def out(lists, blocked=()):
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in lists], dtype=np.int64)])
    flat = np.array([row for one in lists for row in one], np.int32)
    return NotCandidates(UserItems(indptr, flat), np.array(sorted(blocked), np.int64))


def by_hand(queries, items, lists, k, blocked=()):
    """The rows that a sort of Python's floats gives."""
    found = []
    for query, excluded in zip(queries.tolist(), lists, strict=True):
        scores = [sum(a * b for a, b in zip(query, item, strict=True)) for item in items.tolist()]
        order = sorted(range(len(items)), key=lambda row: (-scores[row], row))
        best = [row for row in order if row not in set(excluded) | set(blocked)][:k]
        found.append(best + [-1] * (k - len(best)))
    return np.array(found)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 60), st.integers(1, 12))
def test_rows_are_those_of_a_sort_by_score_then_row(seed, n, n_items, k):
    draw = np.random.default_rng(seed)
    # Small whole numbers: float64 sums are exact in any order, and many scores are equal.
    items = draw.integers(-2, 3, (n_items, 3)).astype(np.float32)
    queries = draw.integers(-2, 3, (n, 3)).astype(np.float32)
    lists = [draw.permutation(n_items)[: draw.integers(0, n_items + 1)] for _ in range(n)]
    blocked = draw.permutation(n_items)[: draw.integers(0, n_items)]
    k = min(k, n_items)
    best = ItemVectors(items).best(queries, k, out(lists, blocked))
    assert best.rows.tolist() == by_hand(queries, items, lists, k, blocked).tolist()
    assert (best.scores == -np.inf).tolist() == (best.rows < 0).tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 60), st.integers(1, 12))
def test_listed_scores_stand_on_top_of_dot_products(seed, n, n_items, k):
    draw = np.random.default_rng(seed)
    items = draw.integers(-2, 3, (n_items, 3)).astype(np.float32)
    queries = draw.integers(-2, 3, (n, 3)).astype(np.float32)
    more = draw.integers(-3, 4, (n, n_items)) * (draw.random((n, n_items)) < 0.3)
    lists = [draw.permutation(n_items)[: draw.integers(0, n_items + 1)] for _ in range(n)]
    blocked = draw.permutation(n_items)[: draw.integers(0, n_items)]
    k = min(k, n_items)
    listed = sparse.csr_array(more.astype(np.float32))
    found = ItemVectors(items)
    # The same as one more element for every item.
    wide = np.hstack([queries, more]), np.hstack([items, np.eye(n_items)])
    expected = by_hand(*wide, lists, k, blocked).tolist()
    best = found.best(queries, k, out(lists, blocked), listed)
    assert best.rows.tolist() == expected
    every = np.tile(np.arange(n_items), (n, 1))
    among = found.best_among(every, queries, k, out(lists, blocked), listed)
    assert among.rows.tolist() == expected


@pytest.mark.parametrize("n", [1, 8])
def test_a_listed_score_that_float32_rounds_away_decides(n):
    items, queries = np.full((200, 1), 2.0**24, np.float32), np.ones((n, 1), np.float32)
    more = np.zeros((n, 200), np.float32)
    more[:, 150:] = np.arange(50) / 100  # below a step of float32 at 2^24
    best = ItemVectors(items).best(queries, 3, out([[]] * n), sparse.csr_array(more))
    assert best.rows.tolist() == [[199, 198, 197]] * n


@pytest.mark.parametrize("n", [1, 8])
def test_scores_that_float32_cannot_tell_apart_are_ranked_by_float64(n):
    # 40 items whose scores differ by 2^-30 of their size, the best of them last.
    items = np.zeros((200, 2), np.float32)
    items[:40, 0] = 1
    items[:40, 1] = np.arange(40) * 2.0**-30
    queries = np.ones((n, 2), np.float32)
    best = ItemVectors(items).best(queries, 5, out([[]] * n))
    assert best.rows.tolist() == [[39, 38, 37, 36, 35]] * n


@pytest.mark.parametrize("n", [1, 8])
def test_all_equal_scores_come_in_the_order_of_rows(n):
    items = np.ones((300, 2), np.float32)
    best = ItemVectors(items).best(np.ones((n, 2), np.float32), 4, out([[1]] * n))
    assert best.rows.tolist() == [[0, 2, 3, 4]] * n


def test_a_query_alone_and_among_many_gets_the_same():
    draw = np.random.default_rng(3)
    items = ItemVectors(draw.standard_normal((500, 16)).astype(np.float32))
    queries = draw.standard_normal((30, 16)).astype(np.float32)
    lists = [draw.permutation(500)[:n] for n in range(30)]
    together = items.best(queries, 10, out(lists))
    for place in range(30):
        alone = items.best(queries[place : place + 1], 10, out([lists[place]]))
        assert alone.rows.tolist() == together.rows[place : place + 1].tolist()
        np.testing.assert_allclose(alone.scores[0], together.scores[place], rtol=1e-12)


def test_rows_that_are_proposed_are_ranked_and_the_rest_left_out():
    items = ItemVectors(np.array([[1.0], [3.0], [2.0], [5.0], [4.0]], np.float32))
    proposed = np.array([[0, 4, -1, 2], [3, 1, 0, 2]])
    best = items.best_among(proposed, np.ones((2, 1), np.float32), 3, out([[4], []], blocked=[3]))
    assert best.rows.tolist() == [[2, 0, -1], [1, 2, 0]]


def compiled(*given):
    compile_ahead()
    return best_few(*given)


@pytest.mark.parametrize(
    ("columns", "keep"), [(1, 1), (40, 16), (16, 16), (500, 128), (1025, 16), (3000, 10)]
)
@pytest.mark.parametrize("levels", [3, 10**6])
@pytest.mark.parametrize("most", ["above zero", "below zero"])
@pytest.mark.parametrize("way", [compiled, _by_sorting])
def test_the_best_few_are_those_of_a_sort(columns, keep, levels, most, way):
    draw = np.random.default_rng(columns + keep)
    end = levels if most == "above zero" else 1
    scores = draw.integers(-levels, end, (ROWS, columns)).astype(np.float32)
    zeros = scores == 0
    scores[zeros] *= draw.choice([-1, 1], zeros.sum())  # those of both signs are equal
    struck = [draw.permutation(columns)[: draw.integers(0, columns + 1)] for _ in range(ROWS)]
    indptr = np.concatenate([[0], np.cumsum([len(one) for one in struck])])
    expected = scores.copy()
    for row, one in zip(expected, struck, strict=True):
        row[one] = -np.inf
    rows = np.concatenate(struck).astype(np.int32)
    rows.flags.writeable = False  # as the arrays of a bundle
    got, kept = way(scores, indptr, rows, keep)
    for n in range(ROWS):
        order = np.argsort(-expected[n], kind="stable")[:keep]
        order = np.sort(order[expected[n, order] > -np.inf])
        there = kept[n] > -np.inf
        assert got[n, there].tolist() == order.tolist()
        assert kept[n, there].tolist() == expected[n, order].tolist()
        assert (got[n, ~there] == 0).all()


@pytest.mark.parametrize("ascending", [False, True])  # each column is better than all before
@pytest.mark.parametrize(("columns", "keep", "every"), [(700, 16, 2), (40_000, 16, 50), (9, 3, 10)])
@pytest.mark.parametrize("way", ["compiled", "NumPy"])
def test_the_best_few_of_those_that_match_are_those_of_a_sort(columns, keep, every, ascending, way):
    draw = np.random.default_rng(columns)
    scores = draw.integers(-1000, 1000, (3, columns)).astype(np.float32)
    if ascending:
        scores.sort(axis=1)
    matching = np.flatnonzero(draw.integers(0, every, columns) == 0)
    matching = matching[matching < 0.9 * columns]  # what ranks first may not match
    struck = draw.permutation(columns)[: columns // 3].astype(np.int32)
    indptr = np.array([0, 0, len(struck), len(struck)])
    only = Bitmap.of(matching, columns + 100)  # it may be of more items than are ranked
    compile_ahead()
    plain = mock.patch.object(best_few_module, "_fill", None)
    with plain if way == "NumPy" else contextlib.nullcontext():
        got, kept = best_few(scores.copy(), indptr, struck, keep, only)
    for n in range(3):
        left = np.setdiff1d(matching, struck) if n == 1 else matching
        best = sorted(left.tolist(), key=lambda column: (-scores[n, column], column))[:keep]
        there = kept[n] > -np.inf
        assert got[n, there].tolist() == sorted(best)
        assert kept[n, there].tolist() == scores[n, sorted(best)].tolist()
        assert (got[n, ~there] == 0).all()


@pytest.mark.parametrize("row", [-1, 200])
@pytest.mark.parametrize("k", [2, 150])
def test_rows_that_are_not_there_are_not_struck_out_elsewhere(row, k):
    items = ItemVectors(np.ones((200, 1), np.float32))
    for queries in (1, 6):
        with pytest.raises(AssertionError):
            items.best(np.ones((queries, 1), np.float32), k, out([[row]] * queries))


def test_answers_are_the_same_before_torch_is_loaded():
    """A service starts without it; NumPy answers meanwhile."""
    draw = np.random.default_rng(3)
    items = draw.standard_normal((500, 8)).astype(np.float32)
    items[100:300] = items[:200]  # many equal scores
    queries = draw.standard_normal((40, 8)).astype(np.float32)
    asked = [(n, k) for n in (1, 40) for k in (5, 200)]
    load_ahead()
    later = [ItemVectors(items).best(queries[:n], k, out([[]] * n)) for n, k in asked]
    without = mock.patch.object(top_k, "_torch", None)
    with without, mock.patch.object(best_few_module, "_fill", None):
        first = [ItemVectors(items).best(queries[:n], k, out([[]] * n)) for n, k in asked]
    for one, other in zip(first, later, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)
        np.testing.assert_array_equal(one.scores, other.scores)
