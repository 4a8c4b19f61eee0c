"""Answers as bytes, in the form that was asked for: JSON, raw tensors behind it, compressed.

In: `Output` tensors. Out: a body and its headers, whole or in pieces. A large answer is made in
pieces, so that the thread that makes it lets others go on in between, and so that what a slow
reader has not taken yet is not held twice.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import orjson
from kserve import InferOutput

from cadc_rec.serving.http.messages import (
    JSON_LENGTH_HEADER,
    Output,
    OutputTensor,
    Request,
)

LEAST_COMPRESSED = 32 << 10  # bytes of a body; smaller ones take longer to compress than to send
_PIECE = 8192  # elements; a millisecond or two
_LEVEL = 1  # of zlib: higher ones take several times as long for a tenth of the bytes
_WINDOW = {"gzip": 31, "deflate": 15}  # zlib's numbers for the two formats


def encode(
    request: Request, outputs: list[Output], model_name: str, version: str
) -> tuple[bytes, dict[str, str]]:
    """A body and its headers: each output as JSON, or as raw bytes if the request asks for that."""
    headers, pieces = encode_pieces(request, outputs, model_name, version)
    return b"".join(pieces), headers


def encode_pieces(
    request: Request, outputs: list[Output], model_name: str, version: str
) -> tuple[dict[str, str], Iterator[bytes]]:
    """The headers, and the body in pieces; see `encode`."""
    all_raw = request.parameters is not None and request.parameters.binary_data_output
    raw_ones: dict[str, bool] = {
        output.name: output.parameters is not None and output.parameters.binary_data
        for output in request.outputs or ()
    }
    tensors, tail, lists = list[OutputTensor](), list[bytes](), list[np.ndarray | None]()
    for output in outputs:
        array = output.array
        tensor = OutputTensor(name=output.name, shape=list(array.shape), datatype=output.datatype)
        if raw_ones.get(output.name, all_raw):
            form = InferOutput(output.name, tensor["shape"], output.datatype)
            form.set_data_from_numpy(array, binary_data=True)
            tail.append(form._raw_data)
            tensor["parameters"] = {"binary_data_size": len(form._raw_data)}
            lists.append(None)
        else:
            lists.append(array.reshape(-1))
        tensors.append(tensor)
    document = {"model_name": model_name, "model_version": version}
    if request.id:
        document["id"] = request.id
    json = _json(document, tensors, lists)
    if not tail:
        return {"content-type": "application/json"}, json
    head = b"".join(json)
    headers = {"content-type": "application/octet-stream", JSON_LENGTH_HEADER: str(len(head))}
    return headers, iter([head, *tail])


def _json(
    document: Mapping[str, str], tensors: list[OutputTensor], lists: list[np.ndarray | None]
) -> Iterator[bytes]:
    """A `Response` of these entries and tensors, with their elements, in pieces."""
    yield orjson.dumps(document)[:-1] + b',"outputs":['
    for place, (tensor, elements) in enumerate(zip(tensors, lists, strict=True)):
        start = (b"," if place else b"") + orjson.dumps(tensor)
        if elements is None:
            yield start
            continue
        yield start[:-1] + b',"data":['
        for at in range(0, len(elements), _PIECE):
            yield (b"," if at else b"") + _numbers(elements[at : at + _PIECE])[1:-1]
        yield b"]}"
    yield b"]}"


def _numbers(elements: np.ndarray) -> bytes:
    """A JSON list. Float32 has as many digits as tell it from its neighbours."""
    if elements.dtype == object:
        return orjson.dumps(elements.tolist())
    return orjson.dumps(np.ascontiguousarray(elements), option=orjson.OPT_SERIALIZE_NUMPY)


def accepted(header: str | None) -> str | None:
    """The compression of ``Accept-Encoding`` that is used; None for none.

    Args:
        header: its value; None where there is none.
    """
    if not header:
        return None
    weights: dict[str, float] = {}
    for entry in header.lower().split(","):
        name, _, rest = entry.partition(";")
        quality = rest.strip().removeprefix("q=") if rest.strip().startswith("q=") else "1"
        try:
            weights[name.strip()] = float(quality)
        except ValueError:
            weights[name.strip()] = 0.0
    named = {name: weights.get(name, weights.get("*", 0.0)) for name in _WINDOW}
    best = max(named, key=lambda name: named[name])
    return best if named[best] > 0 else None


def compressed(pieces: Iterator[bytes], form: str) -> Iterator[bytes]:
    """The same bytes compressed, in as many pieces or fewer."""
    packer: Any = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOW[form])
    for piece in pieces:
        packed = packer.compress(piece)
        if packed:
            yield packed
    yield packer.flush()
