"""What a request tells of users whom the model does not know: inputs ``attribute_NAME``.

In: tensors, ``[n]`` or ``[n, m]`` for n users; an empty text and NaN are unknown. Out: a value or a
list of values a user, as `Predictor.recommend` takes them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kserve.errors import InvalidInput

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.messages import ATTRIBUTE, Input, shown
from cadc_rec.serving.http.tensors import NUMBER, WHOLE, values_of
from cadc_rec.serving.predict.attributes import UserAttributes
from cadc_rec.serving.predict.predictor import Predictor

_LEAST_VALUES = 32  # that may be told of one user, as the model need not know each of them


def first_attribute(inputs: Mapping[str, Input]) -> Input | None:
    """An input with an attribute; None without any."""
    return next((one for name, one in inputs.items() if name.startswith(ATTRIBUTE)), None)


def attributes_of(
    inputs: Mapping[str, Input], predictor: Predictor, n: int
) -> dict[str, list[Any]]:
    """The attributes that are told of n users.

    Raises:
        InvalidInput: the model reads no such attribute, or a value is not of its type.
    """
    given = {name: one for name, one in inputs.items() if name.startswith(ATTRIBUTE)}
    if not given:
        return {}
    described = predictor.user_attributes
    if described is None:
        (name, *_) = given
        raise InvalidInput(f"input {name!r:.80}: this model reads no attributes of users.")
    found = {}
    for name, tensor in given.items():
        attribute = name.removeprefix(ATTRIBUTE)
        if attribute not in described.kinds:
            known = ", ".join(ATTRIBUTE + one for one in described.kinds)
            raise InvalidInput(
                f"input {name!r:.80}: this model reads no such attribute of users; there are: "
                f"{known}."
            )
        found[attribute] = _values(tensor, described, attribute, n)
    try:
        described.told(found, n)
    except CadcError as error:
        raise InvalidInput(str(error)) from None
    return found


def described_attributes(described: UserAttributes | None) -> list[Mapping[str, Any]]:
    """These inputs, as metadata calls tell them."""
    found: list[Mapping[str, Any]] = []
    for name, kind in described.kinds.items() if described else ():
        assert described is not None
        integers = described.takes_integers(name)
        datatype = "FP64" if _numbers(kind) else ("INT64" if integers else "BYTES")
        shape = [-1, -1] if kind in ("multi", "vector") else [-1]
        found.append({"name": ATTRIBUTE + name, "datatype": datatype, "shape": shape})
    return found


def _numbers(kind: str) -> bool:
    return kind in ("numeric", "number", "vector")


def _values(tensor: Input, described: UserAttributes, attribute: str, n: int) -> list[Any]:
    kind, shape = described.kinds[attribute], tensor.shape
    several = kind in ("multi", "vector")
    width = shape[1] if len(shape) == 2 else 1
    if shape[0] != n or (not several and width != 1):
        wanted = f"[{n}, any number]" if several else f"[{n}]"
        raise InvalidInput(
            f"input {tensor.name!r}: the shape is {wanted} for {n} users, not {shape}."
        )
    places = described.places(attribute)
    if kind == "vector" and width != places:
        raise InvalidInput(
            f"input {tensor.name!r}: {attribute!r} has {places} numbers, not {width}."
        )
    if width > max(places, _LEAST_VALUES):
        raise InvalidInput(
            f"input {tensor.name!r}: {width} values a user, and the model takes {places} at most; "
            "leave the least important ones out."
        )
    whole = described.takes_integers(attribute)
    values = [_value(tensor.name, each, kind, whole) for each in values_of(tensor, n * width)]
    if not several:
        return values
    rows = [values[at : at + width] for at in range(0, n * width, width)] if width else [[]] * n
    if kind == "vector":
        return [None if None in row else row for row in rows]
    return [[value for value in row if value is not None] or None for row in rows]


def _value(name: str, value: Any, kind: str, whole: bool) -> Any:
    """An element; None of one that is unknown. Numbers may come as text."""
    if not isinstance(value, bytes):
        return None if isinstance(value, float) and math.isnan(value) else value
    text = value.decode(errors="replace")
    if not text:
        return None
    if not (whole or _numbers(kind)):
        return text
    if not (WHOLE if whole else NUMBER).fullmatch(value):
        what = "whole numbers" if whole else "numbers"
        raise InvalidInput(f"input {name!r}: values are {what}; got {shown(text)}.")
    return int(text) if whole else float(text)
