"""Everything at once: hostile requests, slow readers, bombs, reloads and changes beside good load.

    python -m benchmarks.soak BUNDLE OTHER        # in .venv-serve

The two bundles have the same items, and vectors of one width.

The service follows a link. While clients ask good requests at a steady rate, hostile ones are sent
(`benchmarks.hostile`), large answers are read slowly or not at all, compressed bodies unfold to a
hundred megabytes, the link is moved from one bundle to the other and the load call made, items are
withheld and released, and new ones put and removed. Reloads and changes come at even distances
among the hostile requests.

No good request may fail: each must get its places filled by one of the two bundles, without an item
that was withheld or removed before it was sent and until it was answered. Nobody may get a 500.
Afterwards the service's memory must be within a tenth of what it was after warming up, which is a
small share of all this, with the same bundle in place.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from benchmarks.hostile import Found, HttpClient, resident_kib, send
from benchmarks.serving import running

K = 10
_INFER = "/v2/models/recommender/infer"
_READERS = 2
_LARGE = 256  # users of an answer that is read slowly: more than the sockets hold
_PAUSE = 3  # seconds between two such answers
_UNFOLDED = 100_000_000  # bytes of a bomb
_WORDS = {
    "_reload": "reloads",
    "post_one": "items withheld or released",
    "put_or_remove": "items put or removed",
}
_STEP = 0.01  # seconds between two looks at how far the hostile requests are


@dataclass
class Target:
    """The service, and what it follows.

    Attributes:
        http: its port, as `grpc` and `pid` are its.
        key: its API key.
        link: what it was started with.
        bundles: the two; the link leads to the first.
            rate: good requests a second.
        users: ids of those who have items enough left to fill a list.
        items: ids of all.
        versions: of the bundles.
    """

    http: int
    grpc: int
    pid: int
    key: str
    link: Path
    bundles: tuple[Path, Path]
    rate: float = 30.0
    users: list[Any] = field(init=False)
    items: list[Any] = field(init=False)
    versions: list[str] = field(init=False)

    def __post_init__(self) -> None:
        first = self.bundles[0]
        self.users, self.items = (
            pq.read_table(first / f"{side}s.parquet", columns=[f"{side}_id"])[0].to_pylist()
            for side in ("user", "item")
        )
        taken = np.diff(load_file(first / "known.safetensors")["indptr"])
        left = len(self.items) - taken > K  # one is withheld
        self.users = [user for user, enough in zip(self.users, left, strict=True) if enough]
        manifests = [json.loads((one / "manifest.json").read_text()) for one in self.bundles]
        self.versions = [manifest["fingerprint"][:12] for manifest in manifests]

    def request(self, path: str, body: bytes, encoding: str = "") -> bytes:
        """The bytes of a POST."""
        packed = f"content-encoding: {encoding}\r\n" if encoding else ""
        head = (
            f"POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {self.key}\r\n"
            f"{packed}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def question(self, users: list[Any], k: int, *outputs: str) -> bytes:
        """The bytes of a request for recommendations."""
        kind = "INT64" if isinstance(users[0], int) else "BYTES"
        tensor = {"name": "user_id", "shape": [len(users)], "datatype": kind, "data": users}
        document: dict[str, Any] = {"inputs": [tensor], "parameters": {"k": k}}
        if outputs:
            document["outputs"] = [{"name": name} for name in outputs]
        return self.request(_INFER, json.dumps(document).encode())

    def client(self) -> HttpClient:
        """A connection."""
        return HttpClient("127.0.0.1", self.http)


@dataclass
class Report:
    """What was sent and what came back.

    Attributes:
        taken: milliseconds of each good answer.
        failed: sentences, of good requests, reloads and changes.
        hostile: what hostile requests got.
        counts: of what else was done.
        memory: MiB after warming up, and at the end.
        seconds: that it took.
    """

    taken: list[float] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    hostile: Found = field(default_factory=Found)
    counts: Counter[str] = field(default_factory=Counter)
    memory: tuple[float, float] = (0.0, 0.0)
    seconds: float = 0.0

    @property
    def server_errors(self) -> int:
        """Answers of 500."""
        over_http = sum(n for kind, n in self.hostile.answers.items() if kind.endswith(": 500"))
        over_grpc = sum(n for kind, n in self.hostile.answers.items() if kind.endswith("INTERNAL"))
        return over_http + over_grpc + self.counts["answers of 500"]

    @property
    def grown(self) -> float:
        """How much more memory there is at the end, as a share."""
        return self.memory[1] / self.memory[0] - 1

    @property
    def well(self) -> bool:
        """Whether all is as it must be."""
        return not (self.failed or self.hostile.faults or self.server_errors or self.grown > 0.1)


class Availability:
    """What is withheld when, so that answers can be held against it."""

    def __init__(self, target: Target) -> None:
        self.target, self.client = target, target.client()
        self.since: dict[Any, float] = {}

    async def post_one(self, number: int) -> str:
        """Withhold an item, or release it again; why that failed, or nothing."""
        item = self.target.items[(number // 2) * 7 % len(self.target.items)]
        what = "withhold" if number % 2 == 0 else "release"
        if what == "release":
            self.since.pop(item, None)  # from now on it may come back
        sent = self.target.request(
            "/v2/models/recommender/availability", json.dumps({what: [item]}).encode()
        )
        got = await self.client.ask(sent)
        if got is None or got[0] != 200:
            return f"{what} {item!r}: {got}"
        if what == "withhold":
            self.since[item] = time.perf_counter()
        return ""

    def broken(self, items: list[Any], sent: float) -> list[Any]:
        """Items of an answer that were withheld all the while since its request was sent."""
        return [item for item in items if self.since.get(item, sent) < sent]


class Arrivals:
    """New items that are put and removed, so that answers can be held against it.

    Each has the vector of an item of the first bundle, longer, so that those who like that one are
    recommended it.
    """

    def __init__(self, target: Target) -> None:
        self.target, self.client = target, target.client()
        self.vectors, others = (
            load_file(one / "vectors" / "items.safetensors")["vectors"] for one in target.bundles
        )
        if self.vectors.shape[1] != others.shape[1]:
            raise SystemExit(
                f"{target.bundles[1]}: its vectors have {others.shape[1]} numbers, those of "
                f"{target.bundles[0]} {self.vectors.shape[1]}; give two bundles of one width."
            )
        whole = isinstance(target.items[0], int)
        self.ids: list[Any] = [10**9 + n if whole else f"new {n}" for n in range(1 << 16)]
        self.new = set(self.ids)
        self.gone: dict[Any, float] = {}

    async def put_or_remove(self, number: int) -> str:
        """Put a new item, or remove it again; why that failed, or nothing."""
        item = self.ids[number // 2]
        if number % 2 == 0:
            self.gone.pop(item, None)  # of an earlier run of the same service
            vector = 2 * self.vectors[(number // 2) * 11 % len(self.vectors)]
            change: dict[str, Any] = {"put": [{"id": item, "vector": vector.tolist()}]}
        else:
            change = {"remove": [item]}
        got = await self.client.ask(
            self.target.request("/v2/models/recommender/items", json.dumps(change).encode())
        )
        if got is None or got[0] != 200:
            return f"{'put' if number % 2 == 0 else 'remove'} {item!r}: {got}"
        if number % 2:
            self.gone[item] = time.perf_counter()
        return ""

    def broken(self, items: list[Any], sent: float) -> list[Any]:
        """Items of an answer that were removed before its request was sent."""
        return [item for item in items if self.gone.get(item, sent) < sent]


class Soak:
    """One run against a service.

    Args:
        target: the service.
    """

    def __init__(self, target: Target) -> None:
        self.target, self.report = target, Report()
        self.availability, self.arrivals = Availability(target), Arrivals(target)
        self.changes: list[Callable[[int], Awaitable[str]]] = [
            self.availability.post_one,
            self.arrivals.put_or_remove,
        ]
        """What posts the n-th change of its kind."""
        self.done, self.over = 0, asyncio.Event()

    async def run(self, requests: int, reloads: int, changes: int, seed: int = 0) -> None:
        """All of it, until the hostile requests, the reloads and the changes are done.

        Args:
            requests: hostile ones.
            reloads: an even number leaves the first bundle in place.
            changes: of each kind.
            seed: of the hostile requests.
        """
        self.done, self.over = 0, asyncio.Event()
        beside = [self._good(), self._bombs(), *(self._reads(n) for n in range(_READERS))]
        tasks = [asyncio.create_task(each) for each in beside]
        address = ("127.0.0.1", self.target.http, self.target.grpc)
        await asyncio.gather(
            send(address, requests, seed, self.report.hostile, self._tick, self.target.key),
            self._paced(self._reload, reloads, requests),
            *(self._paced(change, changes, requests) for change in self.changes),
        )
        self.over.set()
        await asyncio.gather(*tasks)

    def _tick(self) -> None:
        self.done += 1

    async def _paced(
        self, post: Callable[[int], Awaitable[str]], times: int, requests: int
    ) -> None:
        """Call `post` so many times at even distances among the hostile requests."""
        for number in range(times):
            while self.done < number * requests // times:
                await asyncio.sleep(_STEP)
            if why := await post(number):
                self.report.failed.append(why)
            self.report.counts[_WORDS[post.__name__]] += 1

    async def _reload(self, number: int) -> str:
        """Move the link to the other bundle and have it loaded."""
        new = self.target.link.with_name("next")
        new.symlink_to(self.target.bundles[(number + 1) % 2])
        new.replace(self.target.link)
        client = self.target.client()
        got = await client.ask(self.target.request("/v2/repository/models/recommender/load", b""))
        client.close()
        return "" if got is not None and got[0] == 200 else f"reload {number}: {got}"

    async def _good(self) -> None:
        """Good requests at random moments, on as many connections as are needed."""
        draw, idle = random.Random(1), list[HttpClient]()
        waiting = set[asyncio.Task[None]]()
        while not self.over.is_set():
            client = idle.pop() if idle else self.target.client()
            task = asyncio.create_task(self._ask(client, draw.choice(self.target.users), idle))
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(draw.expovariate(self.target.rate))
        await asyncio.gather(*waiting)

    async def _ask(self, client: HttpClient, user: Any, idle: list[HttpClient]) -> None:
        began = time.perf_counter()
        got = await client.ask(self.target.question([user], K))
        self.report.taken.append(1000 * (time.perf_counter() - began))
        why = self._wrong(got, began)
        if why:
            self.report.failed.append(f"user {user!r}: {why}")
        idle.append(client)

    def _wrong(self, got: tuple[int, bytes] | None, sent: float) -> str:
        """Why an answer is not a good one; empty where it is."""
        if got is None:
            return "no answer"
        if got[0] != 200:
            return f"{got[0]} {got[1][:200]!r}"
        answer = json.loads(got[1])
        found = {one["name"]: one["data"] for one in answer["outputs"]}
        if found["count"] != [K] or answer["model_version"] not in self.target.versions:
            return f"{answer['model_version']} {found['count']}"
        items = found["item_id"]
        self.report.counts["good answers with new items"] += any(
            item in self.arrivals.new for item in items
        )
        gone = self.availability.broken(items, sent) + self.arrivals.broken(items, sent)
        return f"has {gone}, which are withheld or removed" if gone else ""

    async def _bombs(self) -> None:
        """Bodies that unfold to more than may be, and one each that does not."""
        question = self.target.question(self.target.users[:1], K).partition(b"\r\n\r\n")[2]
        empty = b" " * _UNFOLDED
        bombs = [
            ("gzip", await asyncio.to_thread(gzip.compress, empty, 9), (413,)),
            ("deflate", await asyncio.to_thread(zlib.compress, empty, 9), (413,)),
            ("gzip", gzip.compress(gzip.compress(empty[: 10**7])), (400,)),
            ("gzip", gzip.compress(question)[:-9], (400,)),
            ("gzip", question, (400,)),
            ("gzip", gzip.compress(question), (200,)),
            ("deflate", zlib.compress(question), (200,)),
        ]
        while not self.over.is_set():
            for encoding, body, wanted in bombs:
                client = self.target.client()
                got = await client.ask(self.target.request(_INFER, body, encoding))
                client.close()
                status = 0 if got is None else got[0]
                self.report.counts[f"{encoding} bodies: {status}"] += 1
                if status not in (*wanted, 503):  # while it is full it unfolds nothing
                    self.report.failed.append(f"{encoding} body {body[:20]!r}: {got}")
            await asyncio.sleep(0.5)

    async def _reads(self, number: int) -> None:
        """Large answers, of which a little is read, slowly; then the client is gone."""
        draw = random.Random(number)
        while not self.over.is_set():
            users = draw.choices(self.target.users, k=_LARGE)
            k = min(500, len(self.target.items))
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", self.target.http, limit=4096
            )
            writer.write(self.target.question(users, k, "item_id", "score", "title"))
            with suppress(OSError, asyncio.IncompleteReadError):
                status = (await reader.readuntil(b"\r\n"))[9:12]
                self.report.counts[f"answers read slowly: {status.decode()}"] += 1
                if status == b"500":
                    self.report.counts["answers of 500"] += 1
                for _ in range(draw.randint(1, 40)):
                    if not await reader.read(2048) or self.over.is_set():
                        break
                    await asyncio.sleep(0.1)
            writer.transport.abort()
            await asyncio.sleep(0 if self.over.is_set() else _PAUSE)


async def soaked(
    target: Target, requests: int, reloads: int, changes: int, warm: int = 2000
) -> Report:
    """Warm up with a small share, then all of it; what came back.

    Args:
        target: the service.
        requests: hostile ones.
        reloads: an even number.
        changes: of each kind, an even number.
        warm: hostile requests before the memory is looked at, with ten reloads and two hundred
            changes among them.
    """
    soak = Soak(target)
    await soak.run(warm, min(10, reloads), min(200, changes), seed=1)
    before, failed = resident_kib(target.pid) / 1024, soak.report.failed
    soak.report = Report(failed=failed)
    began = time.perf_counter()
    await soak.run(requests, reloads, changes)
    await asyncio.sleep(1)
    soak.report.seconds = time.perf_counter() - began
    soak.report.memory = before, resident_kib(target.pid) / 1024
    return soak.report


@contextmanager
def followed(bundles: tuple[Path, Path]) -> Iterator[Target]:
    """A service that follows a link, whose journals lie in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder:
        link, journal = Path(folder) / "current", Path(folder) / "events"
        link.symlink_to(bundles[0].resolve())
        # A flood beyond what it can answer is refused; that is measured by benchmarks.overload.
        with running(link, "--events", str(journal), "--max-wait", "30") as service:
            made = tuple(one.resolve() for one in bundles)
            yield Target(
                service.http, service.grpc, service.pid, service.key, link, (made[0], made[1])
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundles", type=Path, nargs=2)
    parser.add_argument("--requests", type=int, default=100_000, help="hostile ones")
    parser.add_argument("--reloads", type=int, default=50)
    parser.add_argument("--changes", type=int, default=1000)
    options = parser.parse_args()
    with followed((options.bundles[0], options.bundles[1])) as target:
        report = asyncio.run(soaked(target, options.requests, options.reloads, options.changes))
    taken = np.array(report.taken)
    sent = sum(n for kind, n in report.hostile.answers.items() if kind != "FAULT")
    print(
        f"{sent:,} hostile requests in {report.seconds:.0f} s: {len(report.hostile.faults)} "
        f"faults; {report.server_errors} answers of 500"
    )
    for what, count in sorted(report.counts.items()):
        print(f"  {what}: {count:,}")
    print(
        f"{len(taken):,} good requests: {len(report.failed)} failures, p50 "
        f"{np.percentile(taken, 50):.1f} ms, p99 {np.percentile(taken, 99):.1f} ms, slowest "
        f"{taken.max():.0f} ms"
    )
    print(
        f"memory {report.memory[0]:.0f} -> {report.memory[1]:.0f} MiB ({100 * report.grown:+.1f}%)"
    )
    for sentence in [*report.failed[:10], *report.hostile.faults[:10]]:
        print(f"  {sentence}", file=sys.stderr)
    return 0 if report.well else 1


if __name__ == "__main__":
    sys.exit(main())
