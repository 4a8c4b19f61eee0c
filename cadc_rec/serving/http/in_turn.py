"""Requests that change a journal: a thread of its own answers together all that have come.

In: requests, from an event loop. Out: their answers, when the disk has what they told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.load import Busy

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

_MOST_WAITING = 256  # requests
_MENDED = 30.0  # seconds after which to try a disk again


class InTurn(Generic[Asked, Answer]):
    """The thread of a journal, and what waits for it.

    Args:
        what: the journal is of, for messages.
        answers: of requests, an answer or an error each; what it raises is the error of all.

    Attributes:
        thread: that answers.
    """

    def __init__(
        self, what: str, answers: Callable[[Sequence[Asked]], Sequence[Answer | Exception]]
    ) -> None:
        self._what, self._answers = what, answers
        self.thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=what.split()[-1])
        self._waiting: deque[tuple[Asked, Future[Answer]]] = deque()

    async def ask(self, request: Asked) -> Answer:
        """The answer to a request.

        Raises:
            Busy: too much waits, or the journal cannot be used.
        """
        if len(self._waiting) >= _MOST_WAITING:
            raise Busy("too many requests wait for the disk; tell it again later.")
        mine: Future[Answer] = Future()
        self._waiting.append((request, mine))
        self.thread.submit(self._take)
        return await asyncio.wrap_future(mine)

    async def watch(self, seconds: float, follow: Callable[[], None]) -> None:
        """Call `follow` in the thread again and again; never returns."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(seconds)
            try:
                await loop.run_in_executor(self.thread, follow)
            except CadcError as error:
                log.warning("%s What other processes know of %s is not known.", error, self._what)
            except Exception as error:  # a record that says nothing must not end the rest
                log.error("a defect of cadc-rec: %s: %s", self._what, error, exc_info=error)

    def close(self) -> None:
        """Let the thread go, and what waits for it."""
        self.thread.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(IndexError):
            while True:
                self._waiting.popleft()[1].cancel()

    def _take(self) -> None:
        """Answer all that wait, by one write; a request that was given up changes nothing."""
        batch = []
        with contextlib.suppress(IndexError):  # when there are no more
            while True:
                request, answer = self._waiting.popleft()
                if answer.set_running_or_notify_cancel():
                    batch.append((request, answer))
        if not batch:
            return
        found: Sequence[Answer | Exception]
        try:
            found = self._answers([request for request, _ in batch])
        except Exception as error:  # each request is answered, whatever happens
            found = [as_busy(error, self._what)] * len(batch)
        for (_, answer), result in zip(batch, found, strict=True):
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)


def as_busy(error: Exception, what: str) -> Exception:
    """What a client is told where a journal cannot be used; the log says more, as its path."""
    if isinstance(error, Busy) or not isinstance(error, CadcError):
        return error
    log.error("%s", error)
    return Busy(
        f"the journal of {what} takes nothing, and the service's log says why; tell it again "
        "later.",
        _MENDED,
    )
