"""Guards TLS handshakes: how many connections there are, and how slow they are.

In: connections as they are accepted. Out: those whose handshake is done, as uvicorn's protocol
takes them. asyncio's own servers show a protocol no connection before that, so it can neither count
nor time one that says nothing.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable
from typing import Any

from cadc_rec.serving.http.load import refused


def handshaking(
    made: Callable[..., asyncio.Protocol],
    context: Callable[[], ssl.SSLContext],
    seconds: float,
    most: int,
) -> type[SSLProtocol]:
    """The protocol class for uvicorn.

    Args:
        made: makes the protocol of a connection, from uvicorn's arguments.
        context: gives the certificate and its key, for each connection anew.
        seconds: from the connection to the end of the handshake.
        most: connections at the same time, those before the handshake too.
    """
    before: set[SSLProtocol] = set()

    class Handshake(SSLProtocol):
        """See the module."""

        def __init__(self, **given: Any) -> None:
            inner = made(**given)
            self._there = given["server_state"].connections
            # As asyncio's servers do; its types know neither None nor parts of a second.
            settings: dict[str, Any] = {"waiter": None, "ssl_handshake_timeout": seconds}
            loop = asyncio.get_running_loop()
            super().__init__(loop, inner, context(), server_side=True, **settings)

        def connection_made(self, transport: Any) -> None:
            if len(before) + len(self._there) >= most:
                refused("rest", "connections")
                transport.abort()  # there is nothing to say before the handshake
                return
            before.add(self)
            super().connection_made(transport)

        def _on_handshake_complete(self, handshake_exc: Any) -> None:
            before.discard(self)
            super()._on_handshake_complete(handshake_exc)

        def connection_lost(self, exc: BaseException | None) -> None:
            before.discard(self)
            super().connection_lost(exc)

    return Handshake
