"""Our training in processes of its own: one or two, of so many threads each.

A turn starts them under torch's launcher, trains a warm-up epoch and a few measured ones, and
reports the median of their seconds. Starting takes far longer than training and is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.ours import WITHOUT_EXTRAS
from benchmarks.peers.timing import Work
from benchmarks.peers.workload import Workload
from cadc_rec.distributed.launch import ENVIRONMENT
from cadc_rec.errors import CadcError

_START_SECONDS = 600.0


@dataclass(frozen=True)
class Spawn:
    """How one contender is started.

    Attributes:
        what: a line on it.
        method: whose ids it has.
        processes: of one thread each.
        sharding: of the id tables.
        against: the contender it is compared with beside the others'.
        divided: whether the processes divide one process's step, and do not take one each.
    """

    what: str
    method: str
    processes: int
    sharding: str = "data_parallel"
    against: str | None = None
    divided: bool = False


_ONE = "one process of one thread"
_TWO = "two processes of one thread"
SPAWNED = {
    "ours-trainable-1x1": Spawn(f"ours, ids learned, {_ONE}", "gold", 1),
    "ours-frozen-1x1": Spawn(f"ours, ids frozen, {_ONE}", "cadc", 1),
    "ours-trainable-2x1": Spawn(
        f"ours, ids learned, {_TWO}, tables replicated", "gold", 2, against="ours-trainable-1x1"
    ),
    "ours-trainable-2x1-sharded": Spawn(
        f"ours, ids learned, {_TWO}, tables by table",
        "gold",
        2,
        "table_wise",
        against="ours-trainable-1x1",
    ),
    "ours-frozen-2x1": Spawn(
        f"ours, ids frozen, {_TWO}, tables replicated", "cadc", 2, against="ours-frozen-1x1"
    ),
    "ours-frozen-2x1-sharded": Spawn(
        f"ours, ids frozen, {_TWO}, tables by column",
        "cadc",
        2,
        "column_wise",
        against="ours-frozen-1x1",
    ),
    "ours-frozen-2x1-divided": Spawn(
        f"ours, ids frozen, {_TWO}, tables by column, one process's step divided",
        "cadc",
        2,
        "column_wise",
        against="ours-frozen-1x1",
        divided=True,
    ),
}


@dataclass(frozen=True)
class Spawned:
    """A contender of `SPAWNED`."""

    workload: Workload
    name: str
    spawn: Spawn

    def turn(self) -> Work:
        """Start, train, wait.

        Raises:
            CadcError: it failed; what it said is quoted.
        """
        spawn = self.spawn
        kinds = [f"sharding.{side}={spawn.sharding}" for side in ("trainable", "frozen")]
        overrides = [*WITHOUT_EXTRAS, *kinds, "compute.threads=1"]
        experiment = self.workload.experiment(spawn.method, overrides)
        if not spawn.divided:  # a step of the usual size for each process
            size = experiment.train.batch_size * spawn.processes
            experiment = self.workload.experiment(
                spawn.method, [*overrides, f"train.batch_size={size}"]
            )
        task = {
            "experiment": experiment.model_dump(mode="json"),
            "dataset": str(self.workload.prepared.path),
            "rows": self.workload.steps * experiment.train.batch_size,
        }
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(spawn.processes), "-m", "benchmarks.peers.worker"]
        with tempfile.TemporaryDirectory() as folder:
            told, answer = Path(folder, "task.json"), Path(folder, "answer.json")
            told.write_text(json.dumps(task), "utf-8")
            done = subprocess.run(
                [*command, str(told), str(answer)],
                env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                timeout=_START_SECONDS,
                check=False,
            )
            if done.returncode or not answer.exists():
                raise CadcError(f"{self.name} failed: {done.stderr.strip()[-2000:]}")
            said = json.loads(answer.read_text("utf-8"))
        return Work(said["units"], said["seconds"])
