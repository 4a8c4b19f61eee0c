"""Several processes that serve one bundle at one port, and the one that looks after them.

In: what a worker runs. Out: nothing; it returns when all have stopped. The parent loads the
libraries once and forks; each worker maps the bundle's files, so all of them share one copy. Each
has a listening socket of its own at the same port, among which the system deals out connections.
The parent holds these, so that connections to a worker that has died wait for the next one.

A worker that dies, or whose loop stands still, is replaced. After some tries that fail, connections
go to the others alone. SIGTERM and SIGINT stop all: each answers what it has; SIGHUP is handed on.
Where one is asked to load a bundle, all do, before that is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import multiprocessing
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.serving.http.health import HealthPort
from cadc_rec.serving.http.shared_metrics import forget

T = TypeVar("T")

_LOOK = 0.5  # seconds between two looks at what is due
_SOON, _LATEST = 0.1, 30.0  # seconds until a worker is started again; doubled each time
_WELL = 10.0  # seconds after which a worker counts as one that runs
_MORE_GRACE = 5.0  # seconds beyond a worker's own, after which it is killed
_BEAT, _SILENT = 2.0, 30.0  # seconds between a worker's beats; without any, it is killed
_STARTS = 4.0  # times the longest start, after which one that is not ready is killed
_TRIES = 4  # starts that may fail before no more connections wait for the next one

Run = Callable[[int, "Link"], Awaitable[None]]
"""What a worker does, until it is stopped: it is given its number, from 0, and its link."""


class Link:
    """A worker's connection to the parent.

    Args:
        connection: to it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writer: asyncio.StreamWriter | None = None
        self._asked: deque[asyncio.Future[str | None]] = deque()

    async def listen(self, reload: Callable[[], Awaitable[Any]], stop: Callable[[], None]) -> None:
        """Do what the parent says, and show it that the loop runs.

        Args:
            reload: loads the bundle anew.
            stop: is called when the parent has gone, or can no longer be understood.
        """
        reader, self._writer = await asyncio.open_connection(sock=self._connection)
        beating = asyncio.create_task(self._beat())
        try:
            await self._obey(reader, reload)
        except OSError as error:
            log.error("the parent of the workers cannot be heard (%s).", error)
        except Exception as error:
            log.error("a defect of cadc-rec: %s: %s", type(error).__name__, error, exc_info=error)
        finally:
            beating.cancel()
        stop()

    async def _obey(
        self, reader: asyncio.StreamReader, reload: Callable[[], Awaitable[Any]]
    ) -> None:
        while line := await reader.readline():
            said = json.loads(line)
            if said["kind"] == "reload":
                error = None
                try:
                    await reload()
                except CadcError as refusal:
                    error = str(refusal)
                self._say(kind="reloaded", error=error)
            elif self._asked:
                asked = self._asked.popleft()
                if not asked.done():  # a client whose deadline came no longer waits
                    asked.set_result(said["error"])

    async def _beat(self) -> None:
        while True:
            self._say(kind="alive")
            await asyncio.sleep(_BEAT)

    def ready(self, text: str) -> None:
        """Tell that requests are answered."""
        self._connection.setblocking(True)
        self._connection.sendall(_line(kind="ready", text=text))

    async def reload_all(self) -> None:
        """Have all workers load the bundle anew.

        Raises:
            CadcError: a worker refused it.
        """
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self._say(kind="load")
        error = await future
        if error is not None:
            raise CadcError(error)

    def _say(self, **said: Any) -> None:
        assert self._writer is not None
        self._writer.write(_line(**said))


@dataclass(eq=False)
class _Worker:
    """A process.

    Attributes:
        place: its number, from 0.
        pid: of the process.
        connection: to it.
        began: when it was forked.
        heard: when it last said something.
        read: what it has said and was not understood yet.
        ready: the text with which it said that it is; None before.
        failed: why it could not start.
        loads: whether it is loading the bundle anew.
    """

    place: int
    pid: int
    connection: socket.socket
    began: float
    heard: float
    read: bytearray = field(default_factory=bytearray)
    ready: str | None = None
    failed: str | None = None
    loads: bool = False


