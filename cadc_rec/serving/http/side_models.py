"""Questions beside recommendations, as models of their own: similar items, scores, vectors.

In: requests of the protocol for ``NAME-similar``, ``NAME-score`` and ``NAME-embed``, over HTTP or
gRPC, so that any client of the protocol can ask them. Out: `Output` tensors. They are read on the
event loop and answered by threads of their own, with a `Load` of their own: neither they nor
recommendations wait for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from kserve.errors import InvalidInput
from kserve.model import InferenceModel, InferenceVerb
from prometheus_client import Counter

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.load import Load, ServiceTimes, Ticket, TooLate, allowed_by
from cadc_rec.serving.http.messages import (
    DEFAULT_K,
    Output,
    Parameters,
    Request,
)
from cadc_rec.serving.http.observed import answered_by
from cadc_rec.serving.http.queries import Query, ids_of, inputs_of, longest_of, query_of
from cadc_rec.serving.http.recommender import Recommender, inferred
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.http.tensors import values_of
from cadc_rec.serving.predict.predictor import Predictor
from cadc_rec.serving.predict.rules import NO_RULES

T = TypeVar("T")

_ALL = frozenset({"timeout", "binary_data_output"})  # parameters that every model takes
_LARGE = 8192  # elements; a few milliseconds of encoding
_LONG = 0.1  # seconds; short questions do not wait for one that takes longer

_REQUESTS = Counter(
    "cadc_rec_side_requests",
    "Requests for similar items, scores and vectors, by question and outcome.",
    ("question", "outcome"),
)


@dataclass(frozen=True)
class Asked:
    """A request that was read.

    Attributes:
        rows: lines of the answer.
        k: items, or numbers of a vector, in each.
        work: makes the outputs; a thread runs it.
        with_history: whether it needs a program, which just after the start is being loaded.
    """

    rows: int
    k: int
    work: Callable[[], list[Output]]
    with_history: bool = False


class SideThreads:
    """Answers all side questions: one thread the long ones, another the others.

    Args:
        limits: see `Load`.

    Attributes:
        load: what they have to do.
    """

    def __init__(self, limits: Limits) -> None:
        self.load = Load(limits, told=None)
        self._threads = {
            long: ThreadPoolExecutor(1, f"{'long' if long else 'short'}-questions")
            for long in (False, True)
        }

    async def answer(self, ticket: Ticket, work: Callable[[], T]) -> T:
        """What `work` returns, unless it comes too late.

        Raises:
            TooLate: its turn came after the moment by which it must be answered.
        """
        clock = self.load.clock

        def timed() -> tuple[T, float]:
            began = clock()
            if ticket.due < began:
                raise TooLate("the deadline passed before its turn came; ask again later.")
            return work(), clock() - began

        thread = self._threads[ticket.large]
        try:
            made, seconds = await asyncio.get_running_loop().run_in_executor(thread, timed)
        except BaseException:
            self.load.dropped(ticket)
            raise
        self.load.computed(ticket, seconds)
        return made

    def close(self) -> None:
        """Let the threads go."""
        for thread in self._threads.values():
            thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class SideAnswer:
    """An answer that is not encoded yet; like `Answered` of recommendations."""

    request: Request
    made: Sequence[Output]
    version: str

    @property
    def is_large(self) -> bool:
        """Whether it is encoded off the event loop, and sent in pieces."""
        return sum(output.array.size for output in self.outputs()) > _LARGE

    def outputs(self) -> list[Output]:
        """The outputs that the request asks for.

        Raises:
            InvalidInput: it names one that the model does not have.
        """
        by_name = {output.name: output for output in self.made}
        names = [output.name for output in self.request.outputs or ()]
        if not names:
            return [output for output in self.made if output.name != "title"]
        for name in names:
            if name not in by_name:
                raise InvalidInput(
                    f"output {name!r}: this model has none; there are: {', '.join(by_name)}."
                )
        return [by_name[name] for name in names]


class SideModel(InferenceModel):
    """One question.

    Args:
        main: the recommender, whose bundle and limits are used.
        threads: that answer.
        name: of the question, which follows the recommender's name and a hyphen.
        read: makes of a request what is asked.
        described: the inputs and outputs, for the metadata call.
    """

    def __init__(
        self,
        main: Recommender,
        threads: SideThreads,
        name: str,
        read: Callable[[Request, Predictor, Limits], Asked],
        described: Callable[[Predictor], tuple[list[Any], list[Any]]],
    ) -> None:
        super().__init__(f"{main.name}-{name}")
        self.main, self._threads, self._times = main, threads, ServiceTimes()
        self._question, self._read, self._described = name, read, described
        self.ready = True

    async def __call__(
        self,
        body: Any,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[Any, dict[str, str]]:
        """Answer a request that KServe has parsed; see `answer`."""
        return await inferred(self.answer, self.off_the_loop, body, verb)

    @contextlib.asynccontextmanager
    async def answer(
        self, protocol: str, read: Callable[[], Request], allowed: float | None = None
    ) -> AsyncIterator[SideAnswer]:
        """The answer to a request; see `Recommender.answer`."""
        load, predictor = self._threads.load, self.main.loaded.predictor
        began, outcome = load.clock(), "refused"
        try:
            request = read()
            asked = self._read(request, predictor, self.main.limits)
            answered_by(predictor.fingerprint[:12], asked.rows)
            due = load.due(began, allowed_by(request.parameters, allowed))
            if asked.with_history and not await self.main.loaded.until_whole(due - began):
                raise TooLate("what reads histories is still being loaded; ask again later.", 1.0)
            rows, k = asked.rows, asked.k
            long = self._times.expected(rows, k) > _LONG
            ticket = load.admit(rows, k, long, load.clock(), due, self._times)
            try:
                made = await self._threads.answer(ticket, asked.work)
                answer = SideAnswer(request, made, predictor.fingerprint[:12])
                answer.outputs()
                outcome = "answered"
                yield answer
            finally:
                load.sent(ticket)
        except CadcError as error:
            if type(error) is CadcError:  # of the predictor; `Busy` is one, too
                raise InvalidInput(str(error)) from None
            raise
        finally:
            _REQUESTS.labels(self._question, outcome).inc()

    async def off_the_loop(self, work: Callable[[], T]) -> T:
        """What `work` returns, which a thread does."""
        return await self.main.off_the_loop(work)

    def close(self) -> None:
        """Let the threads go, which are all these models'."""
        self._threads.close()

    def get_input_types(self) -> list[Any]:
        """The inputs, for the metadata call."""
        return self._described(self.main.loaded.predictor)[0]

    def get_output_types(self) -> list[Any]:
        """The outputs, for the metadata call."""
        return self._described(self.main.loaded.predictor)[1]


