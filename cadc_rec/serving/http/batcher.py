"""Answers requests that wait together by one call of the predictor, and large ones piece by piece.

In: a predictor, a query and its ticket. Out: the recommendations.

Requests that wait at the same moment, and agree on everything but users and k, are answered by one
call. A request never waits for a batch to fill: a call starts as soon as the event loop has read
what has arrived. While it runs, others gather, so batches grow with the load. A request with more
users than make one piece of work is answered some users at a time, and goes to the end of the line
in between. Small calls run in the loop's own thread, where handing over would cost more than the
work; others in a thread beside it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from kserve.errors import InvalidInput
from prometheus_client import Gauge, Histogram

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.load import Load, Ticket, TooLate
from cadc_rec.serving.http.queries import Query
from cadc_rec.serving.predict.answers import Recommendations
from cadc_rec.serving.predict.predictor import Predictor

DEFAULT_PRIORITY = 2
"""Of requests that name none; lower numbers come first."""
_MOST_USERS = 256  # of one call
_LEAST_USERS = 32  # of a piece: fewer at a time would each read all item vectors anew
_SMALL = 20_000_000  # multiplications; a few milliseconds
_STEPS = 200_000  # of lists that are put together item by item, at once; some ten milliseconds
_EXACT = 8  # times as long as one of all items: a multiplication of an item that is scored exactly

SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_BATCH_REQUESTS = Histogram(
    "cadc_rec_batch_requests",
    "Requests answered by one call of the predictor.",
    buckets=SIZE_BOUNDS,
)
_BATCH_USERS = Histogram(
    "cadc_rec_batch_users", "Users answered by one call of the predictor.", buckets=SIZE_BOUNDS
)
_WAITING = Gauge(
    "cadc_rec_waiting_requests",
    "Requests that wait for the predictor.",
    multiprocess_mode="livesum",
)


def piece_users(predictor: Predictor, query: Query) -> int:
    """Users of a request that are answered at once; of a larger one, so many at a time."""
    most = max(_LEAST_USERS, min(_MOST_USERS, _SMALL // _work_of_one(predictor, query.k)))
    steps = query.rules.steps(query.k)
    return max(1, min(most, _STEPS // steps)) if steps else most


def runs_program(predictor: Predictor, query: Query) -> bool:
    """Whether it takes a program of the bundle, which is slow, and just after the start loading."""
    told = query.history is not None or bool(query.attributes)
    return told or predictor.forms_vectors(query.users)


def _work_of_one(predictor: Predictor, k: int) -> int:
    """Multiplications for one user."""
    n, width = predictor.item_vectors.vectors.shape
    return max(1, n * width + _EXACT * k * width)


@dataclass(eq=False)
class Waiting:
    """A request in the line.

    Attributes:
        predictor: that answers it.
        query: all of it.
        ticket: of the request.
        answer: for who awaits it.
        rank: lower ones come first.
        parts: answers to its first users, where it is answered piece by piece.
        seconds: that were spent on it alone.
    """

    predictor: Predictor
    query: Query
    ticket: Ticket
    answer: asyncio.Future[Recommendations]
    rank: int = DEFAULT_PRIORITY
    parts: list[Recommendations] = field(default_factory=list)
    seconds: float = 0.0

    def next_query(self) -> Query:
        """What is to be answered next."""
        if not self.ticket.large:
            return self.query
        at = sum(len(part.rows) for part in self.parts)
        return part_of(self.query, slice(at, at + piece_users(self.predictor, self.query)))


@dataclass(frozen=True)
class _Work:
    """A query of one call, and whose it is."""

    of: Waiting
    query: Query


class Batcher:
    """Answers queries, several at a time.

    Args:
        load: whose clock says when a query comes too late.

    Attributes:
        calls: of predictors so far.
        seconds: that they took.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._line: deque[Waiting] = deque()
        self._running = False
        self.calls, self.seconds = 0, 0.0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="predictor")

    async def recommend(
        self, predictor: Predictor, query: Query, ticket: Ticket, rank: int = DEFAULT_PRIORITY
    ) -> tuple[Recommendations, float]:
        """The answer of `predictor`, and the seconds that were spent on nothing else.

        Args:
            predictor: that answers.
            query: all of it.
            ticket: of the request.
            rank: whose turn comes first: that of lower ones.

        Raises:
            TooLate: its turn came after the moment by which it must be answered.
            InvalidInput: the predictor refuses the query.
        """
        loop = asyncio.get_running_loop()
        mine = Waiting(predictor, query, ticket, loop.create_future(), rank)
        self._join(mine)
        if not self._running:
            self._running = True
            loop.call_soon(self._next)
        return await mine.answer, mine.seconds

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _join(self, one: Waiting) -> None:
        if one.parts:  # it takes turns with all that wait, whatever its rank was
            one.rank = max(one.rank, DEFAULT_PRIORITY)
        at = len(self._line)
        while at and self._line[at - 1].rank > one.rank:
            at -= 1
        self._line.insert(at, one)
        _WAITING.set(len(self._line))

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
        predictor, k = batch[0].of.predictor, max(one.query.k for one in batch)
        if users * _work_of_one(predictor, k) <= _SMALL and not any(map(_more, batch)):
            self._give(batch, *_timed(batch))
            loop.call_soon(self._next)
            return
        work = loop.run_in_executor(self._thread, _timed, batch)

        def done(
            finished: asyncio.Future[tuple[list[Recommendations | Exception], float]],
        ) -> None:
            self._give(batch, *finished.result())
            self._next()

        work.add_done_callback(done)

    def _take(self) -> list[_Work]:
        """Queries that one call can answer, from the first that waits on."""
        batch: list[_Work] = []
        users = 0
        now = self._load.clock()
        while self._line:
            first = self._line[0]
            if first.answer.done():  # its client has gone
                self._line.popleft()
                continue
            if first.ticket.due < now:
                self._line.popleft()
                first.answer.set_exception(
                    TooLate("the deadline passed before its turn came; ask again later.")
                )
                continue
            query = first.next_query()
            if batch and (
                users + len(query.users) > _MOST_USERS
                or first.ticket.large
                or not _together(batch[0], _Work(first, query))
            ):
                break
            batch.append(_Work(self._line.popleft(), query))
            users += len(query.users)
            if first.ticket.large:
                break
        _WAITING.set(len(self._line))
        return batch

    def _give(
        self, batch: list[_Work], answers: Iterable[Recommendations | Exception], seconds: float
    ) -> None:
        self.calls += 1
        self.seconds += seconds
        for work, answer in zip(batch, answers, strict=True):
            one = work.of
            one.seconds += seconds / len(batch)
            if one.answer.done():
                continue
            if isinstance(answer, Exception):
                one.answer.set_exception(answer)
            elif not one.ticket.large:
                one.answer.set_result(answer)
            else:
                one.parts.append(answer)
                if sum(len(part.rows) for part in one.parts) < len(one.query.users):
                    self._join(one)  # the others have their turn first
                else:
                    one.answer.set_result(_joined(one.parts))


