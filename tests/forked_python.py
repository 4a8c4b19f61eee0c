#!/usr/bin/env -S python3 -ESs
"""Stands in for the Python that launchers start workers with: a fork where they expect a process.

    tests/forked_python.py [-u] -m cadc_rec ARGUMENTS

Starting ``cadc-rec`` takes seconds of a core for its imports, and a launcher (torchrun, our own
local workers, a study) starts several. This process asks the tests' parent of all processes
(`tests.zygote_server`) for a fork that is the command, hands on signals, and ends as it ends.
Killed itself, it takes the fork with it; it dies with the process that started it. Any other
command line it hands to the real Python.
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys

_SOCKET, _PIDS = "FORKED_PYTHON_SOCKET", "FORKED_PYTHON_PIDS"
_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Be the command."""
    command = [word for word in sys.argv[1:] if word != "-u"]
    if command[:2] != ["-m", "cadc_rec"] or _SOCKET not in os.environ:
        os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
    if any(
        mark in os.environ
        for mark in ("_CADC_REC_WORKER", "_CADC_REC_CHILD", "TORCHELASTIC_RUN_ID")
    ):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Held back until there is a process to hand them to.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)
    request = json.dumps(
        {
            "arguments": command[2:],
            "script": False,
            "environment": dict(os.environ),
            "folder": os.getcwd(),
            "dies_with_asker": True,
        }
    ).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.environ[_SOCKET])
        connection.sendall(len(request).to_bytes(8, "big"))
        sent = socket.send_fds(connection, [request], [1, 2])
        connection.sendall(request[sent:])
        answers = connection.makefile("r")
        pid = int(answers.readline())
        if _PIDS in os.environ:  # a test looks for the rank's process
            os.makedirs(os.environ[_PIDS], exist_ok=True)
            with open(os.path.join(os.environ[_PIDS], os.environ["RANK"]), "w") as file:
                file.write(str(pid))

        def hand_on(number: int, _: object) -> None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its code is to come
                os.kill(pid, number)

        for number in _HANDED_ON:
            signal.signal(number, hand_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
        code = int(answers.readline())
    if code < 0:  # as it ended: by a signal
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
