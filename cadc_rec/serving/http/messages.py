"""Requests and answers of the Open Inference Protocol as typed messages, over HTTP or gRPC.

In: JSON, JSON followed by raw tensors (the protocol's binary extension), or the `InferRequest` that
KServe makes of a gRPC message. Out: a checked `Request`, or an `InvalidInput` whose sentence says
what is wrong and where. The types here are also the OpenAPI description. KServe's own decoder
trusts the sizes that a body states; this one checks them. Answers over HTTP are encoded by
`cadc_rec.serving.http.encoding`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # Pydantic wants these before Python 3.12
)

import numpy as np
from kserve import InferInput, InferOutput, InferRequest, InferResponse
from kserve.errors import InvalidInput
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

JSON_LENGTH_HEADER = "inference-header-content-length"
DEFAULT_K = 10
_MOST_INPUTS = 256

_Datatype = Literal[
    "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64", "FP64", "BYTES"
]  # fmt: skip
CONTEXT = "context_"
"""What the name of an input begins with that has the values of a column of the context."""
ATTRIBUTE = "attribute_"
"""The same of an attribute of users."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)


class InputParameters(_Message):
    """Parameters of an input."""

    binary_data_size: int | None = Field(
        default=None,
        ge=0,
        description="Number of bytes of the input that follow the JSON, instead of `data`.",
    )


class OutputParameters(_Message):
    """Parameters of a requested output."""

    binary_data: bool = Field(
        default=False, description="Whether to send it as raw bytes after the JSON."
    )


_INPUTS = ("user_id", "item_id", "history", "candidate_id", "block_id", "time")


def _named(name: object) -> str:
    if isinstance(name, str) and (name in _INPUTS or name.startswith((CONTEXT, ATTRIBUTE))):
        return name
    raise PydanticCustomError(
        "input_name",
        f"input should be {', '.join(map(repr, _INPUTS))} or begin with {CONTEXT!r} or "
        f"{ATTRIBUTE!r}",
    )


_Name = Annotated[
    str,
    BeforeValidator(_named),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_INPUTS)},
                {"type": "string", "pattern": f"^({CONTEXT}|{ATTRIBUTE})"},
            ]
        }
    ),
]


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class Input(_Message):
    """One input tensor."""

    name: _Name
    shape: list[Annotated[int, Field(ge=0, lt=1 << 31)]] = Field(
        min_length=1,
        max_length=2,
        description="Shape that the elements of `data` fill, in row-major order.",
    )
    datatype: Annotated[_Datatype, BeforeValidator(_upper)]
    data: Annotated[
        list[Any] | None,
        WithJsonSchema(
            {"type": "array", "items": {"type": ["integer", "number", "string", "array"]}}
        ),
    ] = None
    parameters: InputParameters | None = None
    _raw: bytes | None = PrivateAttr(None)

    @property
    def raw(self) -> bytes | None:
        """The elements as bytes, if they were sent so."""
        return self._raw


class RequestedOutput(_Message):
    """One requested output."""

    name: Literal["item_id", "score", "count", "source", "title", "vector", "known"]
    parameters: OutputParameters | None = None


def _number(value: object) -> object:
    """A number that came as text, as it has to over gRPC; others as they are."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


class BoostParameter(_Message):
    """What is added to the scores of some items."""

    filter: dict[str, Any]
    add: float


class Parameters(_Message):
    """Parameters of a request."""

    # The query refuses names that are not here, and stops at the first one.
    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})
    k: int = Field(
        default=DEFAULT_K,
        description="Number of items for each user, at most the size of the catalogue.",
        json_schema_extra={"minimum": 1},
    )
    exclude_seen: bool = Field(
        default=True, description="Leave out the items that the user has taken."
    )
    filter: Json[dict[str, Any]] | None = Field(
        default=None,
        description="JSON: for each attribute a list of values, of which an item must have one, or "
        'tests such as {"year": {">=": 1990, "<": 2000}} and {"genres": {"not in": ["Horror"]}}; '
        "`and`, `or` and `not` join filters.",
    )
    max_per: Json[dict[str, int]] | None = Field(
        default=None,
        description='JSON such as {"genres": 2}: at most so many items of one value.',
    )
    diversity: Annotated[float, BeforeValidator(_number)] = Field(
        default=0.0, ge=0, le=1, description="Weight of maximal marginal relevance."
    )
    boost: Json[list[BoostParameter]] | None = Field(
        default=None,
        description='JSON such as [{"filter": {"genres": ["Drama"]}, "add": 0.5}]: what is added '
        "to the scores of the items that a filter lets through.",
    )
    min_score: Annotated[float | None, BeforeValidator(_number)] = Field(
        default=None, description="Leave out items with lower scores."
    )
    history_mode: Literal["append", "replace"] = Field(
        default="append",
        description="Whether a known user's own items are read before the history, or not at all.",
    )
    priority: int = Field(
        default=0,
        ge=0,
        description="Of requests that wait, those of a lower number come first; 0, which is that "
        "of all that say nothing, counts as 2.",
    )
    timeout: int = Field(
        default=0,
        ge=0,
        description="Microseconds in which the answer must be there; 0 does not say. What cannot "
        "be answered by then is refused at once.",
    )
    binary_data_output: bool = Field(
        default=False, description="Send every output as raw bytes after the JSON."
    )


class Request(_Message):
    """A request for recommendations."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [1]}],
                    "parameters": {"k": 5},
                }
            ]
        }
    )
    id: str | None = Field(default=None, max_length=256)
    inputs: list[Input] = Field(
        max_length=_MOST_INPUTS,
        description="`user_id`, or `history` alone for a session of nobody known; optional "
        "`history`, `candidate_id` and `block_id` (the only items, and those left out: a list for "
        "all users or one for each); of a model that reads the moment of a request, optional "
        "`time` (seconds since 1970, UTC; default now) and `context_NAME` for each column it reads "
        "(default missing), one value a user; of a model that reads attributes of users, optional "
        "`attribute_NAME` of those it does not know, one value or one row of values a user. The "
        "models NAME-similar, NAME-score and NAME-embed take `item_id`; their metadata say what "
        "else.",
    )
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=16)