def side_models(main: Recommender) -> list[SideModel]:
    """The models beside a recommender."""
    threads = SideThreads(main.limits)
    return [
        SideModel(main, threads, "similar", _similar, _described_similar),
        SideModel(main, threads, "score", _score, _described_score),
        SideModel(main, threads, "embed", _embed, _described_embed),
    ]


def _similar(request: Request, predictor: Predictor, limits: Limits) -> Asked:
    """Items like those of ``item_id`` ``[n]``."""
    inputs = inputs_of(request)
    _require(request, inputs, {"item_id"}, {"k", "filter"})
    items = _items(inputs, predictor, limits.users)
    parameters = request.parameters or Parameters()
    most = min(limits.k, len(predictor.items))
    k = parameters.k if "k" in parameters.model_fields_set else min(DEFAULT_K, most)
    if not 1 <= k <= most:
        raise InvalidInput(f"parameter 'k' = {k} is not between 1 and {most}.")
    if len(items) * k > limits.places:
        raise InvalidInput(f"{len(items)} items times k = {k}: at most {limits.places} are given.")

    only, _ = predictor.read_choice(parameters.filter, NO_RULES, 0)
    named = {output.name for output in request.outputs or ()}

    def work() -> list[Output]:
        found = predictor.similar_items(items, k, only)
        scores = np.where(found.rows >= 0, found.scores, 0.0).astype(np.float32)
        made = [
            Output("item_id", _kind(predictor.items.are_integers), found.item_ids),
            Output("score", "FP32", scores),
            Output("count", "INT32", found.counts.astype(np.int32)),
        ]
        if named - {output.name for output in made}:  # on demand; there may be a million
            made.append(Output("title", "BYTES", predictor.titles_of(found.rows)))
        return made

    return Asked(len(items), k, work)


def _score(request: Request, predictor: Predictor, limits: Limits) -> Asked:
    """The scores of the pairs of ``user_id`` and ``item_id``, both ``[n]``."""
    inputs = inputs_of(request)
    _require(request, inputs, {"user_id", "item_id"}, set(), moment=True)
    query = _query(request, predictor, limits)
    items = _items(inputs, predictor, limits.users)
    if len(items) != len(query.users):
        raise InvalidInput(
            f"input 'item_id': {len(items)} items for {len(query.users)} users; give pairs."
        )

    def work() -> list[Output]:
        pairs = list(zip(query.users, items, strict=True))
        scores = predictor.score(pairs, query.time, query.context)
        known = ~np.isnan(scores)  # JSON has no NaN
        return [
            Output("score", "FP32", np.where(known, scores, 0.0).astype(np.float32)),
            Output("known", "BOOL", known),
        ]

    return Asked(len(items), 1, work)


