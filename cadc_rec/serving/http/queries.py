"""What a request asks of the predictor, and its answer as tensors.

In: a `Request`. Out: a `Query`, and from its `Recommendations` the `Output` tensors.

Inputs: ``user_id`` ``[n]``; optional ``history`` ``[n, L]``, oldest first, where ids that do not
exist fill up short ones (without ``user_id``: of sessions of nobody known); optional
``candidate_id`` and ``block_id``, ``[m]`` or, for each user, ``[n, m]``; of a model that reads the
moment of a request, optional ``time`` ``[n]`` and ``context_NAME`` ``[n]`` for a column NAME; of
one that reads attributes of users, optional ``attribute_NAME`` ``[n]`` or ``[n, m]`` of unknown
ones. Outputs: ``item_id`` ``[n, k]``, ``score`` ``[n, k]``, ``count`` ``[n]``, ``source`` ``[n]``,
and on demand ``title`` ``[n, k]``.
"""

from __future__ import annotations

import time as clock
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from kserve.errors import InvalidInput

from cadc_rec.data.request_codes import RequestCodes
from cadc_rec.errors import CadcError
from cadc_rec.serving.http.messages import (
    CONTEXT,
    DEFAULT_K,
    Input,
    Output,
    Parameters,
    Request,
)
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.tensors import SHORT, WHOLE, values_of
from cadc_rec.serving.http.told import attributes_of, described_attributes, first_attribute
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.conditions import Every
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.predictor import HistoryMode, Predictor
from cadc_rec.serving.predict.rules import NO_RULES, Boost, Rules

_OUTPUTS = ("item_id", "score", "count", "source")  # where a request names none
_DEFAULTS = Parameters()
_WORDS = np.array([source.word for source in Source], dtype=object)


