"""What requests ask for, checked in a process that has kserve loaded; run by `test_queries`.

python queries_of_requests.py FUNCTION
"""

from __future__ import annotations

import dataclasses
import sys
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from kserve.errors import InvalidInput
from pydantic import ValidationError

from cadc_rec.config.tables import IdForm
from cadc_rec.data.request_codes import RequestCodes
from cadc_rec.serving.http.batcher import Waiting, _of_all, _Work
from cadc_rec.serving.http.messages import Request
from cadc_rec.serving.http.queries import Query, query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.requests import Requests
from cadc_rec.serving.predict.rules import NO_RULES, Rules
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


def ids_as_long_as_those_of_the_data() -> None:
    long = "x" * 400
    assert rows(np.array(["a", long], object), (), "BYTES", [long, "x" * 399]) == [1, -1]
    with pytest.raises(InvalidInput, match="an element is longer than 400 bytes"):
        rows(np.array(["a", long], object), (), "BYTES", ["x" * 401])
    assert rows(np.array(["a"], object), (), "BYTES", ["x" * 256]) == [-1]
    with pytest.raises(InvalidInput, match="an element is longer than 256 bytes"):
        rows(np.array(["a"], object), (), "BYTES", ["x" * 257])


def forms_of_the_data() -> None:
    forms: tuple[IdForm, ...] = ("trim", "integer-like")
    for ids in (np.array([7, 10]), np.array(["7", "10"], object)):
        assert rows(ids, forms, "BYTES", [" 10.0", "007", "x", "7"]) == [1, 0, -1, 0]
        assert rows(ids, forms, "INT64", [7, 8]) == [0, -1]


def no_form() -> None:
    assert rows(np.array([7, 10]), (), "BYTES", ["7", " 7", "7.0"]) == [0, -1, -1]
    with pytest.raises(InvalidInput, match="send BYTES"):
        rows(np.array(["7", "10"], object), (), "INT64", [7])


READ = ("hour", "device", "shelf")


def asked(
    *inputs: tuple[str, str, list[Any]], reads: tuple[str, ...] = ("hour", "device", "shelf")
):
    """The query of two users, of a bundle that reads these features."""
    values = {"device": ["web", "phone"], "shelf": [7, 8]}
    columns = {name: values[name] for name in reads if name in values}
    codes = RequestCodes(reads, columns, {}, None)
    predictor = dataclasses.replace(toy(), requests=Requests(codes, None, 0) if reads else None)
    tensors = [("user_id", "INT64", [100, 101]), *inputs]
    document = [
        {"name": name, "shape": [len(data)], "datatype": kind, "data": data}
        for name, kind, data in tensors
    ]
    return query_of(Request.model_validate({"inputs": document}), predictor, Limits())


def the_moment_of_a_request() -> None:
    before = time.time()
    default = asked()
    assert len(default.time) == 2
    assert all(before <= moment <= time.time() for moment in default.time)
    assert default.context == {"device": [None, None], "shelf": [None, None]}
    said = asked(
        ("time", "FP64", [1.5, 2]),
        ("context_device", "BYTES", ["web", ""]),
        ("context_shelf", "BYTES", ["7", ""]),
    )
    assert said.time == [1.5, 2]
    assert said.context == {"device": ["web", None], "shelf": [7, None]}
    assert asked(("context_shelf", "INT64", [8, 9])).context["shelf"] == [8, 9]
    assert asked(reads=()).time is None
    for wrong, sentence in [
        (("time", "BYTES", ["noon", "noon"]), "input 'time': send FP64 or INT64, seconds"),
        (("time", "FP64", ["noon", 1]), "input 'time': 'noon' is no FP64"),
        (("time", "FP64", [1.0]), r"input 'time': the shape is \[2\] for 2 users, not \[1\]"),
        (("time", "FP64", [10**400, 1]), "is no FP64"),
        (
            ("context_device", "INT64", [1, 2]),
            "'context_device': values are text: send BYTES",
        ),
        (("context_shelf", "BYTES", ["x", "7"]), "values are whole numbers; got 'x'"),
        (
            ("context_color", "BYTES", ["x", "7"]),
            "no such column; there are: context_device, ",
        ),
        (
            ("history", "FP64", [1.0, 2.0]),
            "'history': FP64 is of 'time' and attributes alone",
        ),
    ]:
        with pytest.raises(InvalidInput, match=sentence):
            asked(wrong)
    with pytest.raises(InvalidInput, match="input 'time': this model reads no time"):
        asked(("time", "FP64", [1.0, 2.0]), reads=("device",))
    with pytest.raises(InvalidInput, match="there are: none"):
        asked(("context_device", "BYTES", ["web", "web"]), reads=())


