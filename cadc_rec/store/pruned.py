"""Artifacts whose files were removed, and files that several artifacts share.

A pruned artifact keeps its manifest, which says what it was made of and what came out: keys of
later artifacts are still found through it, and its numbers still stand in reports. A mark beside
the manifest says that the files are gone on purpose, and since when.

In a store the manifest itself has the mark (`PRUNED`), and a machine that sees it removes its copy
(`cadc_rec.store.remote.origin.Origin.prune`).

A file that is the same in an artifact and in one that it was made of is one file on the disk with
two names (a hard link). Either name is verified as before, and removing one leaves the other.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cadc_rec.store.atomic import write_atomically
from cadc_rec.store.manifest import MANIFEST, sha256_file

MARK = "PRUNED"
PRUNED = "pruned"
"""Key of a manifest in a store: what the mark says."""
_LEAST_BYTES = 4096  # a block of most file systems: a smaller file takes one anyway


def is_pruned(path: Path) -> bool:
    """Whether the files of the artifact in `path` were removed by `prune`."""
    return (path / MARK).is_file()


def has_files(path: Path) -> bool:
    """Whether an artifact's folder has anything but its manifest and the mark, as half removed."""
    kept = (path / MARK, path / MANIFEST)
    return any(file.is_file() and file not in kept for file in path.rglob("*"))


def prune(path: Path, why: str) -> None:
    """Remove an artifact's files but for its manifest.

    The mark is written first: an artifact that is half removed counts as pruned, and a second call
    removes the rest.

    Args:
        path: the artifact's folder.
        why: a sentence for who finds the mark.
    """
    if not is_pruned(path):
        write_atomically(path / MARK, f"{mark_of(why)}\n")
    entries = sorted(path.rglob("*"), reverse=True)  # a folder after what is in it
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            entry.rmdir()
        elif entry not in (path / MARK, path / MANIFEST):
            entry.unlink()


def mark_of(why: str) -> str:
    """What a mark says: since when, and why."""
    return f"{time.strftime('%Y-%m-%d')} {why}"


def freed_bytes(paths: Iterable[Path]) -> int:
    """What pruning these artifacts gives back to the disk: files that no other folder shares."""
    names: dict[tuple[int, int], int] = {}
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for path in paths:
        for file in path.rglob("*"):
            if file.is_file() and file not in (path / MARK, path / MANIFEST):
                found = file.stat()
                inode = (found.st_dev, found.st_ino)
                names[inode] = names.get(inode, 0) + 1
                sizes[inode] = found.st_size, found.st_nlink
    return sum(size for inode, (size, links) in sizes.items() if names[inode] >= links)


def share_files(
    draft: Path, files: Mapping[str, Mapping[str, Any]], made_of: Mapping[Path, Mapping[str, Any]]
) -> int:
    """Let a draft share the files that it has in common with artifacts that it was made of.

    Where the file system has no hard links, or the other artifact lies on another one, the draft
    keeps its copies.

    Args:
        draft: the folder.
        files: size and SHA-256 of its files by name.
        made_of: the same of other artifacts, by folder.

    Returns:
        The bytes that are shared.
    """
    there = {
        (entry["sha256"], entry["bytes"]): path / name
        for path, entries in made_of.items()
        for name, entry in entries.items()
    }
    shared, link = 0, draft / ".link"
    for name, entry in files.items():
        source, file = there.get((entry["sha256"], entry["bytes"])), draft / name
        if source is None or entry["bytes"] < _LEAST_BYTES:
            continue
        with contextlib.suppress(OSError):
            # Its bytes may have changed since it was verified; then the draft keeps its own.
            if source.samefile(file) or sha256_file(source) == entry["sha256"]:
                os.link(source, link)
                link.replace(file)
                shared += int(entry["bytes"])
        link.unlink(missing_ok=True)
    return shared
