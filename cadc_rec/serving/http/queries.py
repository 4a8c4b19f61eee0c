"""What a request asks of the predictor, and its answer as tensors.

In: a `Request`. Out: a `Query`, and from its `Recommendations` the `Output` tensors.

Inputs: ``user_id`` ``[n]``; optional ``history`` ``[n, L]``, oldest first, where ids that do not
exist fill up short ones; optional ``candidate_id`` ``[m]``. Outputs: ``item_id`` ``[n, k]``,
``score`` ``[n, k]``, ``count`` ``[n]``, ``source`` ``[n]``, and on demand ``title`` ``[n, k]``.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from kserve.errors import InvalidInput

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.messages import DEFAULT_K, Input, Output, Parameters, Request, shown
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.catalogue import IdMap
from cadc_rec.serving.predict.predictor import Predictor, Recommendations, Source

_OUTPUTS = ("item_id", "score", "count", "source")  # where a request names none
_DEFAULTS = Parameters()
_INTEGERS: dict[str, Any] = {
    f"{sign}INT{bits}": np.dtype(f"<{letter}{bits // 8}")
    for sign, letter in (("", "i"), ("U", "u"))
    for bits in (8, 16, 32, 64)
}
_LONGEST_ID = 256  # bytes
_LENGTH = struct.Struct("<I")
# A number as JSON and people write it; no id of 64 bits has more digits.
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]{0,18})")
_WORDS = np.array([source.word for source in Source], dtype=object)


@dataclass(frozen=True)
class Query:
    """A request that the predictor will take.

    Attributes:
        users: original ids; None for one that no user can have.
        k: items a user.
        exclude_seen: whether to leave out what they took.
        history: a list of item ids each; None without histories.
        filter: attribute to values; None for all items.
        candidates: item ids; None for all items.
    """

    users: list[Any]
    k: int
    exclude_seen: bool = True
    history: list[list[Any]] | None = None
    filter: dict[str, list[Any]] | None = None
    candidates: list[Any] | None = None


def query_of(request: Request, predictor: Predictor, limits: Limits) -> Query:
    """What the request asks for.

    Raises:
        InvalidInput: it is not as described above, or beyond the limits.
    """
    inputs = {tensor.name: tensor for tensor in request.inputs}
    if len(inputs) < len(request.inputs):
        raise InvalidInput("inputs: the same name is given twice.")
    if "user_id" not in inputs:
        raise InvalidInput("input 'user_id' is missing.")
    users = _users(inputs["user_id"], predictor.users, limits)
    parameters = request.parameters or _DEFAULTS
    for name in parameters.model_extra or ():
        known = ", ".join(Parameters.model_fields)
        raise InvalidInput(f"parameter {name!r:.80}: unknown; there are {known}.")
    k, most = parameters.k, min(limits.k, len(predictor.items))
    if "k" not in parameters.model_fields_set:
        k = min(DEFAULT_K, len(predictor.items))
    if not 1 <= k <= most:
        raise InvalidInput(f"parameter 'k' = {k} is not between 1 and {most}.")
    if parameters.filter is not None:
        try:
            predictor.require_filter(parameters.filter)
        except CadcError as error:
            raise InvalidInput(f"parameter 'filter': {error}") from None
    history = candidates = None
    if "history" in inputs:
        history = _history(inputs["history"], len(users), predictor.items, limits)
    if "candidate_id" in inputs:
        values = values_of(inputs["candidate_id"], len(predictor.items))
        candidates = _ids(values, predictor.items)
    return Query(users, k, parameters.exclude_seen, history, parameters.filter, candidates)


def _users(tensor: Input, ids: IdMap, limits: Limits) -> list[Any]:
    values, shape = values_of(tensor, limits.users), tensor.shape
    if len(shape) == 2 and shape[1] != 1:
        raise InvalidInput(f"input 'user_id': the shape is [n] or [n, 1], not {shape}.")
    if not values:
        raise InvalidInput("input 'user_id' is empty; ask for one user or more.")
    return _ids(values, ids)


def _history(tensor: Input, n_users: int, items: IdMap, limits: Limits) -> list[list[Any]]:
    values, shape = values_of(tensor, n_users * limits.history), tensor.shape
    if len(shape) == 1 and n_users == 1:
        shape = [1, shape[0]]
    if len(shape) != 2 or shape[0] != n_users or shape[1] > limits.history:
        raise InvalidInput(
            f"input 'history': the shape is [{n_users}, at most {limits.history}] for {n_users} "
            f"users, not {shape}."
        )
    flat, width = _ids(values, items), shape[1]
    return [flat[n * width : (n + 1) * width] for n in range(n_users)]


def _ids(values: list[int] | list[bytes], ids: IdMap) -> list[Any]:
    """Elements as original ids; numbers may come as text, and text as UTF-8.

    Where the data's ids were brought into a form, any text may be one of them.
    """
    if ids.are_integers and not ids.forms:
        return [
            value if isinstance(value, int) else (int(value) if _NUMBER.fullmatch(value) else None)
            for value in values
        ]
    found: list[Any] = []
    for value in values:
        if isinstance(value, int):
            if ids.are_integers or "integer-like" in ids.forms:
                found.append(value)
                continue
            raise InvalidInput(f"{ids.side} ids are text in this bundle: send BYTES.")
        try:
            found.append(value.decode())
        except UnicodeDecodeError:
            found.append(None)
    return found


def values_of(tensor: Input, most: int) -> list[int] | list[bytes]:
    """A tensor's elements in row-major order.

    Args:
        tensor: as it came.
        most: elements it may have.

    Raises:
        InvalidInput: it has more, or is not what its shape and type say.
    """
    size = 1
    for length in tensor.shape:
        size *= length
    if size > most:
        raise InvalidInput(f"input {tensor.name!r}: {size} elements; at most {most} are taken.")
    if tensor.raw is None:
        values = _of_list(tensor)
    elif tensor.datatype == "BYTES":
        values = _texts_of(tensor.raw, tensor.name)
    else:
        kind = _INTEGERS[tensor.datatype]
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


def _texts_of(raw: bytes, name: str) -> list[bytes]:
    """Elements, each behind its length in four bytes."""
    values, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise InvalidInput(f"input {name!r}: ends within the length of an element.")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        _require_short(length, name)
        if at + length > len(raw):
            raise InvalidInput(f"input {name!r}: ends within an element.")
        values.append(raw[at : at + length])
        at += length
    return values


def _of_list(tensor: Input) -> list[Any]:
    data, name = tensor.data or [], tensor.name
    if len(tensor.shape) == 2 and data and isinstance(data[0], list):
        rows, data = data, []
        for row in rows:
            if not isinstance(row, list):
                raise InvalidInput(f"input {name!r}: rows are lists, not {shown(row)}.")
            data += row
    if tensor.datatype == "BYTES":
        return [_as_bytes(value, name) for value in data]
    range_ = np.iinfo(_INTEGERS[tensor.datatype])
    least, most = int(range_.min), int(range_.max)
    for value in data:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise InvalidInput(f"input {name!r}: {shown(value)} is no {tensor.datatype}.")
    return data


def _as_bytes(value: Any, name: str) -> bytes:
    if isinstance(value, str):
        # JSON can spell a lone surrogate, which is no text.
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise InvalidInput(f"input {name!r}: {shown(value)} is no BYTES.")
    _require_short(len(value), name)
    return value


def _require_short(length: int, name: str) -> None:
    if length > _LONGEST_ID:
        raise InvalidInput(f"input {name!r}: an element is longer than {_LONGEST_ID} bytes.")


def outputs_of(request: Request, answer: Recommendations, predictor: Predictor) -> list[Output]:
    """The answer to a request, with the outputs that it names or all but those on demand."""
    names = [output.name for output in request.outputs or ()] or _OUTPUTS
    return [_output(name, answer, predictor) for name in names]


def _output(name: str, answer: Recommendations, predictor: Predictor) -> Output:
    if name == "item_id":
        kind = "INT64" if predictor.items.are_integers else "BYTES"
        return Output(name, kind, answer.item_ids)
    if name == "score":
        # JSON has no minus infinity; `count` says which places are empty.
        scores = np.where(answer.rows >= 0, answer.scores, 0.0)
        return Output(name, "FP32", scores.astype(np.float32))
    if name == "count":
        return Output(name, "INT32", answer.counts.astype(np.int32))
    if name == "source":
        return Output(name, "BYTES", _WORDS[answer.sources])
    return Output(name, "BYTES", predictor.titles_of(answer.rows))


def described(predictor: Predictor) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The model's inputs and outputs, as metadata calls tell them."""
    user = "INT64" if predictor.users.are_integers else "BYTES"
    item = "INT64" if predictor.items.are_integers else "BYTES"
    return (
        [
            {"name": "user_id", "datatype": user, "shape": [-1]},
            {"name": "history", "datatype": item, "shape": [-1, -1]},
            {"name": "candidate_id", "datatype": item, "shape": [-1]},
        ],
        [
            {"name": "item_id", "datatype": item, "shape": [-1, -1]},
            {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "count", "datatype": "INT32", "shape": [-1]},
            {"name": "source", "datatype": "BYTES", "shape": [-1]},
            {"name": "title", "datatype": "BYTES", "shape": [-1, -1]},
        ],
    )
