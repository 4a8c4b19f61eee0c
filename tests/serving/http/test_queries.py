"""What a request asks for, without a service."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("kserve")

from cadc_rec.serving.http.messages import Input, Request
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.catalogue import IdMap

ENDS = [2**63 - 1, -(2**63), 1_790_000_000_000_000_001, 0, 17]


class _Predictor(SimpleNamespace):
    users = IdMap("user", np.array(ENDS))
    items = IdMap("item", np.array(ENDS))


@pytest.mark.parametrize("value", ENDS)
def test_ids_of_19_digits_are_the_same_as_text_and_as_numbers(value):
    for data, datatype in (([value], "INT64"), ([str(value)], "BYTES")):
        tensor = Input(name="user_id", shape=[1], datatype=datatype, data=data)
        query = query_of(Request(inputs=[tensor]), _Predictor(), Limits())
        assert query.users == [value]
        assert _Predictor.users.rows(query.users).tolist() == [ENDS.index(value)]


@pytest.mark.parametrize("text", [str(2**63), "9" * 20, "1.0", "007", "+7", ""])
def test_text_that_no_id_of_64_bits_has_is_nobody(text):
    tensor = Input(name="user_id", shape=[1], datatype="BYTES", data=[text])
    query = query_of(Request(inputs=[tensor]), _Predictor(), Limits())
    assert _Predictor.users.rows(query.users).tolist() == [-1]
