"""The model as KServe calls it: what comes in is admitted, measured, answered and counted.

In: a KServe `InferRequest`, or a parsed `Request`. Out: an `InferResponse`, or the answer for who
encodes it. The same object serves under KServe's own `ModelServer`, whose protocol endpoints the
service uses. What cannot be answered in time is refused (`cadc_rec.serving.http.load`);
`cadc_rec.serving.http.batcher` calls the predictor.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
from kserve import InferRequest
from kserve.errors import InvalidInput
from kserve.model import InferenceModel, InferenceVerb
from prometheus_client import Counter, Histogram

from cadc_rec.serving.http.batcher import DEFAULT_PRIORITY, Batcher, piece_users, runs_program
from cadc_rec.serving.http.load import Load, TooLate, allowed_by
from cadc_rec.serving.http.loaded import Loaded
from cadc_rec.serving.http.messages import Output, Request, of_kserve, to_kserve
from cadc_rec.serving.http.observed import answered_by
from cadc_rec.serving.http.queries import Query, described, outputs_of, query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.predictor import Predictor

T = TypeVar("T")

ALLOWED: ContextVar[float | None] = ContextVar("allowed", default=None)
"""Seconds that the client of a gRPC call waits; KServe's handler has no argument for it."""

_WORDS = [source.word for source in Source]
_LARGE = 8192  # recommendations; a few milliseconds of encoding

_SECOND_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

_REQUESTS = Counter(
    "cadc_rec_requests",
    "Requests for recommendations, by protocol and outcome.",
    ("protocol", "outcome"),
)
_SECONDS = Histogram(
    "cadc_rec_request_seconds",
    "Seconds from a request's last byte to its answer.",
    ("protocol",),
    buckets=_SECOND_BOUNDS,
)
_USERS = Counter("cadc_rec_users", "Users answered, by the basis of the answer.", ("source",))


@dataclass
class Durations:
    """How many requests, and how long they took.

    Attributes:
        count: of requests.
        seconds: of all together.
    """

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.seconds += seconds

    def document(self) -> dict[str, int]:
        """As the protocol tells it."""
        return {"count": self.count, "ns": int(self.seconds * 1e9)}


@dataclass
class Statistics:
    """What this process has answered.

    Attributes:
        answered: requests.
        refused: requests.
        users: that were answered.
        last: when the last request was answered, seconds since 1970; 0 before.
    """

    answered: Durations = field(default_factory=Durations)
    refused: Durations = field(default_factory=Durations)
    users: int = 0
    last: float = 0.0


@dataclass(frozen=True)
class Answered:
    """An answer that is not encoded yet.

    Attributes:
        request: that is answered.
        answer: to it.
        predictor: that gave it.
    """

    request: Request
    answer: Recommendations
    predictor: Predictor

    @property
    def is_large(self) -> bool:
        """Whether it is encoded off the event loop, and sent in pieces."""
        return self.answer.rows.size > _LARGE

    @property
    def version(self) -> str:
        """Of the bundle."""
        return self.predictor.fingerprint[:12]

    def outputs(self) -> list[Output]:
        """The outputs that the request asks for."""
        return outputs_of(self.request, self.answer, self.predictor)


class AnyAnswer(Protocol):
    """What a model has found for a request, not encoded yet."""

    @property
    def version(self) -> str:
        """Of the bundle."""

    @property
    def is_large(self) -> bool:
        """Whether it is encoded off the event loop."""

    def outputs(self) -> list[Output]:
        """The outputs that the request asks for."""


async def inferred(
    answer: Callable[..., contextlib.AbstractAsyncContextManager[AnyAnswer]],
    off_the_loop: Callable[[Callable[[], Any]], Awaitable[Any]],
    body: Any,
    verb: InferenceVerb,
) -> tuple[Any, dict[str, str]]:
    """The answer to a request that KServe has parsed, as KServe sends it.

    Args:
        answer: of the model; see `Recommender.answer`.
        off_the_loop: of the model, where large answers are encoded.
        body: the request.
        verb: what KServe takes it for.

    Raises:
        InvalidInput: it is no inference request; and the errors of `answer`.
    """
    if verb != InferenceVerb.PREDICT or not isinstance(body, InferRequest):
        raise InvalidInput("only inference requests of the Open Inference Protocol are answered.")
    protocol = "grpc" if body.from_grpc else "rest"
    async with answer(protocol, lambda: of_kserve(body), ALLOWED.get()) as found:
        if not (found.is_large and body.from_grpc):
            return to_kserve(body, found.outputs(), found.version), {}

        def encoded() -> Any:
            return to_kserve(body, found.outputs(), found.version).to_grpc()

        return await off_the_loop(encoded), {}


