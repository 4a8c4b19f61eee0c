"""What a request of the protocol asks of the predictor, and the answer as tensors.

In: a KServe `InferRequest`. Out: a `Query`, and from its `Recommendations` an `InferResponse`.

Inputs: ``user_id`` ``[n]``; optional ``history`` ``[n, L]``, oldest first, ids that nobody knows
fill up short ones; optional ``candidate_id`` ``[m]``. Parameters: ``k``, ``exclude_seen``,
``filter`` (JSON: attribute to list of values). Outputs: ``item_id`` ``[n, k]``, ``score``
``[n, k]``, ``count`` ``[n]``, ``source`` ``[n]``, and on demand ``title`` ``[n, k]``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.tensors import values_of
from cadc_rec.serving.predict.catalogue import IdMap
from cadc_rec.serving.predict.predictor import Predictor, Recommendations, Source

DEFAULT_K = 10
_INPUTS = ("user_id", "history", "candidate_id")
_OUTPUTS = ("item_id", "score", "count", "source")
_ON_DEMAND = ("title",)
_PARAMETERS = ("k", "exclude_seen", "filter", "binary_data_output")
# A number as JSON and people write it; nobody has an id with more digits.
_NUMBER = re.compile(rb"-?(0|[1-9][0-9]{0,17})")
_WORDS = np.array([source.word for source in Source], dtype=object)


@dataclass(frozen=True)
class Query:
    """A request that the predictor will take.

    Attributes:
        users: original ids; None for one that cannot be anybody's.
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


def query_of(request: InferRequest, predictor: Predictor, limits: Limits) -> Query:
    """What the request asks for.

    Raises:
        InvalidInput: it is not as described above, or beyond the limits.
    """
    inputs: dict[str, InferInput] = {}
    for tensor in request.inputs:
        if tensor.name not in _INPUTS:
            known = ", ".join(_INPUTS)
            raise InvalidInput(f"input {tensor.name!r:.80}: unknown; there are {known}.")
        if tensor.name in inputs:
            raise InvalidInput(f"input {tensor.name!r}: given twice.")
        inputs[tensor.name] = tensor
    if "user_id" not in inputs:
        raise InvalidInput("input 'user_id' is missing.")
    for output in request.request_outputs or ():
        if output.name not in (*_OUTPUTS, *_ON_DEMAND):
            known = ", ".join((*_OUTPUTS, *_ON_DEMAND))
            raise InvalidInput(f"output {output.name!r:.80}: unknown; there are {known}.")
    users = _users(inputs["user_id"], predictor.users, limits)
    k, exclude_seen, wanted = _parameters(request, predictor, limits)
    history = candidates = None
    if "history" in inputs:
        history = _history(inputs["history"], len(users), predictor.items, limits)
    if "candidate_id" in inputs:
        values, _ = values_of(inputs["candidate_id"], len(predictor.items))
        candidates = _ids(values, predictor.items)
    return Query(users, k, exclude_seen, history, wanted, candidates)


def _users(tensor: InferInput, ids: IdMap, limits: Limits) -> list[Any]:
    values, shape = values_of(tensor, limits.users)
    if len(shape) == 2 and shape[1] != 1:
        raise InvalidInput(f"input 'user_id': the shape is [n] or [n, 1], not {list(shape)}.")
    if not values:
        raise InvalidInput("input 'user_id' is empty; ask for one user or more.")
    return _ids(values, ids)


def _history(tensor: InferInput, n_users: int, items: IdMap, limits: Limits) -> list[list[Any]]:
    values, shape = values_of(tensor, n_users * limits.history)
    if len(shape) == 1 and n_users == 1:
        shape = (1, shape[0])
    if len(shape) != 2 or shape[0] != n_users or shape[1] > limits.history:
        raise InvalidInput(
            f"input 'history': the shape is [{n_users}, at most {limits.history}] for {n_users} "
            f"users, not {list(shape)}."
        )
    flat, width = _ids(values, items), shape[1]
    return [flat[n * width : (n + 1) * width] for n in range(n_users)]


