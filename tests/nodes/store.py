"""The programs of the store's machine: `data` is an S3 server (moto's), `front` lets requests in.

    python -m tests.nodes.store data|front

Clients speak to the front, which hands every byte on and takes as long for a request as
`/tmp/seconds` says. While there is a file `/tmp/refusal` (``STATUS CODE``), writing is answered
with that. To a client, the store is the front: killed, it breaks every request off, and what was
written before is there when it is back.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

_SECONDS, _REFUSAL = Path("/tmp/seconds"), Path("/tmp/refusal")
PORT, _DATA_PORT = 5000, 5001


def data() -> None:
    """Serve objects, to the front only."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=_DATA_PORT, verbose=False)
    server.start()
    assert server._thread is not None
    server._thread.join()


def delay() -> float:
    """How long a request takes at this moment, in seconds."""
    try:
        return float(_SECONDS.read_text())
    except FileNotFoundError:
        return 0.0


def refusal() -> bytes | None:
    """The answer to whoever writes at this moment; None while writing is allowed."""
    try:
        status, code = _REFUSAL.read_text().split()
    except FileNotFoundError:
        return None
    body = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>no</Message></Error>"
    return (
        f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def take(request: bytes, reader: asyncio.StreamReader) -> None:
    """Read what is left of a request whose beginning was read."""
    while b"\r\n\r\n" not in request:
        request += await reader.read(2**16)
    head, body = request.split(b"\r\n\r\n", 1)
    (length,) = (
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length:")
    )  # fmt: skip
    await reader.readexactly(length - len(body))


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection of a client, request by request."""
    try:
        back, forth = await asyncio.open_connection("127.0.0.1", _DATA_PORT)
    except OSError:
        writer.close()
        return
    begins = asyncio.Event()  # what the client sends next begins a request
    begins.set()

    async def answers() -> None:
        while chunk := await back.read(2**16):
            writer.write(chunk)
            await writer.drain()
            begins.set()
        writer.close()

    answering = asyncio.create_task(answers())
    try:
        while chunk := await reader.read(2**16):
            if begins.is_set():
                begins.clear()
                await asyncio.sleep(delay())
                said = refusal() if chunk.startswith((b"PUT", b"POST")) else None
                if said is not None:
                    await take(chunk, reader)
                    writer.write(said)
                    await writer.drain()
                    begins.set()
                    continue
            forth.write(chunk)
            await forth.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        answering.cancel()
        forth.close()
        writer.close()


async def front() -> None:
    """Serve clients until killed."""
    async with await asyncio.start_server(serve, "0.0.0.0", PORT) as server:
        await server.serve_forever()


if __name__ == "__main__":
    data() if sys.argv[1] == "data" else asyncio.run(front())
