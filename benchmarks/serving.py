"""How fast a bundle answers: in the process, through HTTP and gRPC, and during reloads.

    python -m benchmarks.serving BUNDLE                          # everything but the long run
    python -m benchmarks.serving BUNDLE --ranks RANKS.parquet    # and compares with the ranking
    python -m benchmarks.serving BUNDLE --parts service --seconds 600

The service runs in a process of its own and the clients in this one, over loopback, so both share
the machine's cores. Latencies at a fixed rate are taken from the moment a request was due, so that
a service that falls behind is not spared. Leave the machine idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from benchmarks.hostile import HttpClient, resident_kib
from cadc_rec.serving.predict.predictor import Predictor

_K = 10
_LONG = 1000  # items a user, the most that a service gives
_BATCH = 512
_CONNECTIONS = 16  # of the clients that ask as fast as they are answered
PARTS = ("predictor", "service", "reload")


def milliseconds(call: Callable[[int], object], times: int) -> np.ndarray:
    """How long each of `times` calls took, after a tenth as many that do not count."""
    for n in range(max(1, times // 10)):
        call(n)
    taken = np.empty(times)
    for n in range(times):
        began = time.perf_counter()
        call(n)
        taken[n] = 1000 * (time.perf_counter() - began)
    return taken


def spread(taken: np.ndarray) -> str:
    """Median and 99th percentile, in words."""
    return f"p50 {np.percentile(taken, 50):.3f} ms, p99 {np.percentile(taken, 99):.3f} ms"


def of_predictor(bundle: Path, times: int, turns: int) -> None:
    """One user, and a batch beside what no predictor can do without."""
    predictor = Predictor.load(bundle)
    users = predictor.users.ids.tolist()
    draw = np.random.default_rng(0)
    asked = [users[n] for n in draw.integers(0, len(users), times)]
    taken = milliseconds(lambda n: predictor.recommend([asked[n]], _K), times)
    print(f"one user, top {_K}: {spread(taken)}")
    some = [users[n] for n in draw.permutation(len(users))[:_BATCH]]
    rows = predictor.users.rows(some)
    queries = torch.from_numpy(predictor.user_vectors[rows])
    items = torch.from_numpy(predictor.item_vectors.vectors)
    for threads in sorted({1, torch.get_num_threads()}):  # a service has one, a script all
        torch.set_num_threads(threads)
        ours, bare = np.empty(turns), np.empty(turns)
        for n in range(turns):  # turn by turn, so that both meet the same machine
            ours[n] = milliseconds(lambda _: predictor.recommend(some, _K), 1)[0]
            bare[n] = milliseconds(lambda _: (queries @ items.t()).topk(_K), 1)[0]
        ratio = np.median(ours) / np.median(bare)
        print(
            f"{len(some)} users on {threads} threads: {np.median(ours):.2f} ms; a bare product "
            f"with top-k {np.median(bare):.2f} ms; {ratio:.2f} times as long (fastest turns "
            f"{ours.min():.2f} and {bare.min():.2f} ms, {ours.min() / bare.min():.2f})"
        )


@dataclass(frozen=True)
class Running:
    """A service: its ports, its process, its key."""

    http: int
    grpc: int
    pid: int
    key: str
    health: int = 0


@contextmanager
def running(bundle: Path, *arguments: str) -> Iterator[Running]:
    """A service of the bundle in a process of its own, until the block ends.

    Args:
        bundle: its folder.
        arguments: more of the command's.
    """
    key = secrets.token_hex(16)
    command = [sys.executable, "-m", "cadc_rec", "serve", str(bundle), "--http-port", "0",
               "--grpc-port", "0", "--watch", "0", *arguments]  # fmt: skip
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, stderr=log, env={**os.environ, "CADC_REC_API_KEY": key}
        )  # fmt: skip
        try:
            while True:
                log.seek(0)
                text = log.read()
                if found := re.search(r"http://[\d.]+:(\d+), grpc://[\d.]+:(\d+)", text):
                    break
                if process.poll() is not None:
                    raise SystemExit(text)
                time.sleep(0.02)
            health = re.search(r"health at http://[\d.]+:(\d+)", text)
            yield Running(
                int(found[1]), int(found[2]), process.pid, key, int(health[1]) if health else 0
            )
        finally:
            process.terminate()
            process.wait(60)


def request_of(user: Any, key: str) -> bytes:
    """The bytes of a request for one user."""
    kind = "INT64" if isinstance(user, int) else "BYTES"
    tensor = {"name": "user_id", "shape": [1], "datatype": kind, "data": [user]}
    body = json.dumps({"inputs": [tensor], "parameters": {"k": _K}}).encode()
    head = (
        "POST /v2/models/recommender/infer HTTP/1.1\r\nhost: localhost\r\n"
        f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Asked:
    """What clients met: milliseconds of each answer, and what came instead of one, counted."""

    taken: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def failed(self) -> int:
        """Requests without an answer of 200."""
        return self.failures.total()

    def add(self, got: tuple[int, bytes] | None, began: float) -> None:
        """Count one request, sent or due at `began`."""
        self.taken.append(1000 * (time.perf_counter() - began))
        if got is None:
            self.failures["closed without an answer"] += 1
        elif got[0] != 200:
            self.failures[f"{got[0]} {got[1][:80]!r}"] += 1


async def flood(service: Running, requests: list[bytes], seconds: float) -> tuple[float, Asked]:
    """Ask as fast as answers come; requests a second."""
    asked, end = Asked(), time.perf_counter() + seconds

    async def client(first: int) -> None:
        mine, n = HttpClient("127.0.0.1", service.http), first
        while (began := time.perf_counter()) < end:
            got = await mine.ask(requests[n % len(requests)])
            asked.add(got, began)
            n += _CONNECTIONS
        mine.close()

    await asyncio.gather(*(client(n) for n in range(_CONNECTIONS)))
    return len(asked.taken) / seconds, asked


async def steady(service: Running, requests: list[bytes], rate: float, seconds: float) -> Asked:
    """Ask at random moments, `rate` a second on average; time counts from those moments."""
    asked, idle = Asked(), asyncio.LifoQueue[HttpClient]()
    draw, began, tasks, due = np.random.default_rng(0), time.perf_counter(), set(), 0.0

    async def one(request: bytes, moment: float) -> None:
        mine = idle.get_nowait() if not idle.empty() else HttpClient("127.0.0.1", service.http)
        got = await mine.ask(request)
        asked.add(got, moment)
        idle.put_nowait(mine)

    for n in range(int(rate * seconds)):
        due += draw.exponential(1 / rate)
        wait = began + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        task = asyncio.create_task(one(requests[n % len(requests)], began + due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return asked


def of_service(bundle: Path, seconds: float) -> int:
    """Requests a second, latencies at 300 a second; how many failed."""
    users = pq.read_table(bundle / "users.parquet", columns=["user_id"])["user_id"].to_pylist()
    with running(bundle) as service:
        requests = [request_of(user, service.key) for user in users]
        asyncio.run(flood(service, requests, 3))
        rate, all_out = asyncio.run(flood(service, requests, min(seconds, 20)))
        print(f"HTTP, {_CONNECTIONS} connections: {rate:,.0f} requests/s, {spread(_of(all_out))}")
        before = resident_kib(service.pid)
        at_rate = asyncio.run(steady(service, requests, 300, seconds))
        failed = all_out.failed + at_rate.failed
        print(
            f"HTTP at 300 requests/s for {seconds:g} s: {spread(_of(at_rate))}; "
            f"{failed} of {len(at_rate.taken) + len(all_out.taken):,} failed; memory "
            f"{before / 1024:.0f} -> {resident_kib(service.pid) / 1024:.0f} MiB"
        )
        for failure, count in (all_out.failures + at_rate.failures).items():
            print(f"  {count} x {failure}")
    return failed


@dataclass(frozen=True)
class Agreement:
    """How answers through a client compare with the ranks of the evaluation.

    Attributes:
        users: asked for.
        within: whose test item the evaluation ranked among the items asked for.
        differ: where the test item stands at another place, or is there and should not be.
        alone_differ: whose first items, asked for alone, are not those of the long list.
    """

    users: int
    within: int
    differ: int
    alone_differ: int


def agreement(module: Any, port: int, key: str, ranks: pq.Table) -> Agreement:
    """Ask for every user's long list, some users a request, and for the first items, one by one.

    Args:
        module: ``tritonclient.http`` or ``tritonclient.grpc``.
        port: the service's for it.
        key: of the service.
        ranks: of the evaluate stage: ``user_id``, ``item_id``, ``rank``.
    """
    client = module.InferenceServerClient(f"127.0.0.1:{port}")
    users, items = (ranks[name].to_numpy() for name in ("user_id", "item_id"))
    rank = ranks["rank"].to_numpy()

    def ask(some: np.ndarray, k: int) -> np.ndarray:
        asked = module.InferInput("user_id", [len(some)], "INT64")
        asked.set_data_from_numpy(some.astype(np.int64))
        answer = client.infer(
            "recommender", [asked], headers={"authorization": f"Bearer {key}"}, parameters={"k": k}
        )
        return answer.as_numpy("item_id")

    lists = np.concatenate([ask(users[n : n + 256], _LONG) for n in range(0, len(users), 256)])
    hits = lists == items[:, None]
    place = np.where(hits.any(1), hits.argmax(1) + 1, _LONG + 1)
    alone = np.concatenate([ask(users[n : n + 1], _K) for n in range(len(users))])
    client.close()
    return Agreement(
        users=len(users),
        within=int((rank <= _LONG).sum()),
        differ=int((place != np.minimum(rank, _LONG + 1)).sum()),
        alone_differ=int((alone != lists[:, :_K]).any(1).sum()),
    )


def of_ranking(bundle: Path, ranks: Path) -> int:
    """Every user through Triton's clients; how many answers differ from the offline ranks."""
    import tritonclient.grpc
    import tritonclient.http

    table, wrong = pq.read_table(ranks), 0
    with running(bundle) as service:
        for module, port in ((tritonclient.http, service.http), (tritonclient.grpc, service.grpc)):
            found = agreement(module, port, service.key, table)
            wrong += found.differ + found.alone_differ
            print(
                f"{module.__name__}: the test items of {found.users - found.differ:,} of "
                f"{found.users:,} users stand where the evaluation ranked them ({found.within:,} "
                f"among the first {_LONG:,}); {found.users - found.alone_differ:,} get the same "
                f"first {_K} when asked for alone"
            )
    return wrong


