"""Vectors of the moment of a request, of a predictor made from arrays."""

import dataclasses

import numpy as np
import pytest
import torch

from cadc_rec.data.request_codes import RequestCodes
from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.answers import Source
from cadc_rec.serving.predict.requests import Requests
from tests.serving.toy import ranking, toy

DIRECTIONS = np.random.default_rng(7).standard_normal((60, 8)).astype(np.float32)


def vector(user, latest, codes):
    """A vector that tells all that it was made of."""
    parts = DIRECTIONS[user], DIRECTIONS[20 + latest % 20], DIRECTIONS[40 + codes] * 2
    return parts[0] + parts[1] + parts[2].sum(0)


def query(users, histories, codes):
    given = zip(users.tolist(), histories[:, 0].tolist(), codes.numpy(), strict=True)
    return torch.from_numpy(np.stack([vector(*one) for one in given]))


def newcomers(histories, codes):
    return np.stack([vector(0, h[0], c) for h, c in zip(histories, codes, strict=True)])


def asked(features=("device", "stars"), **more):
    codes = RequestCodes(
        features,
        {"device": ["web", "phone"]},
        {"stars": np.arange(20, dtype=np.int32) % 5},
        None,
    )
    return dataclasses.replace(toy(newcomers=newcomers), requests=Requests(codes, query, 3), **more)


def test_a_known_users_vector_is_of_the_user_the_history_and_the_moment():
    predictor = asked()
    found = predictor.recommend([103, 117], 6, context={"device": ["phone", "x"]})
    assert found.sources.tolist() == [Source.KNOWN] * 2
    for place, (user, device) in enumerate([(3, 2), (17, 0)]):
        taken = predictor.known.of(user)
        expected = vector(user, taken[-1], np.array([device, user % 5]))
        order, scores = ranking(predictor, expected, taken)
        assert found.rows[place].tolist() == order[:6]
        np.testing.assert_allclose(found.scores[place], scores[order[:6]], rtol=1e-6)
    pair = (103, predictor.items.ids[found.rows[0, 0]].item())
    (score,) = predictor.score([pair], context={"device": "phone"})
    assert score == pytest.approx(found.scores[0, 0], rel=1e-6)


def test_known_users_newcomers_and_others_are_answered_together():
    predictor = asked()
    found = predictor.recommend(
        [-1, 103, -2],
        4,
        history=[[1004, 1002], [], []],
        context={"device": ["web", "web", "phone"]},
    )
    assert found.sources.tolist() == [Source.HISTORY, Source.KNOWN, Source.POPULARITY]
    order, _ = ranking(predictor, vector(0, 2, np.array([1, 0])), [2, 4])
    assert found.rows[0].tolist() == order[:4]
    alone = predictor.recommend([103], 4, context={"device": "web"})
    assert found.rows[1].tolist() == alone.rows[0].tolist()


def test_nobody_is_answered_with_nothing_and_unknown_pairs_have_no_score():
    predictor = asked()
    assert predictor.recommend([], 3).rows.shape == (0, 3)
    assert np.isnan(predictor.score([(-1, 1000), (103, -1)])).all()


def test_a_model_that_reads_no_context_and_one_that_reads_no_time_refuse_them():
    with pytest.raises(CadcError, match="time: this model reads nothing of the moment"):
        toy().recommend([103], 3, time=5.0)
    with pytest.raises(CadcError, match="context: this model reads nothing of the moment"):
        toy().recommend([103], 3, context={"device": "web"})
    with pytest.raises(CadcError, match="time: this model reads no time of a request"):
        asked().recommend([103], 3, time=5.0)


def test_a_history_is_padded_behind_its_latest_items():
    made = Requests(asked().requests.codes, lambda users, histories, codes: histories, 3)
    histories = [np.array([1, 0]), np.zeros(0, np.int32), np.array([6, 5, 4, 3, 2])]
    rows = np.array([0, 1, 2])
    padded = made.vectors(rows, histories, np.zeros((3, 2), np.int32)).tolist()
    assert padded == [[1, 0, -1], [-1, -1, -1], [6, 5, 4]]
