"""The programs of the store's machine: `data` is an S3 server (moto's), `front` lets requests in.

    python -m tests.nodes.store data|front

Moto keeps its objects in memory. So that a server can be killed and its objects stay, what clients
speak to is the front, which hands every byte on: killed, it breaks requests halfway, as the kill of
a server does. `/tmp/behaviour.json` tells it to be slow or to refuse.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

BEHAVIOUR = Path("/tmp/behaviour.json")
PORT, _DATA_PORT = 5000, 5001
_REFUSALS = {
    "full": ("507 Insufficient Storage", "XMinioStorageFull", "no space is left"),
    "no rights": ("403 Forbidden", "AccessDenied", "Access Denied"),
}


def data() -> None:
    """Serve objects, to the front only."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=_DATA_PORT, verbose=False)
    server.start()
    assert server._thread is not None
    server._thread.join()


def told() -> dict[str, object]:
    """How to behave at this moment."""
    try:
        found: dict[str, object] = json.loads(BEHAVIOUR.read_text())
    except FileNotFoundError:
        return {}
    return found


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
                behaviour = told()
                await asyncio.sleep(float(str(behaviour.get("seconds", 0))))
                method = chunk.partition(b" ")[0].decode(errors="replace")
                if method == behaviour.get("method"):
                    status, code, message = _REFUSALS[str(behaviour["refuse"])]
                    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
                    head = f"HTTP/1.1 {status}\r\nConnection: close\r\n"
                    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
                    await writer.drain()
                    break
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
