"""What a service does under more load than it can answer: on one core of its own.

    python -m benchmarks.overload BUNDLE                 # capacity, 300/s, ten times capacity
    python -m benchmarks.overload BUNDLE --parts large   # large answers beside small ones

The service has one core and the clients the others (`--core`). Requests come at random moments at
the rate asked for, on as many connections as are free, and their time counts from the moment when
they were due. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import socket
import sys
import time
import urllib.request
from collections import Counter, deque
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import uvloop

from benchmarks.hostile import resident_kib
from benchmarks.serving import Running, request_of, running, spread

PARTS = ("capacity", "rate", "overload", "large")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_TICK = 0.002  # seconds between two looks at what is due
_LIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"


class Client(asyncio.Protocol):
    """One connection that asks one request at a time; costs little, for there are many."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.due, self.sent, self.got = meter, 0.0, 0.0, b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Keep what is written to."""
        self.transport = transport

    def ask(self, request: bytes, due: float) -> None:
        """Send a request that was due at a moment."""
        self.due, self.sent, self.got = due, time.perf_counter(), b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Count an answer once it is whole."""
        self.got += data
        end = self.got.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _LENGTH.search(self.got, 0, end + 2)
        if found and len(self.got) >= end + 4 + int(found[1]):
            now = time.perf_counter()
            self.meter.add(int(self.got[9:12]), now - self.due, now - self.sent)
            self.meter.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count it."""
        self.meter.lost += 1


@dataclass
class Meter:
    """What came back: milliseconds of each answer of 200, and statuses counted.

    Attributes:
        taken: since the request was due.
        own: since it was sent, which clients that fall behind do later.
        statuses: of all answers.
        free: connections without a request.
        lost: connections that were closed.
    """

    taken: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    free: deque[Client] = field(default_factory=deque)
    lost: int = 0

    def add(self, status: int, since_due: float, since_sent: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        if status == 200:
            self.taken.append(1000 * since_due)
            self.own.append(1000 * since_sent)


async def offered(
    port: int, requests: list[bytes], rate: float, seconds: float, connections: int
) -> tuple[Meter, float]:
    """Ask at a rate; what came back, and the rate that was reached.

    Args:
        port: of the service.
        requests: to ask in turn.
        rate: requests a second; 0 asks whenever a connection is free.
        seconds: how long.
        connections: how many.
    """
    meter, loop = Meter(), asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: Client(meter), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    meter.free.extend(clients)
    draw = np.random.default_rng(0)
    moments = iter(np.cumsum(draw.exponential(1 / rate, int(rate * seconds)))) if rate else None
    began, sent, late = time.perf_counter(), 0, 0.0
    due = 0.0 if moments is None else float(next(moments))
    while (now := time.perf_counter() - began) < seconds:
        while meter.free and (moments is None or due <= now):
            moment = now if moments is None else due
            meter.free.popleft().ask(requests[sent % len(requests)], began + moment)
            sent += 1
            if moments is not None:
                due = float(next(moments, np.inf))
        await asyncio.sleep(_TICK if moments is not None else 0)
        late = max(late, now - due)
    await asyncio.sleep(0.5)
    for client in clients:
        client.transport.close()
    return meter, sent / seconds


def lateness(port: int, seconds: float) -> np.ndarray:
    """Milliseconds that each look at liveness took, twenty a second, each on a new connection.

    A look that is refused or cut off took forever.
    """
    taken, end = [], time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        got = b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as connection:
            connection.sendall(_LIVE)
            while not got.endswith(b"}") and (part := connection.recv(4096)):
                got += part
        well = got.startswith(b"HTTP/1.1 200")
        taken.append(1000 * (time.perf_counter() - began) if well else np.inf)
        time.sleep(0.05)
    return np.array(taken)


def processor_seconds(pid: int) -> float:
    """Seconds of a core that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def refusals(service: Running) -> Counter[str]:
    """The service's own counts, by reason."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.http}/metrics",
        headers={"authorization": f"Bearer {service.key}"},
    )
    with urllib.request.urlopen(request) as answer:
        text = answer.read().decode()
    found = re.findall(r'cadc_rec_refusals_total\{.*?reason="(\w+)"\} (\S+)', text)
    return Counter({reason: int(float(count)) for reason, count in found})


def wait_until_whole(service: Running, users: list[Any]) -> None:
    """Ask with a history: that is answered once all is loaded that a service loads late."""
    kind = "INT64" if isinstance(users[0], int) else "BYTES"
    inputs = [
        {"name": "user_id", "shape": [1], "datatype": kind, "data": [users[0]]},
        {"name": "history", "shape": [1, 0], "datatype": "BYTES", "data": []},
    ]
    request = urllib.request.Request(
        f"http://127.0.0.1:{service.http}/v2/models/recommender/infer",
        json.dumps({"inputs": inputs}).encode(),
        {"authorization": f"Bearer {service.key}"},
    )
    urllib.request.urlopen(request).close()