def of_reloads(bundle: Path, times: int) -> int:
    """Reloads while clients ask at 100 a second; how many requests failed."""
    users = pq.read_table(bundle / "users.parquet", columns=["user_id"])["user_id"].to_pylist()

    async def both(service: Running) -> tuple[Asked, int]:
        requests = [request_of(user, service.key) for user in users]
        load = (
            "POST /v2/repository/models/recommender/load HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer {service.key}\r\ncontent-length: 0\r\n\r\n"
        ).encode()
        client, refused = HttpClient("127.0.0.1", service.http), 0
        counted = Asked()
        for _ in range(times):
            loading = asyncio.create_task(client.ask(load))
            while not loading.done():
                part = await steady(service, requests, 100, 1)
                counted.taken += part.taken
                counted.failures += part.failures
            got = loading.result()
            refused += got is None or got[0] != 200
        return counted, refused

    with running(bundle) as service:
        before = resident_kib(service.pid)
        counted, refused = asyncio.run(both(service))
        after = resident_kib(service.pid)
    print(
        f"{times} reloads ({refused} refused) at 100 requests/s: {counted.failed} of "
        f"{len(counted.taken):,} requests failed, {spread(_of(counted))}; memory "
        f"{before / 1024:.0f} -> {after / 1024:.0f} MiB"
    )
    return counted.failed + refused


def _of(asked: Asked) -> np.ndarray:
    return np.array(asked.taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--seconds", type=float, default=60, help="seconds at 300 requests a second"
    )
    parser.add_argument(
        "--times", type=int, default=5000, help="requests of one user in the process"
    )
    parser.add_argument("--turns", type=int, default=60, help="answers to many users, likewise")
    parser.add_argument("--reloads", type=int, default=20)
    parser.add_argument("--ranks", type=Path, help="ranks.parquet of the evaluate stage")
    options = parser.parse_args()
    wrong = 0
    if "predictor" in options.parts:
        of_predictor(options.bundle, options.times, options.turns)
    if "service" in options.parts:
        wrong += of_service(options.bundle, options.seconds)
    if "reload" in options.parts:
        wrong += of_reloads(options.bundle, options.reloads)
    if options.ranks:
        wrong += of_ranking(options.bundle, options.ranks)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