class Workers:
    """The parent.

    Args:
        count: of workers.
        run: what each does.
        listeners: a listening socket for each.
        grace: seconds that they have to stop.
        health: socket at which to answer for health; None does not.
    """

    def __init__(
        self,
        count: int,
        run: Run,
        listeners: list[socket.socket],
        grace: float,
        health: socket.socket | None = None,
    ) -> None:
        self._run, self._listeners, self._grace = run, listeners, grace
        self._health_socket = health
        self._health: HealthPort | None = None
        self._workers: dict[int, _Worker] = {}
        self._delay = [_SOON] * count
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)  # places to fill, and when
        self._failed = [0] * count  # starts of each place in sequence
        self._longest = 0.0  # seconds that a start took; 0 while none has succeeded
        self._looked = time.monotonic()
        self._askers: deque[_Worker] = deque()  # who asked to load the bundle
        self._errors: list[str] = []  # of the load that goes on
        self._stopping = self._renewing = False
        self._selector = selectors.DefaultSelector()

    def serve(self, ready: Callable[[str], None]) -> None:
        """Until stopped.

        Args:
            ready: called once, with a worker's text, when all of them are.

        Raises:
            CadcError: a worker could not start at first.
        """
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, self._signalled)
        self._selector.register(woken, selectors.EVENT_READ)
        gc.freeze()  # what is shared by forks is not written by the collector
        if self._health_socket is not None:
            self._health = HealthPort(self._health_socket, self._is_ready)
        said, end, failed = False, float("inf"), None
        try:
            while not self._stopping or self._workers:
                self._fill()
                for key, _ in self._selector.select(_LOOK):
                    if key.data is None:
                        with contextlib.suppress(BlockingIOError):
                            os.read(woken, 4096)
                    else:
                        self._hear(key.data)
                if self._renewing:
                    self._renewing = False
                    self._signal_all(signal.SIGHUP)
                self._end_silent()
                if self._health is not None:
                    self._health.alive()
                gone = self._reap()
                if not said and not self._stopping:
                    failed = next((one.failed for one in gone if one.failed), None)
                    if failed or gone:
                        failed = failed or "a worker ended before it was ready; the log says why."
                        self._stopping = True
                    elif not self._due and all(one.ready for one in self._workers.values()):
                        said = True
                        ready(next(one.ready for one in self._workers.values() if one.ready))
                if self._stopping and end == float("inf"):
                    end = time.monotonic() + self._grace + _MORE_GRACE
                    self._stop_all()
                elif time.monotonic() > end:
                    self._signal_all(signal.SIGKILL)
        finally:
            self._signal_all(signal.SIGKILL)
            if self._health is not None:
                self._health.close()
            signal.set_wakeup_fd(-1)
        if failed:
            raise CadcError(failed)

    def _signalled(self, number: int, _: object) -> None:
        if number == signal.SIGHUP:
            self._renewing = True
        elif number != signal.SIGCHLD:
            self._stopping = True

    def _is_ready(self) -> bool:
        return not self._stopping and any(one.ready for one in list(self._workers.values()))

    def _fill(self) -> None:
        """Start the workers that are due."""
        now = time.monotonic()
        for place in [place for place, due in self._due.items() if due <= now]:
            if self._stopping:
                return
            del self._due[place]
            self._start(place)

    def _start(self, place: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            ours, theirs = socket.socketpair()
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                theirs.close()
                raise
        except OSError as error:  # the machine is short of something, and may have it later
            log.error("worker %d cannot be started (%s); it is tried again.", place, error.strerror)
            self._later(place)
            return
        if pid == 0:
            self._be_worker(place, ours, theirs)
        theirs.close()
        now = time.monotonic()
        worker = _Worker(place, pid, ours, began=now, heard=now)
        self._workers[pid] = worker
        self._selector.register(ours, selectors.EVENT_READ, worker)

    def _be_worker(self, place: int, ours: socket.socket, theirs: socket.socket) -> None:
        """Never returns."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C: the parent tells when to stop
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until its certificate is watched
            ours.close()
            for other in self._workers.values():
                other.connection.close()
            for at, listener in enumerate(self._listeners):
                if at != place:
                    listener.close()
            if self._health_socket is not None:
                self._health_socket.close()
            self._selector.close()
            import uvloop

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._run(place, Link(theirs)))  # type: ignore[arg-type]
            code = 0
        except CadcError as error:
            with contextlib.suppress(OSError):
                theirs.setblocking(True)
                theirs.sendall(_line(kind="failed", text=str(error)))
        except BaseException as error:
            log.error("a defect of cadc-rec: %s: %s", type(error).__name__, error, exc_info=error)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # at once: what was loaded has nothing to put away

    def _hear(self, worker: _Worker) -> None:
        try:
            part = worker.connection.recv(65536)
        except OSError:
            part = b""
        if not part:
            self._selector.unregister(worker.connection)
            worker.connection.close()
            self._loaded(worker, "a worker ended while it loaded the bundle.")
            return
        worker.heard = time.monotonic()
        worker.read += part
        while b"\n" in worker.read:
            line, _, rest = bytes(worker.read).partition(b"\n")
            worker.read = bytearray(rest)
            said = json.loads(line)
            match said["kind"]:
                case "ready":
                    worker.ready = said["text"]
                    self._longest = max(self._longest, time.monotonic() - worker.began)
                    self._failed[worker.place] = 0
                case "failed":
                    worker.failed = said["text"]
                    if not self._stopping:
                        log.error("a worker could not start: %s", worker.failed)
                case "load":
                    self._askers.append(worker)
                    if len(self._askers) == 1:
                        self._load()
                case "reloaded":
                    self._loaded(worker, said["error"])

    def _load(self) -> None:
        """Have all load the bundle, for the first who asked."""
        self._errors = []
        for worker in self._workers.values():
            if worker.ready is not None:
                worker.loads = self._tell(worker, kind="reload")
        self._loaded(None, None)

    def _loaded(self, worker: _Worker | None, error: str | None) -> None:
        """Note that a worker has loaded the bundle, and answer once all have."""
        if worker is not None and worker.loads:
            worker.loads = False
            if error is not None:
                self._errors.append(error)
        elif worker is not None:
            return
        if not self._askers or any(one.loads for one in self._workers.values()):
            return
        asker = self._askers.popleft()
        self._tell(asker, kind="result", error=self._errors[0] if self._errors else None)
        if self._askers:
            self._load()

    @staticmethod
    def _tell(worker: _Worker, **said: Any) -> bool:
        try:
            worker.connection.sendall(_line(**said))
        except OSError:
            return False  # it has gone, which is seen later
        return True

    def _reap(self) -> list[_Worker]:
        """Who has ended; they are started again in a while."""
        gone = []
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if not ended:
                continue
            worker = self._workers.pop(pid)
            if worker.connection.fileno() >= 0:
                self._hear(worker)  # its last words
            if worker.connection.fileno() >= 0:
                self._selector.unregister(worker.connection)
                worker.connection.close()
            worker.loads = False
            self._loaded(None, None)
            forget(pid)
            gone.append(worker)
            if self._stopping:
                continue
            code = os.waitstatus_to_exitcode(status)
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            if time.monotonic() - worker.began > _WELL:
                self._delay[worker.place] = _SOON
            self._later(worker.place)
            log.error("worker %d ended %s; another takes its place.", worker.place, how)
            if worker.ready is None:
                self._failed[worker.place] += 1
                if self._failed[worker.place] == _TRIES:
                    self._deal_to_others(worker.place)
        return gone

    def _later(self, place: int) -> None:
        """Start a worker in a while, and in a longer one the next time."""
        delay = self._delay[place]
        self._delay[place] = min(2 * delay, _LATEST)
        self._due[place] = time.monotonic() + delay

    def _end_silent(self) -> None:
        """Kill a worker whose loop stands still: its share of the connections gets no answers.

        One that is not ready is given a multiple of what the longest start took.
        """
        now = time.monotonic()
        paused, self._looked = now - self._looked > _SILENT / 2, now
        for worker in self._workers.values():
            if paused:  # it was this process that stood still, and perhaps all of them
                worker.heard = now
            most = _SILENT if worker.ready else max(_SILENT, _STARTS * self._longest)
            known = worker.ready or self._longest  # of the first start nobody knows what it takes
            if known and not self._stopping and now - worker.heard > most:
                log.error("worker %d did nothing for %.3g s and is killed.", worker.place, most)
                worker.heard = now
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)

    def _deal_to_others(self, place: int) -> None:
        """Have no connections wait for a worker that does not come back; it is still tried.

        Its listening socket makes way for one that does not listen before a worker does.
        """
        old = self._listeners[place]
        try:
            new = socket.socket(old.family)
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if old.family == socket.AF_INET6:
                new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            new.bind(old.getsockname())
        except OSError as error:
            log.error("connections to worker %d wait for it (%s).", place, error.strerror)
            return
        self._listeners[place] = new
        old.close()
        log.error("worker %d does not come back; connections go to the others.", place)

    def _stop_all(self) -> None:
        """No more connections, and an end once those there are have been answered."""
        for listener in self._listeners:
            listener.close()
        self._signal_all(signal.SIGTERM)

    def _signal_all(self, number: int) -> None:
        for pid in self._workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def apart(work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns, which a process does that ends then.

    For work that leaves behind what does not survive a fork, such as threads of a library.

    Raises:
        CadcError: the process ended before it told anything; else what `work` raises.
    """
    forks = multiprocessing.get_context("fork")
    hears, tells = forks.Pipe(duplex=False)

    def do() -> None:
        try:
            told: tuple[Exception | None, T | None] = None, work(*arguments)
        except Exception as error:
            told = error, None
        tells.send(told)

    process = forks.Process(target=do, daemon=True)
    process.start()
    tells.close()
    try:
        error, result = hears.recv()
    except EOFError:
        raise CadcError(
            f"a process that was to do {work.__name__} ended before; the log says why."
        ) from None
    finally:
        hears.close()
        process.join()
    if error is not None:
        raise error
    return cast(T, result)


def _line(**said: Any) -> bytes:
    return json.dumps(said).encode() + b"\n"
