"""Whether the ranks of a job can work together: what each finds, and what differs between them.

In: joined ranks and a work folder. Out: a line for each rank, the speed of an all-reduce, and one
sentence for each problem. Nothing is left in the work folder.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import statistics
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cadc_rec.distributed.processes import Processes
from cadc_rec.machine import available_cores
from cadc_rec.versions import library_versions

_LOW_DISK = 2 * 10**9  # bytes
_CLOCK_SECONDS = 2.0  # apart; a gather over a busy network takes some tenths
_CLOCK_LOOKS = 5
_REDUCED_BYTES = 32 * 2**20
_REDUCED_TIMES = 5


@dataclass(frozen=True)
class RankFound:
    """What one rank found.

    Attributes:
        rank: its number.
        host: its machine, and its process there.
        device: where it computes.
        cores: that it may use.
        folder: what is wrong with the work folder there; empty if nothing is.
        free_bytes: of the work folder's disk; None where there is no such folder.
        clock: seconds that its clock is ahead of rank 0's.
        sums: whether an all-reduce gave it the right sum.
        versions: of the libraries, by name.
    """

    rank: int
    host: str
    device: str
    cores: int
    folder: str
    free_bytes: int | None
    clock: float
    sums: bool
    versions: dict[str, str]


def examine(
    workdir: Path, processes: Processes, folder: str | None = None
) -> tuple[list[RankFound], float]:
    """What every rank found, and bytes a second of an all-reduce; every rank must call.

    The speed is that of the bytes which each rank sends: 2 (n - 1) / n times the tensor's.

    Args:
        workdir: the work folder.
        processes: the ranks.
        folder: what is wrong with the work folder here, where that is known; None finds out
            whether all see it.
    """
    if folder is None:
        folder = _folder_problem(workdir, processes)
    clock = _clock_ahead(processes)
    sums, speed = _all_reduce(processes)
    free = None
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(workdir).free
    mine = RankFound(
        processes.rank,
        f"{socket.gethostname()} ({os.getpid()})",
        _device_name(processes.device),
        available_cores(),
        folder,
        free,
        clock,
        sums,
        {"python": platform.python_version(), **library_versions(), **_nccl(processes.device)},
    )
    return processes.all_gather(mine), speed


def problems(found: Sequence[RankFound], workdir: Path) -> list[str]:
    """One sentence for each thing that is wrong, with the ranks that it is wrong on."""
    told = []

    def tell(ranks: Sequence[int], sentence: str) -> None:
        if ranks:
            told.append(f"{listed(ranks)}: {sentence}")

    for folder in dict.fromkeys(each.folder for each in found if each.folder):
        tell(
            [each.rank for each in found if each.folder == folder],
            f"{workdir} {folder}; name a folder that all nodes share and may write to with "
            "--workdir.",
        )
    tell(
        [each.rank for each in found if each.free_bytes is not None and _low(each.free_bytes)],
        f"less than {_LOW_DISK / 1e9:.0f} GB are free at {workdir}; free some, or choose another "
        "disk with --workdir.",
    )
    for each in found:
        if abs(each.clock) > _CLOCK_SECONDS:
            way = "ahead of" if each.clock > 0 else "behind"
            tell(
                [each.rank],
                f"the clock of {each.host} is {abs(each.clock):,.0f} s {way} rank 0's; set it by "
                "NTP on all nodes.",
            )
    tell(
        [each.rank for each in found if not each.sums],
        "an all-reduce gave a wrong sum; look for a defective device or network card there.",
    )
    for ranks, sentence in other_versions([each.versions for each in found]):
        tell([found[rank].rank for rank in ranks], sentence)
    shared = Counter((each.host.split(" ")[0], each.device) for each in found)
    for (host, device), count in shared.items():
        if device.startswith("cuda") and count > 1:
            told.append(f"{count} ranks of {host} share {device}; start as many processes as GPUs.")
    return told


def other_versions(versions: Sequence[Mapping[str, str]]) -> Iterator[tuple[list[int], str]]:
    """Where libraries are not the same.

    Args:
        versions: of the libraries by name, of every rank in order.

    Yields:
        The ranks that have a library in another version than most, and a sentence about them.
    """
    for name in dict.fromkeys(name for each in versions for name in each):
        have = [each.get(name, "none") for each in versions]
        usual = Counter(have).most_common(1)[0][0]
        for other in dict.fromkeys(version for version in have if version != usual):
            ranks = [rank for rank, version in enumerate(have) if version == other]
            yield (
                ranks,
                f"{name} is {other} there and {usual} elsewhere; install the same on all nodes.",
            )


def listed(ranks: Sequence[int]) -> str:
    """Ranks as a person would write them: ``ranks 0-7, 9``."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    text = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
    return f"rank{'s' if len(ranks) > 1 else ''} {text}"


def _low(free_bytes: int) -> bool:
    return free_bytes < _LOW_DISK


def _folder_problem(workdir: Path, processes: Processes) -> str:
    """What is wrong with the work folder here, as the end of a sentence; every rank must call."""
    token = processes.broadcast(uuid.uuid4().hex if processes.rank == 0 else None)

    def file_of(rank: int) -> Path:
        return workdir / f".doctor-{token}-{rank}"

    refused = ""
    if processes.rank == 0:
        refused = _refusal(lambda: workdir.mkdir(parents=True, exist_ok=True))
    processes.barrier()
    mine = file_of(processes.rank)
    refused = refused or _refusal(lambda: mine.write_text(""))
    wrote = processes.all_gather(not refused)
    unseen = [rank for rank, written in enumerate(wrote) if written and not file_of(rank).exists()]
    processes.barrier()
    with contextlib.suppress(OSError):
        mine.unlink()
    if refused:
        return refused
    return f"does not show what {listed(unseen)} wrote" if unseen else ""


def _refusal(work: Callable[[], object]) -> str:
    try:
        work()
    except OSError as error:
        return f"cannot be written ({error.strerror or error})"
    return ""


def _clock_ahead(processes: Processes) -> float:
    """Seconds that this rank's clock is ahead of rank 0's; the median of several looks."""
    ahead = []
    for _ in range(_CLOCK_LOOKS):
        processes.barrier()
        now = time.time()
        ahead.append(now - processes.broadcast(now))
    return statistics.median(ahead)


def _all_reduce(processes: Processes) -> tuple[bool, float]:
    """Whether the sum over the ranks is right, and bytes a second that each rank sent."""
    n, device = processes.world_size, processes.device
    numbers = torch.empty(_REDUCED_BYTES // 4, device=device)
    seconds = []
    for _ in range(_REDUCED_TIMES):
        numbers.fill_(processes.rank + 1)
        processes.barrier()
        started = time.perf_counter()
        processes.all_reduce_sum(numbers)
        right = bool((numbers == n * (n + 1) / 2).all())  # waits for the device, too
        seconds.append(time.perf_counter() - started)
    return right, 2 * (n - 1) / n * _REDUCED_BYTES / statistics.median(seconds)


def _device_name(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return f"{device} {torch.cuda.get_device_name(device)}"


def _nccl(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    return {"NCCL": ".".join(map(str, torch.cuda.nccl.version()))}
