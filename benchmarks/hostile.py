"""Hostile requests against a running service: what they get, and whether it still answers.

    cadc-rec serve BUNDLE &
    python -m benchmarks.hostile --requests 100000

Requests are drawn from a seed: JSON that lies about itself, bytes changed at random, paths that
climb, raw sockets that speak no HTTP, protobuf that is none. Every answer must be the protocol's:
an error with a sentence, or recommendations where a changed request still is one. Every thousand
requests a correct one must get the answer it got at first. The service's memory is read from /proc
where its process is named (`--pid`).
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

_GOOD: dict[str, Any] = {
    "inputs": [
        {"name": "user_id", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        {"name": "history", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4]},
    ],
    "parameters": {"k": 3, "exclude_seen": True},
    "outputs": [{"name": "item_id"}],
}
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, 10**30, -(2**63), 2**63, "", "x", "\x00", "\ud800",
    "9" * 300, [], [[]], [[[]]], [None], {}, {"a": {}}, "INT64", "BYTES", "FP32", [10**9, 10**9],
    [-1], [0], [2**40],
    "__class__", "../../etc/passwd", [1] * 3000, {"k": 0}, "NaN", [float(2**53)], "\u202e",
)  # fmt: skip
_NAMES = (
    "..", "../..", "%2e%2e", "..%2f..%2fetc%2fpasswd", "%00", "a" * 5000, "recommender%00",
    "%ff%fe",
    "recommender/../x", "recommender;x", "{model_name}", "%25", "é", "CON", "recommender ", "*",
)  # fmt: skip
_ENDINGS = ("infer", "ready", "", "versions/1/infer", "versions/1", "load", "versions/../infer")
_POST = b"POST /v2/models/recommender/infer HTTP/1.1\r\nhost: x\r\n"
_HOSTILE_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n",
    b"\r\n" * 20,
    _POST + b"content-length: -5\r\n\r\n",
    _POST + b"content-length: 99999999999999999999\r\n\r\n",
    _POST + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    _POST + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nh\x00st: x\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET http://[::1/ HTTP/1.1\r\nhost: x\r\n\r\n", b"GET //evil HTTP/1.1\r\nhost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
)  # fmt: skip
_METHODS = ("ModelInfer", "ModelMetadata", "ModelReady", "RepositoryModelLoad", "Nothing")


@dataclass
class Found:
    """What came back, counted; and what should not have."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def fault(self, kind: str, sent: bytes, got: object) -> None:
        """Keep the first few."""
        if len(self.faults) < 20:
            self.faults.append(f"{kind}: sent {sent[:300]!r}, got {str(got)[:300]}")
        self.answers["FAULT"] += 1


def changed_bytes(draw: random.Random, contents: bytes) -> bytes:
    """The same with a few bytes changed, cut out, doubled or put in."""
    data = bytearray(contents)
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(data) + 1)
        match draw.randrange(4):
            case 0 if at < len(data):
                data[at] = draw.randrange(256)
            case 1:
                del data[at : at + draw.randint(1, 20)]
            case 2:
                data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randint(1, 8)))
            case _:
                data[at:at] = data[at : at + draw.randint(1, 30)]
    return bytes(data)


def changed_document(draw: random.Random) -> bytes:
    """A request with an odd value in one or two places, or a place missing."""
    document = json.loads(json.dumps(_GOOD))
    for _ in range(draw.randint(1, 2)):
        node: Any = document
        parent: Any = None
        key: Any = None
        while isinstance(node, dict | list) and node and (parent is None or draw.random() < 0.75):
            key = draw.choice(list(node)) if isinstance(node, dict) else draw.randrange(len(node))
            parent, node = node, node[key]
        if parent is None:
            continue
        if draw.random() < 0.15:
            del parent[key]
        else:
            parent[key] = copy.deepcopy(draw.choice(_ODD))
    if draw.random() < 0.02:
        return b'{"inputs":' + b"[" * draw.randint(100, 100_000)
    return json.dumps(document, ensure_ascii=draw.random() < 0.9).encode("utf-8", "surrogatepass")


