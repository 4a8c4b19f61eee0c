"""Who speaks when ranks fail, and what is said; each rank is a thread over a store in memory."""

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from cadc_rec.distributed import peers as peers_module
from cadc_rec.distributed.peers import Peers
from cadc_rec.errors import CadcError, SpokenError

CLOSED = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:33706. GLHF!")
SILENT = RuntimeError("[unbound_buffer.cc:78] Timed out waiting 6000ms for recv operation")
REFUSED = CadcError("data.k_core = 99 leaves no interaction.")
DEFECT = ZeroDivisionError("by zero")
ME = f"(host {socket.gethostname()}, process {os.getpid()})"


@pytest.fixture
def end(monkeypatch):
    """End each rank with an error of its own, or None for one that is killed: what comes of it."""
    monkeypatch.setattr(peers_module, "_ANSWER_SECONDS", 0.5)

    def rank(store, number, error, errors):
        peers = Peers(store, number, len(errors), 6, patience=5)
        if error is None:
            return None
        left = []
        ending = peers.account_for(error, leave=lambda: left.append(number))
        assert left == [number]
        if isinstance(ending, SpokenError):
            ending.said()
        return ending

    def all_of(*errors):
        store = HashStore()
        with ThreadPoolExecutor(len(errors)) as pool:
            running = [
                pool.submit(rank, store, number, error, errors)
                for number, error in enumerate(errors)
            ]
            endings = [each.result(timeout=30) for each in running]
        spoken = [str(e) if isinstance(e, SpokenError) else None for e in endings]
        codes = [e.code if isinstance(e, SystemExit) else None for e in endings]
        return endings, spoken, codes

    return all_of


def test_what_all_are_refused_rank_0_says(end):
    _, spoken, codes = end(REFUSED, REFUSED, REFUSED)
    assert spoken == [str(REFUSED), None, None]
    assert codes == [None, 2, 2]


def test_what_another_is_refused_rank_0_says_with_its_place(end):
    _, spoken, codes = end(CLOSED, CLOSED, REFUSED)
    assert spoken == [f"rank 2 {ME}: {REFUSED}", None, None]
    assert codes == [None, 2, 2]


def test_a_defect_is_its_own_ranks_to_tell_and_the_others_end_without_a_word(end):
    endings, spoken, codes = end(CLOSED, DEFECT, CLOSED)
    assert endings[1] is DEFECT
    assert spoken == [None, None, None]
    assert codes == [2, None, 2]


@pytest.mark.parametrize(
    ("errors", "speaker", "said"),
    [
        ((CLOSED, None, CLOSED), 0, f"rank 1 {ME} has gone: it was killed, or its machine failed;"),
        ((None, CLOSED, CLOSED), 1, f"rank 0 {ME} has gone: it was killed, or its machine failed;"),
        ((SILENT, None, CLOSED), 0, f"rank 1 {ME} did not answer within 6 s"),
        ((None, None, CLOSED), 2, f"rank 0 {ME} and rank 1 {ME} have gone: they"),
        ((CLOSED, CLOSED, CLOSED), 0, "the connection between the ranks broke: [pair.cc:553]"),
    ],
    ids=["the last died", "the first died", "one is silent", "two died", "all are there"],
)
def test_the_first_of_those_left_names_who_does_not_answer(errors, speaker, said, end):
    _, spoken, codes = end(*errors)
    assert spoken[speaker].startswith(said)
    for rank, error in enumerate(errors):
        if error is not None and rank != speaker:
            assert (spoken[rank], codes[rank]) == (None, 2)


def test_a_rank_that_does_not_come_is_named():
    said = re.escape(f"rank 0 {ME} waited 0 s for rank 1 of 2, in vain")
    with pytest.raises(CadcError, match=said):
        Peers(HashStore(), 0, 2, 6, patience=0.1)


def test_a_rank_that_comes_twice_is_refused_and_does_not_stand_for_one_that_does_not_come(
    monkeypatch,
):
    store = HashStore()

    def come(rank, process):
        with monkeypatch.context() as patched:
            patched.setattr(os, "getpid", lambda: process)
            with pytest.raises(CadcError) as refused:
                Peers(store, rank, 3, 6, patience=0.1)
        return str(refused.value)

    host = socket.gethostname()
    for rank in (0, 1):
        assert come(rank, 100 + rank).endswith("start the job again.")
    first = f"rank 1 (host {host}, process 101)"
    said = f"rank 1 (host {host}, process 201) found {first} there before it: each process of a"
    assert come(1, 201).startswith(said)
    assert not store.check(["cadc_rec/all came"])
    Peers(store, 2, 3, 6, patience=5)
    assert store.check(["cadc_rec/all came"])
