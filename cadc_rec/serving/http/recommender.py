"""The model as KServe calls it; it answers requests that wait together by one call.

In: a KServe `InferRequest`. Out: an `InferResponse`. The same object serves under KServe's own
`ModelServer`, whose protocol endpoints the service uses.

Requests that wait at the same moment, and agree on everything but users and k, are answered by one
call of the predictor. A request never waits for a batch to fill: a call starts as soon as the event
loop has read what has arrived. While it runs, others gather, so batches grow with the load. Small
calls run in the loop's own thread, where handing over would cost more than the work; others in a
thread beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from kserve import InferRequest, InferResponse
from kserve.errors import InvalidInput
from kserve.model import InferenceModel, InferenceVerb
from prometheus_client import Counter, Gauge, Histogram

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.loaded import Loaded
from cadc_rec.serving.http.messages import Output, Request, of_kserve, to_kserve
from cadc_rec.serving.http.queries import Query, described, outputs_of, query_of
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.answers import Recommendations, Source
from cadc_rec.serving.predict.predictor import Predictor

_WORDS = [source.word for source in Source]
_MOST_USERS = 256  # of one call, unless one request alone has more
_SMALL = 20_000_000  # multiplications; a few milliseconds

_SECOND_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

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
_BATCH_REQUESTS = Histogram(
    "cadc_rec_batch_requests",
    "Requests answered by one call of the predictor.",
    buckets=_SIZE_BOUNDS,
)
_BATCH_USERS = Histogram(
    "cadc_rec_batch_users", "Users answered by one call of the predictor.", buckets=_SIZE_BOUNDS
)
_WAITING = Gauge("cadc_rec_waiting_requests", "Requests that wait for the predictor.")


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
        self.batcher = Batcher(limits.waiting)
        self.ready = True

    async def __call__(
        self,
        body: Any,
        headers: dict[str, str] | None = None,
        verb: InferenceVerb = InferenceVerb.PREDICT,
    ) -> tuple[InferResponse, dict[str, str]]:
        """Answer a request that KServe has parsed; see `answer`."""
        if verb != InferenceVerb.PREDICT or not isinstance(body, InferRequest):
            raise InvalidInput(
                "only inference requests of the Open Inference Protocol are answered."
            )
        protocol = "grpc" if body.from_grpc else "rest"
        _, outputs, version = await self.answer(protocol, lambda: of_kserve(body))
        return to_kserve(body, outputs, version), {}

    async def answer(
        self, protocol: str, read: Callable[[], Request]
    ) -> tuple[Request, list[Output], str]:
        """The request, the outputs that it asks for, and the version of the bundle they are from.

        Args:
            protocol: ``rest`` or ``grpc``, for the metrics.
            read: parses the request.

        Raises:
            InvalidInput: it is not one that can be answered.
            Busy: too many wait.
        """
        began, outcome = time.perf_counter(), "refused"
        try:
            request, predictor = read(), self.loaded.predictor
            query = query_of(request, predictor, self.limits)
            answer = await self.batcher.recommend(predictor, query)
            outputs = outputs_of(request, answer, predictor)
            outcome = "answered"
        finally:
            _REQUESTS.labels(protocol, outcome).inc()
            _SECONDS.labels(protocol).observe(time.perf_counter() - began)
        for source in answer.sources.tolist():
            _USERS.labels(_WORDS[source]).inc()
        return request, outputs, predictor.fingerprint[:12]

    def get_input_types(self) -> list[Any]:
        """The inputs, for the metadata call."""
        return described(self.loaded.predictor)[0]

    def get_output_types(self) -> list[Any]:
        """The outputs, for the metadata call."""
        return described(self.loaded.predictor)[1]


class Busy(CadcError):
    """Too many requests are waiting."""


@dataclass
class _Waiting:
    predictor: Predictor
    query: Query
    answer: asyncio.Future[Recommendations]


class Batcher:
    """Answers queries, several at a time.

    Args:
        most_waiting: queries that may wait.
    """

    def __init__(self, most_waiting: int) -> None:
        self._most_waiting = most_waiting
        self._waiting: deque[_Waiting] = deque()
        self._running = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predictor")

    async def recommend(self, predictor: Predictor, query: Query) -> Recommendations:
        """The answer of `predictor`.

        Raises:
            Busy: too many wait.
            InvalidInput: the predictor refuses the query.
        """
        if len(self._waiting) >= self._most_waiting:
            raise Busy("too many requests wait; ask again later.")
        loop = asyncio.get_running_loop()
        mine = _Waiting(predictor, query, loop.create_future())
        self._waiting.append(mine)
        _WAITING.set(len(self._waiting))
        if not self._running:
            self._running = True
            loop.call_soon(self._next)
        return await mine.answer

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        """Answer the next batch; then the one after it, until none waits."""
        loop = asyncio.get_running_loop()
        batch = self._take()
        if not batch:
            self._running = False
            return
        users = sum(len(one.query.users) for one in batch)
        _BATCH_REQUESTS.observe(len(batch))
        _BATCH_USERS.observe(users)
        vectors = batch[0].predictor.item_vectors.vectors
        asked = any(  # a program runs
            one.query.history is not None or one.query.attributes for one in batch
        )
        if users * vectors.size <= _SMALL and not asked:
            self._give(batch, _answers(batch))
            loop.call_soon(self._next)
            return
        work = loop.run_in_executor(self._thread, _answers, batch)

        def done(finished: asyncio.Future[list[Recommendations | Exception]]) -> None:
            self._give(batch, finished.result())
            self._next()

        work.add_done_callback(done)

    def _take(self) -> list[_Waiting]:
        """Queries that one call can answer, from the first that waits on."""
        batch: list[_Waiting] = []
        users = 0
        while self._waiting:
            first = self._waiting[0]
            if first.answer.cancelled():  # its client has gone
                self._waiting.popleft()
                continue
            more = len(first.query.users)
            if batch and (users + more > _MOST_USERS or not _together(batch[0], first)):
                break
            batch.append(self._waiting.popleft())
            users += more
        _WAITING.set(len(self._waiting))
        return batch

    @staticmethod
    def _give(batch: list[_Waiting], answers: Iterable[Recommendations | Exception]) -> None:
        for one, answer in zip(batch, answers, strict=True):
            if one.answer.cancelled():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)


def _together(one: _Waiting, other: _Waiting) -> bool:
    a, b = one.query, other.query
    narrowed = (a.filter, a.candidates, b.filter, b.candidates)
    described = a.attributes or b.attributes
    return (
        one.predictor is other.predictor
        and (a.exclude_seen, a.history_mode) == (b.exclude_seen, b.history_mode)
        and narrowed == (None, None, None, None)
        and not described
    )


def _answers(batch: list[_Waiting]) -> list[Recommendations | Exception]:
    """An answer to each query: by one call, or if that fails by a call for each."""
    try:
        return list(_of_all(batch))
    except Exception as error:
        if len(batch) > 1:
            return [answer for one in batch for answer in _answers([one])]
        return [InvalidInput(str(error)) if isinstance(error, CadcError) else error]


def _of_all(batch: list[_Waiting]) -> Iterable[Recommendations]:
    first = batch[0].query
    users = [user for one in batch for user in one.query.users]
    history = None
    if any(one.query.history is not None for one in batch):
        history = [
            items for one in batch for items in one.query.history or [[]] * len(one.query.users)
        ]
    time = None
    if first.time is not None:
        time = [moment for one in batch for moment in one.query.time or ()]
    found = batch[0].predictor.recommend(
        users,
        max(one.query.k for one in batch),
        first.exclude_seen,
        first.filter,
        history,
        first.candidates,
        time,
        {name: [v for one in batch for v in one.query.context[name]] for name in first.context},
        first.history_mode,
        first.attributes,
    )
    if len(batch) == 1:
        yield found
        return
    start = 0
    for one in batch:
        rows, k = slice(start, start + len(one.query.users)), one.query.k
        start = rows.stop
        yield Recommendations(
            found.rows[rows, :k],
            found.item_ids[rows, :k],
            found.scores[rows, :k],
            found.sources[rows],
        )