def of_overload(
    service: Running, requests: list[bytes], rate: float, seconds: float, connections: int
) -> None:
    """Goodput, latencies, liveness and memory at a rate."""

    async def all_at_once() -> tuple[tuple[Meter, float], np.ndarray, np.ndarray]:
        loop = asyncio.get_running_loop()
        with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as others:
            ports = (service.http, service.health)
            looks = [loop.run_in_executor(others, lateness, port, seconds) for port in ports]
            await asyncio.sleep(2)  # their libraries are loaded
            met = await offered(service.http, requests, rate, seconds, connections)
            main, own = await asyncio.gather(*looks)
            return met, main, own

    counted, before = refusals(service), resident_kib(service.pid)
    used = processor_seconds(service.pid)
    (meter, reached), main, own = uvloop.run(all_at_once())
    used = processor_seconds(service.pid) - used
    counted = refusals(service) - counted
    print(
        f"{reached:,.0f} requests/s offered ({rate:,.0f} asked for): "
        f"{meter.statuses[200] / seconds:,.0f}/s answered, "
        f"{spread(np.array(meter.taken))} since they were due, {spread(np.array(meter.own))} since "
        f"they were sent; {used:.1f} seconds of a core; statuses {dict(meter.statuses)}, "
        f"{meter.lost - connections} connections lost, refusals counted {dict(counted)}; "
        f"liveness at worst {main.max():.0f} ms at the HTTP port, {own.max():.0f} ms at the health "
        f"port; memory {before / 1024:.0f} -> {resident_kib(service.pid) / 1024:.0f} MiB"
    )


def of_large(service: Running, users: list[Any], requests: list[bytes], seconds: float) -> None:
    """Thirty small requests a second beside 1024 users x 1000 with titles, again and again."""
    kind = "INT64" if isinstance(users[0], int) else "BYTES"
    some = (users * 1024)[:1024]
    tensor = {"name": "user_id", "shape": [1024], "datatype": kind, "data": some}
    outputs = [{"name": name} for name in ("item_id", "score", "title")]
    body = json.dumps({"inputs": [tensor], "parameters": {"k": 1000}, "outputs": outputs}).encode()
    large = urllib.request.Request(
        f"http://127.0.0.1:{service.http}/v2/models/recommender/infer",
        body,
        {"authorization": f"Bearer {service.key}"},
    )

    def ask() -> int:
        with urllib.request.urlopen(large) as answer:
            size = 0
            while part := answer.read(1 << 20):
                size += len(part)
        return size

    async def again(end: float) -> list[float]:
        taken = []
        while (began := time.perf_counter()) < end:
            await asyncio.to_thread(ask)
            taken.append(time.perf_counter() - began)
        return taken

    async def both() -> tuple[list[float], tuple[Meter, float]]:
        return await asyncio.gather(
            again(time.perf_counter() + seconds), offered(service.http, requests, 30, seconds, 16)
        )

    size = ask()
    alone, _ = uvloop.run(offered(service.http, requests, 30, seconds, 16))
    taken, (meter, _) = uvloop.run(both())
    print(
        f"30 requests/s alone: {spread(np.array(alone.taken))}; beside {len(taken)} answers of "
        f"{size / 1e6:.0f} MB ({np.median(taken):.1f} s each): {spread(np.array(meter.taken))}; "
        f"{dict(meter.statuses)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=20, help="of each part")
    parser.add_argument("--connections", type=int, default=512, help="at ten times the capacity")
    parser.add_argument("--core", type=int, default=0, help="the service's; -1 leaves it all")
    options = parser.parse_args()
    users = pq.read_table(options.bundle / "users.parquet", columns=["user_id"])[0].to_pylist()
    with running(options.bundle, "--health-port", "0") as service:
        if options.core >= 0:
            for thread in Path(f"/proc/{service.pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {options.core})
            os.sched_setaffinity(0, os.sched_getaffinity(0) - {options.core})
        requests = [request_of(user, service.key) for user in users]
        wait_until_whole(service, users)
        uvloop.run(offered(service.http, requests, 0, 3, 16))
        used = processor_seconds(service.pid)
        capacity, _ = uvloop.run(offered(service.http, requests, 0, options.seconds, 16))
        used = processor_seconds(service.pid) - used
        rate = len(capacity.taken) / options.seconds
        print(
            f"capacity: {rate:,.0f} requests/s, {spread(np.array(capacity.taken))}; "
            f"{1e6 * used / len(capacity.taken):.0f} microseconds of a core each"
        )
        if "rate" in options.parts:
            meter, _ = uvloop.run(offered(service.http, requests, 300, options.seconds, 64))
            print(f"300 requests/s: {spread(np.array(meter.taken))}; {dict(meter.statuses)}")
        if "overload" in options.parts:
            of_overload(service, requests, 10 * rate, options.seconds, options.connections)
        if "large" in options.parts:
            of_large(service, users, requests, options.seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
