"""One rank fails, dies or hangs: one sentence names it, and all ranks end with code 2.

The ranks have no launcher, as if each were a node of its own: nobody ends one but the product.
"""

import json
import os
import signal
import socket

import pytest

from tests.faults.processes import alive, children, until
from tests.faults.world import begin

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(600)]
HOST = socket.gethostname()
ENDLESS = ["--set", "train.epochs=1000000"]


def training(workdir):
    """Whether the ranks are some way into training."""
    return any(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))


def sentences(run):
    """What each rank said, without progress."""
    told = [(folder / "stderr").read_text() for folder in run.output]
    assert not any("Traceback" in text for text in told), told
    return [
        [line for line in text.splitlines() if line.startswith(("error: ", "unexpected"))]
        for text in told
    ]


@pytest.fixture
def workdir(world):
    """A work folder with what comes before training."""
    return world.begun(world.reference("cadc"), before="train")


@pytest.fixture
def ranks(world, workdir):
    """Start the ranks of a job; those that are left are killed."""
    started = []

    def start(count, *more, **options):
        arguments = ["train", world.config("cadc"), "--workdir", workdir, *more]
        started.append(begin(arguments, count, **options))
        return started[-1]

    yield start
    for run in started:
        run.signal(signal.SIGKILL, range(len(run.pids)))


@pytest.fixture
def train(ranks, workdir):
    """Ranks in the midst of an endless training."""

    def start(count, *more):
        run = ranks(count, *ENDLESS, *more)
        until(lambda: training(workdir) or not run.running())
        assert run.running(), run.err
        return run

    return start


@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_rank_is_named_with_its_host_and_process(train, victim):
    run = train(3)
    run.signal(signal.SIGKILL, [victim])
    assert run.wait() == [-9 if rank == victim else 2 for rank in range(3)]
    speaker = 1 if victim == 0 else 0
    assert sentences(run)[speaker] == [
        f"error: rank {victim} (host {HOST}, process {run.pids[victim]}) has gone: it was killed, "
        "or its machine failed; start the same command again, finished stages are kept."
    ]
    assert all(not told for rank, told in enumerate(sentences(run)) if rank != speaker)


@pytest.mark.parametrize("victim", [1, 0])  # rank 0 keeps the store, which is silent with it
def test_a_silent_rank_is_named_after_the_timeout(train, victim, workdir):
    run, other = train(2, "--set", "compute.timeout_seconds=5"), 1 - victim
    run.signal(signal.SIGSTOP, [victim])
    until(lambda: run.running() and run.codes[other] is not None)
    assert run.codes[other] == 2
    (record,) = workdir.glob("logs/*/flight-recorder-gloo-rank-*.json")
    assert sentences(run)[other] == [
        f"error: rank {victim} (host {HOST}, process {run.pids[victim]}) did not answer within 5 s "
        "(compute.timeout_seconds): find out what delays it, then start the same command again; "
        f"finished stages are kept. What rank {other} exchanged last is in {record}."
    ]
    assert record.name.endswith(f"-rank-0000{other}.json")
    last = json.loads(record.read_text())["entries"][-1]
    assert last["profiling_name"].startswith("gloo:")
    waited = record.stat().st_mtime - last["time_created_ns"] / 1e9
    assert waited > 4.5  # it is the one that waited in vain
    run.signal(signal.SIGCONT, [victim])  # what it finds when it wakes ends it too
    assert run.wait()[victim] == 2


def test_a_rank_that_is_told_to_end_has_all_save_and_end_first(train, ranks, workdir):
    """Preemption: SIGTERM for one machine's ranks, some seconds before it is taken away."""
    by_clock = ("checkpoint.every_epochs=0", "checkpoint.every_seconds=3")
    run = train(2, *(word for setting in by_clock for word in ("--set", setting)))
    run.signal(signal.SIGTERM, [1])
    assert run.wait() == [143, 143], run.err
    newest = max(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))
    step = newest.name.rpartition("-")[2]
    assert f"told to end (SIGTERM) at step {step}; the same command goes on" in run.err
    assert sentences(run) == [[], []]
    again = ranks(2, *ENDLESS)
    until(lambda: "resuming from" in again.err or not again.running())
    assert f"resuming from {newest}: " in again.err


