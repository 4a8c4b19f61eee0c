"""No JSON of ours holds what JSON does not have."""

import json
import math

import pytest

from cadc_rec import strict_json


def refuse(constant):
    raise AssertionError(f"{constant} is no JSON")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null(number):
    text = strict_json.dumps({"a": [1.5, number, ("b", number)], "c": number}, indent=2)
    found = json.loads(text, parse_constant=refuse)
    assert found == {"a": [1.5, None, ["b", None]], "c": None}


def test_everything_else_is_as_python_writes_it():
    value = {"b": [1, True, None, "é"], "a": 0.1}
    assert strict_json.dumps(value, sort_keys=True) == json.dumps(value, sort_keys=True)
    with pytest.raises(TypeError):
        strict_json.dumps({"a": object()})
