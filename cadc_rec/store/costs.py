"""What a stage costs beside its seconds: processor time, memory, bytes, a GPU's time, energy.

In: a `Meter` around the work, on each rank. Out: its `costs`, numbers by name for the manifest.
`of_ranks` makes those of a stage of all ranks', `of_stages` those of stages that follow each other.
What the machine does not tell has no entry, and no sum has one either.

| name | what it is, over all ranks |
|---|---|
| ``ranks`` | processes that took part |
| ``cpu_seconds`` | user and system time, with that of child processes that have ended |
| ``peak_memory_bytes`` | the most that each held at a moment of the stage (resident), added up |
| ``read_bytes`` | what read calls gave, from a disk or the page cache: equal when run again |
| ``disk_read_bytes`` | what the disks gave, for read calls and for files that are mapped |
| ``written_bytes`` | what write calls were given |
| ``disk_written_bytes`` | what of it was meant for a disk |
| ``gpu_seconds`` | seconds, times the GPUs that ranks held |
| ``package_joules`` | what the nodes' processor packages used, whoever else worked there (RAPL) |

Not counted: a GPU's energy and memory, the memory of child processes, what comes through sockets.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from cadc_rec.store.remote.origin import place_on_node

Costs = Mapping[str, float]

POWERCAP = Path("/sys/class/powercap")
_PROCESS = Path("/proc/self")
_IO = {
    "rchar": "read_bytes",
    "wchar": "written_bytes",
    "read_bytes": "disk_read_bytes",
    "write_bytes": "disk_written_bytes",
}
_LOOK_SECONDS = 0.2
_LOOKS_PER_READING = 150  # of energy: the counters of a busy server start again after minutes


class Meter:
    """Measures what this process uses from when it is made (or `restart`) until `stop`.

    The kernel remembers the most that a process ever held: that is the stage's where nothing before
    it held more. Else it is the most of what a thread sees, which looks five times a second within
    ``with``: shorter peaks can be missed.

    Args:
        powercap: where the kernel lists counters of energy.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._powercap = powercap
        self._stopped: tuple[float, dict[str, float]] | None = None
        self._end = threading.Event()
        self._watch: threading.Thread | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was used so far."""
        # One rank of a node answers for its packages.
        self._energy = Energy(self._powercap) if place_on_node()[0] == 0 else None
        self._high_water, self._most = peak_memory_bytes(), _held_bytes()
        self._before = _counters()
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        self._watch = threading.Thread(target=self._look, name="costs", daemon=True)
        self._watch.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The end of what is measured; a second call changes nothing."""
        if self._stopped is None:
            self._stopped = (time.perf_counter() - self._began, self._used())
            self._end.set()
            if self._watch is not None:
                self._watch.join()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds, until now or until `stop`."""
        return self._stopped[0] if self._stopped else time.perf_counter() - self._began

    @property
    def costs(self) -> dict[str, float]:
        """The costs of this rank, until now or until `stop`."""
        return dict(self._stopped[1]) if self._stopped else self._used()

    def _used(self) -> dict[str, float]:
        now, peak = _counters(), peak_memory_bytes()
        used = {name: now[name] - before for name, before in self._before.items() if name in now}
        used["ranks"] = 1
        most = max(self._most, _held_bytes())
        used["peak_memory_bytes"] = peak if peak > self._high_water or not most else most
        used["gpu_seconds"] = self.seconds if _holds_gpu() else 0.0
        joules = 0.0 if self._energy is None else self._energy.joules()
        return used if joules is None else {**used, "package_joules": joules}

    def _look(self) -> None:
        looks = 0
        while not self._end.wait(_LOOK_SECONDS):
            self._most = max(self._most, _held_bytes())
            looks += 1
            if self._energy is not None and looks % _LOOKS_PER_READING == 0:
                self._energy.joules()


class Energy:
    """What the machine's processor packages used since this was made, by RAPL's counters.

    A counter starts again at 0 behind ``max_energy_range_uj``, so `joules` has to be called before
    one comes round twice.

    Args:
        powercap: where the kernel lists counters of energy.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._lock = threading.Lock()
        self._microjoules = 0
        self._last: dict[Path, int] = {}
        """Each zone's counter when it was read last; none where one cannot be read."""
        try:
            for zone in sorted(powercap.glob("intel-rapl:*")):
                # Others are parts of a package (cores, memory), or the whole board beside it.
                if (zone / "name").read_text("utf-8").startswith("package"):
                    self._last[zone] = _number(zone / "energy_uj")
        except (OSError, ValueError):  # by default, only root may read them
            self._last.clear()

    def joules(self) -> float | None:
        """Joules so far; None where a counter cannot be read, or there is none."""
        with self._lock:
            try:
                for zone, before in self._last.items():
                    now = _number(zone / "energy_uj")
                    again = _number(zone / "max_energy_range_uj") if now < before else 0
                    self._microjoules += now - before + again
                    self._last[zone] = now
            except (OSError, ValueError):
                self._last.clear()
            return self._microjoules / 1e6 if self._last else None


def of_ranks(costs: Iterable[Costs]) -> dict[str, float]:
    """The costs of one stage on all ranks, each name's sum; names that one lacks are left out."""
    return _joined(list(costs), {})


def of_stages(costs: Iterable[Costs]) -> dict[str, float]:
    """The costs of stages that ran one after the other; nothing if those of one are not known.

    Memory and ranks are the most of any stage, the rest is a sum.
    """
    return _joined(list(costs), {"peak_memory_bytes": max, "ranks": max})


def peak_memory_bytes() -> int:
    """The most memory that this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def _joined(
    costs: Sequence[Costs], by: Mapping[str, Callable[[Iterable[float]], float]]
) -> dict[str, float]:
    """One number for each name that all have: what `by` makes of theirs, else the sum."""
    names = [name for name in costs[0] if all(name in each for each in costs)] if costs else []
    return {name: by.get(name, sum)(each[name] for each in costs) for name in names}


def _counters() -> dict[str, float]:
    """What grows as this process works, by the names of costs."""
    usage = [resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found: dict[str, float] = {"cpu_seconds": sum(of.ru_utime + of.ru_stime for of in usage)}
    with contextlib.suppress(OSError, ValueError, KeyError):  # only Linux has it
        lines = (_PROCESS / "io").read_text("utf-8").splitlines()
        counted = dict(line.split(": ") for line in lines)
        found |= {name: int(counted[key]) for key, name in _IO.items()}
    return found


def _held_bytes() -> int:
    """The memory that this process holds now; 0 where the kernel does not tell."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = (_PROCESS / "statm").read_text("utf-8").split()[1]
        return int(pages) * resource.getpagesize()
    return 0


def _holds_gpu() -> bool:
    """Whether this process computes on a GPU; a rank has one. Torch is not imported to find out."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda is not None and bool(cuda.is_initialized())


def _number(file: Path) -> int:
    return int(file.read_text("utf-8"))
