"""Guards the application from the network: who may ask, how much, and for how long.

In: a connection, and an HTTP request as ASGI. Out: the request with its whole body read, or an
answer that says why not: 401 without the key, 408 for headers or a body that take too long, 413 for
a body too large, 431 for headers too large, 503 for an answer that takes too long.

uvicorn waits forever for a first byte, or for headers that trickle in, and keeps all it gets; so a
connection has a limit of seconds and bytes here before uvicorn's own protocol reads on.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cadc_rec.serving.http.settings import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/", "/page.js", "/page.css", "/v2/health/live", "/v2/health/ready"})
"""Paths that need no key: for orchestrators, and for the page on which a person enters the key."""
_MOST_HEAD = 64 << 10  # bytes of a request line with its headers
_DRAINED = 256 << 20  # bytes read of a body that is too large, so that its sender sees the answer


class ApiKey:
    """Keeps only the key's digest, and compares in constant time.

    Args:
        key: the API key; None admits everybody.
    """

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else hashlib.sha256(key.encode()).digest()

    @property
    def exists(self) -> bool:
        """Whether there is a key."""
        return self._digest is not None

    def admits(self, authorization: bytes) -> bool:
        """Whether ``Bearer KEY`` names the key."""
        if self._digest is None:
            return True
        scheme, _, token = authorization.partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        return hmac.compare_digest(given, self._digest) and scheme.lower() == b"bearer"


class Guard:
    """ASGI middleware.

    Args:
        app: the application that answers admitted requests.
        key: the API key, required on all paths but `OPEN_PATHS`.
        limits: limits of body and time.
    """

    def __init__(self, app: App, key: ApiKey, limits: Limits) -> None:
        self.app, self.key, self.limits = app, key, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        if scope["path"] not in OPEN_PATHS and not self.key.admits(
            headers.get(b"authorization", b"")
        ):
            await _refuse(send, 401, "an API key is needed: Authorization: Bearer KEY.")
            return
        try:
            if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
                body = await self._body(headers, receive)
            else:
                body = b""
        except TimeoutError:
            await _refuse(
                send,
                408,
                f"the body did not arrive whole within {self.limits.body_seconds:g} seconds.",
            )
            return
        if isinstance(body, _Refused):
            if body.status:
                await _refuse(send, body.status, body.reason)
            return
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                await self.app(scope, _replay(body, receive), send_on)
        except TimeoutError:
            if not started:
                await _refuse(send, 503, "the answer took too long; ask again later.")

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes | _Refused:
        parts: list[bytes] = []
        most, read = self.limits.body_bytes, 0
        declared = headers.get(b"content-length", b"")
        too_large = declared.isdigit() and int(declared) > most
        if too_large and b"expect" in headers:
            return _too_large(most)  # the sender waits for permission to send it
        async with asyncio.timeout(self.limits.body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return _Refused(0, "")
                part = message.get("body", b"")
                read += len(part)
                too_large = too_large or read > most
                if too_large:
                    parts.clear()
                    if read > _DRAINED:
                        return _too_large(most)
                elif part:
                    parts.append(part)
                if not message.get("more_body"):
                    break
        return _too_large(most) if too_large else b"".join(parts)


class _Refused:
    def __init__(self, status: int, reason: str) -> None:
        self.status, self.reason = status, reason


def _too_large(most: int) -> _Refused:
    return _Refused(413, f"the body is larger than {most} bytes; ask for fewer users at once.")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read, then later messages."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def impatient(head_seconds: float) -> type[HttpToolsProtocol]:
    """The protocol class for uvicorn.

    Args:
        head_seconds: from the connection, or a request's first byte, to the end of its headers.
    """

    class Impatient(HttpToolsProtocol):
        """See the module."""

        _deadline: asyncio.TimerHandle | None = None
        _head_bytes = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._expect_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_is_there()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._deadline is not None:
                self._head_bytes += len(data)
                if self._head_bytes > _MOST_HEAD:
                    self._give_up(
                        b"431 Request Header Fields Too Large",
                        f"the headers are larger than {_MOST_HEAD} bytes.",
                    )

        def on_message_begin(self) -> None:
            self._expect_head()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self._head_is_there()
            super().on_headers_complete()

        def _expect_head(self) -> None:
            self._head_is_there()
            self._head_bytes = 0
            self._deadline = self.loop.call_later(
                head_seconds, self._give_up, b"408 Request Timeout",
                f"the headers did not arrive whole within {head_seconds:g} seconds.",
            )  # fmt: skip

        def _head_is_there(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self, status: bytes, reason: str) -> None:
            self._head_is_there()
            if not self.transport.is_closing():
                body = json.dumps({"error": reason}).encode()
                self.transport.write(
                    b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%s" % (status, len(body), body)
                )
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            self._give_up(b"400 Bad Request", "this is not an HTTP request.")

    return Impatient