def part_of(query: Query, users: slice) -> Query:
    """The query of some of the users."""
    return replace(
        query,
        users=query.users[users],
        history=None if query.history is None else query.history[users],
        time=None if query.time is None else query.time[users],
        context={name: values[users] for name, values in query.context.items()},
        attributes={name: values[users] for name, values in query.attributes.items()},
        candidates=_of_some(query.candidates, users),
        block=_of_some(query.block, users),
    )


def _of_some(ids: list[Any] | None, users: slice) -> list[Any] | None:
    """Item ids for all users, or of each of some a list of its own."""
    return ids[users] if ids and isinstance(ids[0], list) else ids


def _joined(parts: Sequence[Recommendations]) -> Recommendations:
    return Recommendations(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("rows", "item_ids", "scores", "sources")
        )
    )


def _more(work: _Work) -> bool:
    """Whether a query asks for more than a product: a program runs, or a choice is made."""
    return not work.query.is_plain or runs_program(work.of.predictor, work.query)


def _together(one: _Work, other: _Work) -> bool:
    a, b = one.query, other.query
    return (
        one.of.predictor is other.of.predictor
        and (a.exclude_seen, a.history_mode) == (b.exclude_seen, b.history_mode)
        and a.is_plain
        and b.is_plain
    )


def _timed(batch: list[_Work]) -> tuple[list[Recommendations | Exception], float]:
    began = time.perf_counter()
    return _answers(batch), time.perf_counter() - began


def _answers(batch: list[_Work]) -> list[Recommendations | Exception]:
    """An answer to each query: by one call, or if that fails by a call for each."""
    try:
        return list(_of_all(batch))
    except Exception as error:
        if len(batch) > 1:
            return [answer for one in batch for answer in _answers([one])]
        return [InvalidInput(str(error)) if isinstance(error, CadcError) else error]


def _of_all(batch: list[_Work]) -> Iterable[Recommendations]:
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
    found = batch[0].of.predictor.recommend(
        users,
        max(one.query.k for one in batch),
        first.exclude_seen,
        first.filter,
        history,
        first.candidates,
        time,
        {name: [v for one in batch for v in one.query.context[name]] for name in first.context},
        first.history_mode,
        first.block,
        first.rules,
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
