"""The folder of one training's checkpoints: which exist, which are complete, which are kept.

``WORKDIR/checkpoints/TRAINING/000007-step-1234/`` holds the files of one checkpoint and a
``manifest.json`` with the SHA-256 of each of them. It is filled beside its final name and renamed
when it is complete. The first number counts the checkpoints as they are written, so the newest is
known even after a training went back to an earlier one. TRAINING is a digest of all that decides
the training except the number of processes and the sharding, which a resumed training may change.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import commit, locked, make_folder
from cadc_rec.store.manifest import read_sealed, verify_files, write_sealed
from cadc_rec.store.remote.cache import forget, hold, keep_bound, mark_sent
from cadc_rec.store.remote.origin import Origin, origin_of, place_on_node
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
        """Number of ranks."""

    def broadcast(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""

    def all_gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank."""

    def together(self, work: Callable[[], Any] | None = None) -> Any:
        """Do `work`, if there is some, and wait for all ranks' to be done, however long it takes.

        Returns what `work` gave.
        """


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Number of training steps before it."""
        return int(self.manifest["step"])

    @property
    def score(self) -> float:
        """Validation NDCG@10 of the last validation before it; -1 if there was none."""
        return float(self.manifest["score"])


class CheckpointStore:
    """The checkpoints of one training.

    Args:
        workdir: the work folder.
        training: the training's key.
    """

    def __init__(self, workdir: Path, training: str) -> None:
        self.workdir = workdir
        self.path = workdir / FOLDER / training
        self._lock = workdir / ".tmp" / f"{FOLDER}-{training}.lock"
        self.origin, self._prefix = origin_of(workdir), f"{FOLDER}/{training}"

    @contextlib.contextmanager
    def owned(self, wait: float = 0.0) -> Iterator[None]:
        """Inside this context only this process (rank 0) writes here; old drafts are removed first.

        Args:
            wait: for another job that runs the same training, in seconds.

        Raises:
            CadcError: another job runs the same training, or the folder cannot be used.
        """
        make_folder(self.path, self.workdir)
        with self._locked(wait) as mine:
            if not mine:
                raise BusyError(
                    f"{self.path}: another job is running the same training; wait for it, or give "
                    "this one a work folder of its own with --workdir."
                )
            for left in self.path.glob(".*"):
                shutil.rmtree(left, ignore_errors=True)
            if self.origin is not None:
                self.origin.sweep(self._prefix)
            yield

    @contextlib.contextmanager
    def _locked(self, wait: float = 0.0) -> Iterator[bool]:
        """Hold this training's lock; it is outside the folder, since that may be removed."""
        make_folder(self._lock.parent, self.workdir)
        waited = f"waiting for another job that writes {self.path}" if wait else ""
        with locked(self._lock, waited, wait) as mine, contextlib.ExitStack() as held:
            if mine and self.origin is not None:
                name = self._prefix.replace("/", "-")
                mine = held.enter_context(self.origin.leased(name, waited, wait))
            yield mine

    def folders(self) -> list[Path]:
        """Committed checkpoints, the newest first; some may be damaged by now."""
        here = set(self.path.glob(_COMMITTED))
        if self.origin is not None:  # one that could not be sent is here alone
            here |= set(self.origin.known(self._prefix, prune=False))
        return sorted(here, reverse=True)

    def draft(self, step: int) -> Path:
        """The folder in which a step's checkpoint is filled; a killed job leaves it incomplete."""
        return self.path / f"{_DRAFT}{step}"

    def commit(self, step: int, files: Mapping[str, Any], body: Mapping[str, Any]) -> Checkpoint:
        """Make the draft of a step a checkpoint, by one rename.

        Args:
            step: the draft's step.
            files: size and SHA-256 of every file in it.
            body: the rest of its manifest; ``score`` is required.
        """
        draft, final = self.draft(step), self.path / self.next_name(step)
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
        if self.origin is not None:
            mark_sent(final, False)  # one of this name may have been
        commit(draft, final)
        if self.origin is not None:
            # Ranks have sent what they wrote; the index is this one's.
            here = {name: entry for name, entry in files.items() if (final / name).exists()}
            self.origin.upload(final, f"{self._prefix}/{final.name}", here)
            self.origin.seal(final, f"{self._prefix}/{final.name}")
            hold(final)
            mark_sent(final)
            keep_bound()
        return Checkpoint(final, manifest)

    def next_name(self, step: int) -> str:
        """Of the next checkpoint's folder; the owner's answer counts."""
        newest = next((int(folder.name.split("-")[0]) for folder in self.folders()), 0)
        return f"{newest + 1:06d}-step-{step}"

    def send(self, draft: Path, name: str, files: Mapping[str, Mapping[str, Any]]) -> None:
        """Have files of a draft in the store, where the work folder belongs to one.

        Args:
            draft: holds them.
            name: of the checkpoint's folder.
            files: size and SHA-256 by name.
        """
        if self.origin is not None:
            self.origin.upload(draft, f"{self._prefix}/{name}", files)

    def keep(self, last: int, best: bool) -> None:
        """Remove all but the `last` newest checkpoints and, if asked for, the best."""
        folders = self.folders()
        kept = set(folders[:last])
        if best:
            scored = []
            for folder in folders:
                try:
                    checkpoint = Checkpoint(folder, read(folder))
                    scored.append((checkpoint.score, folder))
                except CadcError:
                    if self.origin is not None:  # its copy here may have just gone for space
                        kept.add(folder)
            kept |= {folder for _, folder in sorted(scored)[-1:]}
        for folder in folders:
            if folder not in kept:
                self._remove(folder)

    def remove_all(self) -> None:
        """Remove all checkpoints; only the owner of the folder may call it."""
        for folder in self.folders():
            self._remove(folder)

    def clear(self) -> None:
        """Remove all checkpoints and the folder, unless another job has begun to write there."""
        if not self.path.exists() and (self.origin is None or not self.folders()):
            return
        with self._locked() as mine:
            if mine:
                self.remove_all()
                shutil.rmtree(self.path, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        """Remove a checkpoint; if killed half-way, the rest counts as an old draft."""
        if self.origin is not None:
            self.origin.remove(f"{self._prefix}/{folder.name}")
        doomed = folder.with_name(f"{_REMOVED}{folder.name}")
        with contextlib.suppress(FileNotFoundError):  # it was removed for space
            folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        if self.origin is not None:
            forget(folder)


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint, checked against its own digest.

    Raises:
        CadcError: there is no manifest, it changed, or another version wrote it.
    """
    return read_sealed(folder, SCHEMA_VERSION, "name another checkpoint, or none.")


def open_checkpoint(folder: Path, group: Group) -> Checkpoint:
    """Open a checkpoint and check its files; each rank checks a share of them.

    All ranks must call; all return or all raise.

    Raises:
        CadcError: it is not complete.
    """
    reads = (lambda: _attempt(lambda: _read(folder))) if group.rank == 0 else None
    manifest, why = group.broadcast(group.together(reads))  # a store may take its time
    if why is None:
        _, changed = group.together(
            lambda: _attempt(lambda: _check(folder, manifest["files"], group))
        )
        why = next((each for each in group.all_gather(changed) if each is not None), None)
    if why is not None:
        raise CadcError(why)
    return Checkpoint(folder, manifest)


def _read(folder: Path) -> dict[str, Any]:
    """The manifest, brought here if need be."""
    origin = _origin(folder)
    if origin is not None:
        origin.require(folder)
    return read(folder)


def _origin(folder: Path) -> Origin | None:
    """The store of the work folder that a checkpoint is in."""
    return origin_of(folder.parent.parent.parent)  # a short path has fewer parents


def _check(folder: Path, files: Mapping[str, Mapping[str, Any]], group: Group) -> None:
    """Check this rank's share of the files; those in a store are brought to every node."""
    origin = _origin(folder)
    if origin is not None:
        hold(folder)
        rank, ranks = place_on_node()
        mine = sorted(files)[rank::ranks]
        origin.fetch(folder, {name: files[name] for name in mine}, share=True)
        return
    mine = sorted(files)[group.rank :: group.world_size]
    verify_files(folder, files, mine, "a checkpoint", "name another checkpoint, or none.")


def newest_whole(
    store: CheckpointStore,
    group: Group,
    refuses: Callable[[Mapping[str, Any]], str | None],
    tell: Callable[..., None] = log.warning,
) -> Checkpoint | None:
    """The newest checkpoint that is complete and not refused; others are skipped with a warning.

    Args:
        store: the folder of checkpoints.
        group: the ranks; all must call.
        refuses: given a manifest, says why its checkpoint cannot be used here, as the end of a
            sentence; None if it can.
        tell: logs each checkpoint that is skipped.
    """
    lists = (lambda: [folder.name for folder in store.folders()]) if group.rank == 0 else None
    for name in group.broadcast(group.together(lists)):
        folder = store.path / name  # each node has a cache of its own
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
    """The result of `work`, or its error."""
    try:
        return work(), None
    except CadcError as error:
        return None, str(error)