@dataclass(frozen=True)
class Query:
    """A request that the predictor will take.

    Attributes:
        users: original ids; None for one that no user can have.
        k: items a user.
        exclude_seen: whether to leave out what they took.
        history: a list of item ids each; None without histories.
        filter: see `cadc_rec.serving.predict.filters`, read; None for all items.
        candidates: item ids of all users, or a list of them each; None for all items.
        time: seconds since 1970, a number a user; None where the model reads none.
        context: of each column that the model reads, a value a user, None where it is missing.
        history_mode: see `Predictor.recommend`.
        block: items that are left out, like `candidates`.
        rules: how a list is put together, read.
        attributes: of each one that is told, a value a user, None where it is unknown.
    """

    users: list[Any]
    k: int
    exclude_seen: bool = True
    history: list[list[Any]] | None = None
    filter: Every | None = None
    candidates: list[Any] | None = None
    time: list[float] | None = None
    context: dict[str, list[Any]] = field(default_factory=dict)
    history_mode: HistoryMode = "append"
    block: list[Any] | None = None
    rules: Rules = NO_RULES
    attributes: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it chooses among all items, so that it may be answered with others."""
        named = (self.filter, self.candidates, self.block)
        alike = named == (None, None, None) and self.rules == NO_RULES
        return alike and not self.attributes


def query_of(request: Request, predictor: Predictor, limits: Limits) -> Query:
    """What the request asks for.

    Raises:
        InvalidInput: it is not as described above, or beyond the limits.
    """
    inputs = inputs_of(request)
    for wrong in {"item_id"} & inputs.keys():
        raise InvalidInput(f"input {wrong!r}: this model takes none; name items in 'candidate_id'.")
    for output in request.outputs or ():
        if output.name not in (*_OUTPUTS, "title"):
            raise InvalidInput(f"output {output.name!r}: this model gives none of that name.")
    if "user_id" in inputs:
        users = _users(inputs["user_id"], predictor.users, limits)
    elif one := inputs.get("history") or first_attribute(inputs):
        users = _anonymous(one, limits)
    else:
        raise InvalidInput(
            "input 'user_id' is missing; without one give a 'history', or attributes of somebody "
            "who is not known."
        )
    parameters = request.parameters or _DEFAULTS
    for name in parameters.model_extra or ():
        known = ", ".join(Parameters.model_fields)
        raise InvalidInput(f"parameter {name!r:.80}: unknown; there are {known}.")
    k, most = parameters.k, min(limits.k, len(predictor.items))
    if "k" not in parameters.model_fields_set:
        k = min(DEFAULT_K, len(predictor.items))
    if not 1 <= k <= most:
        raise InvalidInput(f"parameter 'k' = {k} is not between 1 and {most}.")
    if len(users) * k > limits.places:
        raise InvalidInput(
            f"{len(users)} users times k = {k} are {len(users) * k} recommendations; at most "
            f"{limits.places} are given at once: ask for fewer users or a smaller k."
        )
    rules = _rules(parameters)
    try:
        only, rules = predictor.read_choice(parameters.filter, rules, len(users) * k)
    except CadcError as error:
        raise InvalidInput(f"parameters: {error}") from None
    history = None
    if "history" in inputs:
        history = _history(inputs["history"], len(users), predictor.items, limits)
    candidates, block = (
        _named_items(inputs[name], len(users), predictor.items) if name in inputs else None
        for name in ("candidate_id", "block_id")
    )
    moment = _time(inputs, predictor, len(users)), _context(inputs, predictor, len(users))
    return Query(
        users,
        k,
        parameters.exclude_seen,
        history,
        only,
        candidates,
        *moment,
        parameters.history_mode,
        block,
        rules,
        attributes_of(inputs, predictor, len(users)),
    )


def inputs_of(request: Request) -> dict[str, Input]:
    """The inputs by name.

    Raises:
        InvalidInput: a name is given twice.
    """
    inputs = {tensor.name: tensor for tensor in request.inputs}
    if len(inputs) < len(request.inputs):
        raise InvalidInput("inputs: the same name is given twice.")
    return inputs


def _rules(parameters: Parameters) -> Rules:
    """How a list is put together."""
    boosts = tuple(Boost(one.filter, one.add) for one in parameters.boost or ())
    return Rules(parameters.max_per or {}, parameters.diversity, boosts, parameters.min_score)


def _named_items(tensor: Input, n_users: int, items: IdMap) -> list[Any]:
    """Item ids of all users, or, of a shape with a row for each of several, a list of them each."""
    shape = tensor.shape
    if len(shape) == 2 and shape[0] != n_users:
        raise InvalidInput(
            f"input {tensor.name!r}: the shape is [m], or [{n_users}, m] for {n_users} users, not "
            f"{shape}."
        )
    each = len(shape) == 2 and n_users > 1
    most = len(items) * (n_users if each else 1)
    flat = ids_of(values_of(tensor, most, longest_of(items)), items)
    if not each:
        return flat
    return [flat[n * shape[1] : (n + 1) * shape[1]] for n in range(n_users)]


def _codes_of(predictor: Predictor) -> RequestCodes | None:
    """What makes the codes of a request's moment; None of a model that reads none."""
    return None if predictor.requests is None else predictor.requests.codes


def _time(inputs: Mapping[str, Input], predictor: Predictor, n: int) -> list[float] | None:
    """When each user asks: now, unless the request says another time."""
    given, codes = inputs.get("time"), _codes_of(predictor)
    if codes is None or not codes.reads_time:
        if given is not None:
            raise InvalidInput("input 'time': this model reads no time of a request; leave it out.")
        return None
    if given is None:
        return [clock.time()] * n
    if given.datatype == "BYTES":
        raise InvalidInput("input 'time': send FP64 or INT64, seconds since 1970 (UTC).")
    return _one_a_user(given, n)


def _context(inputs: Mapping[str, Input], predictor: Predictor, n: int) -> dict[str, list[Any]]:
    """The value of each column that the model reads, None where a request does not say it."""
    codes = _codes_of(predictor)
    found: dict[str, list[Any]] = {name: [None] * n for name in (codes.values if codes else ())}
    for name, tensor in inputs.items():
        column = name.removeprefix(CONTEXT)
        if column == name:
            continue
        if codes is None or column not in found:
            known = ", ".join(CONTEXT + one for one in found) or "none"
            raise InvalidInput(
                f"input {name!r:.80}: this model reads no such column; there are: {known}."
            )
        found[column] = _values(tensor, n, numbers=codes.numbers(column))
    return found