def http_request(draw: random.Random) -> tuple[str, bytes]:
    """The kind of a hostile HTTP request, and its bytes."""
    kind = draw.choices(
        ["document", "bytes", "binary", "path", "method", "explore", "raw"],
        [40, 20, 12, 12, 6, 8, 2],
    )[0]
    path, method, body, headers = "/v2/models/recommender/infer", "POST", b"", b""
    if kind == "document":
        body = changed_document(draw)
    elif kind == "bytes":
        body = changed_bytes(draw, json.dumps(_GOOD).encode())
    elif kind == "binary":
        document: dict[str, Any] = json.loads(json.dumps(_GOOD))
        for tensor in document["inputs"]:
            del tensor["data"]
            tensor["datatype"] = draw.choice(["INT64", "BYTES", "INT8", "UINT64", "FP16"])
            tensor["parameters"] = {"binary_data_size": draw.choice([16, 0, 7, 10**9, -8, 32, "x"])}
        head = json.dumps(document).encode()
        body = head + draw.randbytes(draw.choice([0, 16, 48, 100]))
        length = draw.choice([len(head), len(head) - 1, len(body) + 1, 0, -1, "x", "9" * 40])
        headers = f"inference-header-content-length: {length}\r\n".encode()
    elif kind == "path":
        path = f"/v2/models/{draw.choice(_NAMES)}/{draw.choice(_ENDINGS)}"
        if draw.random() < 0.3:
            path = path.replace("/v2/models", "/v2/repository/models")
        method, body = draw.choice(["GET", "POST"]), json.dumps(_GOOD).encode()
    elif kind == "method":
        method = draw.choice(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "HEAD"])
        path = draw.choice([path, "/", "/metrics", "/v2", "/v2/health/live", "/explore"])
    elif kind == "explore":
        user = draw.choice(["", "%00", "1", "x" * 2000, "%ff", "1&user=2", "-1", "9" * 40])
        path = f"/explore?user={user}&k={draw.choice(['1', '0', '-1', 'x', '9' * 30, '', '5%20'])}"
        method = "GET"
    else:
        return kind, draw.choice(_HOSTILE_HTTP)
    start = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n".encode()
    return kind, start + headers + f"content-length: {len(body)}\r\n\r\n".encode() + body


class HttpClient:
    """One connection after the other: a service may close them on us."""

    def __init__(self, host: str, port: int) -> None:
        self.address = (host, port)
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, sent: bytes, bodyless: bool = False) -> tuple[int, bytes] | None:
        """Status and body; None where the connection was closed without an answer."""
        if self.streams is not None and self.streams[0].at_eof():
            self.close()  # idle for so long that the service let go, as any client looks first
        if self.streams is None:
            self.streams = await asyncio.open_connection(*self.address, limit=1 << 22)
        reader, writer = self.streams
        try:
            writer.write(sent)
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            size = next((int(x[15:]) for x in lines if x.startswith(b"content-length:")), 0)
            body = b"" if bodyless else await reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.close()
            return None
        if b"connection: close" in lines:
            self.close()
        return int(head.split(b" ", 2)[1]), body

    def close(self) -> None:
        """Start afresh with the next request."""
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


async def http_worker(
    client: HttpClient,
    draw: random.Random,
    count: int,
    found: Found,
    tick: Callable[[], None],
    key: str = "",
) -> None:
    """Send `count` hostile requests, one after the other, with an API key where there is one."""
    for _ in range(count):
        kind, sent = http_request(draw)
        if kind == "raw":
            client.close()
        elif key:
            sent = sent.replace(b"\r\n", f"\r\nauthorization: Bearer {key}\r\n".encode(), 1)
        try:
            async with asyncio.timeout(30):
                got = await client.ask(sent, bodyless=sent.startswith(b"HEAD "))
        except TimeoutError:
            got = None
            found.fault(f"http {kind}", sent, "no answer in 30 seconds")
        if got is None:
            found.answers[f"http {kind}: closed"] += 1
            if kind != "raw":
                found.fault(f"http {kind}", sent, "closed without an answer")
        else:
            status, body = got
            found.answers[f"http {kind}: {status}"] += 1
            if (status >= 500 and status not in (501, 503)) or (
                status >= 400
                and kind != "raw"
                and not sent.startswith(b"HEAD ")
                and not _says_why(body)
            ):
                found.fault(f"http {kind}", sent, got)
        if kind == "raw":
            client.close()
        tick()