def queries_at_different_moments_are_one_call() -> None:
    said = []
    answer = SimpleNamespace(rows=np.zeros((4, 3)), item_ids=np.zeros((4, 3)))
    answer.scores, answer.sources = answer.rows, np.zeros(4)

    def recommend(users, k, exclude_seen, filter, history, candidates, time, context, *more):
        said.append((users, time, context))
        return answer

    queries = [
        asked(("time", "INT64", [1, 2]), ("context_device", "BYTES", ["web", ""])),
        asked(("time", "INT64", [3, 4]), ("context_shelf", "INT64", [7, 8])),
    ]
    predictor = SimpleNamespace(recommend=recommend)
    waiting = [Waiting(predictor, query, None, None) for query in queries]
    found = list(_of_all([_Work(one, one.query) for one in waiting]))
    assert [len(each.rows) for each in found] == [2, 2]
    context = {"device": ["web", None, None, None], "shelf": [None, None, 7, 8]}
    assert said == [([100, 101, 100, 101], [1, 2, 3, 4], context)]


def sessions() -> None:
    """Histories with users and without; what is known of a user is read first, or not at all."""

    def of(shape: list[int], data: list[int], users: bool = True, **parameters: Any) -> Query:
        history = {"name": "history", "shape": shape, "datatype": "INT64", "data": data}
        user = {"name": "user_id", "shape": [2], "datatype": "INT64", "data": [100, 101]}
        document = {"inputs": [user, history] if users else [history], "parameters": parameters}
        return query_of(Request.model_validate(document), toy(), Limits())

    found = of([2, 2], [1001, 1002, 1003, -1])
    assert (found.users, found.history_mode) == ([100, 101], "append")
    assert found.history == [[1001, 1002], [1003, -1]]
    assert of([2, 1], [1001, 1002], history_mode="replace").history_mode == "replace"
    for shape, users, history in [
        ([2, 1], [None, None], [[1001], [1002]]),
        ([2], [None], [[1001, 1002]]),
    ]:
        found = of(shape, [1001, 1002], users=False)
        assert (found.users, found.history) == (users, history)
    with pytest.raises(InvalidInput, match="0 sessions; from 1 to"):
        of([0, 3], [], users=False)
    with pytest.raises(ValidationError, match="history_mode"):
        of([2, 1], [1001, 1002], history_mode="both")


