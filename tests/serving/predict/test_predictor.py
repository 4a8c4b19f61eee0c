"""What a predictor answers, to whom, and what it refuses."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.ids import IdMap
from tests.serving.toy import ranking, toy


def mean_of_latest(history):
    """Stands for the newcomers' program: the padded rows themselves are the vector."""
    vectors = np.zeros((len(history), 8), np.float32)
    vectors[:, : history.shape[1]] = history
    return vectors


@pytest.mark.parametrize("text_ids", [False, True])
def test_known_users_get_the_best_items_they_have_not_taken(text_ids):
    predictor = toy(text_ids=text_ids)
    found = predictor.recommend(predictor.users.ids, 7)
    for user in range(20):
        rows, scores = ranking(predictor, predictor.user_vectors[user], predictor.known.of(user))
        assert found.rows[user].tolist() == rows[:7]
        assert found.item_ids[user].tolist() == [predictor.items.ids[row] for row in rows[:7]]
        np.testing.assert_allclose(found.scores[user], scores[rows[:7]], rtol=1e-12)
    assert found.sources.tolist() == [Source.KNOWN] * 20


def test_seen_items_come_back_when_asked_for():
    predictor = toy()
    found = predictor.recommend([103], 50, exclude_seen=False)
    rows, _ = ranking(predictor, predictor.user_vectors[3])
    assert found.rows[0].tolist() == rows


def test_who_took_nearly_all_gets_what_is_left():
    predictor = toy(n_items=9)
    found = predictor.recommend([104], 9)  # took 7 of 9
    assert found.counts.tolist() == [2]
    assert found.item_ids[0, 2:].tolist() == [0] * 7
    assert (found.scores[0, 2:] == -np.inf).all()
    assert len(found.lists()[0]) == 2


def test_a_newcomer_is_answered_by_history_else_by_popularity_and_told_so():
    predictor = toy(newcomers=mean_of_latest)
    history = [[1005, 1009, 77, 1002], [], [1001]]
    found = predictor.recommend([1, 2, 105], 5, history=history)
    assert [Source(s).word for s in found.sources] == ["history", "popularity", "known"]
    # The latest first, unknown items skipped, padded to the four that are read.
    query = np.array([2, 9, 5, -1, 0, 0, 0, 0], np.float32)
    assert found.rows[0].tolist() == ranking(predictor, query, [5, 9, 2])[0][:5]
    popular = sorted(range(50), key=lambda row: (-predictor.popularity[row], row))
    assert found.rows[1].tolist() == popular[:5]
    assert found.scores[1].tolist() == predictor.popularity[popular[:5]].tolist()
    own = ranking(predictor, predictor.user_vectors[5], [*predictor.known.of(5), 1])[0]
    assert found.rows[2].tolist() == own[:5]


def test_only_the_latest_items_of_a_long_history_are_read():
    predictor = toy(newcomers=mean_of_latest)
    found = predictor.recommend([1], 3, history=[[1000 + n for n in range(10)]])
    query = np.array([9, 8, 7, 6, 0, 0, 0, 0], np.float32)
    assert found.rows[0].tolist() == ranking(predictor, query, range(10))[0][:3]


def test_without_a_program_for_newcomers_all_of_them_get_what_is_popular():
    predictor = toy()
    popular = sorted(range(50), key=lambda row: (-predictor.popularity[row], row))
    found = predictor.recommend([1], 3, history=[[1000 + popular[0]]])
    assert found.sources.tolist() == [Source.POPULARITY]
    assert found.rows[0].tolist() == popular[1:4]


def test_filters_leave_items_that_have_one_value_of_every_attribute():
    predictor = toy()
    kinds, odd = ["kind 0", "kind 3"], ["odd"]
    found = predictor.recommend([100, 1], 50, filter={"kind": kinds, "tags": odd})
    wanted = {n for n in range(50) if n % 4 in (0, 3) and n % 2}
    for user, taken in ((0, predictor.known.of(0)), (1, [])):
        rows = found.rows[user][found.rows[user] >= 0]
        assert set(rows.tolist()) == wanted - set(taken)
    order = ranking(predictor, predictor.user_vectors[0], predictor.known.of(0))[0]
    assert found.rows[0, : found.counts[0]].tolist() == [row for row in order if row in wanted]


