"""What this machine offers a process."""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
# Larger arrays go back to the kernel at once: kept, those of 100 million rows that were freed in
# pieces were a tenth of what a rank held.
_KEPT_BYTES = 2**27
_GROUPS = Path("/sys/fs/cgroup")


def available_cores() -> int:
    """Cores this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux: respects taskset and containers
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The GPUs that a process started now would see, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        names = (name.strip() for name in named.split(","))
        # CUDA reads the list up to the first name that is none, such as -1.
        return list(itertools.takewhile(lambda name: name and not name.startswith("-"), names))
    import torch  # slow to import, and asked for only where GPUs are to be shared

    return [str(number) for number in range(torch.cuda.device_count())]


def memory_bytes(sharers: int = 1) -> int:
    """Bytes of memory that this process may fill.

    A part of the machine's, or of what the control groups that it lies in allow (a container's
    limit, Slurm's); all of the latter where its parent lies in another group.

    Args:
        sharers: processes that this one's parent started on this machine, this one included.
    """
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    mine = _control_groups(os.getpid())
    # Where the parent's are not told, as another user's, all may be shared.
    shared = set(_limiting_files(_control_groups(os.getppid()) or mine))
    limits = [physical // sharers]
    for file in _limiting_files(mine):
        with contextlib.suppress(OSError, ValueError):  # "max" where there is no limit
            limits.append(int(file.read_text("utf-8")) // (sharers if file in shared else 1))
    return min(limits)


def _control_groups(process: int) -> str:
    """Which groups a process lies in, as Linux tells it; nothing elsewhere."""
    try:
        return Path(f"/proc/{process}/cgroup").read_text("utf-8")
    except OSError:
        return ""


def _limiting_files(groups: str) -> Iterator[Path]:
    """Where the kernel states the memory limits of these control groups and those around them."""
    for line in groups.splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:  # version 2 of the interface
            root, name = _GROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _GROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the names may be the host's; then only the root is there.
        inside = PurePosixPath(group).relative_to("/")
        yield from (root / each / name for each in (inside, *inside.parents))


def processor_name() -> str:
    """The processor's name as Linux gives it, or its kind."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Have the C library keep what a step frees for the next one, where it is glibc.

    It would give every array of over a few hundred kilobytes back to the kernel, and pay for it
    page by page when the next step asks again.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Have the C library give the kernel what is free, where it is glibc; takes milliseconds.

    Each thread allocates from a heap of its own. What one thread made and another let go stays
    there, in pages that nobody else is given.
    """
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
