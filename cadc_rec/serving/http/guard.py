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
import zlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from cadc_rec.serving.http.health import answer_to
from cadc_rec.serving.http.load import refused
from cadc_rec.serving.http.settings import Limits

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset(
    {"/", "/page.js", "/page.css", "/docs", "/docs.js", "/v2/health/live", "/v2/health/ready"}
)
"""Paths that need no key: for orchestrators, and for the pages on which a person enters the key."""
_WINDOWS = {b"gzip": 31, b"deflate": 15}  # zlib's numbers for the two formats
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
        ready: whether requests are answered.
    """

    def __init__(self, app: App, key: ApiKey, limits: Limits, ready: Callable[[], bool]) -> None:
        self.app, self.key, self.limits, self.ready = app, key, limits, ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            return
        health = answer_to(scope["method"], scope["path"], self.ready)
        if health is not None:
            await _send_json(send, *health)
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
            await _refuse(send, 401, "key", "an API key is needed: Authorization: Bearer KEY.")
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
                "body_time",
                f"the body did not arrive whole within {self.limits.body_seconds:g} seconds.",
            )
            return
        if not isinstance(body, _Refused) and b"content-encoding" in headers:
            body = _inflated(body, headers[b"content-encoding"], self.limits.body_bytes)
        if isinstance(body, _Refused):
            if body.status:
                await _refuse(send, body.status, body.kind, body.reason)
            return
        try:
            async with asyncio.timeout(self._allowed(scope["path"])):
                await self.app(scope, _replay(body, receive), send_on)
        except TimeoutError:
            if not started:
                text = "the answer took too long; ask again later."
                await _refuse(send, 503, "deadline", text)
            else:  # the server closes the connection
                refused("rest", "slow_reader")
        except asyncio.CancelledError:  # the service stops, and has waited for long enough
            if not started:
                text = "the service stops; ask again later."
                await _refuse(send, 503, "stopping", text)
            raise

    def _allowed(self, path: str) -> float:
        """Seconds until the answer is sent."""
        if path.endswith("/infer") or path.startswith("/explore"):
            return self.limits.deadline_seconds
        loads = path.startswith("/v2/repository/")
        return self.limits.load_seconds if loads else self.limits.other_seconds

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
    def __init__(self, status: int, reason: str, kind: str = "body_size") -> None:
        self.status, self.reason, self.kind = status, reason, kind


def _inflated(body: bytes, form: bytes, most: int) -> bytes | _Refused:
    """A body that came compressed. No more of it is made than may have come plain."""
    name = form.strip().lower()
    if name == b"identity":
        return body
    if name not in _WINDOWS:
        text = "bodies are taken plain, or as Content-Encoding gzip or deflate."
        return _Refused(415, text, "encoding")
    inflater = zlib.decompressobj(_WINDOWS[name])
    try:
        plain = inflater.decompress(body, most + 1)
    except zlib.error:
        return _Refused(400, f"the body is not {name.decode()}, as it says.", "encoding")
    if len(plain) > most:
        return _too_large(most)
    if not inflater.eof or inflater.unused_data:
        return _Refused(400, f"the body is not one whole {name.decode()}.", "encoding")
    return plain


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


async def _refuse(send: Send, status: int, reason: str, text: str) -> None:
    refused("rest", reason)
    headers = [(b"connection", b"close")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 503:
        headers.append((b"retry-after", b"1"))
    await _send_json(send, status, json.dumps({"error": text}).encode(), headers)


async def _send_json(
    send: Send, status: int, body: bytes, more: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
