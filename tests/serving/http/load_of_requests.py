"""Checks of what a service does under load; each runs in a process of its own, see `test_load`.

The predictor and the clock are stand-ins, so that nothing depends on the machine.

python load_of_requests.py FUNCTION
"""

from __future__ import annotations

import asyncio
import dataclasses
import gzip
import json
import math
import re
import sys
import tempfile
import threading
import zlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cadc_rec.serving.http.batcher import Batcher, piece_users, runs_program
from cadc_rec.serving.http.connections import impatient, inference_bytes
from cadc_rec.serving.http.encoding import accepted, compressed, encode, encode_pieces
from cadc_rec.serving.http.load import Busy, Load, TooLate
from cadc_rec.serving.http.messages import Output, Request
from cadc_rec.serving.http.queries import Query
from cadc_rec.serving.http.settings import Limits
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.requests import Requests
from cadc_rec.serving.predict.rules import Rules
from tests.serving.toy import toy


class Clock:
    """Shows the time that it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def loaded(**limits: Any) -> tuple[Load, Clock]:
    """A load that has learned that one user takes 10 ms, and 1000 users with 100 items a second."""
    clock = Clock()
    load = Load(Limits(**limits), clock)
    for users, k, seconds in ((1, 10, 0.01), (1000, 100, 1.0)):
        load.times.add(users, k, seconds)
    return load, clock


def take(load: Load, users: int = 1, k: int = 10, large: bool = False, allowed: Any = None) -> Any:
    began = load.clock()
    return load.admit(users, k, large, began, load.due(began, allowed))


def concurrency_follows_the_service_time() -> None:
    load, clock = loaded(wait_seconds=0.1)
    tickets = []
    while not load.full:
        tickets.append(take(load))
    assert len(tickets) == 11  # 10 take 0.1 s, which one more may wait for
    with pytest.raises(Busy) as refusal:
        take(load)
    assert refusal.value.retry_after == 1
    clock.now += 0.01
    load.computed(tickets.pop(0))
    load.computed(tickets.pop(0))
    take(load)
    for _ in range(400):  # answers now take a quarter: four times as many may wait
        clock.now += 0.0025
        if tickets:
            load.computed(tickets.pop(0))
        tickets.append(take(load))
    while tickets:
        clock.now += 0.0025
        load.computed(tickets.pop(0))
    assert load.times.expected(1, 10) == pytest.approx(0.0025, rel=0.05)


def what_cannot_be_answered_in_time_is_refused() -> None:
    load, clock = loaded(deadline_seconds=2.0, wait_seconds=0.1)
    with pytest.raises(TooLate, match="longer than the deadline"):
        take(load, allowed=0.005)
    take(load, allowed=0.02)
    with pytest.raises(TooLate):  # 10 ms wait, and it takes 10 ms
        take(load, allowed=0.015)
    assert load.due(clock.now, 60.0) == clock.now + 2.0  # no client may wait for longer


def a_measurement_alone_refuses_no_one_for_ever() -> None:
    load, _ = loaded()
    load.times = type(load.times)()
    load.times.add(1, 10, 0.05)  # one slow answer, such as the first
    refusals = math.ceil(math.log(0.02 / 0.05) / math.log(0.9))
    for _ in range(refusals):
        with pytest.raises(TooLate):
            take(load, allowed=0.02)
    take(load, allowed=0.02)


def small_ones_do_not_wait_for_large_ones() -> None:
    load, _ = loaded(wait_seconds=0.1)
    first = take(load, 1000, 100, large=True)
    second = take(load, 1000, 100, large=True)  # it may wait for as long as it takes itself
    with pytest.raises(Busy) as refusal:
        take(load, 1000, 100, large=True)
    assert refusal.value.retry_after == 2
    take(load)
    load.dropped(second)
    load.computed(first, own=1.0)
    take(load, 1000, 100, large=True)


def answers_that_are_not_sent_are_bounded() -> None:
    load, clock = loaded(places=1000)
    tickets = []
    for _ in range(4):
        tickets.append(take(load, 100, 10))
        clock.now += 1
        load.computed(tickets[-1], own=0.001)
    with pytest.raises(Busy, match="large answers"):
        take(load, 100, 10)
    load.sent(tickets[0])
    take(load, 100, 10)


def pieces_take_turns() -> None:
    """A large request is answered some users at a time, and one that comes later in between."""
    predictor = toy(n_users=100)
    calls = []

    class Slow:
        """Answers as the toy does, and notes who asked."""

        item_vectors = SimpleNamespace(vectors=np.zeros((10**6, 10)))

        def recommend(self, users: list[Any], k: int, *more: Any) -> Any:
            calls.append(users)
            return predictor.recommend(users, k, *more)

        def forms_vectors(self, users: list[Any]) -> bool:
            return False

    slow: Any = Slow()
    size = piece_users(slow, Query([], 5))
    users = list(range(100, 200))
    history = [[1000 + n % 50] for n in range(100)]
    candidates = [[1000 + (n + m) % 50 for m in range(n % 20)] for n in range(100)]
    block: list[list[Any]] = [[] if n % 3 else [1000 + n % 50, None] for n in range(100)]
    load, _ = loaded()

    async def both() -> Any:
        batcher = Batcher(load)
        large = batcher.recommend(
            slow,
            Query(users, 5, history=history, candidates=candidates, block=block),
            take(load, 100, 5, large=True),
        )
        asked = asyncio.create_task(large)
        await asyncio.sleep(0)
        few = Query([100], 5, candidates=candidates[0], block=block[0])
        small = batcher.recommend(slow, few, take(load, 1, 5))
        other = asyncio.create_task(small)
        found = await asked, await other
        batcher.close()
        return found

    (whole, _), (single, _) = asyncio.run(both())
    assert size == 32
    lengths = [len(each) for each in calls]
    assert lengths == [32, 1, 32, 32, 4]
    given: dict[str, Any] = {"history": history, "candidates": candidates, "block": block}
    expected = predictor.recommend(users, 5, **given)
    np.testing.assert_array_equal(whole.rows, expected.rows)
    np.testing.assert_array_equal(whole.scores, expected.scores)
    assert (whole.rows[::20] == -1).all(), "an empty list of candidates has no answer"
    np.testing.assert_array_equal(single.rows, expected.rows[:1])


def lists_that_are_put_together_item_by_item_take_turns() -> None:
    """One that takes long is a piece of its own, and many short ones are one piece."""
    predictor = toy()
    for rules in (Rules(diversity=0.5), Rules(max_per={"kind": 1})):
        sizes = [piece_users(predictor, Query([], k, rules=rules)) for k in (5, 10, 100, 1000)]
        assert sizes == [256, 200, 2, 1]  # of 200,000 steps: k times 10 k, and at most 1,000
    assert piece_users(predictor, Query([], 1000)) == 256


def what_runs_a_program_does_not_run_in_the_loop() -> None:
    """Not for a history, and not for what was told of a user before, whether known or not."""
    threads: list[str] = []

    def newcomers(history: Any) -> Any:
        threads.append(threading.current_thread().name)
        return np.ones((len(history), 8), np.float32)

    def sessions(users: Any, history: Any) -> Any:
        threads.append(threading.current_thread().name)
        return torch.ones(len(users), 8)

    programs = Requests(None, sessions, 4, True)
    predictor = dataclasses.replace(toy(newcomers=newcomers), requests=programs)
    predictor.count([Event(1003, 1.0, user=user) for user in (103, -7)])
    load, _ = loaded()

    async def ask() -> None:
        batcher = Batcher(load)
        asked = [
            Query([103], 5),
            Query([-7], 5),
            Query([101], 5),
            Query([102], 5, history=[[1001]]),
        ]
        for query in asked:
            assert runs_program(predictor, query) == (query.users != [101])
            await batcher.recommend(predictor, query, take(load))
        batcher.close()

    asyncio.run(ask())
    assert len(threads) == 3
    assert all(name.startswith("predictor") for name in threads)
    moment: Any = dataclasses.replace(programs, codes=SimpleNamespace())
    assert runs_program(dataclasses.replace(predictor, requests=moment), Query([101], 5))


def who_comes_too_late_costs_no_call() -> None:
    load, clock = loaded()
    calls = []
    predictor: Any = SimpleNamespace(
        item_vectors=SimpleNamespace(vectors=np.zeros((10, 2))),
        forms_vectors=lambda users: False,
        recommend=lambda *given: calls.append(given),
    )

    async def late() -> None:
        batcher = Batcher(load)
        asked = asyncio.create_task(
            batcher.recommend(predictor, Query([1], 1), take(load, allowed=0.5))
        )
        await asyncio.sleep(0)
        clock.now += 1
        with pytest.raises(TooLate, match="before its turn came"):
            await asked
        batcher.close()

    asyncio.run(late())
    assert not calls


def lower_priorities_come_first() -> None:
    load, _ = loaded(wait_seconds=10.0)
    order: list[Any] = []
    predictor: Any = SimpleNamespace(
        item_vectors=SimpleNamespace(vectors=np.zeros((10, 2))),
        forms_vectors=lambda users: False,
        recommend=lambda users, *_: order.append(users) or toy().recommend([100], 1),
    )

    async def ask() -> None:
        batcher = Batcher(load)
        asked = [
            # Queries with candidates are answered one by one.
            asyncio.create_task(
                batcher.recommend(predictor, Query([n], 1, candidates=[1000]), take(load), rank)
            )
            for n, rank in enumerate([2, 3, 1, 2, 1])
        ]
        await asyncio.gather(*asked)
        batcher.close()

    asyncio.run(ask())
    assert order == [[2], [4], [0], [3], [1]]


def who_is_cut_off_by_a_shutdown_is_told() -> None:
    from cadc_rec.serving.http.guard import ApiKey, Guard

    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/begun":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(60)

    async def send(message: Any) -> None:
        sent.append(message)

    async def cut_off(path: str) -> None:
        guard = Guard(app, ApiKey(None), Limits(), lambda: True)
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        task = asyncio.create_task(guard(scope, Any, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cut_off("/waits"))
    assert [message.get("status") for message in sent] == [503, None]
    assert json.loads(sent[1]["body"]) == {"error": "the service stops; ask again later."}
    sent.clear()
    asyncio.run(cut_off("/begun"))  # the connection is closed, which shows that it is not whole
    assert [message.get("status") for message in sent] == [200]


def the_deadline_is_that_of_recommendations_alone() -> None:
    from cadc_rec.serving.http.guard import ApiKey, Guard

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def status(path: str, **limits: float) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        guard = Guard(app, ApiKey(None), Limits(**limits), lambda: True)  # type: ignore[arg-type]
        scope = {"type": "http", "method": "POST", "path": path, "headers": []}
        await guard(scope, Any, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    model = "/v2/models/recommender"
    load = "/v2/repository/models/recommender/load"
    for path, least in (
        (f"{model}/infer", {"deadline_seconds": 0.01}),
        (f"{model}/versions/1/infer", {"deadline_seconds": 0.01}),
        ("/explore/similar", {"deadline_seconds": 0.01}),
        (load, {"load_seconds": 0.01}),
        (f"{model}/events", {"other_seconds": 0.01}),
        ("/metrics", {"other_seconds": 0.01}),
    ):
        assert asyncio.run(status(path, **least)) == 503, path
        others = {"deadline_seconds": 0.01, "load_seconds": 0.01, "other_seconds": 0.01}
        assert asyncio.run(status(path, **{**others, **dict.fromkeys(least, 9.0)})) == 200, path


def a_full_journal_makes_room_whatever_the_letters_of_its_ids() -> None:
    """JSON takes six bytes and more for a letter that is not ASCII."""
    from cadc_rec.serving.http.event_log import EventLog
    from cadc_rec.serving.http.journal import Journal

    async def tell_all(log: EventLog) -> None:
        for n in range(150):
            event = Event(1000 + n % 50, 1.0 + n, 100, "\u6f22\U0001f600" * 20 + str(n))
            assert (await log.take([event])).taken == 1

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal"
        log = EventLog(path, most_bytes=20_000)
        log.onto(toy())
        asyncio.run(tell_all(log))
        log.close()
        assert path.stat().st_size <= 20_000
        kept = [record["time"] for record in Journal(path, "events").news().records]
    assert kept == [151.0 - n for n in range(len(kept), 0, -1)]
    assert len(kept) > 10


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written, self.closed = b"", False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_extra_info(self, *_: Any) -> None:
        return None


def request_bytes(path: str = "/v2/models/recommender/infer", method: str = "POST") -> bytes:
    body = b'{"inputs": []}'
    return b"%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (
        method.encode(), path.encode(), len(body), body,
    )  # fmt: skip


def a_full_service_refuses_before_it_reads() -> None:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

    load, _ = loaded(wait_seconds=0.1)
    asked, told = [], list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await send({"type": "http.response.start", "status": 200,
                    "headers": [(b"content-length", b"2")]})  # fmt: skip
        await send({"type": "http.response.body", "body": b"{}"})

    async def talk() -> tuple[bytes, bytes, list[bytes]]:
        config = Config(app, log_level="critical", access_log=False)
        config.load()
        state, kind = ServerState(), impatient(10, 3, load, told.append)

        def connected() -> tuple[Any, Transport]:
            transport = Transport()
            protocol = kind(config, state, {}, asyncio.get_running_loop())
            protocol.connection_made(transport)  # type: ignore[arg-type]
            return protocol, transport

        protocol, transport = connected()
        tickets = [take(load) for _ in range(11)]
        assert load.full
        protocol.data_received(request_bytes())
        refusal, transport.written = transport.written, b""
        protocol.data_received(request_bytes("/v2/health/live", "GET"))
        await asyncio.sleep(0.01)
        assert asked == ["/v2/health/live"]
        for ticket in tickets:
            load.computed(ticket)
        transport.written = b""
        protocol.data_received(request_bytes())
        assert load.unread == 1
        await asyncio.sleep(0.01)
        assert load.unread == 0
        answered = transport.written
        return refusal, answered, [connected()[1].written for _ in range(3)]

    refusal, answered, others = asyncio.run(talk())
    head, _, body = refusal.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1" in head
    assert b"content-length: %d\r\n" % len(body) in head
    assert json.loads(body) == {"error": "too many requests wait; ask again later."}
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert [(one.path, one.status) for one in told] == [("/v2/models/recommender/infer", 503)]
    assert others[:2] == [b"", b""]
    assert b"there are 3 connections already" in others[2]


class Connections:
    """Those of a service that answers at once, and what was asked of it."""

    def __init__(self, load: Load) -> None:
        from uvicorn.config import Config
        from uvicorn.server import ServerState

        self.asked = 0

        async def app(scope: Any, receive: Any, send: Any) -> None:
            self.asked += 1
            await send({"type": "http.response.start", "status": 200,
                        "headers": [(b"content-length", b"2")]})  # fmt: skip
            await send({"type": "http.response.body", "body": b"{}"})

        config = Config(app, log_level="critical", access_log=False)
        config.load()
        kind, state = impatient(10, 1000, load), ServerState()
        self.made = lambda: kind(config, state, {}, asyncio.get_running_loop())

    def one(self) -> tuple[Any, Transport]:
        transport, protocol = Transport(), self.made()
        protocol.connection_made(transport)  # type: ignore[arg-type]
        return protocol, transport


async def turns() -> None:
    """Some turns of the loop, however long they take."""
    for _ in range(50):
        await asyncio.sleep(0)


def a_turn_of_the_loop_begins_no_more_than_it_can_answer() -> None:
    load, _ = loaded(wait_seconds=10.0)
    load.times = type(load.times)()
    load.times.add(1, 10, 0.002)  # 5 in the 10 ms of a turn

    async def talk() -> None:
        service = Connections(load)
        those = [service.one() for _ in range(23)]
        for protocol, _ in those:
            protocol.data_received(request_bytes())
        assert load.unread == 23
        begun = [0]
        while begun[-1] < 23:
            await asyncio.sleep(0)
            begun.append(service.asked)
        assert max(after - before for before, after in pairwise(begun)) == 5
        await turns()
        assert load.unread == 0
        assert all(transport.written.startswith(b"HTTP/1.1 200 ") for _, transport in those)

    asyncio.run(talk())


def who_goes_while_it_waits_is_forgotten_and_who_sends_more_is_answered_in_order() -> None:
    load, _ = loaded(wait_seconds=10.0)  # one in the 10 ms of a turn

    async def talk() -> None:
        service = Connections(load)
        (first, _), (goes, _), (more, answers) = (service.one() for _ in range(3))
        for protocol in (first, goes, more):
            protocol.data_received(request_bytes())
        assert (goes.held, more.held) == (request_bytes(), request_bytes())
        goes.connection_lost(None)
        more.data_received(request_bytes("/v2/health/live", "GET"))
        assert more.held == request_bytes(), "what comes behind it does not begin it"
        await turns()
        assert service.asked == 3
        assert answers.written.count(b"HTTP/1.1 200 ") == 2
        assert load.unread == 0

    asyncio.run(talk())


class Still(asyncio.SelectorEventLoop):
    """A loop whose clock stands still."""

    now = 100.0

    def time(self) -> float:
        return self.now


def who_asks_again_at_once_is_refused_again_after_a_while() -> None:
    load, _ = loaded(wait_seconds=0.1)
    tickets = [take(load) for _ in range(11)]
    assert load.full

    async def talk(loop: Still) -> None:
        service = Connections(load)
        (again, written), (other, first), (stays, last) = (service.one() for _ in range(3))
        for _ in range(2):
            again.data_received(request_bytes())
        other.data_received(request_bytes())
        assert (written.written.count(b" 503 "), first.written.count(b" 503 ")) == (1, 1)
        loop.now += 0.09
        await turns()
        assert written.written.count(b" 503 ") == 1
        loop.now += 0.02
        await turns()
        assert written.written.count(b" 503 ") == 2
        for _ in range(2):
            stays.data_received(request_bytes())
        stays.shutdown()
        assert (last.written.count(b" 503 "), last.closed) == (2, True)
        again.data_received(request_bytes())
        again.connection_lost(None)
        for ticket in tickets:
            load.computed(ticket)
        other.data_received(request_bytes())
        await turns()
        assert first.written.count(b"HTTP/1.1 200 ") == 1
        loop.now += 1.0
        await turns()
        assert written.written.count(b" 503 ") == 2
        assert load.unread == 0

    with asyncio.Runner(loop_factory=Still) as runner:
        loop: Any = runner.get_loop()
        runner.run(talk(loop))


def who_sends_without_waiting_is_refused_no_sooner() -> None:
    load, _ = loaded(wait_seconds=0.1)
    tickets = [take(load) for _ in range(11)]

    async def talk(loop: Still) -> None:
        service = Connections(load)
        (one, answers), (at_once, others) = service.one(), service.one()
        for _ in range(50):
            one.data_received(request_bytes())
        at_once.data_received(request_bytes() * 50)
        assert one.flow.read_paused
        for refused in (1, 2, 3):
            for transport in (answers, others):
                assert transport.written.count(b" 503 ") == refused
            loop.now += 0.11
            await turns()
        for ticket in tickets:
            load.computed(ticket)
        for _ in range(20):
            loop.now += 0.11
            await turns()
        for protocol, transport in ((one, answers), (at_once, others)):
            kinds = re.findall(rb"HTTP/1.1 (\d+) ", transport.written)
            assert kinds == [b"503"] * 5 + [b"200"] * 45
            assert not protocol.flow.read_paused
        assert load.unread == 0

    with asyncio.Runner(loop_factory=Still) as runner:
        loop: Any = runner.get_loop()
        runner.run(talk(loop))


def refusals_take_a_small_share_of_the_time() -> None:
    load, _ = loaded(wait_seconds=0.1)
    for _ in range(11):
        take(load)

    async def talk(loop: Still) -> None:
        service = Connections(load)
        those = [service.one() for _ in range(100)]
        for protocol, _ in those:
            protocol.data_received(request_bytes())
        for told in (40, 80, 100, 100):  # 4,000 a second, the first that came first
            assert [b" 503 " in one.written for _, one in those] == [n < told for n in range(100)]
            loop.now += 0.011
            await turns()

    with asyncio.Runner(loop_factory=Still) as runner:
        loop: Any = runner.get_loop()
        runner.run(talk(loop))


def answers_that_come_in_bursts_are_measured_together() -> None:
    load, _ = loaded()
    times = load.times = type(load.times)()
    met = []
    for _ in range(75):  # 28 answers in the 28 ms of a turn of the loop
        for seconds in (0.0268, *27 * [0.0012 / 27]):
            times.add(1, 10, seconds)
            met.append(times.expected(1, 10))
    assert met[45 * 28 :] == pytest.approx([0.001] * (30 * 28), rel=0.2)


def one_slow_answer_refuses_no_one() -> None:
    load, _ = loaded(wait_seconds=0.1)
    load.times = type(load.times)()
    for seconds in (0.01, 0.01, 1.5):  # the last one waited while a bundle was loaded
        load.times.add(1, 10, seconds)
    take(load)
    assert not load.full
    take(load)


def requests_are_whole_or_not() -> None:
    whole = request_bytes()
    for behind in (b"", b"x", whole, whole[:20]):
        assert inference_bytes(whole + behind) == len(whole)
    others = [
        whole[:-1], whole[1:], request_bytes("/v2/models/a/b/infer"), request_bytes(method="PUT"),
        whole.replace(b"Content-Length: 14", b"Content-Length: 15"),
        whole.replace(b"Content-Length: 14\r\n", b""),
    ]  # fmt: skip
    assert not any(map(inference_bytes, others))


def urgent_pieces_take_turns_too() -> None:
    """A large request is before the others once; then whatever waits comes before its next piece,

    and an urgent one before all.
    """
    predictor = toy(n_users=100)
    calls: list[int] = []
    later: list[Any] = []
    load, _ = loaded(wait_seconds=10.0)

    class Slow:
        """Answers as the toy does, and notes who asked; during the first call others come."""

        item_vectors = SimpleNamespace(vectors=np.zeros((10**6, 10)))

        def recommend(self, users: list[Any], k: int, *more: Any) -> Any:
            calls.append(users[0])
            if len(calls) == 1:
                loop.call_soon_threadsafe(come)
            return predictor.recommend(users, k, *more)

        def forms_vectors(self, users: list[Any]) -> bool:
            return False

    slow: Any = Slow()

    def come() -> None:
        for user, rank in ((101, 2), (102, 3), (103, 1)):
            query = Query([user], 5, candidates=[1000])
            later.append(asyncio.ensure_future(batcher.recommend(slow, query, take(load), rank)))

    async def ask() -> None:
        whole = Query(list(range(110, 180)), 5)
        await batcher.recommend(slow, whole, take(load, 70, 5, large=True), 1)
        await asyncio.gather(*later)
        batcher.close()

    batcher = Batcher(load)
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        runner.run(ask())
    assert calls == [110, 103, 101, 142, 174, 102]


def pieces_are_the_whole_answer() -> None:
    draw = np.random.default_rng(0)
    ids = draw.integers(0, 10**12, (400, 50))
    outputs = [
        Output("item_id", "INT64", ids),
        Output("score", "FP32", draw.standard_normal((400, 50)).astype(np.float32)),
        Output("source", "BYTES", np.array(["known", "x\"\u00e9"] * 200, object)),
        Output("count", "INT32", np.zeros(0, np.int32)),
    ]  # fmt: skip
    user = {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [1]}
    request = Request.model_validate({"inputs": [user], "id": "7"})
    headers, pieces = encode_pieces(request, outputs, "m", "v")
    parts = list(pieces)
    assert len(parts) > 8
    assert encode(request, outputs, "m", "v") == (b"".join(parts), headers)
    document = json.loads(b"".join(parts))
    assert {key: document[key] for key in ("model_name", "model_version", "id")} == {
        "model_name": "m", "model_version": "v", "id": "7",
    }  # fmt: skip
    for output, found in zip(outputs, document["outputs"], strict=True):
        assert (found["name"], found["datatype"]) == (output.name, output.datatype)
        assert found["shape"] == list(output.array.shape)
        data = np.array(found["data"], dtype=output.array.dtype)
        np.testing.assert_array_equal(data, output.array.ravel())
    whole = b"".join(parts)
    assert gzip.decompress(b"".join(compressed(iter(parts), "gzip"))) == whole
    assert zlib.decompress(b"".join(compressed(iter(parts), "deflate"))) == whole


def the_client_chooses_the_compression() -> None:
    for header, form in [
        (None, None), ("", None), ("gzip", "gzip"), ("deflate, br", "deflate"), ("br", None),
        ("GZIP;q=0.5, deflate", "deflate"), ("gzip;q=0", None), ("*", "gzip"),
        ("identity, *;q=0", None), ("gzip;q=x", None),
    ]:  # fmt: skip
        assert accepted(header) == form, header


if __name__ == "__main__":
    globals()[sys.argv[1]]()