def attributes_of_somebody_new() -> None:
    """One value or a row of values a user; empty texts and NaN are unknown; with users or none."""
    from tests.serving.predict.test_attributes import with_attributes

    predictor = with_attributes([])

    def of(*inputs: tuple[str, list[int], str, list[Any]]) -> Query:
        words = ("name", "shape", "datatype", "data")
        document = {"inputs": [dict(zip(words, each, strict=True)) for each in inputs]}
        return query_of(Request.model_validate(document), predictor, Limits())

    found = of(
        ("attribute_group", [2], "BYTES", ["b", ""]),
        ("attribute_zone", [2, 1], "BYTES", ["20", "30"]),
        ("attribute_age", [2], "FP64", [39.5, 40]),
        ("attribute_income", [2], "INT64", [3, 4]),
        ("attribute_likes", [2, 2], "BYTES", ["x", "", "", ""]),
        ("attribute_face", [2, 2], "FP64", [1.0, 2.0, 3.0, float("nan")]),
    )
    assert found.users == [None, None]
    assert found.attributes == {
        "group": ["b", None],
        "zone": [20, 30],
        "age": [39.5, 40],
        "income": [3, 4],
        "likes": [["x"], None],
        "face": [[1.0, 2.0], None],
    }
    user = ("user_id", [1], "INT64", [-5])
    assert of(user, ("attribute_zone", [1], "INT64", [10])).attributes == {"zone": [10]}
    for text, number in (("39.5", 39.5), ("-1.5E+2", -150.0), ("0", 0.0)):
        assert of(user, ("attribute_age", [1], "BYTES", [text])).attributes == {"age": [number]}
    assert of(user).attributes == {}
    # Values that no training user had are unknown, and take no place.
    new = [f"new {n}" for n in range(32)]
    assert of(user, ("attribute_likes", [1, 32], "BYTES", new)).attributes == {"likes": [new]}
    assert of(user, ("attribute_age", [1], "BYTES", ["-1.5e1"])).attributes == {"age": [-15.0]}
    for given, named in (
        (("attribute_color", [1], "BYTES", ["x"]), "no such attribute of users; there are: attr"),
        (("attribute_zone", [1], "BYTES", ["x"]), "values are whole numbers"),
        (("attribute_age", [1], "BYTES", ["x"]), "values are numbers"),
        (("attribute_zone", [1], "BYTES", ["1_0"]), "values are whole numbers"),
        (("attribute_zone", [1], "BYTES", [" 10"]), "values are whole numbers"),
        (("attribute_age", [1], "BYTES", ["1_0"]), "values are numbers"),
        (("attribute_age", [1], "BYTES", ["٣"]), "values are numbers"),
        (("attribute_zone", [1], "BYTES", ["1_0"]), "whole numbers; got '1_0'"),
        (("attribute_zone", [1], "BYTES", [" 7"]), "whole numbers; got ' 7'"),
        (("attribute_zone", [1], "BYTES", ["\u0667"]), "whole numbers"),
        (("attribute_age", [1], "BYTES", ["1_0.5"]), "values are numbers; got '1_0.5'"),
        (("attribute_age", [1], "BYTES", ["infinity"]), "values are numbers"),
        (("attribute_age", [1], "BYTES", ["1e999"]), "'age' has numbers, not inf"),
        (("attribute_zone", [1], "FP64", [1.5]), "values of 'zone' are whole numbers"),
        (("attribute_group", [1, 2], "BYTES", ["a", "b"]), "the shape is"),
        (("attribute_face", [1, 1], "FP64", [1.0]), "'face' has 2 numbers"),
        (("attribute_face", [1, 70], "FP64", [1.0] * 70), "'face' has 2 numbers, not 70"),
        (
            ("attribute_likes", [1, 33], "BYTES", [""] * 33),
            "33 values a user, and the model takes 2",
        ),
        (("attribute_age", [1], "FP64", [1e309]), "'age' has numbers, not inf"),
    ):
        with pytest.raises(InvalidInput, match=named):
            of(user, given)
    predictor = toy()
    with pytest.raises(InvalidInput, match="reads no attributes of users"):
        of(user, ("attribute_zone", [1], "INT64", [10]))


def choosing() -> None:
    """Items of all users or of each, and rules as JSON and, as gRPC has no floats, as text."""

    def of(shape: list[int], **parameters: Any) -> Query:
        ids = list(range(1000, 1000 + int(np.prod(shape))))
        tensors = [
            {"name": "user_id", "shape": [2], "datatype": "INT64", "data": [100, 101]},
            {"name": "candidate_id", "shape": shape, "datatype": "INT64", "data": ids},
            {"name": "block_id", "shape": [1], "datatype": "INT64", "data": [1001]},
        ]
        document = {"inputs": tensors, "parameters": parameters}
        return query_of(Request.model_validate(document), toy(), Limits())

    found = of([3])
    assert (found.candidates, found.block) == ([1000, 1001, 1002], [1001])
    assert of([2, 2]).candidates == [[1000, 1001], [1002, 1003]]
    assert found.rules == NO_RULES
    assert not found.is_plain
    for text in (False, True):
        numbers = {"diversity": 0.25, "min_score": -1.5}
        numbers = {name: str(value) for name, value in numbers.items()} if text else numbers
        boost = '[{"filter": {"kind": ["kind 1"]}, "add": 2}]'
        rules = of([3], max_per='{"kind": 2}', boost=boost, **numbers).rules
        assert dataclasses.replace(rules, boosts=()) == Rules({"kind": 2}, 0.25, (), -1.5)
        assert rules.added.tolist() == [2.0 * (n % 4 == 1) for n in range(50)]
    wanted = of([3], filter='{"kind": ["kind 1"]}').filter
    assert wanted.rows().tolist() == list(range(1, 50, 4))
    for shape, parameters, sentence in [
        ([3, 1], {}, r"'candidate_id': the shape is \[m\], or \[2, m\] for 2 users, not"),
        ([3], {"filter": '{"year": {">": "x"}}'}, "parameters: '>' of year takes a number"),
        ([3], {"max_per": '{"kind": 0}'}, "kind = 0 is not a whole number from 1 on"),
    ]:
        with pytest.raises(InvalidInput, match=sentence):
            of(shape, **parameters)
    for wrong in ({"diversity": "much"}, {"diversity": 2}, {"max_per": "[]"}, {"boost": "{}"}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            of([3], **wrong)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
