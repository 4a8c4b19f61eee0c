"""Requests over HTTP: JSON, or JSON followed by raw tensors (the protocol's binary extension).

In: a body and its headers. Out: a KServe `InferRequest`; and from an `InferResponse` a body again.
KServe's own decoder believes what a body says of itself; this one does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from kserve import InferInput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.protocol.infer_type import RequestedOutput

JSON_LENGTH_HEADER = "inference-header-content-length"
_SCALARS = (str, int, float, bool)


def decode(body: bytes, json_length: str | None, model_name: str) -> InferRequest:
    """A request.

    Args:
        body: of the HTTP request.
        json_length: value of `JSON_LENGTH_HEADER`; None where all of the body is JSON.
        model_name: from the path.

    Raises:
        InvalidInput: it is malformed.
    """
    size = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 12):
            raise InvalidInput(f"header {JSON_LENGTH_HEADER}: {json_length!r:.40} is no length.")
        size = int(json_length)
        if size > len(body):
            raise InvalidInput(f"header {JSON_LENGTH_HEADER}: {size}, but the body is shorter.")
    try:
        document = orjson.loads(body[:size])
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"the body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidInput("the body is not a JSON object.")
    raw = _RawTensors(body, size)
    inputs = [raw.input_of(entry) for entry in _objects(document, "inputs", required=True)]
    raw.require_end()
    outputs = []
    for entry in _objects(document, "outputs", required=False):
        name = _text(entry, "name", "an output")
        outputs.append(RequestedOutput(name, _parameters(entry, f"output {name!r:.80}")))
    identity = document.get("id")
    if identity is not None and not (isinstance(identity, str) and len(identity) <= 256):
        raise InvalidInput("'id' is a string of at most 256 characters.")
    return InferRequest(
        model_name=model_name,
        request_id=identity,
        infer_inputs=inputs,
        parameters=_parameters(document, "the request"),
        request_outputs=outputs or None,
    )


class _RawTensors:
    """The bytes after the JSON, taken by one input after the other."""

    def __init__(self, body: bytes, start: int) -> None:
        self.body, self.at = body, start

    def input_of(self, entry: dict[str, Any]) -> InferInput:
        name = _text(entry, "name", "an input")
        datatype = _text(entry, "datatype", f"input {name!r:.80}")
        parameters = _parameters(entry, f"input {name!r:.80}")
        tensor = InferInput(name, entry.get("shape"), datatype, parameters=parameters)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in entry:
                raise InvalidInput(f"input {name!r:.80}: 'data' is missing.")
            tensor.data = entry["data"]
            return tensor
        if "data" in entry:
            raise InvalidInput(f"input {name!r:.80}: give 'data' or 'binary_data_size', not both.")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InvalidInput(f"input {name!r:.80}: 'binary_data_size' is a number of bytes.")
        if self.at + size > len(self.body):
            raise InvalidInput(f"input {name!r:.80}: the body ends within its {size} bytes.")
        tensor._raw_data = self.body[self.at : self.at + size]
        self.at += size
        return tensor

    def require_end(self) -> None:
        left = len(self.body) - self.at
        if left:
            raise InvalidInput(f"{left} bytes after the JSON belong to no input.")


def _objects(document: dict[str, Any], name: str, required: bool) -> list[dict[str, Any]]:
    entries = document.get(name)
    if entries is None and not required:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput(f"{name!r} is a list of objects.")
    if len(entries) > 16:
        raise InvalidInput(f"{name!r} has {len(entries)} entries; at most 16 are read.")
    return entries


def _text(entry: dict[str, Any], key: str, whose: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str):
        raise InvalidInput(f"{whose}: {key!r} is a string.")
    return value


def _parameters(entry: dict[str, Any], whose: str) -> dict[str, Any]:
    given = entry.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict) or not all(isinstance(v, _SCALARS) for v in given.values()):
        raise InvalidInput(f"{whose}: 'parameters' is an object of strings, numbers and booleans.")
    return given


def encode(response: InferResponse, request: InferRequest) -> tuple[bytes, dict[str, str]]:
    """A body and its headers: every output as JSON, or raw where the request asks for that."""
    parameters = request.parameters or {}
    all_binary = parameters.get("binary_data_output") is True
    binary = {output.name: output.binary_data is True for output in request.request_outputs or ()}
    outputs, tail = [], []
    for output in response.outputs:
        array: np.ndarray = output.data
        entry = {"name": output.name, "shape": output.shape, "datatype": output.datatype}
        if binary.get(output.name, all_binary):
            output.set_data_from_numpy(array, binary_data=True)
            tail.append(output._raw_data)
            entry["parameters"] = {"binary_data_size": len(output._raw_data)}
        else:
            entry["data"] = array.ravel().tolist()
        outputs.append(entry)
    document = {
        "model_name": response.model_name,
        "model_version": response.model_version,
        "outputs": outputs,
    }
    if response.id:
        document["id"] = response.id
    head = orjson.dumps(document)
    if not tail:
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head))}
    return b"".join([head, *tail]), headers
