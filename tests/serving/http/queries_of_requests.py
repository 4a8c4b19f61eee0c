"""What requests ask for, checked in a process that has kserve loaded; run by `test_queries`.

python queries_of_requests.py FUNCTION
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import numpy as np
import pytest
from kserve.errors import InvalidInput

from cadc_rec.config.tables import IdForm
from cadc_rec.serving.http.messages import Request
from cadc_rec.serving.http.queries import query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.catalogue import IdMap
from tests.serving.toy import toy

ENDS = [2**63 - 1, -(2**63), 1_790_000_000_000_000_001, 0, 17]


def rows(ids: Any, forms: tuple[IdForm, ...], datatype: str, data: list[Any]) -> list[int]:
    """The rows of the users that a request names, of a bundle with these users; -1 is nobody."""
    predictor = dataclasses.replace(toy(n_users=2), users=IdMap("user", ids, forms))
    tensor = {"name": "user_id", "shape": [len(data)], "datatype": datatype, "data": data}
    request = Request.model_validate({"inputs": [tensor]})
    return predictor.users.rows(query_of(request, predictor, Limits()).users).tolist()


def ids_of_19_digits() -> None:
    for value in ENDS:
        for data, datatype in ([value], "INT64"), ([str(value)], "BYTES"):
            assert rows(np.array(ENDS), (), datatype, data) == [ENDS.index(value)]


def text_that_is_no_id_of_64_bits() -> None:
    for text in (str(2**63), "9" * 20, "1.0", "007", "+7", ""):
        assert rows(np.array(ENDS), (), "BYTES", [text]) == [-1]


def forms_of_the_data() -> None:
    forms: tuple[IdForm, ...] = ("trim", "integer-like")
    for ids in (np.array([7, 10]), np.array(["7", "10"], object)):
        assert rows(ids, forms, "BYTES", [" 10.0", "007", "x", "7"]) == [1, 0, -1, 0]
        assert rows(ids, forms, "INT64", [7, 8]) == [0, -1]


def no_form() -> None:
    assert rows(np.array([7, 10]), (), "BYTES", ["7", " 7", "7.0"]) == [0, -1, -1]
    with pytest.raises(InvalidInput, match="send BYTES"):
        rows(np.array(["7", "10"], object), (), "INT64", [7])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
