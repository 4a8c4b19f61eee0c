"""Guards the service from connections: how many, how slow, and what they ask while it is full.

In: bytes of a connection. Out: those that may go on to uvicorn's own protocol, and otherwise an
answer that says why not: 408 for headers that take too long, 431 for headers too large, 503 for one
connection too many, and 503 for an inference request while the service is full.

uvicorn waits forever for a first byte, or for headers that trickle in, and keeps all it gets; so a
connection has a limit of seconds and bytes here. And a refusal must cost far less than an answer,
or refusing would be all that the service does under a load of ten times what it can answer: so a
request that comes whole is refused before it is parsed. Who asks again at once is told so later,
and what is not refused is begun in turns, see `cadc_rec.serving.http.intake`. Who sends more
without waiting for an answer is not read on until it has that.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cadc_rec.serving.http.intake import PATIENCE, Intake
from cadc_rec.serving.http.load import Load, of_refusals, refused, retry_after
from cadc_rec.serving.http.observed import Observed, Tell

_MOST_HEAD = 64 << 10  # bytes of a request line with its headers
_INFER = re.compile(rb"POST /v2/models/[^ /]{1,200}/infer HTTP/1\.1\r\n")
_TEXT = b'{"error":"too many requests wait; ask again later."}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\nretry-after: %%d\r\n\r\n%s" % (len(_TEXT), _TEXT)
)
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,9})\r\n", re.IGNORECASE)


def impatient(
    head_seconds: float, most: int, load: Load, tell: Tell | None = None
) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn.

    Args:
        head_seconds: from the connection, or a request's first byte, to the end of its headers.
        most: connections at the same time.
        load: says whether the service is full.
        tell: is given each request that is refused before it is parsed.
    """
    busy, intake = of_refusals("rest", "busy"), Intake(load)

    class Impatient(HttpToolsProtocol):
        """See the module."""

        _deadline: asyncio.TimerHandle | None = None
        _head_bytes = 0
        _refused_at = -math.inf
        held: bytes | None = None  # a request that waits in one of the two lines
        _is_refused = False  # what becomes of it
        _behind = b""  # what came after a whole request that has no answer yet
        _was_whole = False  # the request that was begun last

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                self._give_up(
                    b"503 Service Unavailable", "connections",
                    f"there are {most} connections already; ask again later.",
                )  # fmt: skip
                return
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_there()
            if self.held is not None and not self._is_refused:
                load.unread -= 1
            self.held, self._behind = None, b""
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return  # it was told why
            if self.held is not None or self._behind or (self._was_whole and self._is_asked()):
                self._behind += data
                self.flow.pause_reading()
                return
            size = inference_bytes(data) if self._is_between() else 0
            if size:
                self._behind = data[size:]
                self._take(data[:size])
                self._read_on()
                return
            self._was_whole = False
            super().data_received(data)
            if self._deadline is not None:
                self._head_bytes += len(data)
                if self._head_bytes > _MOST_HEAD:
                    self._give_up(
                        b"431 Request Header Fields Too Large", "head_size",
                        f"the headers are larger than {_MOST_HEAD} bytes.",
                    )  # fmt: skip

        def _is_asked(self) -> bool:
            """Whether a request is under way."""
            return self.cycle is not None and not self.cycle.response_complete

        def _is_between(self) -> bool:
            """Whether the next byte is a request's first, and no other request is under way."""
            return not (self._is_asked() or self._head_bytes or self.pipeline)

        def _read_on(self) -> None:
            """Read what is behind a request that was answered."""
            if self._behind and self.held is None and not self._is_asked():
                data, self._behind = self._behind, b""
                self.flow.resume_reading()
                self.data_received(data)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._read_on()

        def _take(self, data: bytes) -> None:
            """Begin a request or refuse it, now or later."""
            self._head_is_there()
            if load.full:
                again = self.loop.time() - self._refused_at < PATIENCE
                if not again and intake.refuses(self):
                    self._refuse(data)
                else:
                    self.held, self._is_refused = data, True
                    intake.refuse_later(self, data, PATIENCE if again else 0.0)
                return
            load.unread += 1
            if intake.begins(self):
                self._begin(data)
            else:
                self.held, self._is_refused = data, False
                intake.begin_later(self, data)

        def go_on(self) -> None:
            data, self.held = self.held, None
            if data is not None:
                (self._refuse if self._is_refused else self._begin)(data)
                self._read_on()

        def _begin(self, data: bytes) -> None:
            self._was_whole = True
            super().data_received(data)
            # Its task has its first step before this, and counts it itself.
            self.loop.call_soon(_was_read, load)

        def _refuse(self, data: bytes) -> None:
            """Answer a request that was not parsed, and expect the next one."""
            busy.inc()
            if tell is not None:
                path = data[: data.index(b"\r\n")].split(b" ")[1].decode("latin-1")
                tell(Observed("rest", path.partition("?")[0], status=503))
            self._refused_at = self.loop.time()
            self.transport.write(_BUSY % retry_after(load.wait))
            if self.timeout_keep_alive_task is None:
                self._stay(self.timeout_keep_alive)

        def _stay(self, seconds: float) -> None:
            self.timeout_keep_alive_task = self.loop.call_later(
                seconds, self.timeout_keep_alive_handler
            )

        def timeout_keep_alive_handler(self) -> None:
            idle = 0.0 if self.held is not None else self.loop.time() - self._refused_at
            if idle < self.timeout_keep_alive:  # a timer for every refusal would cost more
                self._stay(self.timeout_keep_alive - idle)
            else:
                super().timeout_keep_alive_handler()

        def shutdown(self) -> None:
            self._behind = b""
            self.go_on()
            super().shutdown()

        def on_message_begin(self) -> None:
            self._expect_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_is_there()
            super().on_headers_complete()

        def _expect_head(self) -> None:
            self._head_is_there()
            self._deadline = self.loop.call_later(
                head_seconds, self._give_up, b"408 Request Timeout", "head_time",
                f"the headers did not arrive whole within {head_seconds:g} seconds.",
            )  # fmt: skip

        def _head_is_there(self) -> None:
            self._head_bytes = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self, status: bytes, reason: str, text: str) -> None:
            self._head_is_there()
            if not self.transport.is_closing():
                refused("rest", reason)
                body = json.dumps({"error": text}).encode()
                again = b"retry-after: 1\r\n" if status.startswith(b"503") else b""
                self.transport.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"%sconnection: close\r\n\r\n%s" % (status, len(body), again, body)
                )
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            self._give_up(b"400 Bad Request", "not_http", "this is not an HTTP request.")

    return Impatient


def inference_bytes(data: bytes) -> int:
    """Length of the inference request that these bytes begin with; 0 where it is not whole."""
    if not _INFER.match(data):
        return 0
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    found = _LENGTH.search(data, 0, end + 2)
    length = 0 if found is None else end + 4 + int(found[1])
    return length if length <= len(data) else 0


def _was_read(load: Load) -> None:
    load.unread -= 1
