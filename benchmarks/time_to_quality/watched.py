"""Run a program within limits of memory and CPU time, and say which it passed.

In: a command. Out: how it ended, and what it and all that it started held and took. The numbers are
Linux's, read from ``/proc`` once a second: a short peak between two looks is not seen here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOOK_EVERY = 1.0  # seconds
_SESSION, _TIMES, _PAGES = 3, slice(11, 15), 21  # fields of /proc/PID/stat behind the name
_TICKS, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_GIB = 2**30


@dataclass(frozen=True)
class Limits:
    """What a run may take; all its processes together."""

    memory_gib: float
    cpu_hours: float


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        code: the exit status; negative is a signal's number.
        passed: which limit it was stopped at, a sentence with the numbers; None where it was not.
        cpu_seconds: at the last look.
        peak_bytes: the most that was held at a look.
    """

    code: int
    passed: str | None
    cpu_seconds: float
    peak_bytes: int


def run(
    command: Sequence[str], limits: Limits, log: Path, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run `command` in a session of its own until it ends or passes a limit.

    Args:
        command: program and arguments.
        limits: it is killed beyond one, with all it started.
        log: file for what it prints.
        environment: variables besides this process' own.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    cpu_seconds, peak = 0.0, 0
    passed: str | None = None
    try:
        while passed is None and process.poll() is None:
            held, taken = _session(process.pid)
            peak, cpu_seconds = max(peak, held), max(cpu_seconds, taken)
            passed = _passed(held, taken, limits)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0 if passed else _LOOK_EVERY)
    finally:  # at a Ctrl-C, too
        _kill(process)
    return Ended(process.returncode, passed, cpu_seconds, peak)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End what is left of the session, which may have outlived its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _passed(held: int, taken: float, limits: Limits) -> str | None:
    if held > limits.memory_gib * _GIB:
        return (
            f"memory: it held {held / _GIB:.1f} GiB after {taken:,.0f} CPU s, and may hold "
            f"{limits.memory_gib:g} GiB"
        )
    if taken > limits.cpu_hours * 3600:
        return f"time: it took {taken:,.0f} CPU s, and may take {limits.cpu_hours * 3600:,.0f}"
    return None


def _session(leader: int) -> tuple[int, float]:
    """Resident bytes and CPU seconds of a session's processes, and of those they waited for."""
    held, ticks = 0, 0
    for fields in _stats():
        if int(fields[_SESSION]) == leader:
            held += int(fields[_PAGES]) * _PAGE
            ticks += sum(map(int, fields[_TIMES]))
    return held, ticks / _TICKS


def _stats() -> Iterator[list[str]]:
    """Of every process, the fields behind its name, which may hold spaces."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = file.read_text("utf-8", errors="replace")
        except OSError:  # it has just ended
            continue
        yield text.rsplit(")", 1)[1].split()