def _says_why(body: bytes) -> bool:
    try:
        return bool(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return False


async def grpc_worker(
    channel: Any,
    draw: random.Random,
    count: int,
    found: Found,
    tick: Callable[[], None],
    key: str = "",
) -> None:
    """The same over gRPC: protobuf that lies, and bytes that are none.

    With a key no load is called, for that would load the bundle each time.
    """
    metadata = [("authorization", f"Bearer {key}")] if key else None
    for _ in range(count):
        method = draw.choices(_METHODS, [80, 8, 4, 0 if key else 4, 4])[0]
        message = grpc_message(draw)
        call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
        try:
            await call(message, timeout=30, metadata=metadata)
            code = "OK"
        except grpc.aio.AioRpcError as error:
            code = error.code().name
            wrong = code in ("INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED")
            if wrong or not error.details():
                found.fault(f"grpc {method}", message, error)
        found.answers[f"grpc {method}: {code}"] += 1
        tick()


def grpc_message(draw: random.Random) -> bytes:
    """A message, most often of ModelInfer."""
    from tritonclient.grpc import service_pb2

    if draw.random() < 0.1:
        return draw.randbytes(draw.randint(0, 200))
    request = service_pb2.ModelInferRequest(model_name="recommender")
    tensor = request.inputs.add()
    tensor.name = draw.choice(["user_id", "history", "x", ""])
    tensor.datatype = draw.choice(["INT64", "BYTES", "FP32", "BOOL", "x", "INT8"])
    tensor.shape.extend(draw.choice([[1], [2], [0], [-1], [2**40, 2**40], [], [1, 1, 1]]))
    if draw.random() < 0.5:
        request.raw_input_contents.append(draw.randbytes(draw.choice([0, 7, 8, 16, 300])))
    else:
        tensor.contents.int64_contents.extend([draw.randint(-(2**63), 2**63 - 1)])
    if draw.random() < 0.3:
        request.parameters["k"].int64_param = draw.choice([0, -1, 5, 2**62])
    if draw.random() < 0.2:
        request.raw_input_contents.append(b"x")
    whole = request.SerializeToString()
    return changed_bytes(draw, whole) if draw.random() < 0.4 else whole


async def attack(
    host: str, http_port: int, grpc_port: int, requests: int, seed: int, pid: int | None = None
) -> tuple[Found, list[int]]:
    """Send hostile requests; every thousand, a correct one and a look at the memory.

    Returns:
        What came back, and the service's resident KiB after each thousand (empty without `pid`).
    """
    found, memory, done = Found(), list[int](), 0
    body = json.dumps(_GOOD).encode()
    good = b"POST /v2/models/recommender/infer HTTP/1.1\r\nhost: x\r\n" + (
        f"content-length: {len(body)}\r\n\r\n".encode() + body
    )
    checker = HttpClient(host, http_port)
    expected = await checker.ask(good)
    if expected is None or expected[0] != 200:
        raise SystemExit(f"the service does not answer a correct request: {expected}")
    due = asyncio.Event()

    def tick() -> None:
        nonlocal done
        done += 1
        if done % 1000 == 0:
            due.set()

    async def check() -> None:
        while True:
            await due.wait()
            due.clear()
            got = await checker.ask(good)
            if got != expected:
                found.fault("correct", good, got)
            if pid is not None:
                memory.append(resident_kib(pid))

    checking = asyncio.create_task(check())
    await send((host, http_port, grpc_port), requests, seed, found, tick)
    await asyncio.sleep(0.1)
    checking.cancel()
    return found, memory


async def send(
    address: tuple[str, int, int],
    requests: int,
    seed: int,
    found: Found,
    tick: Callable[[], None],
    key: str = "",
) -> None:
    """Send hostile requests, four fifths over HTTP and one over gRPC, ten at a time.

    Args:
        address: host, HTTP port, gRPC port.
        requests: how many.
        seed: they are drawn from it.
        found: counts what comes back.
        tick: called after each.
        key: of the service; without one they have none.
    """
    host, http_port, grpc_port = address
    over_grpc = requests // 5
    async with grpc.aio.insecure_channel(f"{host}:{grpc_port}") as channel:
        workers = [
            http_worker(
                HttpClient(host, http_port), random.Random(f"{seed} {n}"), count, found, tick, key
            )
            for n, count in enumerate(_shares(requests - over_grpc, 8))
        ]
        workers += [
            grpc_worker(channel, random.Random(f"{seed} grpc {n}"), count, found, tick, key)
            for n, count in enumerate(_shares(over_grpc, 2))
        ]
        await asyncio.gather(*workers)


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def _shares(total: int, parts: int) -> list[int]:
    return [total // parts + (n < total % parts) for n in range(parts)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--grpc-port", type=int, default=8081)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pid", type=int, help="process id of the service, to watch its memory")
    options = parser.parse_args()
    found, memory = asyncio.run(
        attack(
            options.host, options.http_port, options.grpc_port, options.requests, options.seed,
            options.pid,
        )
    )  # fmt: skip
    for answer, count in sorted(found.answers.items()):
        print(f"{count:>8,}  {answer}")
    if memory:
        print(f"resident KiB after each thousand: {memory[0]:,} ... {memory[-1]:,}")
    for fault in found.faults:
        print(fault, file=sys.stderr)
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(main())
