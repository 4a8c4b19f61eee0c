"""One rank fails, dies or hangs: one sentence names it, and all ranks end with code 2."""

import os
import signal
import socket
import time

import pytest

from tests.faults.processes import alive, children, ended, until

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
HOST = socket.gethostname()
ENDLESS = ("--set", "train.epochs=1000000", "--set", "select.shards=3")


def training(workdir):
    """Whether the ranks are some way into training."""
    return any(file.stat().st_size > 500 for file in workdir.glob("tensorboard/*/events.*"))


def sentences(errors):
    """What was said, without progress."""
    return [
        line for error in errors for line in error.splitlines() if line.startswith(("error", "un"))
    ]


@pytest.fixture
def train(ranks, tiny, tmp_path):
    """Ranks in the midst of an endless training."""

    def start(count, *more):
        workdir = tmp_path / "work"
        arguments = ("train", tiny, "--workdir", workdir, *ENDLESS, *more)
        started = ranks(count, *arguments)
        until(lambda: training(workdir), processes=started)
        return started

    return start


@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_rank_is_named_with_its_host_and_process(train, victim):
    started = train(3)
    time.sleep(1)
    started[victim].kill()
    codes, errors = ended(started)
    assert codes == [-9 if rank == victim else 2 for rank in range(3)]
    pid = started[victim].pid
    assert sentences(errors) == [
        f"error: rank {victim} (host {HOST}, process {pid}) has gone: it was killed, or its "
        "machine failed; start the same command again, finished stages are kept."
    ]


def test_a_silent_rank_is_named_after_the_timeout(train):
    started = train(2, "--set", "compute.timeout_seconds=4")
    started[1].send_signal(signal.SIGSTOP)
    code, errors = ended(started[:1])
    assert code == [2]
    assert sentences(errors) == [
        f"error: rank 1 (host {HOST}, process {started[1].pid}) did not answer within 4 s "
        "(compute.timeout_seconds): see what holds it up, then start the same command again; "
        "finished stages are kept."
    ]
    started[1].send_signal(signal.SIGCONT)  # what it finds when it wakes ends it too
    assert ended(started[1:])[0] == [2]


def test_what_one_rank_alone_is_refused_is_said_once_by_rank_0_with_its_place(
    ranks, tiny, tmp_path
):
    """Rank 1 looks for the artifacts in another folder: nodes that do not share a file system."""
    folders = [tmp_path / "first", tmp_path / "second"]
    started = ranks(2, "train", tiny, of_rank=lambda rank: ("--workdir", folders[rank]))
    codes, errors = ended(started)
    assert codes == [2, 2]
    (said,) = sentences(errors)
    assert said in errors[0]
    assert said.startswith(f"error: rank 1 (host {HOST}, process {started[1].pid}): {folders[1]}/")
    assert "has no manifest.json" in said


def test_nobody_at_the_rendezvous_is_one_sentence(ranks, tiny, tmp_path):
    few = ("--set", "compute.timeout_seconds=3", "--workdir", tmp_path / "work")
    codes, errors = ended(ranks(2, "train", tiny, *few, first=1))
    assert codes == [2]
    (said,) = sentences(errors)
    assert "error: rank 1 of 2 could not join its peers at 127.0.0.1:" in said
    assert "within 3 s" in said
    assert "start the job with torchx or torchrun" in said


def test_a_rank_that_never_starts_is_named(ranks, tiny, tmp_path):
    few = ("--set", "compute.timeout_seconds=3", "--workdir", tmp_path / "work")
    started = ranks(2, "train", tiny, *few)
    started[1].kill()
    codes, errors = ended(started)
    assert codes == [2, -9]
    assert sentences(errors) == [
        f"error: rank 0 (host {HOST}, process {started[0].pid}) waited 3 s for rank 1 of 2, in "
        "vain: see why, then start the job again."
    ]


def test_a_second_job_in_the_same_work_folder_is_refused_and_the_first_goes_on(
    train, ranks, tiny, tmp_path
):
    first = train(2)
    second = ranks(2, "train", tiny, "--workdir", tmp_path / "work", *ENDLESS)
    codes, errors = ended(second)
    assert codes == [2, 2]
    assert sentences(errors) == [
        f"error: {tmp_path / 'work'}: another job is making the same train artifact there; wait "
        "for it, or give this one a work folder of its own with --workdir."
    ]
    assert all(process.poll() is None for process in first)


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_ending_the_command_ends_its_local_workers(tiny, tmp_path, spawn, how, code):
    workdir = tmp_path / "work"
    two = ("--set", "compute.processes=2", *ENDLESS)
    process = spawn("run", tiny, "--workdir", workdir, *two)
    until(lambda: training(workdir), processes=[process])
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, how)
    _, errors = ended([process])
    assert process.returncode == code, errors
    until(lambda: not any(map(alive, workers)), seconds=10)
    assert [path.name for path in (workdir / ".tmp").iterdir() if path.suffix != ".lock"] == (
        [] if code > 0 else [path.name for path in (workdir / ".tmp").glob("train-*/")]
    )