def _values(tensor: Input, n: int, numbers: bool) -> list[Any]:
    """Values of a column; numbers may come as text, and an empty text is a missing value."""
    values: list[Any] = []
    for value in _one_a_user(tensor, n):
        if isinstance(value, bytes):
            text = value.decode(errors="replace")
            if text and numbers and not WHOLE.fullmatch(value):
                raise InvalidInput(
                    f"input {tensor.name!r}: values are whole numbers; got {text!r:.80}."
                )
            values.append((int(text) if numbers else text) if text else None)
        elif numbers:
            values.append(value)
        else:
            raise InvalidInput(f"input {tensor.name!r}: values are text: send BYTES.")
    return values


def _one_a_user(tensor: Input, n: int) -> list[Any]:
    """A tensor's elements, one for each of n users."""
    values, shape = values_of(tensor, n), tensor.shape
    if len(values) != n or (len(shape) == 2 and shape[1] != 1):
        raise InvalidInput(f"input {tensor.name!r}: the shape is [{n}] for {n} users, not {shape}.")
    return values


def _users(tensor: Input, ids: IdMap, limits: Limits) -> list[Any]:
    values, shape = values_of(tensor, limits.users, longest_of(ids)), tensor.shape
    if len(shape) == 2 and shape[1] != 1:
        raise InvalidInput(f"input 'user_id': the shape is [n] or [n, 1], not {shape}.")
    if not values:
        raise InvalidInput("input 'user_id' is empty; ask for one user or more.")
    return ids_of(values, ids)


def _anonymous(told: Input, limits: Limits) -> list[Any]:
    """Nobody, once for each history, or each row of an attribute: users that no id is given of."""
    history = told.name == "history"
    n = told.shape[0] if len(told.shape) == 2 or not history else 1
    if not 1 <= n <= limits.users:
        what = "sessions" if history else "users"
        raise InvalidInput(f"input {told.name!r}: {n} {what}; from 1 to {limits.users} are taken.")
    return [None] * n


def _history(tensor: Input, n_users: int, items: IdMap, limits: Limits) -> list[list[Any]]:
    most = n_users * limits.history
    values, shape = values_of(tensor, most, longest_of(items)), tensor.shape
    if len(shape) == 1 and n_users == 1:
        shape = [1, shape[0]]
    if len(shape) != 2 or shape[0] != n_users or shape[1] > limits.history:
        raise InvalidInput(
            f"input 'history': the shape is [{n_users}, at most {limits.history}] for {n_users} "
            f"users, not {shape}."
        )
    flat, width = ids_of(values, items), shape[1]
    return [flat[n * width : (n + 1) * width] for n in range(n_users)]


def longest_of(ids: IdMap) -> int:
    """Bytes that an id of a request may have: whoever was trained on may be asked for."""
    return max(SHORT, ids.longest)


def ids_of(values: list[int] | list[bytes], ids: IdMap) -> list[Any]:
    """Elements as original ids; numbers may come as text, and text as UTF-8.

    Where the data's ids were brought into a form, any text may be one of them.
    """
    if ids.are_integers and not ids.forms:
        return [
            value if isinstance(value, int) else (int(value) if WHOLE.fullmatch(value) else None)
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
    codes = _codes_of(predictor)
    moment = [] if codes is None else _described_moment(codes)
    moment = [*moment, *described_attributes(predictor.user_attributes)]
    return (
        [
            {"name": "user_id", "datatype": user, "shape": [-1]},
            {"name": "history", "datatype": item, "shape": [-1, -1]},
            {"name": "candidate_id", "datatype": item, "shape": [-1]},
            {"name": "block_id", "datatype": item, "shape": [-1]},
            *moment,
        ],
        [
            {"name": "item_id", "datatype": item, "shape": [-1, -1]},
            {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
            {"name": "count", "datatype": "INT32", "shape": [-1]},
            {"name": "source", "datatype": "BYTES", "shape": [-1]},
            {"name": "title", "datatype": "BYTES", "shape": [-1, -1]},
        ],
    )


def _described_moment(codes: RequestCodes) -> list[Mapping[str, Any]]:
    """The inputs of a request's moment."""
    found = [("time", "FP64")] if codes.reads_time else []
    found += [(CONTEXT + one, "INT64" if codes.numbers(one) else "BYTES") for one in codes.values]
    return [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in found]
