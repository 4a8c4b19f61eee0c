"""What no kept update needs any more, and its removal.

In: a work folder, an experiment's run and its updates, how many of these are kept. Out: the
artifacts whose files can go. What another experiment's run or update is made of stays, and so does
everything that no record names: it may belong to a job that goes on. Manifests and records stay, so
the chain of updates goes on from the newest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.pipeline.finished import runs_of
from cadc_rec.store.artifact import Artifact
from cadc_rec.store.pruned import is_pruned, prune
from cadc_rec.store.remote.origin import origin_of
from cadc_rec.updates import chain


def prunable(
    workdir: Path, base: Mapping[str, Artifact], keep: int = 1, with_run: bool = False
) -> list[Path]:
    """The artifacts of an experiment's run and updates that no kept state needs, in order.

    Args:
        workdir: the work folder.
        base: the run's artifacts.
        keep: how many of the newest updates are kept.
        with_run: whether the run itself may go too, where there is an update that is kept.

    Raises:
        CadcError: the work folder is in a store, or nothing would be kept.
    """
    if origin_of(workdir) is not None:
        raise CadcError("prune works on a folder of this machine; remove old folders in the store.")
    if keep < 1:
        raise CadcError(f"--keep {keep}: keep at least the newest update.")
    line = chain.line_of(base)
    done = chain.updates_of(workdir, line)
    old, kept = done[:-keep], done[-keep:]
    going = {workdir / folder for update in old for folder in update.artifacts.values()}
    if with_run and kept:
        going |= {made.path for made in base.values()}
    going -= needed(workdir, line, kept, run_stays=not (with_run and kept))
    return sorted(path for path in going if path.is_dir() and not is_pruned(path))


def needed(workdir: Path, line: str, kept: list[chain.Update], run_stays: bool) -> set[Path]:
    """The artifacts of kept updates, of other experiments' updates, and of runs that stay."""
    updates = [u for of, u in chain.every_update(workdir) if of != line] + kept
    found = {workdir / folder for update in updates for folder in update.artifacts.values()}
    for run in runs_of(workdir):
        if run_stays or chain.line_of(run.artifacts) != line:
            found |= {made.path for made in run.artifacts.values()}
    return found


def remove(paths: list[Path], why: str) -> None:
    """Prune these artifacts, the latest stage first: what is left is never newer than its input."""
    for path in reversed(paths):
        prune(path, why)
