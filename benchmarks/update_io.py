"""What a command reads, writes and computes, stage by stage.

Runs a command of cadc-rec in this process and prints the bytes that it read and wrote (`rchar` and
`wchar` of ``/proc/self/io``: whatever went through system calls; mapped pages are not counted), the
processor time (user and system, children's too) and the seconds of each stage, artifacts that were
there already left out. What lies between two stages, such as imports, is a line of its own; so is
the whole command from the start of Python.

    python -m benchmarks.update_io update shop.toml --new days/monday
    python -m benchmarks.update_io --out FILE.json NAME update ...    # adds processor seconds to it
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.recorded.files import add
from cadc_rec.cli.main import main
from cadc_rec.pipeline.runner import StageRunner
from cadc_rec.pipeline.stage import Job
from cadc_rec.store.artifact import Artifact


@dataclass(frozen=True)
class Spent:
    """What this process took so far, or between two moments: bytes, and seconds."""

    read: int = 0
    wrote: int = 0
    processor: float = 0.0
    clock: float = 0.0

    @staticmethod
    def now() -> Spent:
        """So far."""
        lines = Path("/proc/self/io").read_text("ascii").splitlines()
        found = dict(line.split(": ") for line in lines)
        processor = sum(os.times()[:4])
        return Spent(int(found["rchar"]), int(found["wchar"]), processor, time.perf_counter())

    def since(self, before: Spent) -> Spent:
        """What came after `before`."""
        return Spent(
            self.read - before.read,
            self.wrote - before.wrote,
            self.processor - before.processor,
            self.clock - before.clock,
        )

    def tell(self, name: str) -> None:
        """A line on standard error."""
        print(
            f"{name:12} read {self.read / 1e6:8.1f} MB, wrote {self.wrote / 1e6:8.1f} MB, "
            f"processor {self.processor:7.1f} s, clock {self.clock:7.1f} s",
            file=sys.stderr,
        )


class Measured:
    """Stands in for `StageRunner.make`."""

    def __init__(self, make: Callable[[StageRunner, Job], Artifact]) -> None:
        self.make = make
        self.started = time.perf_counter()
        self.last = Spent(clock=self.started)
        self.seconds: dict[str, float] = {}
        """Of the processor: before the first stage (``start``), of each stage, of the ``rest``."""

    def __call__(self, runner: StageRunner, job: Job) -> Artifact:
        """Make the artifact and print what it took."""
        before = Spent.now()
        made = self.make(runner, job)
        if not made.cached:
            between = before.since(self.last)
            between.tell("between")
            self._add("rest" if self.seconds else "start", between)
            self.last = Spent.now()
            stage = self.last.since(before)
            stage.tell(job.stage.name)
            self._add(job.stage.name, stage)
        return made

    def end(self) -> None:
        """Print what came after the last stage, and the whole."""
        now = Spent.now()
        after, whole = now.since(self.last), now.since(Spent(clock=self.started))
        after.tell("after")
        whole.tell("in all")
        self._add("rest", after)
        self.seconds["without_start"] = whole.processor - self.seconds.get("start", 0.0)

    def _add(self, name: str, spent: Spent) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + spent.processor


if __name__ == "__main__":
    measured = Measured(StageRunner.make)
    setattr(StageRunner, "make", lambda *asked: measured(*asked))  # noqa: B010 - replaced on purpose
    out = name = ""
    if sys.argv[1:2] == ["--out"]:
        if len(sys.argv) < 5:
            sys.exit("error: --out takes a file, a name in it, and then cadc-rec's command")
        out, name = sys.argv[2:4]
        del sys.argv[1:4]
    try:
        main()
    finally:
        measured.end()
        if out:
            add(Path(out), name, measured.seconds)
