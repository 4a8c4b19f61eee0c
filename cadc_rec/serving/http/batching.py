"""Requests that arrive together are answered together.

In: queries, one a request. Out: each one's recommendations, from one call of the predictor for all
queries that wait at the moment and agree on everything but users and k.

There is no waiting for company: a call starts as soon as the event loop has read what has arrived.
While it runs, others gather, so batches grow with the load. Small calls run in the loop's own
thread, where handing over would cost more than the work; others in a thread beside it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from kserve.errors import InvalidInput

from cadc_rec.errors import CadcError
from cadc_rec.serving.http import metrics
from cadc_rec.serving.http.queries import Query
from cadc_rec.serving.predict.predictor import Predictor, Recommendations

_MOST_USERS = 256  # of one call, unless one request alone has more
_SMALL = 20_000_000  # multiplications; a few milliseconds


class Busy(Exception):
    """Too many requests wait already."""


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
            raise Busy
        loop = asyncio.get_running_loop()
        mine = _Waiting(predictor, query, loop.create_future())
        self._waiting.append(mine)
        metrics.WAITING.set(len(self._waiting))
        if not self._running:
            self._running = True
            loop.call_soon(self._next)
        return await mine.answer

    def close(self) -> None:
        """Let the thread go."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _next(self) -> None:
        """Answer the next batch; then the one after it, until nobody waits."""
        loop = asyncio.get_running_loop()
        batch = self._take()
        if not batch:
            self._running = False
            return
        users = sum(len(one.query.users) for one in batch)
        metrics.BATCH_REQUESTS.observe(len(batch))
        metrics.BATCH_USERS.observe(users)
        vectors = batch[0].predictor.item_vectors.vectors
        if users * vectors.size <= _SMALL:
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
            if first.answer.cancelled():  # its client went away
                self._waiting.popleft()
                continue
            more = len(first.query.users)
            if batch and (users + more > _MOST_USERS or not _together(batch[0], first)):
                break
            batch.append(self._waiting.popleft())
            users += more
        metrics.WAITING.set(len(self._waiting))
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
    return (
        one.predictor is other.predictor
        and a.exclude_seen == b.exclude_seen
        and narrowed == (None, None, None, None)
    )


def _answers(batch: list[_Waiting]) -> list[Recommendations | Exception]:
    """One answer a query, by one call where all is well, else by one each."""
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
    found = batch[0].predictor.recommend(
        users,
        max(one.query.k for one in batch),
        first.exclude_seen,
        first.filter,
        history,
        first.candidates,
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
