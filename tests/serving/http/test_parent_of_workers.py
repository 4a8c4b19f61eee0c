"""The parent of workers, with workers that answer a line with a line: none loads a bundle."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.workers import apart

_PARENT = """
import asyncio, os, signal, socket, sys, time

from cadc_rec.errors import CadcError
from cadc_rec.serving.http import workers

folder, how = sys.argv[1:]
workers._BEAT, workers._SILENT = 0.1, 2.0
first = socket.create_server(("127.0.0.1", 0), reuse_port=True)
port = first.getsockname()[1]
listeners = [first, socket.create_server(("127.0.0.1", port), reuse_port=True)]
fork, forks = os.fork, []

def failing():
    forks.append(1)
    if len(forks) == 1:
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()

if how == "no fork at first":
    os.fork = failing

async def run(place, link):
    stopped, hups = asyncio.Event(), []
    loop = asyncio.get_running_loop()
    if os.path.exists(f"{folder}/damaged"):
        raise CadcError("damaged.")
    if os.path.exists(f"{folder}/hangs"):
        os.rename(f"{folder}/hangs", f"{folder}/hung")
        time.sleep(60)
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hups.append, 1)

    async def reload():
        await asyncio.sleep(0.3)

    async def answer(reader, writer):
        while line := await reader.readline():
            said = "done"
            match line.decode().split():
                case ["who"]:
                    said = f"{place} {os.getpid()}"
                case ["hups"]:
                    said = str(len(hups))
                case ["hang"]:
                    time.sleep(60)
                case ["die"]:
                    os._exit(1)
                case ["load", seconds]:
                    try:
                        await asyncio.wait_for(link.reload_all(), float(seconds))
                    except TimeoutError:
                        said = "given up"
            writer.write(said.encode() + b"\\n")

    server = await asyncio.start_server(answer, sock=listeners[place])
    listening = asyncio.create_task(link.listen(reload, stopped.set))
    link.ready("here")
    await stopped.wait()
    server.close()

workers.Workers(2, run, listeners, 1.0).serve(lambda text: print(port, flush=True))
"""


class Parent:
    """A parent in a process of its own."""

    def __init__(self, folder, how=""):
        command = [sys.executable, "-c", _PARENT, str(folder), how]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def connection(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=10)

    def to(self, place):
        """A connection to the worker at a place, and its pid."""
        for _ in range(1000):
            one = self.connection()
            at, pid = ask(one, "who").split()
            if int(at) == place:
                return one, int(pid)
            one.close()
            time.sleep(0.01)
        raise AssertionError(f"nothing from worker {place}")


def ask(connection, word):
    connection.sendall(f"{word}\n".encode())
    return connection.makefile().readline().strip()


@pytest.fixture
def parent(tmp_path):
    one = Parent(tmp_path, "no fork at first")
    yield one
    one.process.terminate()
    assert one.process.wait(30) == 0


def test_sighup_reaches_every_worker_and_ends_none(parent):
    both = [parent.to(place) for place in (0, 1)]
    parent.process.send_signal(signal.SIGHUP)
    for connection, _ in both:
        end = time.monotonic() + 10
        while ask(connection, "hups") != "1":
            assert time.monotonic() < end
            time.sleep(0.02)
    assert [parent.to(place)[1] for place in (0, 1)] == [pid for _, pid in both]


def test_a_load_that_is_given_up_leaves_the_next_one_whole(parent):
    connection, _ = parent.to(0)
    assert ask(connection, "load 0.05") == "given up"
    assert ask(connection, "load 5") == "done"
    assert ask(connection, "load 5") == "done"


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced(parent):
    connection, pid = parent.to(1)
    _, other = parent.to(0)
    connection.sendall(b"hang\n")
    assert connection.recv(10) == b""  # it was killed
    assert parent.to(1)[1] != pid
    assert parent.to(0)[1] == other


@pytest.mark.slow
def test_a_worker_that_hangs_while_it_starts_is_replaced(parent, tmp_path):
    connection, pid = parent.to(1)
    (tmp_path / "hangs").touch()
    began = time.monotonic()
    connection.sendall(b"die\n")
    assert connection.recv(10) == b""
    while not (tmp_path / "hung").exists():
        assert time.monotonic() < began + 20
        time.sleep(0.02)
    end = time.monotonic() + 20
    while True:  # what waits for it is cut off when it is killed
        assert time.monotonic() < end
        try:
            with parent.connection() as one:
                one.settimeout(10)
                place, now = ask(one, "who").split()
        except (OSError, ValueError):
            continue
        if place == "1":
            break
    assert int(now) != pid
    assert time.monotonic() > began + 2  # seconds without a word, here


@pytest.mark.slow
def test_connections_go_to_the_others_while_a_worker_cannot_come_back(parent, tmp_path):
    connection, _ = parent.to(1)
    first, pid = parent.to(0)
    (tmp_path / "damaged").touch()
    connection.sendall(b"die\n")
    assert connection.recv(10) == b""
    end = time.monotonic() + 20
    answered = 0
    while answered < 20:  # some wait at first, and are cut off when nobody comes
        assert time.monotonic() < end
        try:
            with parent.connection() as one:
                one.settimeout(1)
                answered = answered + 1 if ask(one, "who") == f"0 {pid}" else 0
        except OSError:
            answered = 0
    assert ask(first, "who") == f"0 {pid}"
    (tmp_path / "damaged").unlink()
    parent.to(1)


_METRICS = """
import os, sys
from pathlib import Path

from cadc_rec.serving.http.shared_metrics import exposition, forget, shared_metrics

with shared_metrics(2):
    from cadc_rec.serving.http.loaded import _LOADED
    from cadc_rec.serving.http.tls import _ENDS

    _ENDS.set(5.0)  # as the parent that looks at the pair before it forks
    forget(os.getpid())
    for ends in (7.0, 9.0):
        if os.fork() == 0:
            _ENDS.set(ends)
            _LOADED.labels("old").set(3.0)
            _LOADED.labels("old").set(0)
            _LOADED.labels("new").set(ends)
            os._exit(0)
        os.wait()
    print(exposition().decode())
"""


def test_metrics_of_what_is_now_are_those_of_workers_and_of_the_current_bundle():
    command = [sys.executable, "-c", _METRICS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert "cadc_rec_tls_not_after_timestamp_seconds 7.0" in lines  # the one that ends first
    loaded = [line for line in lines if line.startswith("cadc_rec_bundle_loaded")]
    assert loaded == ['cadc_rec_bundle_loaded_timestamp_seconds{fingerprint="new"} 9.0']


def test_work_is_done_in_another_process_and_its_errors_are_told():
    assert apart(os.getpid) != os.getpid()
    with pytest.raises(CadcError, match="no such bundle"):
        apart(_refuse, "no such bundle")
    with pytest.raises(CadcError, match="_exit ended before; the log says why"):
        apart(os._exit, 1)


def _refuse(text):
    raise CadcError(text)