def test_ranks_without_a_common_work_folder_are_refused_once_for_all(ranks, workdir, world):
    """Rank 1 looks for the artifacts in another folder: nodes that do not share a file system."""
    other = world.fresh()
    run = ranks(2, of_rank=lambda rank: ["--workdir", other] if rank else [])
    assert run.wait() == [2, 2]
    (said,), nothing = sentences(run)
    assert nothing == []
    assert said == (
        f"error: {workdir}: rank 0 wrote a file there and rank 1 does not see it; name a folder "
        "that all nodes share with --workdir."
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["select.shards=2"], "3 processes cannot share select.shards = 2"),
        (["sharding.frozen=table_wise", "sharding.host_memory=1KB"], "no sharding plan fits"),
        (["sharding.frozen=row_wise", "compute.device=auto"], "needs CUDA; on CPU choose one of"),
        (["train.learning_rate=1e30"], "training diverged; lower train.learning_rate"),
    ],
)
def test_what_all_ranks_are_refused_is_said_once_by_rank_0(settings, said, ranks):
    run = ranks(3, *(word for setting in settings for word in ("--set", setting)))
    assert run.wait() == [2, 2, 2]
    first, *others = sentences(run)
    assert len(first) == 1
    assert said in first[0]
    assert others == [[], []]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.tower=[16, 16]", "model.tower is [32, 16] there and [16, 16] here"),
        ("train.batch_size=256", "train.batch_size is 512 there and 256 here"),
        ("data.generated.users=310", "its table has 300 users, but this one has 310"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_once_for_all_ranks(
    setting, said, train, ranks, workdir
):
    saved = train(2)
    saved.signal(signal.SIGKILL, [0, 1])
    saved.wait()
    checkpoint = max(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))
    run = ranks(2, *ENDLESS, "--set", setting, "--resume", checkpoint)
    assert run.wait() == [2, 2], run.err
    assert sentences(run) == [
        [f"error: {checkpoint}: this training cannot resume from it: {said}."],
        [],
    ]


def test_nobody_at_the_rendezvous_is_one_sentence(ranks):
    run = ranks(2, "--set", "compute.timeout_seconds=3", only=(1,))
    assert run.wait() == [2]
    ((said,),) = sentences(run)
    assert "error: rank 1 of 2 could not join its peers at 127.0.0.1:" in said
    assert "within 3 s" in said
    assert "start the job with torchx or torchrun" in said


def test_a_rank_that_never_starts_is_named(ranks):
    run = ranks(3, "--set", "compute.timeout_seconds=3", only=(0, 2))
    assert run.wait() == [2, 2]
    assert sentences(run)[0] == [
        f"error: rank 0 (host {HOST}, process {run.pids[0]}) waited 3 s for rank 1 of 3, in "
        "vain: find out why, then start the job again."
    ]


def test_a_second_job_in_the_same_work_folder_is_refused_and_the_first_goes_on(
    train, ranks, workdir
):
    first = train(2)
    second = ranks(2, *ENDLESS)
    assert second.wait() == [2, 2]
    assert sentences(second) == [
        [
            f"error: {workdir}: another job is making the same train artifact there; wait for it, "
            "or give this one a work folder of its own with --workdir."
        ],
        [],
    ]
    assert first.running()


# SIGKILL is a case of the matrix.
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ending_the_command_ends_its_local_workers(world, workdir, spawn, how, code):
    two = ("--set", "compute.processes=2", *ENDLESS)
    process = spawn("run", world.config("cadc"), "--workdir", workdir, *two)
    until(lambda: training(workdir), processes=[process])
    workers = children(process.pid)
    assert len(workers) >= 2
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    until(lambda: not any(map(alive, workers)), seconds=10)
    if how == signal.SIGINT:  # what the others leave, the next start sweeps away
        assert [path.name for path in (workdir / ".tmp").iterdir() if path.is_dir()] == []
