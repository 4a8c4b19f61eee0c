"""The folder of one training's checkpoints: which there are, which are whole, which are kept.

``WORKDIR/checkpoints/TRAINING/000007-step-1234/`` holds the files of one checkpoint and a
``manifest.json`` with the SHA-256 of each of them. It is filled beside its final name and renamed
when it is whole. The first number counts the checkpoints as they are written, so the newest is
known even where somebody went back to an earlier one. TRAINING is a digest of what decides the
training, but for the number of processes and the sharding: whoever goes on may have others.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import commit, locked, make_folder
from cadc_rec.store.manifest import read_sealed, verify_files, write_sealed
from cadc_rec.versions import library_versions

FOLDER = "checkpoints"
SCHEMA_VERSION = 1
_COMMITTED = "[0-9]*-step-*"
_DRAFT = ".draft-"
_REMOVED = ".removed-"


class Group(Protocol):
    """The ranks that look at checkpoints together."""

    @property
    def rank(self) -> int:
        """This process's number; rank 0 reads manifests and writes."""

    @property
    def world_size(self) -> int:
        """How many there are."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""


@dataclass(frozen=True)
class Checkpoint:
    """One that is whole."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Steps of the training that it holds."""
        return int(self.manifest["step"])

    @property
    def score(self) -> float:
        """Validation NDCG@10 of the last validation before it; -1 where there was none."""
        return float(self.manifest["score"])


class CheckpointStore:
    """The checkpoints of one training.

    Args:
        workdir: the work folder.
        training: names the training.
    """

    def __init__(self, workdir: Path, training: str) -> None:
        self.workdir = workdir
        self.path = workdir / FOLDER / training
        self._lock = workdir / ".tmp" / f"{FOLDER}-{training}.lock"

    @contextlib.contextmanager
    def owned(self) -> Iterator[None]:
        """Within, this process (rank 0) alone writes here; leavings of killed jobs are removed.

        Raises:
            CadcError: another job trains the same, or the folder cannot be used.
        """
        make_folder(self.path, self.workdir)
        with self._locked() as mine:
            if not mine:
                raise BusyError(
                    f"{self.path}: another job is training the same there; wait for it, or give "
                    "this one a work folder of its own with --workdir."
                )
            for left in self.path.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[bool]:
        """Hold this training's lock, which is not in the folder: that may be removed."""
        make_folder(self._lock.parent, self.workdir)
        with locked(self._lock) as mine:
            yield mine

    def folders(self) -> list[Path]:
        """Committed checkpoints, whole or damaged since, the newest first."""
        return sorted(self.path.glob(_COMMITTED), reverse=True)

    def draft(self, step: int) -> Path:
        """Where the checkpoint of a step is filled; a kill while it is there tears it."""
        return self.path / f"{_DRAFT}{step}"

    def commit(self, step: int, files: Mapping[str, Any], body: Mapping[str, Any]) -> Checkpoint:
        """Make the draft of a step a checkpoint, by one rename.

        Args:
            step: whose draft.
            files: size and SHA-256 of every file in it.
            body: what else its manifest says; ``score`` is required.
        """
        newest = next((int(folder.name.split("-")[0]) for folder in self.folders()), 0)
        draft, final = self.draft(step), self.path / f"{newest + 1:06d}-step-{step}"
        manifest = write_sealed(
            draft,
            {
                "schema_version": SCHEMA_VERSION,
                "step": step,
                **body,
                "files": files,
                "versions": library_versions(),
            },
        )
        commit(draft, final)
        return Checkpoint(final, manifest)

    def keep(self, last: int, best: bool) -> None:
        """Remove all but the `last` newest and, where asked for, the best."""
        folders = self.folders()
        kept = set(folders[:last])
        if best:
            scored = []
            for folder in folders:
                with contextlib.suppress(CadcError):
                    checkpoint = Checkpoint(folder, read(folder))
                    scored.append((checkpoint.score, folder))
            kept |= {folder for _, folder in sorted(scored)[-1:]}
        for folder in folders:
            if folder not in kept:
                self._remove(folder)

    def remove_all(self) -> None:
        """Remove all checkpoints; called by who owns the folder."""
        for folder in self.folders():
            self._remove(folder)

    def clear(self) -> None:
        """Remove all checkpoints and the folder, unless another job has begun to write there."""
        if not self.path.exists():
            return
        with self._locked() as mine:
            if mine:
                self.remove_all()
                shutil.rmtree(self.path, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Remove a checkpoint; killed half-way, it is no torn checkpoint but a leaving."""
        doomed = folder.with_name(f"{_REMOVED}{folder.name}")
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own digest.

    Raises:
        CadcError: there is none, it changed, or another version wrote it.
    """
    return read_sealed(folder, SCHEMA_VERSION, "name another checkpoint, or none.")


def open_checkpoint(folder: Path, group: Group) -> Checkpoint:
    """Open one and compare its files with its manifest, each rank a share of them.

    All ranks must call; all return or all raise.

    Raises:
        CadcError: it is not whole.
    """
    manifest, why = group.broadcast(_attempt(lambda: read(folder)) if group.rank == 0 else None)
    if why is None:
        files = manifest["files"]
        mine: Sequence[str] = sorted(files)[group.rank :: group.world_size]
        _, changed = _attempt(
            lambda: verify_files(
                folder, files, mine, "a checkpoint", "name another checkpoint, or none."
            )
        )
        why = next((each for each in group.all_gather(changed) if each is not None), None)
    if why is not None:
        raise CadcError(why)
    return Checkpoint(folder, manifest)


def newest_whole(
    store: CheckpointStore,
    group: Group,
    refuses: Callable[[Mapping[str, Any]], str | None],
    tell: Callable[..., None] = log.warning,
) -> Checkpoint | None:
    """The newest checkpoint that is whole and not refused; others are skipped with a warning.

    Args:
        store: where to look.
        group: the ranks; all must call.
        refuses: why a manifest's checkpoint cannot be used here, as the end of a sentence; None
            where it can.
        tell: of those that are skipped.
    """
    for folder in group.broadcast(store.folders() if group.rank == 0 else None):
        try:
            found = open_checkpoint(folder, group)
        except CadcError as error:
            why = str(error).removesuffix("; name another checkpoint, or none.")
        else:
            refused = refuses(found.manifest)
            if refused is None:
                return found
            why = f"{folder} {refused}"
        if group.rank == 0:
            tell("checkpoint skipped: %s", why)
    return None


def _attempt(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """What `work` returns, or why it could not."""
    try:
        return work(), None
    except CadcError as error:
        return None, str(error)
