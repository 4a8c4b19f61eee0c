"""Processes of the tests: forks of one that has loaded the libraries, or real commands.

One such parent serves a whole session of pytest, all workers of it, see `tests.zygote_server`. A
`Process` behaves as a `subprocess.Popen` whose output goes to files.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
FORKED_PYTHON = Path(__file__).with_name("forked_python.py")
_SOCKET = "FORKED_PYTHON_SOCKET"  # names the socket, for the workers of pytest too
_numbers = itertools.count()
GONE = "the process that forks the tests' processes has gone"
# What torchrun starts workers with. A test of what happens to real workers takes it out.
FORKS = {"PYTHON_EXEC": str(FORKED_PYTHON)}


class Process:
    """A process under way, and what it wrote."""

    def __init__(self, pid: int, connection: socket.socket, folder: Path) -> None:
        self.pid, self.folder, self.returncode = pid, folder, None
        self._connection = connection

    def poll(self) -> int | None:
        """Its exit code, the negative number of the signal that ended it, or None."""
        with contextlib.suppress(TimeoutError, BlockingIOError):
            return self._ended(0)
        return None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        try:
            return self._ended(timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired("cadc-rec", timeout, stderr=self.said) from None

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it wrote to standard output and standard error, once it has ended."""
        self.wait(timeout)
        return (self.folder / "stdout").read_text(), self.said

    @property
    def said(self) -> str:
        """Standard error so far."""
        return (self.folder / "stderr").read_text()

    def send_signal(self, number: int) -> None:
        """Nothing where it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended(self, timeout: float | None) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            line = self._connection.recv(16)
            assert line, GONE
            self.returncode = int(line)
            self._connection.close()
        return self.returncode


def start(
    arguments: Iterable[object],
    environment: Mapping[str, str],
    *,
    script: bool = False,
    folder: Path | None = None,
    working: str | None = None,
    address: str | None = None,
) -> Process:
    """Fork a process.

    Args:
        arguments: of the command; of a script: its path, then its arguments.
        environment: all of it. What libraries read while they are loaded is as in `environment`.
        script: run a Python script instead of the command.
        folder: for what it writes to standard output and standard error; default a new one.
        working: the folder that it starts in; default this process's.
        address: of the socket of another parent than the session's.
    """
    folder = folder or Path(os.environ[_SOCKET]).parent / f"{os.getpid()}-{next(_numbers)}"
    folder.mkdir(parents=True, exist_ok=True)
    request = json.dumps(
        {
            "arguments": [str(argument) for argument in arguments],
            "script": script,
            "environment": dict(environment),
            "folder": working or str(Path.cwd()),
        }
    ).encode()
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address or os.environ[_SOCKET])
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        connection.sendall(len(request).to_bytes(8, "big"))
        sent = socket.send_fds(connection, [request], [out.fileno(), err.fileno()])
        connection.sendall(request[sent:])
        pid = b""
        while not pid.endswith(b"\n"):  # one byte at a time: its exit code may follow at once
            byte = connection.recv(1)
            assert byte, GONE
            pid += byte
    return Process(int(pid), connection, folder)


def of_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What a launcher tells a rank of a job on one machine."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def run_ranks(script: Path, arguments: Sequence[object], ranks: int, seconds: float) -> None:
    """Run a script as the ranks of one job, to its end; fails where one of them does."""
    told = environment()
    port = free_port()
    started = [
        start([script, *arguments], told | of_rank(rank, ranks, port), script=True)
        for rank in range(ranks)
    ]
    end = time.monotonic() + seconds
    try:
        while None in (codes := [process.poll() for process in started]):
            assert not any(codes), f"{codes}: " + "".join(process.said for process in started)
            assert time.monotonic() < end, "".join(process.said for process in started)
            time.sleep(0.01)
        assert not any(codes), "".join(process.said for process in started)
    finally:
        for process in started:
            process.kill()


def free_port() -> int:
    """A port that nobody uses at this moment."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def environment() -> dict[str, str]:
    """Of every process that the tests start: this checkout, one thread, no settings of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CADC_REC_", "PYTEST_"))}
    paths = [str(ROOT), *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # torchrun, of this Python
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        **FORKS,
    }


class Server:
    """The parent of all, from here until `close`; it loads nothing until it is asked."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="zygote-"))
        path = str(self.folder / "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.zygote_server", path],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "listening\n"
        os.environ[_SOCKET] = path

    def close(self) -> None:
        """End it, and whatever it started."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        del os.environ[_SOCKET]
        shutil.rmtree(self.folder, ignore_errors=True)
