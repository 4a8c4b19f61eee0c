"""An index proposes, exact scores dispose; where it proposes too few, all items are ranked."""

import numpy as np
import pytest
from scipy import sparse

from cadc_rec.data.user_items import UserItems
from cadc_rec.serving.predict.conditions import Named
from cadc_rec.serving.predict.retrieval import IndexSearch
from cadc_rec.serving.predict.top_k import ItemVectors, NotCandidates
from tests.serving.toy import ranking, toy

faiss = pytest.importorskip("faiss")


def hnsw(items):
    index = faiss.IndexHNSWFlat(items.vectors.shape[1], 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 400
    index.add(items.vectors)
    return IndexSearch(index, items, step=0)  # it is asked however few match


class Nothing:
    """An index that finds nothing at all."""

    def search(self, queries, k, params=None):
        return None, np.full((len(queries), k), -1, np.int64)


def test_with_a_graph_the_answers_are_those_of_all_items():
    predictor = toy(n_users=40, n_items=2000, retrieval=hnsw)
    found = predictor.recommend(100 + np.arange(40), 10)
    expected = [
        ranking(predictor, predictor.user_vectors[u], predictor.known.of(u))[0][:10]
        for u in range(40)
    ]
    same = [len(set(a) & set(b)) for a, b in zip(found.rows.tolist(), expected, strict=True)]
    assert sum(same) >= 0.98 * 400


def test_items_with_the_best_listed_scores_are_proposed_beside_the_index():
    """An index of the vectors alone cannot know them: here they have the worst vectors."""
    draw = np.random.default_rng(5)
    vectors = draw.standard_normal((2000, 8)).astype(np.float32)
    items = ItemVectors(vectors)
    queries = draw.standard_normal((6, 8)).astype(np.float32)
    more = np.zeros((6, 2000), np.float32)
    worst = np.argsort(queries @ vectors.T, axis=1)[:, :5]
    np.put_along_axis(more, worst, np.arange(100.0, 105.0, dtype=np.float32)[None], 1)
    out = NotCandidates(UserItems(np.zeros(7, np.int64), np.zeros(0, np.int32)), worst[0, :1])
    listed = sparse.csr_array(more)
    found = hnsw(items).best(queries, 10, out, listed)
    expected = items.best(queries, 10, out, listed)
    assert found.rows[:, :4].tolist() == expected.rows[:, :4].tolist()
    assert (found.rows == expected.rows).mean() > 0.9
    assert (expected.rows[1:, :5] == worst[1:, ::-1]).all()


def test_what_is_taken_or_filtered_never_comes_out_of_the_graph():
    predictor = toy(n_users=40, n_items=2000, retrieval=hnsw)
    found = predictor.recommend(100 + np.arange(40), 10, filter={"tags": ["odd"]})
    assert (found.rows % 2 == 1).all()
    same = 0
    for user in range(40):
        assert not set(found.rows[user]) & set(predictor.known.of(user).tolist())
        expected = ranking(predictor, predictor.user_vectors[user], predictor.known.of(user))[0]
        same += len(set(found.rows[user]) & set([row for row in expected if row % 2][:10]))
    assert same >= 0.98 * 400


@pytest.mark.parametrize(("matching", "asked"), [(1500, True), (40, False)])
def test_the_index_is_asked_where_many_match_and_proposes_these_alone(matching, asked):
    items = ItemVectors(np.random.default_rng(2).standard_normal((3000, 8)).astype(np.float32))
    search, made = hnsw(items), []
    search.step = 0.5  # of 3,000 items, and 10 wanted ones
    of_index = search.index.search

    def watched(queries, k, params=None):
        made.append(of_index(queries, k, params=params)[1])
        return None, made[-1]

    search.index.search = watched
    none = UserItems(np.zeros(2, np.int64), np.zeros(0, np.int32))
    only = Named.of(np.random.default_rng(3).permutation(3000)[:matching], 3000)
    out = NotCandidates(none, np.zeros(0, np.int64), only)
    found = search.best(items.vectors[:1], 10, out)
    assert found.rows.tolist() == items.best(items.vectors[:1], 10, out).rows.tolist()
    assert bool(made) == asked
    assert all(only.holds(rows[0]).all() for rows in made)


@pytest.mark.parametrize("arguments", [{}, {"candidates": [1003, 1004]}])
def test_where_the_index_finds_too_few_all_items_are_looked_at(arguments):
    exact, broken = toy(), toy(retrieval=lambda items: IndexSearch(Nothing(), items))
    for users in ([100], [100, 105, 119]):
        wanted = exact.recommend(users, 10, **arguments)
        assert broken.recommend(users, 10, **arguments).rows.tolist() == wanted.rows.tolist()
