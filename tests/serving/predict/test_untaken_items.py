"""Items that nobody took yet are answers where they are asked for, and nowhere else."""

import numpy as np
import pytest

from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.retrieval import IndexSearch
from tests.serving.toy import ranking, toy

UNTAKEN = 12  # of 50: items 1038 to 1049
NEW = list(range(1038, 1050))


class Everything:
    """An index that proposes its first rows, in order."""

    def __init__(self, count):
        self.count = count

    def search(self, queries, k, params=None):
        rows = np.where(np.arange(k) < self.count, np.arange(k), -1)
        return None, np.tile(rows, (len(queries), 1))


@pytest.fixture(params=["exact", "index"])
def predictor(request):
    def search(items):
        return IndexSearch(Everything(len(items)), items) if request.param == "index" else items

    return toy(untaken=UNTAKEN, retrieval=search)


@pytest.mark.parametrize("users", [[103], [100, 105, 119, 101, 102]])
def test_a_plain_question_is_answered_as_if_they_were_not_there(predictor, users):
    found = predictor.recommend(users, 50)
    for line, user in enumerate(users):
        taken = predictor.known.of(user - 100).tolist()
        wanted = ranking(predictor, predictor.user_vectors[user - 100], [*taken, *range(38, 50)])[0]
        assert found.rows[line].tolist() == wanted + [-1] * (50 - len(wanted))
        assert (found.scores[line, len(wanted) :] == -np.inf).all()


def test_a_filter_or_candidates_rank_them_with_the_others(predictor):
    query = predictor.user_vectors[3]
    taken = predictor.known.of(3).tolist()
    odd = ranking(predictor, query, {*taken, *range(0, 50, 2)})[0]
    assert predictor.recommend([103], 9, filter={"tags": ["odd"]}).rows[0].tolist() == odd[:9]
    few = ranking(predictor, query, {*taken, *range(2, 45)})[0]
    wanted = [1000, 1001, *range(1045, 1050)]
    found = predictor.recommend([103], 8, candidates=wanted).rows[0]
    assert found[found >= 0].tolist() == few


def test_who_is_unknown_gets_them_behind_what_is_popular(predictor):
    asked = predictor.recommend([5], 3, candidates=[NEW[0], NEW[1], 1000 + _most(predictor)])
    assert asked.rows[0].tolist() == [_most(predictor), 38, 39]
    assert predictor.recommend([5], 50).counts.tolist() == [38]


def test_nothing_was_learned_of_them_in_a_history():
    seen = []

    def newcomers(history):
        seen.append(history)
        return np.ones((len(history), 8), np.float32)

    predictor = toy(untaken=UNTAKEN, newcomers=newcomers)
    found = predictor.recommend([5, 6], 38, history=[[1001, NEW[0], 1002], [NEW[0]]])
    assert found.sources.tolist() == [Source.HISTORY, Source.POPULARITY]
    assert [line.tolist() for line in seen] == [[[2, 1, -1, -1]]]
    assert not {1, 2} & set(found.rows[0].tolist())
    again = predictor.recommend([5], 3, history=[[NEW[0], 1001]], candidates=NEW[:3])
    assert sorted(again.rows[0].tolist()) == [-1, 39, 40], "not what stands in the history"


def test_they_have_similar_items_and_scores_and_are_no_answer_themselves(predictor):
    found = predictor.similar_items([NEW[0], 1000], 50)
    assert found.rows.max() == 37
    assert found.counts.tolist() == [38, 37]
    vectors = predictor.item_vectors.vectors.astype(np.float64)
    score = vectors[40] @ predictor.user_vectors[3].astype(np.float64)
    assert predictor.score([(103, 1040)]) == pytest.approx(score)


def _most(predictor):
    return int(np.argmax(predictor.popularity))
