"""A store that does not answer, and how often the ranks ask theirs."""

import os
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore, TCPStore

from cadc_rec.distributed import peers as peers_module
from cadc_rec.distributed import timely as timely_module
from cadc_rec.distributed.peers import Peers
from cadc_rec.distributed.timely import SilentStoreError, TimelyStore
from cadc_rec.errors import CadcError, SpokenError

TIMED_OUT = RuntimeError("[unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation")
CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:33706. GLHF!")


class Stopped:
    """The store of a process that was stopped: its connections are open, and nothing comes back."""

    def __init__(self):
        self.go_on = threading.Event()

    def check(self, keys):
        self.go_on.wait()


def test_a_store_that_does_not_answer_is_given_up_once_and_for_all():
    store = TimelyStore(Stopped(), 0.1)
    started = time.monotonic()
    for call in (lambda: store.has("a"), lambda: store.wait(["a"], 60), lambda: store.has("b")):
        with pytest.raises(SilentStoreError):
            call()
    assert time.monotonic() - started < 5
    store._store.go_on.set()


def test_a_rank_0_that_is_stopped_is_named_though_it_keeps_the_store(monkeypatch):
    """Two real processes: the connections to one that is stopped stay open."""
    monkeypatch.setattr(peers_module, "_STORE_SECONDS", 1.0)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        Peers(store, 0, 2, 6, patience=30)
        signal.pause()
    try:
        store = TCPStore("127.0.0.1", int(os.read(reading, 10)), is_master=False)
        peers = Peers(store, 1, 2, 6, patience=30)
        os.kill(child, signal.SIGSTOP)
        ending = peers.account_for(TIMED_OUT, leave=lambda: None)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert isinstance(ending, SpokenError)
    assert str(ending).startswith(
        f"rank 0 (host {socket.gethostname()}, process {child}) did not answer within 6 s"
    )


def test_what_the_ranks_ask_grows_like_their_number(monkeypatch):
    """From their start to the sentence that names one of them that was killed."""
    monkeypatch.setattr(peers_module, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(timely_module, "_PAUSE_SECONDS", 0.1)
    asked = Counter()
    ask = TimelyStore._ask

    def counted(self, call, *arguments):
        asked[call.__name__] += 1
        return ask(self, call, *arguments)

    monkeypatch.setattr(TimelyStore, "_ask", counted)

    def rank(store, number, ranks):
        peers = Peers(store, number, ranks, 6, patience=30)
        if number == 1:
            return None
        ending = peers.account_for(CLOSED, leave=lambda: None)
        if isinstance(ending, SpokenError):
            ending.said()
            return str(ending)
        return None

    def said(ranks):
        asked.clear()
        store = HashStore()
        with ThreadPoolExecutor(ranks) as pool:
            running = [pool.submit(rank, store, number, ranks) for number in range(ranks)]
            return [each.result(timeout=60) for each in running]

    ranks = 48
    first, *others = said(ranks)
    place = f"rank 1 (host {socket.gethostname()}, process {os.getpid()})"
    assert first.startswith(f"{place} has gone")
    assert others == [None] * (ranks - 1)
    # Without the roll calls that one rank makes for all, about a dozen each, and some waiting.
    assert sum(asked.values()) < 50 * ranks


def test_of_many_ranks_those_that_do_not_come_are_named_by_all_that_did():
    store, refused = HashStore(), []

    def rank(number):
        with pytest.raises(CadcError) as error:
            Peers(store, number, 5, 6, patience=0.5)
        refused.append(str(error.value))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(rank, (0, 2, 3)))
    assert all("waited 0 s for ranks 1, 4 of 5, in vain" in text for text in refused), refused