class Recommender(InferenceModel):
    """Recommendations of the current bundle.

    Args:
        name: the model's name for clients.
        loaded: the bundle.
        limits: limits of requests.
    """

    def __init__(self, name: str, loaded: Loaded, limits: Limits) -> None:
        super().__init__(name)
        self.loaded, self.limits = loaded, limits
        self.load = Load(limits)
        self.batcher = Batcher(self.load)
        self.statistics = Statistics()
        self.beside = ThreadPoolExecutor(max_workers=2, thread_name_prefix="encoder")
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
    ) -> AsyncIterator[Answered]:
        """The answer to a request; it counts as under way until the block ends.

        Args:
            protocol: ``rest`` or ``grpc``, for the metrics.
            read: parses the request.
            allowed: seconds that the client waits; None does not say.

        Raises:
            InvalidInput: it is not one that can be answered.
            Busy: too much waits.
            TooLate: it would not be answered in time.
        """
        began, outcome = self.load.clock(), "refused"
        try:
            request, predictor = read(), self.loaded.predictor
            query = query_of(request, predictor, self.limits)
            answered_by(predictor.fingerprint[:12], len(query.users))
            async with self.recommended(request, query, predictor, allowed) as answer:
                outcome = "answered"
                for word, count in zip(_WORDS, np.bincount(answer.sources).tolist(), strict=False):
                    if count:
                        _USERS.labels(word).inc(count)
                self.statistics.users += len(answer.rows)
                self.statistics.last = time.time()
                yield Answered(request, answer, predictor)
        finally:
            seconds = self.load.clock() - began
            told = self.statistics
            (told.answered if outcome == "answered" else told.refused).add(seconds)
            _REQUESTS.labels(protocol, outcome).inc()
            _SECONDS.labels(protocol).observe(seconds)

    @contextlib.asynccontextmanager
    async def recommended(
        self, request: Request, query: Query, predictor: Predictor, allowed: float | None = None
    ) -> AsyncIterator[Recommendations]:
        """The recommendations for a query that was read just now; see `answer`."""
        allowed = allowed_by(request.parameters, allowed)
        began, users, k = self.load.clock(), len(query.users), query.k
        due = self.load.due(began, allowed)
        # Just after the start the program is loading, and would keep all others waiting.
        if runs_program(predictor, query) and not await self.loaded.until_whole(due - began):
            raise TooLate(
                "what forms vectors of users is still being loaded; ask again later.", 1.0
            )
        large = users > piece_users(predictor, query)
        ticket = self.load.admit(users, k, large, self.load.clock(), due)
        try:
            try:
                rank = DEFAULT_PRIORITY
                if request.parameters is not None:
                    rank = request.parameters.priority or rank
                answer, seconds = await self.batcher.recommend(predictor, query, ticket, rank)
            except BaseException:
                self.load.dropped(ticket)
                raise
            self.load.computed(ticket, seconds)
            yield answer
        finally:
            self.load.sent(ticket)

    async def off_the_loop(self, work: Callable[[], T]) -> T:
        """What `work` returns, which a thread does."""
        return await asyncio.get_running_loop().run_in_executor(self.beside, work)

    def close(self) -> None:
        """Let the threads go."""
        self.batcher.close()
        self.beside.shutdown(wait=False, cancel_futures=True)

    def get_input_types(self) -> list[Any]:
        """The inputs, for the metadata call."""
        return described(self.loaded.predictor)[0]

    def get_output_types(self) -> list[Any]:
        """The outputs, for the metadata call."""
        return described(self.loaded.predictor)[1]
