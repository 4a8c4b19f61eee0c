"""How long a job takes to train again after a worker was killed, and where the time goes.

    python -m tests.faults.restart            # two workers of one agent
    python -m tests.faults.restart 1:2        # one worker of an elastic job, with our last call
    python -m tests.faults.restart 1:2 30     # the same with torchrun's own

In: nothing. Out: seconds from the kill until new workers are there, until they have loaded their
libraries and met, until they go on from the checkpoint, and until they have saved the next one.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from launch.components import _LAST_CALL_SECONDS
from tests.faults.launchers import in_training, launched, said, workers
from tests.faults.processes import until
from tests.faults.world import CADC, World
from tests.zygote import free_port


def measure(nodes: str, last_call: str) -> dict[str, float]:
    """One kill; what was reached after how many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), once=lambda _, make: make(Path(folder)))
        workdir = world.fresh() / "work"
        config = world.config("cadc")
        config.write_text(CADC)
        processes = 2 if nodes == "1" else 1
        agent = (
            *("-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", processes),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{free_port()}"),
            *("--rdzv-conf", f"last_call_timeout={last_call}", "--max-restarts", 1),
        )
        train = ("-m", "cadc_rec", "train", config, "--workdir", workdir)
        endless = ("--set", "train.epochs=1000000", "--set", "checkpoint.every_epochs=5")
        setting = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        with launched(world, *agent, *train, *endless, **setting) as process:
            until(lambda: in_training(workdir, 2), processes=[process])
            before = workers(process)
            os.kill(max(before.values()), signal.SIGKILL)
            killed, wall = time.monotonic(), time.time()
            reached = {}

            def when(name: str, condition) -> None:
                until(condition, processes=[process])
                reached[name] = time.monotonic() - killed

            when("new workers", lambda: set(workers(process).values()) - set(before.values()))
            again = lambda text: said(process, "stderr").count(text)  # noqa: E731  # of one use
            when("loaded, met, artifacts verified", lambda: again("select: kept") >= 1)
            when("resuming from the checkpoint", lambda: again("resuming from") >= 1)
            when(
                "next checkpoint saved",
                lambda: any(
                    path.stat().st_mtime > wall + reached["resuming from the checkpoint"]
                    for path in workdir.glob("checkpoints/[!p]*/[0-9]*-step-*")
                ),
            )
        return reached


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "1"
    seconds = sys.argv[2] if len(sys.argv) > 2 else str(_LAST_CALL_SECONDS)
    for name, value in measure(chosen, seconds).items():
        print(f"{value:6.1f} s  {name}")
