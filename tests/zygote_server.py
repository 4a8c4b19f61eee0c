"""Starts ``cadc-rec``, or a script, many times for the price of one import.

    python tests/zygote_server.py SOCKET

Loading torch, TorchRec and fbgemm takes seconds of a core; a run of the tests' world takes one.
This process loads them, when it is first asked, and nothing else: it starts no thread, opens no
file, joins no group. Each run is a fork of it that calls the very entry point of the command, and
is a process like any other: killed, it loses what the command would lose.

In: connections to a Unix socket, each with one JSON object (see `Request`) and two open files for
standard output and standard error. Out, on each: the process id, then its exit code once it has
ended, a JSON line each. It ends, and ends whatever it started, when its standard input closes.
The other end is `tests.zygote`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import signal
import socket
import sys
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# The agent of local workers, beside the package itself.
_BESIDE = ("duckdb", "ibis", "ibis.backends.duckdb", "torch.distributed.launcher.api")


_PR_SET_PDEATHSIG = 1
FORKED_PYTHON = Path(__file__).with_name("forked_python.py")
WORKER_MARK, CHILD_MARK = "_CADC_REC_WORKER", "_CADC_REC_CHILD"


@dataclass(frozen=True)
class Request:
    """What is to be started.

    Attributes:
        arguments: of the command; or a script's path and its arguments.
        script: whether it is a script.
        environment: all of it.
        folder: where it starts.
        dies_with_asker: kill it when the other end of its connection closes.
    """

    arguments: list[str]
    script: bool
    environment: dict[str, str]
    folder: str
    dies_with_asker: bool = False


def load() -> None:
    """Import the whole package, and what it imports late."""
    import cadc_rec

    serves = find_spec("kserve") is not None  # else a half of what the service loads is no use
    for module in pkgutil.walk_packages(cadc_rec.__path__, "cadc_rec."):
        left_out = module.name.startswith("cadc_rec.serving.http") and not serves
        if not left_out and not module.name.endswith("__main__"):
            # mlflow and others are extras
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)
    for name in _BESIDE:
        importlib.import_module(name)
    assert threading.active_count() == 1  # a fork would leave the others behind
    gc.freeze()  # a fork that looks through all this for garbage copies it


def begin(request: Request, files: list[int]) -> int:
    """Fork a process that is the command; its process id."""
    child = os.fork()
    if child:
        with contextlib.suppress(OSError):
            os.setpgid(child, child)  # it does so too; whoever comes first
        return child
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # it does not outlive the tests
        with contextlib.suppress(OSError):
            os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGCHLD, signal.SIG_DFL),
        ):
            signal.signal(number, handler)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for number, file in enumerate((nothing, *files)):
            os.dup2(file, number)
        os.closerange(3, 1024)  # the sockets of the others
        os.environ.clear()
        os.environ.update(request.environment)
        for mark in (WORKER_MARK, CHILD_MARK):  # they name the parent, which this process is not
            if request.dies_with_asker and mark in os.environ:
                os.environ[mark] = str(os.getppid())
        sys.executable = str(FORKED_PYTHON)  # what it starts are forks too
        os.chdir(request.folder)
        sys.argv = request.arguments if request.script else ["cadc-rec", *request.arguments]
        if request.script:
            runpy.run_path(sys.argv[0], run_name="__main__")
        else:
            from cadc_rec.cli.main import main

            main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def received(connection: socket.socket) -> tuple[Request | None, list[int]]:
    """A request and its open files; no request where the asker ended before it had asked."""
    files: list[int] = []
    try:
        length = int.from_bytes(connection.recv(8, socket.MSG_WAITALL), "big")
        sent, files, _, _ = socket.recv_fds(connection, 1, 2)
        sent += connection.recv(length - len(sent), socket.MSG_WAITALL)
        return Request(**json.loads(sent)), files
    except (OSError, ValueError):
        return None, files


class Server:
    """One thread: takes requests, forks, and tells how each process ended."""

    def __init__(self, listener: socket.socket) -> None:
        self.loaded = False
        self.children: dict[int, socket.socket] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ, self.accept)
        self.selector.register(sys.stdin.fileno(), selectors.EVENT_READ, self.stop)
        # A signal of a child that ended wakes the selector.
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.selector.register(woken, selectors.EVENT_READ, self.reap)

    def serve(self) -> None:
        """Until standard input closes."""
        while True:
            for key, _ in self.selector.select():
                key.data(key.fileobj)

    def accept(self, listener: socket.socket) -> None:
        """One request, one process; none for an asker that was killed while it asked."""
        connection, _ = listener.accept()
        request, files = received(connection)
        if request is None:
            connection.close()
        else:
            if not self.loaded:
                load()
                self.loaded = True
            child = begin(request, files)
            self.children[child] = connection
            with contextlib.suppress(OSError):  # one killed just now: `asker_gone` sees it
                connection.sendall(f"{child}\n".encode())
            if request.dies_with_asker:
                self.selector.register(
                    connection, selectors.EVENT_READ, functools.partial(self.asker_gone, child)
                )
        for file in files:
            os.close(file)

    def asker_gone(self, child: int, connection: socket.socket) -> None:
        """Kill a process whose asker has closed the connection; `reap` sees it end."""
        if self.children.get(child) is connection:  # else reaped in this same round of events
            self.selector.unregister(connection)
            os.kill(child, signal.SIGKILL)

    def reap(self, woken: int) -> None:
        """Tell of every process that has ended."""
        with contextlib.suppress(BlockingIOError):
            os.read(woken, 4096)
        for child in list(self.children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                with self.children.pop(child) as connection:
                    with contextlib.suppress(KeyError):
                        self.selector.unregister(connection)
                    with contextlib.suppress(OSError):  # its asker may have gone
                        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def stop(self, _: object) -> None:
        """End whatever still runs, and this process."""
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        os._exit(0)  # at once: what was loaded has nothing to put away


if __name__ == "__main__":
    # Ctrl-C in a terminal is for pytest, which then closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(sys.argv[1])
        listening.listen(64)
        print("listening", flush=True)
        Server(listening).serve()
