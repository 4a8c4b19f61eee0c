"""The processes that make an artifact together, and files that they hash together.

Of a folder that all see, each rank hashes some of the files, of about equally many bytes: the
largest file first, always to the rank that has fewest so far. A file's digest is that of the whole
file, so one file is one rank's.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from cadc_rec.errors import CadcError
from cadc_rec.machine import available_cores
from cadc_rec.store.manifest import MOST_THREADS, file_entries, verify_files
from cadc_rec.store.remote.origin import place_on_node


class Group(Protocol):
    """The processes that run a stage together; `SoloGroup` when there is only this one."""

    @property
    def rank(self) -> int:
        """This process's number; rank 0 writes and commits."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""

    def barrier(self) -> None:
        """Wait until every rank is here."""

    def together(self, work: Callable[[], Any] | None = None) -> Any:
        """Do `work`, if there is some, and wait for all ranks' to be done, however long it takes.

        Returns what `work` gave.
        """


class SoloGroup:
    """One process on its own."""

    rank = 0

    def broadcast(self, value: Any) -> Any:
        """`value` itself, since there is one process."""
        return value

    def all_gather(self, value: Any) -> list[Any]:
        """`value` alone."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""

    def together(self, work: Callable[[], Any] | None = None) -> Any:
        """Do the work; there is nobody to wait for."""
        return work() if work is not None else None


def verify_together(
    group: Group, folder: Path, files: Mapping[str, Mapping[str, Any]], what: str, remedy: str
) -> None:
    """Compare files with their entries in a manifest. Every rank must call, with the same.

    Args:
        group: the ranks, which all see the folder.
        folder: of the files.
        files: size and SHA-256 by name.
        what: what the files are part of, for the error.
        remedy: the end of an error's sentence: what to do.

    Raises:
        CadcError: a file is missing, cannot be read, or its bytes changed; on every rank.
    """
    mine = _mine(group, {name: int(entry["bytes"]) for name, entry in files.items()})

    def verdict() -> str:
        try:
            verify_files(folder, files, mine, what, remedy, _threads())
        except CadcError as damaged:
            return str(damaged)
        return ""

    for sentence in group.all_gather(group.together(verdict)):
        if sentence:
            raise CadcError(sentence)


def entries_together(group: Group, folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of all files of a folder by name. Every rank must call.

    Args:
        group: the ranks, which all see the folder.
        folder: nothing is written there any more.
    """
    found = None
    if group.rank == 0:
        every = (file for file in sorted(folder.rglob("*")) if file.is_file())
        found = {str(file.relative_to(folder)): file.stat().st_size for file in every}
    mine = [folder / name for name in _mine(group, group.broadcast(found))]
    parts = group.all_gather(group.together(lambda: file_entries(folder, mine, _threads())))
    return {name: entry for part in parts for name, entry in part.items()}


def dealt(sizes: Mapping[str, int], ranks: int) -> list[list[str]]:
    """The names of each rank's files, given the bytes of each; the largest come first."""
    names: list[list[str]] = [[] for _ in range(ranks)]
    held = [(0, rank) for rank in range(ranks)]
    for size, name in sorted(((size, name) for name, size in sizes.items()), reverse=True):
        so_far, rank = heapq.heappop(held)
        names[rank].append(name)
        heapq.heappush(held, (so_far + size, rank))
    return names


def _mine(group: Group, sizes: Mapping[str, int]) -> list[str]:
    return dealt(sizes, len(group.all_gather(None)))[group.rank]


def _threads() -> int:
    """How many files a rank hashes at once: its node's ranks share the cores."""
    return max(1, min(MOST_THREADS, available_cores() // place_on_node()[1]))
