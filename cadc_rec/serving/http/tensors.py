"""Tensors of the Open Inference Protocol as lists and back, whatever a client wrote into them.

In: a KServe `InferInput`, from JSON, from bytes after JSON, or from gRPC. Out: a flat list of whole
numbers or bytes with its shape, or an `InvalidInput` that says what is wrong.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from kserve import InferInput
from kserve.errors import InvalidInput

_INTEGERS: dict[str, Any] = {
    f"{sign}INT{bits}": np.dtype(f"<{letter}{bits // 8}")
    for sign, letter in (("", "i"), ("U", "u"))
    for bits in (8, 16, 32, 64)
}
INTEGER_TYPES = tuple(_INTEGERS)
"""The protocol's names of whole numbers."""
_LONGEST_ID = 256  # bytes
_LENGTH = struct.Struct("<I")


def values_of(tensor: InferInput, most: int) -> tuple[list[int] | list[bytes], tuple[int, ...]]:
    """A tensor's elements in row-major order, and its shape.

    Args:
        tensor: of integers, or of BYTES.
        most: elements it may have.

    Raises:
        InvalidInput: it has more, or is not what its shape and type say.
    """
    name = _shown(tensor.name)
    shape = _shape_of(tensor, name)
    size = 1
    for length in shape:
        size *= length
    if size > most:
        raise InvalidInput(f"input {name}: {size} elements; at most {most} are taken.")
    kind = tensor.datatype
    if kind != "BYTES" and kind not in _INTEGERS:
        raise InvalidInput(f"input {name}: datatype {kind!r:.40} is not INT64 or BYTES.")
    raw, data = tensor._raw_data, tensor.data
    if raw is not None:
        values = _bytes_of(raw, name) if kind == "BYTES" else _integers_of(raw, kind, name)
    else:
        values = _of_list(data, kind, name, len(shape))
    if len(values) != size:
        raise InvalidInput(
            f"input {name}: {len(values)} elements do not fill the shape {list(shape)}."
        )
    return values, shape


def _shape_of(tensor: InferInput, name: str) -> tuple[int, ...]:
    shape = tensor.shape
    if not isinstance(shape, list) or not 1 <= len(shape) <= 2:
        raise InvalidInput(f"input {name}: the shape has one or two dimensions, not {shape!r:.80}.")
    for length in shape:
        if not isinstance(length, int) or isinstance(length, bool) or not 0 <= length < 1 << 31:
            raise InvalidInput(f"input {name}: {length!r:.40} is no dimension of a shape.")
    return tuple(shape)


def _integers_of(raw: bytes, kind: str, name: str) -> list[int]:
    if len(raw) % _INTEGERS[kind].itemsize:
        raise InvalidInput(f"input {name}: {len(raw)} bytes are no whole number of {kind}.")
    values: list[int] = np.frombuffer(raw, _INTEGERS[kind]).tolist()
    return values


def _bytes_of(raw: bytes, name: str) -> list[bytes]:
    """Elements, each behind its length in four bytes."""
    values, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InvalidInput(f"input {name}: ends within the length of an element.")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if length > _LONGEST_ID:
            raise InvalidInput(f"input {name}: an element is longer than {_LONGEST_ID} bytes.")
        if at + length > len(raw):
            raise InvalidInput(f"input {name}: ends within an element.")
        values.append(raw[at : at + length])
        at += length
    return values


def _of_list(data: Any, kind: str, name: str, dimensions: int) -> list[Any]:
    if not isinstance(data, list):
        raise InvalidInput(f"input {name}: data is a list, not {data!r:.40}.")
    if dimensions == 2 and data and isinstance(data[0], list):
        rows, data = data, []
        for row in rows:
            if not isinstance(row, list):
                raise InvalidInput(f"input {name}: rows are lists, not {row!r:.40}.")
            data += row
    if kind == "BYTES":
        return [_as_bytes(value, name) for value in data]
    least, most = np.iinfo(_INTEGERS[kind]).min, np.iinfo(_INTEGERS[kind]).max
    for value in data:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(f"input {name}: {value!r:.40} is no {kind}.")
    return list(data)


def _as_bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        # JSON can spell a lone surrogate, which is no text.
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise InvalidInput(f"input {name}: {value!r:.40} is no BYTES.")
    if len(value) > _LONGEST_ID:
        raise InvalidInput(f"input {name}: an element is longer than {_LONGEST_ID} bytes.")
    return value


def _shown(name: Any) -> str:
    return f"{name!r:.80}"