def test_candidates_limit_what_is_ranked():
    predictor = toy()
    found = predictor.recommend([102], 4, candidates=[1001, 1007, 1030, 4], exclude_seen=False)
    order = [row for row in ranking(predictor, predictor.user_vectors[2])[0] if row in (1, 7, 30)]
    assert found.rows[0].tolist() == [*order, -1]


def test_pairs_score_as_the_dot_product_and_unknown_ones_as_nan():
    predictor = toy()
    scores = predictor.score([(100, 1003), (7, 1003), (101, 5)])
    expected = float(
        predictor.user_vectors[0].astype(float) @ predictor.item_vectors.vectors[3].astype(float)
    )
    assert scores[0] == pytest.approx(expected, rel=1e-12)
    assert np.isnan(scores[1:]).all()


def test_similar_items_are_those_of_the_smallest_angle():
    predictor = toy()
    found = predictor.similar_items([1004], 5)
    vectors = predictor.item_vectors.vectors.astype(float)
    cosines = vectors @ vectors[4] / np.linalg.norm(vectors, axis=1) / np.linalg.norm(vectors[4])
    order = [row for row in np.argsort(-cosines).tolist() if row != 4]
    assert found.rows[0].tolist() == order[:5]
    np.testing.assert_allclose(found.scores[0], cosines[order[:5]], rtol=1e-5)


def test_no_users_get_no_answers():
    found = toy().recommend([], 5)
    assert found.rows.shape == (0, 5)


def test_many_threads_get_what_one_gets():
    predictor = toy(n_users=200, newcomers=mean_of_latest)
    alone = [predictor.recommend([100 + n], 5).rows.tolist() for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda n: predictor.recommend([100 + n], 5).rows, range(200)))
    assert [rows.tolist() for rows in together] == alone


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k = 0 is not between 1 and the catalogue's 50 items."),
        ({"k": 51}, "k = 51 is not between 1"),
        ({"k": 1.5}, "k is a whole number; got 1.5."),
        ({"k": True}, "k is a whole number; got True."),
        ({"user_ids": ["100"]}, "user ids are whole numbers in this bundle; got '100'."),
        ({"user_ids": [True]}, "user ids are whole numbers in this bundle; got True."),
        ({"history": [[1000], [1001]]}, "history: give one list of item ids for each of the 1"),
        ({"history": ["1000"]}, "history: give a list of item ids a user, not '1000'."),
        ({"history": [["x"]]}, "item ids are whole numbers in this bundle; got 'x'."),
        ({"filter": {"color": ["red"]}}, "no attribute 'color'; there are: kind, tags."),
        ({"filter": {"kind": ["x"]}}, "no item has kind = 'x'."),
        ({"filter": {"kind": [["x"]]}}, "no item has kind = ['x']."),
        ({"filter": {"kind": "kind 1"}}, "filter: give a list of values for kind"),
    ],
)
def test_what_cannot_be_answered_is_refused_by_name(arguments, message):
    with pytest.raises(CadcError, match=message.replace("(", r"\(").replace("[", r"\[")):
        toy().recommend(**{"user_ids": [100], "k": 5, **arguments})


def test_similar_items_of_an_unknown_item_are_refused():
    with pytest.raises(CadcError, match="no item has the id 7"):
        toy().similar_items([1001, 7])


@pytest.mark.parametrize("text_ids", [False, True])
def test_ids_are_asked_for_in_any_form_that_the_data_were_read_in(text_ids):
    forms = ("trim", "nfc", "integer-like")
    ids = np.array(["7", "caf\u00e9", "x"], object) if text_ids else np.array([7, 10, 101])
    known = IdMap("user", ids, forms)
    asked = [" 7.0", "007", 7, 7.0, "nobody", None, "1e3"]
    assert known.rows(asked).tolist() == [0, 0, 0, 0, -1, -1, -1]
    if text_ids:
        assert known.rows(["cafe\u0301 "]).tolist() == [1]
    with pytest.raises(CadcError, match="got True"):
        known.rows([True])
    with pytest.raises(CadcError, match="ids are"):
        IdMap("user", ids).rows([7 if text_ids else " 7"])
