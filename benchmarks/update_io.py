"""What a command reads and writes, stage by stage.

Runs a command of cadc-rec in this process and prints the bytes that it read and wrote (`rchar` and
`wchar` of ``/proc/self/io``: whatever went through system calls; mapped pages are not counted) and
the seconds of each stage, artifacts that were there already left out.

    python -m benchmarks.update_io update shop.toml --new days/monday
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from cadc_rec.cli.main import main
from cadc_rec.pipeline.runner import StageRunner
from cadc_rec.pipeline.stage import Job
from cadc_rec.store.artifact import Artifact


def counted() -> tuple[int, int]:
    """Bytes read and written by this process so far."""
    lines = Path("/proc/self/io").read_text("ascii").splitlines()
    found = dict(line.split(": ") for line in lines)
    return int(found["rchar"]), int(found["wchar"])


def measured(make: Callable[[StageRunner, Job], Artifact]) -> Callable[..., Artifact]:
    """`StageRunner.make`, which prints what it took."""

    def measure(self: StageRunner, job: Job) -> Artifact:
        before, started = counted(), time.perf_counter()
        made: Artifact = make(self, job)
        read, wrote = (now - then for now, then in zip(counted(), before, strict=True))
        if not made.cached:
            seconds = time.perf_counter() - started
            print(
                f"{job.stage.name:12} read {read / 1e6:8.1f} MB, wrote {wrote / 1e6:8.1f} MB, "
                f"{seconds:6.1f} s",
                file=sys.stderr,
            )
        return made

    return measure


if __name__ == "__main__":
    setattr(StageRunner, "make", measured(StageRunner.make))  # noqa: B010 - a method is replaced on purpose
    main()