class OutputTensor(TypedDict):
    """One output; without `data` if it is sent as raw bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: NotRequired[list[Any]]
    parameters: NotRequired[dict[str, int]]


class Response(TypedDict):
    """Recommendations."""

    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[OutputTensor]


class Error(TypedDict):
    """Why a request was not answered."""

    error: str


@dataclass(frozen=True)
class Output:
    """An output tensor."""

    name: str
    datatype: str
    array: np.ndarray


def sentence(errors: Sequence[Any]) -> str:
    """The first of Pydantic's errors: the place, the rule, and the value found."""
    first = errors[0]
    if not first["loc"]:
        return f"the body: {first['msg'][0].lower()}{first['msg'][1:]}."
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"]]
    what = first["msg"][0].lower() + first["msg"][1:]
    got = "" if first["type"] == "missing" else f"; got {shown(first['input'])}"
    return f"{''.join(steps).lstrip('.')}: {what}{got}."


def decode(body: bytes, json_length: str | None) -> Request:
    """A request over HTTP.

    Args:
        body: of the HTTP request.
        json_length: value of `JSON_LENGTH_HEADER`; None where all of the body is JSON.

    Raises:
        InvalidInput: it is malformed.
    """
    at = len(body)
    if json_length is not None:
        if not (json_length.isascii() and json_length.isdigit() and len(json_length) < 12):
            raise InvalidInput(f"header {JSON_LENGTH_HEADER}: {json_length!r:.40} is not a length.")
        at = int(json_length)
        if at > len(body):
            raise InvalidInput(f"header {JSON_LENGTH_HEADER}: {at}, but the body is shorter.")
    try:
        request = Request.model_validate_json(body[:at])
    except ValidationError as error:
        raise InvalidInput(sentence(error.errors(include_url=False))) from None
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size if tensor.parameters else None
        if (size is None) == (tensor.data is None):
            raise InvalidInput(
                f"input {tensor.name!r}: give either 'data' or 'binary_data_size'; "
                f"there is {'neither' if size is None else 'both'}."
            )
        if size is not None:
            if at + size > len(body):
                raise InvalidInput(f"input {tensor.name!r}: the body ends within its {size} bytes.")
            tensor._raw = body[at : at + size]
            at += size
    if at < len(body):
        raise InvalidInput(f"{len(body) - at} bytes after the JSON belong to no input.")
    return request


def of_kserve(request: InferRequest) -> Request:
    """A request that KServe has parsed.

    Raises:
        InvalidInput: it is malformed.
    """
    given = request.parameters or {}
    if request.from_grpc:
        given = {name: getattr(value, value.WhichOneof("parameter_choice") or "", None)
                 for name, value in given.items()}  # fmt: skip
    tensors: list[InferInput] = request.inputs
    document = {
        "inputs": [
            {"name": one.name, "shape": one.shape, "datatype": one.datatype, "data": one.data}
            for one in tensors
        ],
        "parameters": dict(given),
        "outputs": [{"name": output.name} for output in request.request_outputs or ()],
    }
    try:
        made = Request.model_validate(document)
    except ValidationError as error:
        raise InvalidInput(sentence(error.errors(include_url=False))) from None
    for mine, tensor in zip(made.inputs, tensors, strict=True):
        mine._raw = tensor._raw_data
    return made


def to_kserve(request: InferRequest, outputs: list[Output], version: str) -> InferResponse:
    """The answer to such a request."""
    tensors = []
    for output in outputs:
        tensor = InferOutput(
            output.name, list(output.array.shape), output.datatype, data=output.array
        )
        if request.from_grpc:  # KServe's own encoder wants lists or bytes
            tensor.set_data_from_numpy(output.array, binary_data=request.use_binary_outputs)
        tensors.append(tensor)
    return InferResponse(
        response_id=request.id or "",
        model_name=request.model_name,
        model_version=version,
        infer_outputs=tensors,
        use_binary_outputs=request.use_binary_outputs,
        requested_outputs=request.request_outputs,
    )


def shown(value: object) -> str:
    """A client's value, shortened for a message."""
    return reprlib.repr(value)
