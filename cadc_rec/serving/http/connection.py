"""HTTP connections that cannot be held open for nothing.

uvicorn waits for ever for a first byte, or for headers that trickle in, and keeps all it gets. Here
a connection has so many seconds and bytes to say what it wants. Bodies and answers are watched by
`cadc_rec.serving.http.guard`.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_MOST_HEAD = 64 << 10  # bytes of a request line with its headers


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
                f"no whole headers in {head_seconds:g} seconds.",
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
            self._give_up(b"400 Bad Request", "this is no HTTP request.")

    return Impatient
