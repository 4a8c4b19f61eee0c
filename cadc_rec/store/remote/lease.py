"""Locks in an object store: a small object that its holder renews, and that others take over late.

In: objects and a name. Out: whether this process holds it. The object is made by a conditional
write, so one process wins. A thread renews it. If that stops, because the process or its machine
died, another process replaces it after `LEASE_SECONDS`, by a conditional write again. How old a
lease is, only the store's own clock says: that of this machine may be hours off.

A holder that was thought dead and wakes up finds its lease lost. What it writes after that does no
harm: files are named after their bytes, and a manifest is written under a condition.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.log import log
from cadc_rec.store.remote.address import Objects, Version
from cadc_rec.store.remote.cache import address_of

FOLDER = ".locks"
LEASE_SECONDS = 60.0
LOOK_SECONDS = 2.0
"""Between two looks at a lease that is waited for."""


def store_time(objects: Objects) -> datetime:
    """What time the store has now: that of an object written for this.

    Raises:
        CadcError: nothing can be written, read or removed there.
    """
    name = f"{FOLDER}/clock-{uuid.uuid4().hex}"
    objects.put(name, b"")
    try:
        found = objects.head(name)
    finally:
        objects.delete([name])
    if found is None:
        raise CadcError(
            f"{objects.address}: what was just written there cannot be read; use a store whose "
            "reads see earlier writes."
        )
    return found.written


def patience(workdir: Path, seconds: float, restarted: bool) -> float:
    """For how many seconds one of several ranks waits for a lock that another job holds.

    Args:
        workdir: the work folder; in a store, a killed job holds its lease for a while.
        seconds: after which the other ranks take this one for lost.
        restarted: whether this job was; then a lost machine may hold a lock of a file server.
    """
    if restarted:
        return seconds / 2
    runs_out = LEASE_SECONDS + LOOK_SECONDS
    return 0.0 if address_of(workdir) is None else min(runs_out, seconds / 2)


@contextlib.contextmanager
def leased(
    objects: Objects, name: str, waited: str = "", seconds: float = math.inf
) -> Iterator[Lease | None]:
    """Hold the lease `name`; None when another process does.

    Args:
        objects: of the work folder.
        name: of what is locked.
        waited: what is logged while the other process is waited for; empty does not wait.
        seconds: that it is waited for at most.
    """
    lease = Lease(objects, name)
    if not lease.take():
        if not waited:
            yield None
            return
        log.info("%s%s", waited, "; --no-wait refuses instead" if math.isinf(seconds) else "")
        end = time.monotonic() + seconds
        while not lease.take():
            if time.monotonic() > end:
                yield None
                return
            time.sleep(LOOK_SECONDS)
    lease.start()
    try:
        yield lease
    finally:
        lease.release()


def is_held(objects: Objects, name: str, now: datetime) -> bool:
    """Whether some process holds the lease, by the store's time."""
    there = objects.get(f"{FOLDER}/{name}")
    if there is None:
        return False
    data, found = there
    return (now - found.written).total_seconds() <= _seconds(data)


def held_names(objects: Objects) -> list[str]:
    """Names of the leases that processes hold now."""
    names = [found.name.partition("/")[2] for found in objects.list(FOLDER)]
    if not names:
        return []
    now = store_time(objects)
    return [name for name in sorted(names) if is_held(objects, name, now)]


class Lease:
    """One process's hold on a name."""

    def __init__(self, objects: Objects, name: str) -> None:
        self.objects, self.object = objects, f"{FOLDER}/{name}"
        self.lost = False
        self._holder = uuid.uuid4().hex
        self._renewed = 0
        self._version: Version = {}
        self._last = 0.0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> bool:
        """Take it where nobody holds it, or its holder did not renew it in time."""
        try:
            made = self.objects.create(self.object, self._body())
        except BusyError:  # others take it and give it back
            return False
        if made is None:
            there = self.objects.get(self.object)
            if there is None:  # released this moment
                return False
            data, found = there
            age = (store_time(self.objects) - found.written).total_seconds()
            if age <= _seconds(data):
                return False
            made = self.objects.replace(self.object, self._body(), found.version)
            if made is None:
                return False
            log.info("took over the lock of a job that was lost %.0f seconds ago", age)
        self._version, self._last = made, time.monotonic()
        return True

    def start(self) -> None:
        """Renew it from now on."""
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give it back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with contextlib.suppress(CadcError):  # it runs out by itself
            # Only what is still ours: a process that slept may have been taken for dead.
            if not self.lost and self._replaced():
                self.objects.delete([self.object])

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 4):
            try:
                made = self._replaced()
            except CadcError:  # the store may answer again before the lease runs out
                self.lost = time.monotonic() - self._last > LEASE_SECONDS
                continue
            if made is None:
                self.lost = True
                return
            self._version, self._last, self.lost = made, time.monotonic(), False

    def _replaced(self) -> Version | None:
        """Renew it; None where it is another's by now."""
        made = self.objects.replace(self.object, self._body(), self._version)
        if made is not None:
            return made
        # An earlier renewal may have been applied although its answer was lost.
        there = self.objects.get(self.object)
        if there is None or _holder(there[0]) != self._holder:
            return None
        return self.objects.replace(self.object, self._body(), there[1].version)

    def _body(self) -> bytes:
        self._renewed += 1  # another content, another version
        body = {
            "holder": self._holder,
            "host": platform.node(),
            "process": os.getpid(),
            "seconds": LEASE_SECONDS,
            "renewed": self._renewed,
        }
        return json.dumps(body).encode()


def _holder(data: bytes) -> str | None:
    """Who holds the lease with this content."""
    try:
        return str(json.loads(data)["holder"])
    except (ValueError, KeyError, TypeError):
        return None


def _seconds(data: bytes) -> float:
    """How long the lease with this content holds."""
    try:
        return float(json.loads(data)["seconds"])
    except (ValueError, KeyError, TypeError):
        return LEASE_SECONDS
