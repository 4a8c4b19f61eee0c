"""Workers, agents and whole commands killed under the real launchers."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.faults.processes import alive, until
from tests.faults.world import Case, Reference, World, same_as
from tests.zygote import FORKED_PYTHON, environment

LOCAL = ("--set", "compute.processes=2")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


# Whether a parent's death ends its children is asked of real processes. What else is asked of a
# command or a worker may be asked of forks, which start in no time.
REAL = {"PYTHON_EXEC": sys.executable}


@contextlib.contextmanager
def launched(
    world: World, *arguments: object, python: str | Path = sys.executable, **more: str
) -> Iterator[subprocess.Popen[str]]:
    """A command under way; what is left of it is killed on the way out."""
    output = world.fresh()
    with (output / "stdout").open("w") as out, (output / "stderr").open("w") as err:
        process = subprocess.Popen(
            [python, *map(str, arguments)],
            env=environment() | more | {"FAULT_CASE": str(output)},
            stdout=out,
            stderr=err,
            text=True,
            start_new_session=True,
        )
    process.output = output  # type: ignore[attr-defined]  # where a case reads what it said
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def said(process: subprocess.Popen[str], which: str) -> str:
    """What it printed."""
    return (process.output / which).read_text()  # type: ignore[attr-defined]


def workers(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process id of every rank that a launcher started."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError):
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            told = dict(entry.decode().partition("=")[::2] for entry in entries if entry)
            if "RANK" in told and told.get("FAULT_CASE") == str(process.output):  # type: ignore[attr-defined]
                found[int(told["RANK"])] = pid
    return found


def in_training(workdir: Path, checkpoints: int) -> bool:
    """Whether training has saved this often."""
    return len(list(workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))) >= checkpoints


def local(world: World) -> Reference:
    """The undisturbed run whose training has two local workers."""

    reference = world.reference("cadc")

    def make(folder: Path) -> Reference:
        workdir = shutil.copytree(world.begun(reference, before="train"), folder / "work")
        run = ("-m", "cadc_rec", "run", reference.config, "--workdir", workdir, "--json", *LOCAL)
        with launched(world, *run, python=FORKED_PYTHON) as process:
            assert process.wait(timeout=200) == 0, said(process, "stderr")
            result = json.loads(said(process, "stdout"))
        artifacts = {stage: Path(path) for stage, path in result["artifacts"].items()}
        return Reference(reference.config, 1, workdir, artifacts, result["metrics"], {})

    return world.kept("undisturbed-local", make)


def compute_processes(victim: str, seed: int, world: World) -> None:
    """``compute.processes=2``: a worker dies, or the command that started them."""
    reference, draw = local(world), random.Random(f"{victim}, {seed}")
    workdir = world.begun(reference, before="train")
    run = ("-m", "cadc_rec", "run", reference.config, "--workdir", workdir, "--json", *LOCAL)
    python = sys.executable if victim == "command" else FORKED_PYTHON
    with launched(world, *run, python=python) as process:
        until(lambda: in_training(workdir, 2), processes=[process])
        time.sleep(draw.uniform(0, 0.5))
        ranks = workers(process)
        if victim == "command":
            process.kill()
            assert process.wait(timeout=60) == -signal.SIGKILL
        else:
            os.kill(ranks[int(victim)], signal.SIGKILL)
            assert process.wait(timeout=60) == 2
            assert said(process, "stderr").count("error: ") == 1
            assert f"error: worker {victim} of 2 was ended by signal 9" in said(process, "stderr")
        until(lambda: not any(map(alive, ranks.values())), seconds=10)
    with launched(world, *run, python=FORKED_PYTHON) as process:
        assert process.wait(timeout=200) == 0, said(process, "stderr")
        same_as(reference, workdir, json.loads(said(process, "stdout")))
        assert "resuming from" in said(process, "stderr")


def torchrun(victim: str, seed: int, world: World) -> None:
    """torchrun: it starts workers anew by itself; killed itself, its workers die with it."""
    reference, draw = world.reference("cadc", 2), random.Random(f"torchrun, {victim}, {seed}")
    workdir = world.begun(reference, before="train")
    command = ("-m", "cadc_rec", "run", reference.config, "--workdir", workdir, "--json")
    setting = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    real = REAL if victim == "agent" else {}
    with launched(world, *TORCHRUN, "--max-restarts", 1, *command, **setting | real) as process:
        until(lambda: in_training(workdir, 2), processes=[process])
        time.sleep(draw.uniform(0, 0.5))
        ranks = workers(process)
        assert sorted(ranks) == [0, 1]
        os.kill(process.pid if victim == "agent" else ranks[int(victim)], signal.SIGKILL)
        if victim == "agent":
            process.wait(timeout=10)
            until(lambda: not any(map(alive, ranks.values())), seconds=10)
        else:
            assert process.wait(timeout=200) == 0, said(process, "stderr")
    if victim == "agent":
        with launched(world, *TORCHRUN, *command, **setting) as process:
            assert process.wait(timeout=200) == 0, said(process, "stderr")
    same_as(reference, workdir, json.loads(said(process, "stdout")))
    assert "resuming from" in said(process, "stderr")


CASES = [
    *(
        Case(
            f"compute.processes = 2, {'the command' if who == 'command' else 'a worker'} killed",
            f"{who}, seed {seed}",
            functools.partial(compute_processes, who, seed),
        )
        for seed, who in enumerate(("0", "1", "command"))
    ),
    *(
        Case(
            f"torchrun, {'the agent' if who == 'agent' else 'a worker'} killed",
            f"{who}, seed {seed}",
            functools.partial(torchrun, who, seed),
        )
        for seed, who in enumerate(("0", "1", "agent"))
    ),
]
