"""Watches requests from outside, over HTTP and gRPC, for the access log.

In: the whole application, guard included, or gRPC's handlers. Out: the same, which tells what came
of each request. Spans of OpenTelemetry are FastAPI's and its instrumentation's of gRPC, which
``opentelemetry-instrument`` switches on; what only we know of a request is added to them here.
"""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc import StatusCode, aio

try:
    from opentelemetry import trace
except ImportError:
    trace = None

from cadc_rec.serving.http.guard import App, Message, Receive, Scope, Send

_CLOSED = 499  # the client went before it had an answer; nginx's number


@dataclass
class Observed:
    """One request.

    Attributes:
        protocol: ``rest`` or ``grpc``.
        path: without what follows a question mark; of gRPC the method.
        began: seconds since 1970.
        status: of HTTP, or gRPC's word for it.
        seconds: until the last byte of the answer was handed over.
        users: how many it asked for; None if it did not get so far.
        bundle: the version that answered.
    """

    protocol: str
    path: str
    began: float = field(default_factory=time.time)
    status: int | str = _CLOSED
    seconds: float = 0.0
    users: int | None = None
    bundle: str | None = None


_current: contextvars.ContextVar[Observed | None] = contextvars.ContextVar("observed", default=None)


def answered_by(bundle: str, users: int) -> None:
    """Note of the request at hand how many users it asks for, and the version that answers."""
    seen = _current.get()
    if seen is not None:
        seen.users, seen.bundle = users, bundle
    if trace is not None and (span := trace.get_current_span()).is_recording():
        span.set_attributes({"cadc_rec.users": users, "cadc_rec.bundle": bundle})


Tell = Callable[[Observed], None]


def observed(app: App, tell: Tell | None) -> App:
    """The application, watched.

    Args:
        app: the application, guard included.
        tell: is given each finished request; None where there is no log.
    """
    if tell is None:
        return app

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        seen = Observed("rest", scope["path"])

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen.status = message["status"]
            await send(message)

        with _told(seen, tell):
            await app(scope, receive, send_on)

    return watched


def observers(tell: Tell | None) -> list[aio.ServerInterceptor]:
    """The interceptor that watches gRPC, if anybody is to be told; it goes before all others."""
    return [] if tell is None else [_Observer(tell)]


class _Observer(aio.ServerInterceptor):
    """Watches gRPC.

    Args:
        tell: is given each finished request.
    """

    def __init__(self, tell: Tell) -> None:
        self.tell = tell

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Wrap a call's handler."""
        handler = await continuation(details)
        if handler is None or handler.unary_unary is None:
            return handler
        answer = handler.unary_unary

        async def watched(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
            seen = Observed("grpc", details.method, status=StatusCode.CANCELLED.name)
            with _told(seen, self.tell):
                try:
                    found = await answer(request, context)
                    seen.status = StatusCode.OK.name
                    return found
                except Exception as error:
                    aborted = isinstance(error, aio.AbortError)
                    seen.status = _name(context.code()) if aborted else StatusCode.UNKNOWN.name
                    raise

        return grpc.unary_unary_rpc_method_handler(
            watched, handler.request_deserializer, handler.response_serializer
        )


def _name(code: Any) -> str:
    """A status's name; gRPC gives its number."""
    for one in StatusCode:
        if code in (one, one.value[0]):
            return one.name
    return str(code)


@contextlib.contextmanager
def _told(seen: Observed, tell: Tell) -> Iterator[None]:
    """Tells of a request once it has ended."""
    token, began = _current.set(seen), time.perf_counter()
    try:
        yield
    finally:
        _current.reset(token)
        seen.seconds = time.perf_counter() - began
        tell(seen)
