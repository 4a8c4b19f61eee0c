"""The elements of a request's tensors: as many, and of the type, that the request says.

In: an `Input`, whose elements came as JSON or as raw bytes. Out: whole numbers, bytes of texts, or
for the input ``time`` and attributes of users numbers of any kind.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import numpy as np
from kserve.errors import InvalidInput

from cadc_rec.serving.http.messages import ATTRIBUTE, Input, shown

_INTEGERS: dict[str, Any] = {
    f"{sign}INT{bits}": np.dtype(f"<{letter}{bits // 8}")
    for sign, letter in (("", "i"), ("U", "u"))
    for bits in (8, 16, 32, 64)
}
_NUMBERS = {**_INTEGERS, "FP64": np.dtype("<f8")}
_LARGEST = 2**1023  # a whole number that still is an FP64
SHORT = 256
"""Bytes that a text may always have; longer ones only where the bundle has ids as long."""
WHOLE = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
"""A whole number as JSON and people write it; no id of 64 bits has more digits."""
_LENGTH = struct.Struct("<I")
# Numbers as JSON and people write them; no id of 64 bits has more digits. Python would read "1_0".
WHOLE = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
NUMBER = re.compile(rb"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")


def values_of(tensor: Input, most: int, longest: int = SHORT) -> list[Any]:
    """A tensor's elements in row-major order.

    Args:
        tensor: as it came.
        most: elements it may have.
        longest: bytes that a text may have.

    Raises:
        InvalidInput: it has more, or is not what its shape and type say.
    """
    numbers = tensor.name == "time" or tensor.name.startswith(ATTRIBUTE)
    if tensor.datatype == "FP64" and not numbers:
        raise InvalidInput(f"input {tensor.name!r}: FP64 is of 'time' and attributes alone.")
    size = 1
    for length in tensor.shape:
        size *= length
    if size > most:
        raise InvalidInput(f"input {tensor.name!r}: {size} elements; at most {most} are taken.")
    if tensor.raw is None:
        values = _of_list(tensor, longest)
    elif tensor.datatype == "BYTES":
        values = _texts_of(tensor.raw, tensor.name, longest)
    else:
        kind = _NUMBERS[tensor.datatype]
        if len(tensor.raw) % kind.itemsize:
            raise InvalidInput(
                f"input {tensor.name!r}: {len(tensor.raw)} bytes are no whole number of "
                f"{tensor.datatype}."
            )
        values = np.frombuffer(tensor.raw, kind).tolist()
    if len(values) != size:
        raise InvalidInput(
            f"input {tensor.name!r}: {len(values)} elements do not fill the shape {tensor.shape}."
        )
    return values


def _texts_of(raw: bytes, name: str, longest: int) -> list[bytes]:
    """Elements, each behind its length in four bytes."""
    values, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InvalidInput(f"input {name!r}: ends within the length of an element.")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        _require_short(length, name, longest)
        if at + length > len(raw):
            raise InvalidInput(f"input {name!r}: ends within an element.")
        values.append(raw[at : at + length])
        at += length
    return values


def _of_list(tensor: Input, longest: int) -> list[Any]:
    data, name = tensor.data or [], tensor.name
    if len(tensor.shape) == 2 and data and isinstance(data[0], list):
        rows, data = data, []
        for row in rows:
            if not isinstance(row, list):
                raise InvalidInput(f"input {name!r}: rows are lists, not {shown(row)}.")
            data += row
    if tensor.datatype == "BYTES":
        return [_as_bytes(value, name, longest) for value in data]
    if tensor.datatype == "FP64":
        for value in data:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or (isinstance(value, int) and abs(value) > _LARGEST):
                raise InvalidInput(f"input {name!r}: {shown(value)} is no FP64.")
        return data
    range_ = np.iinfo(_INTEGERS[tensor.datatype])
    least, most = int(range_.min), int(range_.max)
    for value in data:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(f"input {name!r}: {shown(value)} is no {tensor.datatype}.")
    return data


def _as_bytes(value: Any, name: str, longest: int) -> bytes:
    if isinstance(value, str):
        # JSON can spell a lone surrogate, which is no text.
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise InvalidInput(f"input {name!r}: {shown(value)} is no BYTES.")
    _require_short(len(value), name, longest)
    return value


def _require_short(length: int, name: str, longest: int) -> None:
    if length > longest:
        raise InvalidInput(f"input {name!r}: an element is longer than {longest} bytes.")
