"""Whether the service is live and ready, answered under any load.

In: requests of an orchestrator. Out: the protocol's answers. They are given at the HTTP port before
anything else is asked, and, where there is a health port, by a thread with an event loop of its
own. That thread also sees when the service's own loop has stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

LIVE, READY = "/v2/health/live", "/v2/health/ready"
_STUCK = 30.0  # seconds in which the service's loop did nothing, after which it is not live
_BEAT = 0.5  # seconds
_PATIENCE = 1.0  # seconds for a request and its answer
_MOST_HEAD = 8192  # bytes of its headers
_MOST_OPEN = 64  # connections at the same time
_END = 5.0  # seconds for the thread to end
_PHRASE = {200: "OK", 400: "Bad Request", 404: "Not Found", 503: "Service Unavailable"}


def answer_to(
    method: str, path: str, ready: Callable[[], bool], live: Callable[[], bool] = lambda: True
) -> tuple[int, bytes] | None:
    """Status and JSON of a request for health; None of any other request."""
    if method not in ("GET", "HEAD") or path not in (LIVE, READY):
        return None
    name, well = ("live", live()) if path == LIVE else ("ready", ready())
    if well:
        return 200, json.dumps({name: True}).encode()
    return 503, json.dumps({"error": f"the service is not {name}."}).encode()


class HealthPort:
    """A thread that answers at a port.

    Args:
        listener: a listening socket; it is closed at the end.
        ready: whether requests are answered.
    """

    def __init__(self, listener: socket.socket, ready: Callable[[], bool]) -> None:
        self._listener, self._ready = listener, ready
        self._beat = time.monotonic()
        self._open: dict[asyncio.StreamWriter, None] = {}  # the oldest first
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    def alive(self) -> None:
        """Show that the caller does something."""
        self._beat = time.monotonic()

    async def beat(self) -> None:
        """Show that the caller's loop runs; never returns."""
        while True:
            self.alive()
            await asyncio.sleep(_BEAT)

    def close(self) -> None:
        """Answer no more."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_END)

    def _live(self) -> bool:
        return time.monotonic() - self._beat < _STUCK

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._answer, sock=self._listener, limit=_MOST_HEAD)
        )
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request; who says nothing makes room for the next who asks."""
        self._open[writer] = None
        if len(self._open) > _MOST_OPEN:
            next(iter(self._open)).transport.abort()  # the oldest
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                method, _, rest = head.decode("latin-1").partition(" ")
                path, _, version = rest.partition("\r\n")[0].rpartition(" ")
                if not version.startswith("HTTP/1."):
                    status, body = 400, b'{"error": "this is not an HTTP request."}'
                else:
                    status, body = answer_to(method, path, self._ready, self._live) or (
                        404,
                        b'{"error": "this port answers for health alone."}',
                    )
                writer.write(
                    b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
                    b"connection: close\r\n\r\n%s" % (
                        status, _PHRASE[status].encode(), len(body),
                        b"" if method == "HEAD" else body,
                    )
                )  # fmt: skip
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # it says no more, or too much
        finally:
            del self._open[writer]
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
