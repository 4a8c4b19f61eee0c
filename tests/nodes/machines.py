"""Machines of a cluster on one: each has its own network, file systems, processes and host name.

In: a folder for their disks. Out: a store and nodes on one network of their own, which reach
nothing else. They are Linux namespaces, so they need root's rights; `Lab` says where these are
missing. Of the real machine a node sees the checkout and the installed programs. `/tmp`, its home
and with them its cache and work folder are its own disk, which `wipe` empties. A command in a node
is a fork of a process that has loaded the libraries (`tests.zygote_server`), one for each node.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests import zygote
from tests.faults.processes import until
from tests.nodes.store import PORT

ROOT = Path(__file__).parents[2]
BUCKET = "bucket"
# Files that a machine sees although they may lie below /tmp: the checkout, and Python's.
_SEEN = (ROOT, Path(sys.prefix), Path(sys.prefix).resolve(), Path(sys.base_prefix))
_BOOT = """
set -e
hostname {name}
mount --bind {disk}/hosts /etc/hosts
mount -t tmpfs tmpfs /dev/shm
{seen}
mount --rbind {disk}/tmp /tmp
cd /
ip link set lo up
echo up
# As init does, take leave of processes whose parents have gone.
exec {python} -c 'import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True: signal.pause()'
"""
# A killed job's lease would hold the next one up for a minute, as would a store that is full.
_FORKS = """
import runpy, sys
import tests.zygote_server as server
from cadc_rec.store.remote import address, lease
address.RETRY_SECONDS = 15.0
lease.LEASE_SECONDS, lease.LOOK_SECONDS = 4.0, 0.5
server.load()  # at once, not when it is first asked
sys.argv = ["zygote_server", "/tmp/zygote"]
runpy.run_path(server.__file__, run_name="__main__")
"""


class NotPermittedError(Exception):
    """This machine does not let us make others within it."""


class Machine:
    """A machine; it ends with this process.

    Args:
        folder: of the lab.
        name: its host name.
        address: on the lab's network.
        hosts: lines of `/etc/hosts`.
    """

    def __init__(self, folder: Path, name: str, address: str, hosts: str) -> None:
        self.name, self.address, self.disk = name, address, folder / name
        (self.disk / "tmp").mkdir(parents=True)
        (self.disk / "hosts").write_text(hosts)
        seen = "\n".join(
            f"mkdir -p {self.disk}{path}; mount --rbind {path} {self.disk}{path}"
            for path in _SEEN
            if path.is_relative_to("/tmp")
        )
        spaces = ("--net", "--mount", "--pid", "--uts", "--ipc", "--mount-proc")
        boot = _BOOT.format(name=name, disk=self.disk, seen=seen, python=sys.executable)
        self._outer = subprocess.Popen(
            ["unshare", *spaces, "--fork", "--kill-child", "sh", "-c", boot],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=functools.partial(_dies_with, os.getpid()),
        )
        assert self._outer.stdout is not None
        if self._outer.stdout.readline() != "up\n":
            raise NotPermittedError(self._outer.communicate()[1].strip())
        (self.init,) = _children(self._outer.pid)
        self._zygote: subprocess.Popen[str] | None = None
        self._numbers = itertools.count()

    def inside(self, *command: object) -> list[str]:
        """A command line that is carried out in this machine."""
        spaces = ("--net", "--mount", "--pid", "--uts", "--ipc")
        return ["nsenter", "--target", str(self.init), *spaces, *map(str, command)]

    def boot(self) -> None:
        """Load the libraries that commands need; returns at once."""
        self._zygote = subprocess.Popen(
            self.inside(sys.executable, "-c", _FORKS),
            cwd=ROOT,
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """Of every process: the store by the provider's own chain, the disk as a home."""
        kept = {k: v for k, v in zygote.environment().items() if "proxy" not in k.lower()}
        for name in ("CADC_REC_CACHE", "XDG_CACHE_HOME", "TMPDIR"):
            kept.pop(name, None)
        return kept | {
            "HOME": "/tmp/home",
            "NUMBA_CACHE_DIR": "/tmp/numba",
            "FORKED_PYTHON_SOCKET": "/tmp/zygote",
            "AWS_ENDPOINT_URL": f"http://store:{PORT}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def start(
        self, arguments: Iterable[object], *, script: bool = False, **more: str
    ) -> zygote.Process:
        """Start ``cadc-rec`` there, or a Python script."""
        socket = self.disk / "tmp" / "zygote"
        until(socket.exists, seconds=600, processes=[self._zygote])
        process = zygote.start(
            arguments,
            self.environment() | more,
            script=script,
            folder=self.disk / "said" / str(next(self._numbers)),
            working="/tmp/home",
            address=str(socket),
        )
        process.pid = self.seen_from_here(process.pid)
        return process

    def kill_all(self) -> None:
        """As when its power fails, but that it is there again at once: every process of a job."""
        kept = {self.init, self._forks()}
        while left := [pid for pid in self._processes() if pid not in kept]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)

    def wipe(self) -> None:
        """Lose the disk."""
        for path in (self.disk / "tmp").iterdir():
            if path.name not in ("zygote", "home"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in (self.disk / "tmp" / "home").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def close(self) -> None:
        """Power off."""
        self._outer.kill()  # and with it, its only child, and with that all others
        self._outer.communicate()

    def _forks(self) -> int:
        assert self._zygote is not None
        return next(iter(_children(self._zygote.pid)), self._zygote.pid)

    def _processes(self) -> list[int]:
        """All that run, as this machine knows them."""
        space, found = os.readlink(f"/proc/{self.init}/ns/pid"), []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
                if os.readlink(f"/proc/{pid}/ns/pid") == space and not ended:
                    found.append(pid)
        return found

    def seen_from_here(self, pid: int) -> int:
        """The process that this machine knows by an id, as we know it."""
        for found in self._processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{found}/status").read_text().splitlines():
                    if line.startswith("NSpid:") and int(line.split()[-1]) == pid:
                        return found
        return 2**22 + 1  # it has ended already: a number that no process has


def _dies_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)


