"""Agents that die, come back, and join: torchrun's elastic launch, as the component asks for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from torchx.specs import macros

from launch import components
from tests.faults.processes import alive, children, until
from tests.faults.world import CADC
from tests.zygote import environment, free_port

pytestmark = [pytest.mark.slow, pytest.mark.distributed, pytest.mark.timeout(600)]


class Job:
    """The train component with nodes that are started and killed one by one."""

    def __init__(self, folder: Path, nodes: str) -> None:
        self.folder, self.workdir = folder, folder / "work"
        self.port = free_port()
        config = folder / "experiment.toml"
        config.write_text(CADC)
        # Endless, however fast the machine is; how a run ends is the matrix's to test.
        settings = "train.epochs=1000000;train.evaluate_every=50;checkpoint.every_epochs=20"
        app = components.train(
            config=str(config),
            workdir=str(self.workdir),
            set=settings,
            j=f"{nodes}x1",
            restarts=5,
            rdzv_port=self.port,
        )
        (role,) = app.roles
        self.role = macros.Values(
            img_root="", app_id="job", replica_id="0", rank0_env="NO_SUCH_VARIABLE"
        ).apply(role)
        self.agents: list[subprocess.Popen[str]] = []

    def agent(self) -> subprocess.Popen[str]:
        """Start a node."""
        with (self.folder / f"{len(self.agents)}.log").open("w") as log:
            agent = subprocess.Popen(
                [self.role.entrypoint, *self.role.args],
                env=environment() | self.role.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=self.folder,
                start_new_session=True,
            )
        self.agents.append(agent)
        return agent

    def has_a_host(self) -> bool:
        """Whether an agent keeps the rendezvous."""
        with socket.socket() as probe:
            return probe.connect_ex(("localhost", self.port)) == 0

    def worker(self, agent: subprocess.Popen[str]) -> dict[str, str]:
        """Process id and environment of an agent's only worker; empty where it has none."""
        for pid in children(agent.pid):
            with contextlib.suppress(OSError):
                entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                told = dict(entry.decode().partition("=")[::2] for entry in entries if entry)
                if "RANK" in told:
                    return {**told, "pid": str(pid)}
        return {}

    def trains_in(self, world_size: int, agent: subprocess.Popen[str]) -> float:
        """Wait until a job of this size trains; seconds from now until its first checkpoint."""
        asked = time.monotonic()
        until(lambda: self.worker(agent).get("WORLD_SIZE") == str(world_size), processes=[agent])
        met = time.time()
        until(
            lambda: any(
                path.stat().st_mtime > met
                for path in self.workdir.glob("checkpoints/[!p]*/[0-9]*-step-*")
            ),
            processes=[agent],
        )
        return time.monotonic() - asked

    def kill(self, agent: subprocess.Popen[str]) -> None:
        """As a node that is lost: the agent dies, and its worker with it.

        Workers are forks here, which end with their agent anyway; that real ones do is the matrix's
        to test (`tests/faults/launchers.py`).
        """
        pid = int(self.worker(agent)["pid"])
        # The shell that the component runs in has become the agent.
        os.kill(agent.pid, signal.SIGKILL)
        agent.wait()
        until(lambda: not alive(pid), seconds=10)

    def saved(self) -> dict[str, Any]:
        """The manifest of the newest checkpoint."""
        newest = max(self.workdir.glob("checkpoints/[!p]*/[0-9]*-step-*"))
        return json.loads((newest / "manifest.json").read_text())


@pytest.fixture
def job(tmp_path):
    """Make a job of a number of nodes; what is left of it is killed."""
    made = []

    def make(nodes):
        made.append(Job(tmp_path, nodes))
        return made[-1]

    yield make
    for agent in made[0].agents:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(agent.pid, signal.SIGKILL)
        agent.wait()


def ranks_before(saved):
    """How many ranks wrote each of the checkpoints that training went on from."""
    return [step["ranks"] for step in saved["resumed"]]


def test_a_job_grows_by_an_agent_that_comes_and_goes_on_without_it(job):
    elastic = job("1:2")
    first = elastic.agent()
    elastic.trains_in(1, first)
    second = elastic.agent()
    elastic.trains_in(2, first)
    assert elastic.worker(second)["WORLD_SIZE"] == "2"
    elastic.kill(second)
    elastic.trains_in(1, first)
    saved = elastic.saved()
    assert saved["ranks"] == 1
    assert ranks_before(saved) == [1, 2]


def test_a_lost_agent_comes_back_and_training_goes_on(job):
    fixed = job("2")
    first = fixed.agent()
    until(fixed.has_a_host)  # the first one: with the agent that keeps the rendezvous a job ends
    second = fixed.agent()
    fixed.trains_in(2, first)
    fixed.kill(second)
    third = fixed.agent()
    fixed.trains_in(2, first)
    assert fixed.worker(third)["WORLD_SIZE"] == "2"
    saved = fixed.saved()
    assert saved["ranks"] == 2
    assert ranks_before(saved) == [2]


def test_a_killed_worker_is_started_anew_and_goes_on_from_the_last_checkpoint(job):
    one = job("1:2")
    agent = one.agent()
    one.trains_in(1, agent)
    os.kill(int(one.worker(agent)["pid"]), signal.SIGKILL)
    until(lambda: one.worker(agent).get("TORCHELASTIC_RESTART_COUNT") == "1", processes=[agent])
    one.trains_in(1, agent)
    assert ranks_before(one.saved()) == [1]