def _ids(values: list[int] | list[bytes], ids: IdMap) -> list[Any]:
    """Elements as original ids; numbers may come as text, and text as UTF-8."""
    if ids.are_integers:
        return [
            value if isinstance(value, int) else (int(value) if _NUMBER.fullmatch(value) else None)
            for value in values
        ]
    found: list[Any] = []
    for value in values:
        if isinstance(value, int):
            raise InvalidInput(f"{ids.side} ids are text in this bundle: send BYTES.")
        try:
            found.append(value.decode())
        except UnicodeDecodeError:
            found.append(None)
    return found


def _parameters(
    request: InferRequest, predictor: Predictor, limits: Limits
) -> tuple[int, bool, dict[str, list[Any]] | None]:
    given = parameters_of(request)
    for name in given:
        if name not in _PARAMETERS:
            known = ", ".join(_PARAMETERS)
            raise InvalidInput(f"parameter {name!r:.80}: unknown; there are {known}.")
    k = given.get("k", min(DEFAULT_K, len(predictor.items)))
    most = min(limits.k, len(predictor.items))
    if not isinstance(k, int) or isinstance(k, bool):
        raise InvalidInput(f"parameter 'k' is a whole number, not {k!r:.40}.")
    if not 1 <= k <= most:
        raise InvalidInput(f"parameter 'k' = {k} is not between 1 and {most}.")
    exclude_seen = given.get("exclude_seen", True)
    for name, value in (
        ("exclude_seen", exclude_seen),
        ("binary_data_output", given.get("binary_data_output", False)),
    ):
        if not isinstance(value, bool):
            raise InvalidInput(f"parameter {name!r} is true or false, not {value!r:.40}.")
    return k, exclude_seen, _filter(given.get("filter"), predictor)


def parameters_of(request: InferRequest) -> dict[str, Any]:
    """A request's parameters, whichever protocol they came by."""
    given = request.parameters or {}
    if not request.from_grpc:
        return dict(given)
    return {name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
            for name, value in given.items()}  # fmt: skip


def _filter(text: Any, predictor: Predictor) -> dict[str, list[Any]] | None:
    if text is None:
        return None
    try:
        wanted = orjson.loads(text) if isinstance(text, str) else None
    except orjson.JSONDecodeError:
        wanted = None
    if not isinstance(wanted, dict):
        raise InvalidInput(
            "parameter 'filter' is a JSON object of attributes and lists of values, such as "
            '{"genres": ["Comedy"]}.'
        )
    try:
        predictor.require_filter(wanted)
    except CadcError as error:
        raise InvalidInput(f"parameter 'filter': {error}") from None
    return wanted


def response_of(
    request: InferRequest, answer: Recommendations, k: int, predictor: Predictor
) -> InferResponse:
    """The answer to a request, with the outputs that it names or all but those on demand."""
    wanted = [output.name for output in request.request_outputs or ()] or list(_OUTPUTS)
    outputs = []
    for name in wanted:
        array, kind = _output(name, answer, predictor)
        output = InferOutput(name, list(array.shape), kind, data=array)
        if request.from_grpc:  # KServe's own encoder wants lists or bytes
            output.set_data_from_numpy(array, binary_data=request.use_binary_outputs)
        outputs.append(output)
    return InferResponse(
        response_id=request.id or "",
        model_name=request.model_name,
        model_version=predictor.fingerprint[:12],
        infer_outputs=outputs,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def _output(name: str, answer: Recommendations, predictor: Predictor) -> tuple[np.ndarray, str]:
    if name == "item_id":
        return answer.item_ids, "INT64" if predictor.items.are_integers else "BYTES"
    if name == "score":
        # JSON has no minus infinity; `count` says which places are empty.
        scores = np.where(answer.rows >= 0, answer.scores, 0.0)
        return scores.astype(np.float32), "FP32"
    if name == "count":
        return answer.counts.astype(np.int32), "INT32"
    if name == "source":
        return _WORDS[answer.sources], "BYTES"
    return predictor.titles_of(answer.rows), "BYTES"


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