def _children(pid: int) -> list[int]:
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


class Store(Machine):
    """A machine with an S3 server, which can be slow, refuse what is written, or be dead."""

    def serve(self) -> None:
        """Start it, with an empty bucket."""
        here = [sys.executable, "-m", "tests.nodes.store"]
        self._data = self._run(*here, "data")
        self._front = self._run(*here, "front")
        until(lambda: self._answers("PUT", f"/{BUCKET}"), seconds=300)

    def delay(self, seconds: float) -> None:
        """From now on take this long for a request."""
        draft = self.disk / "tmp" / "seconds.draft"
        draft.write_text(str(seconds))
        draft.rename(self.disk / "tmp" / "seconds")

    def refuse(self, answer: str = "") -> None:
        """From now on answer whoever writes with this status and code; or write."""
        file = self.disk / "tmp" / "refusal"
        file.with_suffix(".draft").write_text(answer)
        file.with_suffix(".draft").rename(file) if answer else file.unlink(missing_ok=True)

    def die(self) -> None:
        """Break every request off, and answer none."""
        for pid in _children(self._front.pid):
            os.kill(pid, signal.SIGKILL)
        self._front.wait()

    def revive(self) -> None:
        """Answer again, with all that was written."""
        if self._front.poll() is not None:
            self._front = self._run(sys.executable, "-m", "tests.nodes.store", "front")

    def _run(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(self.inside(*command), cwd=ROOT, env=self.environment(), text=True)

    def _answers(self, method: str, path: str) -> bool:
        asked = (
            "import urllib.request as u;"
            f"u.urlopen(u.Request('http://127.0.0.1:{PORT}{path}', method='{method}'))"
        )
        done = subprocess.run(self.inside(sys.executable, "-Sc", asked), capture_output=True)
        return done.returncode == 0


class Lab:
    """A store and two nodes behind one switch.

    Args:
        folder: for their disks; its path must be short, for sockets lie there.

    Raises:
        NotPermittedError: this machine does not let us make others within it.
    """

    def __init__(self, folder: Path) -> None:
        addresses = {"store": "10.77.0.1", "a": "10.77.0.2", "b": "10.77.0.3"}
        lines = [f"{address} {name}\n" for name, address in addresses.items()]
        hosts = "127.0.0.1 localhost\n" + "".join(lines)
        self.folder, self.machines = folder, []
        try:
            for name, address in addresses.items():
                kind = Store if name == "store" else Machine
                self.machines.append(kind(folder, name, address, hosts))
            self.store, self.a, self.b = self.machines
            self._connect()
        except BaseException:
            self.close()
            raise
        for node in self.nodes:
            (node.disk / "tmp" / "home").mkdir()
            node.boot()
        self.store.serve()

    @property
    def nodes(self) -> list[Machine]:
        """Without the store."""
        return [self.a, self.b]

    def close(self) -> None:
        """End all of it."""
        for machine in self.machines:
            machine.close()

    def _connect(self) -> None:
        """The switch is in the store's machine, which has an address at it."""
        hub = self.store
        _run(hub.inside("ip", "link", "add", "switch", "type", "bridge"))
        _run(hub.inside("ip", "address", "add", f"{hub.address}/24", "dev", "switch"))
        _run(hub.inside("ip", "link", "set", "switch", "up"))
        for node in self.nodes:
            # Process ids are those of our machine, so only the network is the switch's.
            network = ["nsenter", "--target", str(hub.init), "--net", "ip", "link", "add"]
            ends = [f"to-{node.name}", "type", "veth", "peer", "name", "eth0"]
            _run([*network, *ends, "netns", str(node.init)])
            _run(hub.inside("ip", "link", "set", f"to-{node.name}", "master", "switch", "up"))
            _run(node.inside("ip", "address", "add", f"{node.address}/24", "dev", "eth0"))
            _run(node.inside("ip", "link", "set", "eth0", "up"))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotPermittedError(f"{' '.join(command)}: {done.stderr.strip()}")
