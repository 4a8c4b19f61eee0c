"""A known user's session: which items are read, in which order, and what they leave out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.requests import Requests
from tests.serving.toy import ranking, toy


def with_sessions(program, length=4, by_user=True):
    return replace(toy(), requests=Requests(None, program, length, by_user))


def told(seen):
    """A program that notes what it is given; its vectors say who asks and what came last."""

    def program(users, history):
        seen.append((users.tolist(), history.tolist()))
        vectors = torch.zeros(len(users), 8)
        vectors[:, 0], vectors[:, 1] = users.float(), history[:, 0].float()
        return vectors

    return program


def test_a_session_comes_after_what_the_user_took():
    seen = []
    predictor = with_sessions(told(seen))
    taken = predictor.known.of(2).tolist()  # of user 102
    new = [row for row in range(50) if row not in taken][:2]
    found = predictor.recommend([102], 5, history=[[1000 + row for row in new]])
    assert seen == [([2], [[new[1], new[0], taken[-1], taken[-2]]])]
    vector = np.zeros(8, np.float32)
    vector[:2] = 2, new[1]
    assert found.rows[0].tolist() == ranking(predictor, vector, [*taken, *new])[0][:5]
    assert found.sources.tolist() == [Source.KNOWN]


def test_an_item_taken_again_is_read_where_it_comes_last():
    seen = []
    predictor = with_sessions(told(seen), length=8)
    taken = predictor.known.of(1).tolist()  # four items
    again, new = taken[0], next(row for row in range(50) if row not in taken)
    history = [[1000 + row for row in (new, again, new)]]
    predictor.recommend([101], 5, history=history)
    expected = [new, again, *taken[:0:-1]]
    assert seen[0][1] == [[*expected, *[-1] * (8 - len(expected))]]


def test_a_session_may_stand_in_place_of_what_the_user_took():
    seen = []
    predictor = with_sessions(told(seen))
    taken = predictor.known.of(3)
    found = predictor.recommend([103], 50, history=[[1007, 1009]], history_mode="replace")
    assert seen == [([3], [[9, 7, -1, -1]])]
    assert not set(found.rows[0].tolist()) & {*taken.tolist(), 7, 9}  # left out all the same


def test_only_those_with_a_session_are_asked_for():
    seen = []
    predictor = with_sessions(told(seen))
    found = predictor.recommend([100, 101, 102], 5, history=[[], [1007], [77]])  # 77 is nobody's
    assert [users for users, _ in seen] == [[1]]
    without = predictor.recommend([100, 101, 102], 5)
    assert len(seen) == 1
    for user in (0, 2):
        assert found.rows[user].tolist() == without.rows[user].tolist()


def test_tables_alone_know_users_by_what_they_took():
    seen = []

    def program(history):
        seen.append(history.tolist())
        return torch.ones(len(history), 8)

    predictor = with_sessions(program, by_user=False)
    taken = predictor.known.of(0).tolist()
    new = next(row for row in range(50) if row not in taken)
    predictor.recommend([100], 5, history=[[1000 + new]])
    assert seen == [[[new, *taken[::-1]]]]


def test_a_model_without_histories_keeps_its_vectors_and_leaves_the_session_out():
    predictor = toy()
    assert not predictor.reads_sessions
    found = predictor.recommend([105], 5, history=[[1001]])
    own = [*predictor.known.of(5), 1]
    assert found.rows[0].tolist() == ranking(predictor, predictor.user_vectors[5], own)[0][:5]


def test_another_mode_is_refused():
    with pytest.raises(CadcError, match="history_mode is 'append' or 'replace', not 'both'"):
        toy().recommend([100], 5, history=[[1001]], history_mode="both")
    with pytest.raises(CadcError, match="history_mode is 'append' or 'replace', not 'repalce'"):
        toy().vectors_of_users([100], history=[[1001]], history_mode="repalce")


def test_a_newcomers_repeated_item_is_read_once_where_it_comes_last():
    seen = []

    def newcomers(history):
        seen.append(history.tolist())
        return np.ones((len(history), 8), np.float32)

    predictor = toy(newcomers=newcomers)
    predictor.recommend([-1], 5, history=[[1003, 1007, 1003]])
    assert seen == [[[3, 7, -1, -1]]]
