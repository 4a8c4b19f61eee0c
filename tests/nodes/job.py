"""A job of two nodes by two ranks, started as the `run` component has each node start it."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

from torchx.specs import macros

from launch import components
from tests.faults.processes import until
from tests.nodes.machines import BUCKET, Lab, Machine
from tests.zygote import Process

STAGES = ("prepare", "pretrain", "transitions", "prior", "select", "train", "evaluate")
# Every stage there is, each as short as it can be.
CONFIG = """
seed = 0
method = "recipe"

[data.generated]
users = 60
items = 40
interactions = 900

[pretrain]
factors = 15

[select]
ratio = 4.0
shards = 4

[model]
id_dim = 16
feature_dim = 4
tower = [16, 8]

[history]
windows = [1, 3]

[methods.recipe]
history.length = 4

[train]
epochs = 3
patience = 0
batch_size = 128

[checkpoint]
every_seconds = 0
every_epochs = 1

[compute]
device = "cpu"
threads = 1
timeout_seconds = 60
"""
_numbers = itertools.count(1)


class Job:
    """One job, in a folder of the store of its own.

    Args:
        lab: the machines.
        restarts: how often an agent starts its ranks again.
        settings: further ones, as `torchx run --set` takes them.
    """

    def __init__(self, lab: Lab, restarts: int = 0, settings: str = "") -> None:
        self.lab, self.number = lab, next(_numbers)
        self.address = f"s3://{BUCKET}/work-{self.number}"
        app = components.run(
            config="job.toml",
            workdir=self.address,
            set=settings,
            j="2x2",
            restarts=restarts,
            rdzv_port=29400 + self.number,
        )
        (role,) = app.roles
        self._pids = f"pids-{self.number}"
        self.role = macros.Values(
            img_root="", app_id=f"job-{self.number}", replica_id="0", rank0_env="FIRST"
        ).apply(role)
        self.agents: dict[str, Process] = {}

    def start(self, *nodes: Machine) -> None:
        """Start the agents of these nodes."""
        program, *arguments = shlex.split(self.role.args[-1].replace("${FIRST:=localhost}", "a"))
        assert program == "torchrun"
        for node in nodes:
            (node.disk / "tmp/home/job.toml").write_text(CONFIG)
            self.agents[node.name] = node.start(
                [Path(__file__).with_name("agent.py"), *arguments],
                script=True,
                FORKED_PYTHON_PIDS=f"/tmp/{self._pids}",
                **self.role.env,
            )

    def end(self, seconds: float = 300) -> None:
        """Wait until it has ended well."""
        for agent in self.agents.values():
            agent.wait(seconds)
        assert [agent.returncode for agent in self.agents.values()] == [0, 0], self.said

    def reaches(self, stage: str) -> None:
        """Wait until rank 0 works at a stage."""

        def works() -> bool:
            work = self.work(self.lab.a)
            return work is not None and any((work / ".tmp").glob(f"{stage}-*/"))

        until(works, processes=self.agents.values())

    def pid_of(self, rank: int, node: Machine) -> tuple[int, int]:
        """Process id of a rank: as its node knows it, and as we do."""
        inside = int((node.disk / "tmp" / self._pids / str(rank)).read_text())
        return inside, node.seen_from_here(inside)

    def work(self, node: Machine) -> Path | None:
        """The cache of the work folder on a node; None before there is one."""
        caches = node.disk / "tmp/home/.cache/cadc-rec/stores"
        return next(caches.glob(f"s3-{BUCKET}-work-{self.number}-*"), None)

    @property
    def said(self) -> str:
        """By all of it."""
        return "".join(f"{name}:\n{agent.said}" for name, agent in self.agents.items())
