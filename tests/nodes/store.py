"""The programs of the store's machine: `data` is an S3 server (moto's), `front` lets requests in.

    python -m tests.nodes.store data|front

Clients speak to the front, which hands every byte on and takes as long for a request as
`/tmp/seconds` says.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path

_SECONDS = Path("/tmp/seconds")
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
            forth.write(chunk)
            await forth.drain()
    except ConnectionError:
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
