"""A stage that ranks of several nodes carry out, whose disks see nothing of each other.

In: a folder of the cache on each node. Out: a draft on each node, whose files the node's first rank
sends, and their entries for the one manifest that rank 0 writes; later, the artifact on every node.
Nodes that share one cache, as processes of one machine do, are found by its lock.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import locked
from cadc_rec.store.manifest import file_entries
from cadc_rec.store.remote.origin import Origin, place_on_node


@contextlib.contextmanager
def node_draft(
    origin: Origin, stage: str, key: str, all_gather: Callable[[bool], list[bool]]
) -> Iterator[tuple[Path, bool, bool]]:
    """The folder that a rank other than 0 fills.

    Args:
        origin: of this node's cache.
        stage: what is made.
        key: names it.
        all_gather: gives all ranks' values, also rank 0's, which answers for its own.

    Yields:
        The folder; whether this rank answers for it; whether there are others than rank 0's.

    Raises:
        CadcError: no rank of this node is its first.
    """
    folder = origin.folder / ".tmp" / f"{stage}-{key}"
    with contextlib.ExitStack() as held:
        own = False
        if place_on_node()[0] == 0:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # Rank 0 holds it where this is its node's folder too.
            own = held.enter_context(locked(folder.with_name(f"{folder.name}.lock")))
        if own:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            held.callback(shutil.rmtree, folder, ignore_errors=True)
        sliced = any(all_gather(own))
        if not folder.is_dir():
            raise CadcError(
                f"{folder}: no rank of this node made this folder; see that the ranks of every "
                "node are numbered from LOCAL_RANK 0, and run again."
            )
        yield folder, own, sliced


def send_draft(origin: Origin, folder: Path, prefix: str) -> dict[str, dict[str, Any]]:
    """Have a node's files in the store; returns size and SHA-256 by name."""
    every = (file for file in sorted(folder.rglob("*")) if file.is_file())
    files = file_entries(folder, every)
    if files:
        origin.upload(folder, prefix, files)
    return files
