"""A neighbour that keeps one core busy, and what contenders take beside it.

It computes and never waits, as somebody else's single-threaded job does, and the system places it
as it likes: it is not bound to a core, nor are our threads. It reads no memory to speak of, so what
is measured is the loss of a core and not of bandwidth. It has the niceness of the measured process,
whose fair share is then all but half of that core.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

# It ends with its parent, however that ends.
_LOOP = """
import os, sys
print("busy", flush=True)
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


@dataclass
class Neighbour:
    """Keeps one core busy at times.

    Attributes:
        seconds: for one unit of work beside it, by contender, a value for each round.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Within, it computes."""
        command = [sys.executable, "-c", _LOOP, str(os.getpid())]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()  # it has started
                yield
            finally:
                process.kill()


def sides(neighbour: Neighbour | None, number: int) -> list[Neighbour | None]:
    """In which company a contender takes its turns of round `number`: none (None), and its own.

    Which comes first changes from round to round.
    """
    if neighbour is None:
        return [None]
    return [neighbour, None] if number % 2 else [None, neighbour]


def beside(neighbour: Neighbour | None) -> AbstractContextManager[None]:
    """Within, the neighbour computes; None leaves the machine as it is."""
    return nullcontext() if neighbour is None else neighbour.busy()
