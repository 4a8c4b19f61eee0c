"""Two machines, whose store fails or whose rank 0 hangs: nothing is lost, and one sentence.

`.ci/run` tries one of these cases, chosen by the commit (`tests.share`).
"""

import os
import re
import signal
import time

import pytest

from tests.faults.processes import until
from tests.nodes.conftest import artifacts
from tests.nodes.job import Job
from tests.share import share

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(1200)]
CASES = ("restarted", "slow", "full", "without rights", "rank 0 stopped")
CHOSEN = share("faults between machines").cases({"all": CASES})
SECONDS = 15  # a time-out; a busy machine delays every rank
REFUSALS = {
    "full": (
        "507 XMinioStorageFull",
        "(XMinioStorageFull: no): the store is full; free some space",
    ),
    "without rights": ("403 AccessDenied", "(AccessDenied: no); renew them, or get the right to"),
}


def sentences(job):
    """What the ranks said in the end; their agent puts their number before a line."""
    return re.findall(r"^\[\d\]:((?:error: |unexpected).*)", job.said, re.MULTILINE)


def manifests(job, node):
    """Of the artifacts that lie in a node's cache, by folder."""
    work = job.work(node)
    return {file.parent: file.read_bytes() for file in work.glob("[!.]*/*/manifest.json")}


@pytest.mark.skipif("restarted" not in CHOSEN, reason="another share's")
def test_a_store_that_is_killed_and_started_again_is_waited_for(lab, nodes, one):
    job = Job(lab)
    job.start(*nodes)
    for stage in ("pretrain", "train"):
        job.reaches(stage)
        lab.store.die()
        time.sleep(4)  # of the fifteen seconds that a request is tried again here
        lab.store.revive()
    job.end()
    assert artifacts(job.work(lab.a)) == one


@pytest.mark.skipif("slow" not in CHOSEN, reason="another share's")
def test_a_store_that_takes_200_ms_for_a_request_gives_the_same(lab, nodes, one):
    lab.store.delay(0.2)
    job = Job(lab)
    job.start(*nodes)
    job.end()
    assert artifacts(job.work(lab.a)) == one


@pytest.mark.parametrize("kind", [kind for kind in REFUSALS if kind in CHOSEN])
def test_what_a_store_does_not_take_is_told_once_and_sent_by_the_next_job(lab, nodes, one, kind):
    answer, said = REFUSALS[kind]
    job = Job(lab)
    job.start(*nodes)
    job.reaches("select")
    lab.store.refuse(answer)
    codes = [agent.wait(300) for agent in job.agents.values()]
    assert 0 not in codes, job.said
    (sentence,) = sentences(job)
    # The first of either node writes; another rank than 0 is named.
    who = r"(rank \d+ \(host [ab], process \d+\): )?"
    assert re.match(f"error: {who}{re.escape(job.address)}: ", sentence), sentence
    assert said in sentence
    made = manifests(job, lab.a)
    assert made
    lab.store.refuse()
    job.start(*nodes)
    job.end()
    assert artifacts(job.work(lab.a)) == one
    assert made.items() <= manifests(job, lab.a).items()  # none was made again


@pytest.mark.skipif("rank 0 stopped" not in CHOSEN, reason="another share's")
def test_a_rank_0_that_is_stopped_for_good_is_named_within_the_time_out(lab, nodes):
    job = Job(lab, settings=f"compute.timeout_seconds={SECONDS};train.epochs=1000000")
    job.start(*nodes)
    job.reaches("train")
    steps = "checkpoints/[!p]*/[0-9]*-step-*"
    until(lambda: any(job.work(lab.a).glob(steps)), processes=job.agents.values())
    inside, pid = job.pid_of(0, lab.a)
    os.kill(pid, signal.SIGSTOP)
    stopped = time.monotonic()
    until(lambda: sentences(job))
    # Ten more for every rank to say that it is alive, ten for the store; and the machine is busy.
    assert time.monotonic() - stopped < SECONDS + 10 + 10 + 25
    codes = [agent.wait(120) for agent in job.agents.values()]
    assert 0 not in codes, job.said
    (sentence,) = sentences(job)
    assert sentence.startswith(
        f"error: rank 0 (host a, process {inside}) did not answer within {SECONDS} s "
        "(compute.timeout_seconds): find out what delays it, then start the same command again; "
        "finished stages are kept."
    )