def _embed(request: Request, predictor: Predictor, limits: Limits) -> Asked:
    """Vectors of users (with their histories), or of items."""
    inputs, width = inputs_of(request), predictor.item_vectors.vectors.shape[1]
    if "item_id" in inputs:
        _require(request, inputs, {"item_id"}, set())
        items = _items(inputs, predictor, limits.users)
        return Asked(len(items), width, lambda: _vectors(*predictor.vectors_of_items(items)))
    optional = inputs.keys() & {"user_id", "history"}
    if not optional:
        raise InvalidInput("inputs: name users in 'user_id', a 'history', or items in 'item_id'.")
    _require(request, inputs, optional, {"history_mode"}, moment=True)
    query = _query(request, predictor, limits)

    def work() -> list[Output]:
        return _vectors(
            *predictor.vectors_of_users(
                query.users, query.history, query.time, query.context, query.history_mode
            )
        )

    return Asked(len(query.users), width, work, query.history is not None)


def _vectors(vectors: np.ndarray, known: np.ndarray) -> list[Output]:
    return [
        Output("vector", "FP32", vectors.astype(np.float32)),
        Output("known", "BOOL", known),
    ]


def _require(
    request: Request,
    inputs: Mapping[str, Any],
    needed: set[str],
    parameters: set[str],
    moment: bool = False,
) -> None:
    """Raise unless a request has these inputs, no others, and no parameters but these.

    Args:
        request: the request.
        inputs: of it, by name.
        needed: names of inputs.
        parameters: that the model takes, beside those that every model does.
        moment: whether ``time`` and columns of the context may be there.

    Raises:
        InvalidInput: names what is wrong.
    """
    for name in sorted(needed - inputs.keys()):
        raise InvalidInput(f"input {name!r} is missing.")
    for name in inputs:
        of_moment = name == "time" or name.startswith("context_")
        if name not in needed and not (moment and of_moment):
            raise InvalidInput(f"input {name!r:.80}: this model takes {', '.join(sorted(needed))}.")
    given = request.parameters
    if given is not None:
        named = {*given.model_fields_set, *(given.model_extra or ())}
        for name in sorted(named - parameters - _ALL):
            known = ", ".join(sorted(parameters | _ALL))
            raise InvalidInput(f"parameter {name!r:.80}: this model has {known}.")


def _query(request: Request, predictor: Predictor, limits: Limits) -> Query:
    """Users, histories and moment of a request."""
    tensors = [tensor for tensor in request.inputs if tensor.name != "item_id"]
    return query_of(
        request.model_copy(update={"inputs": tensors, "outputs": None}), predictor, limits
    )


def _items(inputs: Mapping[str, Any], predictor: Predictor, most: int) -> list[Any]:
    """Original ids of items ``[n]``."""
    tensor = inputs["item_id"]
    items = predictor.items
    found = ids_of(values_of(tensor, most, longest_of(items)), items)
    if not found:
        raise InvalidInput("input 'item_id' is empty; name one item or more.")
    if len(tensor.shape) == 2 and tensor.shape[1] != 1:
        raise InvalidInput(f"input 'item_id': the shape is [n] or [n, 1], not {tensor.shape}.")
    return found


def _kind(integers: bool) -> str:
    return "INT64" if integers else "BYTES"


def _tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _described_similar(predictor: Predictor) -> tuple[list[Any], list[Any]]:
    item = _kind(predictor.items.are_integers)
    return [_tensor("item_id", item, -1)], [
        _tensor("item_id", item, -1, -1),
        _tensor("score", "FP32", -1, -1),
        _tensor("count", "INT32", -1),
        _tensor("title", "BYTES", -1, -1),
    ]


def _described_score(predictor: Predictor) -> tuple[list[Any], list[Any]]:
    user, item = _kind(predictor.users.are_integers), _kind(predictor.items.are_integers)
    return [_tensor("user_id", user, -1), _tensor("item_id", item, -1)], [
        _tensor("score", "FP32", -1),
        _tensor("known", "BOOL", -1),
    ]


def _described_embed(predictor: Predictor) -> tuple[list[Any], list[Any]]:
    user, item = _kind(predictor.users.are_integers), _kind(predictor.items.are_integers)
    width = predictor.item_vectors.vectors.shape[1]
    return [
        _tensor("user_id", user, -1),
        _tensor("history", item, -1, -1),
        _tensor("item_id", item, -1),
    ], [_tensor("vector", "FP32", -1, width), _tensor("known", "BOOL", -1)]
