"""When the requests that have come are begun, and when those that are refused are told so.

In: connections with a request that has come whole. Out: the same connections, told to go on.

An event loop reads all connections before it does anything else. With hundreds of them, that alone
would be a tenth of a second of work, in which not even a probe of liveness is answered. So only as
many requests are begun in one turn of the loop as take some milliseconds; the others wait in a
line. And clients that ask again as soon as they were refused would be refused tens of thousands of
times a second, at the cost of those who could be answered: so a client waits for its next refusal,
and all together for those that would take more than a small share of the time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from cadc_rec.serving.http.load import TYPICAL, Load

PATIENCE = 0.1
"""Seconds that a connection that was refused just now waits for its next refusal."""
_TURN = 0.01  # seconds of work that are begun in one turn of the loop
_MOST = 64  # requests
_ROUND = 0.01  # seconds
_REFUSALS = 40  # in so many seconds; each takes some 20 microseconds


class Connection(Protocol):
    """What waits here.

    Attributes:
        loop: that runs all of them.
        held: the request that waits; None where none does.
    """

    loop: asyncio.AbstractEventLoop
    held: bytes | None

    def go_on(self) -> None:
        """Begin the request that is held, or refuse it, as was decided when it came."""


class Intake:
    """Two lines of connections: for an answer, and for a refusal.

    Args:
        load: says how long an answer takes.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._line: deque[tuple[Connection, bytes]] = deque()
        self._begun = self._most = 0  # in this turn
        self._refused: deque[tuple[float, Connection, bytes]] = deque()
        self._told, self._round_ends = 0, 0.0

    def begins(self, connection: Connection) -> bool:
        """Whether a request may begin in this turn; if so, it is counted."""
        if self._line or (self._begun and self._begun >= self._most):
            return False
        if not self._begun:
            connection.loop.call_soon(self._turn, connection.loop)
            self._most = self._requests()
        self._begun += 1
        return True

    def begin_later(self, connection: Connection, request: bytes) -> None:
        """Let a connection go on in one of the next turns, while it holds this request."""
        self._line.append((connection, request))

    def refuses(self, connection: Connection) -> bool:
        """Whether a request may be refused now; if so, it is counted."""
        if not self._may_tell(connection.loop.time()):
            return False
        self._told += 1
        return True

    def refuse_later(self, connection: Connection, request: bytes, seconds: float) -> None:
        """Let a connection go on after so many seconds or more, while it holds this request."""
        due = connection.loop.time() + seconds
        if not self._refused:
            connection.loop.call_at(due, self._round, connection.loop)
        self._refused.append((due, connection, request))

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun, self._most = 0, self._requests()
        if self._line:  # whatever comes of one of them, the others have their turn
            loop.call_soon(self._turn, loop)
        while self._line and self._begun < self._most:
            connection, request = self._line.popleft()
            if connection.held is request:  # it has neither gone nor sent more
                self._begun += 1
                connection.go_on()

    def _requests(self) -> int:
        """How many are begun in one turn."""
        return min(_MOST, max(1, int(_TURN / self._load.times.expected(*TYPICAL))))

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        try:
            while self._refused and self._refused[0][0] <= now and self._may_tell(now):
                _, connection, request = self._refused.popleft()
                if connection.held is request:
                    self._told += 1
                    connection.go_on()
        finally:
            if self._refused:
                due = self._refused[0][0]
                loop.call_at(due if due > now else self._round_ends, self._round, loop)

    def _may_tell(self, now: float) -> bool:
        if now >= self._round_ends:
            self._told, self._round_ends = 0, now + _ROUND
        return self._told < _REFUSALS
