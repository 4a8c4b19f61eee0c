"""Ranks whose collectives notice no loss, as NCCL's: a thread does, and the sentence is gloo's.

Each rank is a thread over a store in memory. Its collective is an event, which only an abort sets.
"""

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from cadc_rec.distributed import peers as peers_module
from cadc_rec.distributed import processes as processes_module
from cadc_rec.distributed import watch as watch_module
from cadc_rec.distributed.peers import LostError, Peers
from cadc_rec.distributed.timely import TimelyStore
from cadc_rec.errors import CadcError, SpokenError

ME = f"(host {socket.gethostname()}, process {os.getpid()})"
NCCL = RuntimeError("NCCL communicator was aborted on rank 0.")
REFUSED = CadcError("data.k_core = 99 leaves no interaction.")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(watch_module, "_BEAT_SECONDS", 0.02)
    monkeypatch.setattr(watch_module, "_MISSED", 40)
    monkeypatch.setattr(peers_module, "_ANSWER_SECONDS", 0.5)


def rank(store, number, ending, ranks):
    """One rank: ``waits`` in a collective, ``dies``, or ends with an error of its own."""
    peers = Peers(store, number, ranks, 6, patience=5)
    if ending == "dies":
        return None
    broken = threading.Event()
    peers.watch(broken.set)
    error = ending
    if ending == "waits":
        assert broken.wait(20), "nobody ended the collective"
        error = NCCL
    ended = peers.account_for(error, leave=lambda: None)
    if isinstance(ended, SpokenError):
        ended.said()
    return ended


def said(*endings):
    """What each rank prints."""
    store = HashStore()
    with ThreadPoolExecutor(len(endings)) as pool:
        running = [
            pool.submit(rank, store, number, ending, len(endings))
            for number, ending in enumerate(endings)
        ]
        ended = [each.result(timeout=30) for each in running]
    return [str(e) if isinstance(e, SpokenError) else None for e in ended]


def test_a_rank_that_died_is_named_by_one_of_those_that_waited_for_it():
    first, second, third = said("waits", "dies", "waits")
    assert first.startswith(f"rank 1 {ME} has gone: it was killed, or its machine failed;")
    assert (second, third) == (None, None)


def test_a_rank_that_is_refused_ends_the_others_collectives_and_its_sentence_is_told():
    assert said("waits", "waits", REFUSED) == [f"rank 2 {ME}: {REFUSED}", None, None]


def test_what_a_rank_comes_to_after_its_collectives_were_ended_is_no_refusal():
    """An aborted sum is anything, and looks like a training that diverged."""
    store = HashStore()

    def diverged():
        peers = Peers(store, 0, 2, 6, patience=5)
        broken = threading.Event()
        peers.watch(broken.set)
        assert broken.wait(20)
        return peers.account_for(CadcError("the loss is nan"), leave=lambda: None)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(diverged)
        pool.submit(Peers, store, 1, 2, 6, 5).result(timeout=30)
        assert "rank 1" in str(first.result(timeout=30))
        assert "has gone" in str(first.result())


def joined(store, ranks, aborted):
    def join(number):
        peers = Peers(store, number, ranks, 6, patience=5)
        peers.watch(lambda: aborted.append(number))
        return peers

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(join, range(ranks)))


def test_a_rank_that_is_done_first_is_not_missed_and_waits_with_the_store_for_the_others():
    aborted = []
    first, second = joined(HashStore(), 2, aborted)
    with ThreadPoolExecutor(1) as pool:
        leaving = pool.submit(first.done)
        time.sleep(1.5)  # longer than silence may last
        assert not leaving.done()
        second.done()
        leaving.result(timeout=30)
    assert aborted == []


def test_a_rank_that_dies_when_others_are_done_is_named():
    """Only a rank that was done watched it; the last one waits for both."""
    store = HashStore()

    def rank_at_its_end(number):
        peers = Peers(store, number, 3, 6, patience=5)
        if number == 2:
            return None  # dies: no beat comes of it
        peers.watch(lambda: None)
        with pytest.raises(LostError) as lost:
            peers.done()
        ended = peers.account_for(lost.value, leave=lambda: None)
        if isinstance(ended, SpokenError):
            ended.said()
        return ended

    with ThreadPoolExecutor(3) as pool:
        first, second, _ = pool.map(rank_at_its_end, range(3))
    told, silent = (first, second) if isinstance(second, SystemExit) else (second, first)
    assert f"rank 2 {ME} has gone" in str(told)  # by whichever of the two saw it first
    assert isinstance(silent, SystemExit)


def test_a_rank_that_is_done_knows_by_the_stores_end_that_rank_0_was_lost():
    class Gone(HashStore):
        def check(self, keys):
            if "all done" in str(keys):
                raise RuntimeError("Broken pipe")
            return super().check(keys)

    _, second = joined(HashStore(), 2, [])
    second._store = TimelyStore(Gone(), 5)
    with pytest.raises(LostError, match="store"):
        second.done()


def test_a_rank_whose_last_collective_gave_nothing_does_not_end_as_if_all_were_well():
    store = HashStore()
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda number: Peers(store, number, 2, 6, patience=5), range(2))
    broken = threading.Event()
    first.watch(broken.set)
    second.watch(lambda: None)
    second.give_up()  # as on SIGTERM
    assert broken.wait(20)
    with pytest.raises(LostError):
        first.done()


def test_what_is_ended_is_the_gpus_backend(monkeypatch):
    ended = []

    class Group:
        def _get_backend(self, device):
            return type("Backend", (), {"abort": lambda _: ended.append(device.type)})()

    monkeypatch.setattr(processes_module.dist, "group", type("group", (), {"WORLD": Group()}))
    processes_module._abort_collectives(torch.device("cuda"))
    assert ended == ["cuda"]
