"""The service finds an id in every form that the data were read in."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from kserve.errors import InvalidInput

from cadc_rec.serving.http.messages import Request
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.catalogue import IdMap
from tests.serving.toy import toy


def users_found(ids, forms, datatype, data):
    predictor = dataclasses.replace(toy(n_users=2), users=IdMap("user", ids, forms))
    tensor = {"name": "user_id", "shape": [len(data)], "datatype": datatype, "data": data}
    request = Request.model_validate({"inputs": [tensor]})
    return predictor.users.rows(query_of(request, predictor, Limits()).users).tolist()


@pytest.mark.parametrize("ids", [np.array([7, 10]), np.array(["7", "10"], object)])
def test_text_and_numbers_are_asked_for_in_either_form(ids):
    forms = ("trim", "integer-like")
    assert users_found(ids, forms, "BYTES", [" 10.0", "007", "x", "7"]) == [1, 0, -1, 0]
    assert users_found(ids, forms, "INT64", [7, 8]) == [0, -1]


def test_without_a_form_an_id_is_what_it_is():
    assert users_found(np.array([7, 10]), (), "BYTES", ["7", " 7", "7.0"]) == [0, -1, -1]
    with pytest.raises(InvalidInput, match="send BYTES"):
        users_found(np.array(["7", "10"], object), (), "INT64", [7])
