"""Artifacts: the folder of results that a stage writes, complete or not at all.

In: a stage's name, its settings, its input artifacts, and a function that fills a folder. Out: an
`Artifact`, a folder ``WORKDIR/STAGE/KEY`` with the stage's files and a ``manifest.json`` that
holds the size and SHA-256 of every one of them.

The key is a digest of the stage's name, its settings and its inputs' fingerprints; the fingerprint
is a digest of the contents. So the same work is found again whoever asks for it, and changed inputs
get a new key. A folder is filled beside its final name, under a lock, and renamed into place in one
step; the next job removes what a killed job left.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import commit, disk_explained, empty_folder
from cadc_rec.store.costs import Costs, Meter, of_ranks, of_stages, peak_memory_bytes
from cadc_rec.store.group import Group as Group
from cadc_rec.store.group import SoloGroup as SoloGroup
from cadc_rec.store.group import entries_together, verify_together
from cadc_rec.store.manifest import (
    MANIFEST,
    digest,
    file_entries,
    read_sealed,
    verify_files,
    write_sealed,
)
from cadc_rec.store.pruned import MARK, is_pruned, prune, share_files
from cadc_rec.store.remote.nodes import node_draft, send_draft
from cadc_rec.store.remote.origin import Origin, origin_of, place_on_node
from cadc_rec.store.remote.slices import join_slices
from cadc_rec.versions import library_versions

SCHEMA_VERSION = 1
_FINISHED = "a finished artifact"


@dataclass(frozen=True)
class Artifact:
    """A committed, verified artifact."""

    path: Path
    manifest: Mapping[str, Any]
    cached: bool = False

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return str(self.manifest["stage"])

    @property
    def fingerprint(self) -> str:
        """Digest of the contents, equal wherever the same bytes were made."""
        return str(self.manifest["fingerprint"])

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the run that made it."""
        return float(self.manifest["seconds"])

    @property
    def costs(self) -> Costs:
        """What that run took beside its seconds (`cadc_rec.store.costs`).

        Empty where it is not known: of artifacts that were made before it was measured.
        """
        costs: Costs = self.manifest.get("costs", {})
        return costs

    @property
    def info(self) -> Mapping[str, Any]:
        """What the stage reports: counts, rates, results."""
        info: Mapping[str, Any] = self.manifest["info"]
        return info


@dataclass
class Draft:
    """The folder that a stage fills, and what the stage reports in the manifest."""

    path: Path
    sliced: bool = False
    """Whether other ranks may fill other folders, so that a file of all is written in slices."""
    info: dict[str, Any] = field(default_factory=dict)
    rows: int | None = None
    """Rows that the stage processed, for the manifest's rows per second."""
    seconds_before: float = 0.0
    """Seconds of earlier, interrupted runs that this one continued."""
    costs_before: Sequence[Costs] = ()
    """Costs of these runs."""
    meter: Meter = field(default_factory=Meter)
    """Around `build`; another one, if `build` includes more than the work."""


def artifact_key(
    stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Artifact | str]
) -> str:
    """The folder's name: a digest of everything that decides what the stage computes."""
    return digest(
        {
            "schema": SCHEMA_VERSION,
            "stage": stage,
            "settings": settings,
            "inputs": _fingerprints(inputs),
        }
    )[:16]


def run_stage(
    workdir: Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact | str],
    build: Callable[[Draft], None],
    *,
    force: bool = False,
    group: Group | None = None,
    wait: bool | float = False,
    warm_up: Callable[[], object] = lambda: None,
) -> Artifact:
    """The stage's artifact: found in the work folder, or made by `build` and committed.

    Args:
        workdir: the work folder.
        stage: the stage's name.
        settings: the settings that decide the stage's result, JSON values only.
        inputs: artifacts, or fingerprints of raw files, by name.
        build: fills the draft's folder; runs on every rank. In a work folder of a store each node
            has a draft of its own, and the artifact has the files of all; else one is for all.
        force: make it again even if it exists; the old one stays until the new one is complete.
        group: the processes that run this stage together.
        wait: for another job that makes this artifact, if need be so many seconds; False is an
            error then.
        warm_up: called before `build`, for imports; its seconds do not count.

    Raises:
        CadcError: the work folder cannot be used, another job is making this artifact, or the
            existing artifact is damaged.
    """
    group = group or SoloGroup()
    key = artifact_key(stage, settings, inputs)
    final, origin = workdir / stage / key, origin_of(workdir)
    if group.rank != 0:
        group.together()  # rank 0 may send what an earlier command could not
        found, draft_path = group.broadcast(None)
        if found:
            return _open_together(final, group, origin)
        if origin is not None:
            _follow(final, origin, group, build)
        else:
            with disk_explained(workdir):
                draft = _built(Draft(workdir / draft_path), build)
                group.all_gather(({}, draft.meter.costs))
                entries_together(group, workdir / draft_path)
        group.together()  # rank 0 sends and commits
        open_on_nodes([final], group, origin)
        return Artifact(final, read_manifest(final))

    if group.together(lambda: not force and _exists(final, origin)):
        group.broadcast((True, ""))
        return _open_together(final, group, origin)
    warm_up()
    with empty_folder(workdir, stage, key, wait=wait, origin=origin) as folder:
        # Another job may have finished it meanwhile, or the sweep brought it back.
        if not force and _exists(final, origin):
            group.broadcast((True, ""))
            return _open_together(final, group, origin)
        group.broadcast((False, os.path.relpath(folder, workdir)))
        # Each node makes a draft of its own, where the work folder is in a store.
        sliced = origin is not None and any(group.all_gather(False))
        draft = _built(Draft(folder, sliced), build)
        if origin is not None:
            group.together()  # the other nodes send what they wrote
        # Fails where a rank was lost, maybe while it wrote its part: `together` would not.
        told: list[tuple[dict[str, Any], Costs]] = group.all_gather(({}, draft.meter.costs))
        of_nodes = [files for files, _ in told]
        costs = of_stages([*draft.costs_before, of_ranks(costs for _, costs in told)])
        hashed = entries_together(group, folder) if origin is None else {}

        def commit_all() -> tuple[dict[str, Any], bool]:
            sent = {name: entry for files in of_nodes for name, entry in files.items()}
            if origin is not None and sliced:
                sent = join_slices(origin, folder, f"{stage}/{key}", sent)
            body = _manifest(stage, key, settings, inputs, draft, costs, {**hashed, **sent})
            if origin is None:
                before = [made for made in inputs.values() if isinstance(made, Artifact)]
                share_files(folder, body["files"], {m.path: m.manifest["files"] for m in before})
            return write_sealed(folder, body), _commit(folder, final, origin, force)

        manifest, won = group.together(commit_all)
    if won and not any(of_nodes):
        group.together()  # the other nodes bring it
        return Artifact(final, manifest)
    made: Artifact = group.together(lambda: open_artifact(final))
    return made


def _follow(final: Path, origin: Origin, group: Group, build: Callable[[Draft], None]) -> None:
    """What ranks other than 0 do to make an artifact where the work folder is in a store."""
    stage, key = final.parent.name, final.name
    with (
        disk_explained(origin.folder),
        node_draft(origin, stage, key, group.all_gather) as (folder, own, sliced),
    ):
        draft = _built(Draft(folder, sliced), build)
        sends = (lambda: send_draft(origin, folder, f"{stage}/{key}")) if own else None
        group.all_gather((group.together(sends) or {}, draft.meter.costs))


def _built(draft: Draft, build: Callable[[Draft], None]) -> Draft:
    """The draft, filled, and what that took."""
    with draft.meter:
        build(draft)
    return draft


def open_on_nodes(finals: Sequence[Path], group: Group, origin: Origin | None) -> None:
    """What ranks other than 0 do for artifacts that are there: the first of a node brings them.

    Rank 0, which has them, waits meanwhile by `Group.together`.
    """

    def opened() -> None:
        assert origin is not None
        for final in finals:
            origin.find(f"{final.parent.name}/{final.name}")
            open_artifact(final)

    brings = origin is not None and group.rank != 0 and place_on_node()[0] == 0
    group.together(opened if brings else None)


def stage_exists(
    workdir: Path, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Artifact | str]
) -> bool:
    """Whether `run_stage` would find this artifact."""
    final = workdir / stage / artifact_key(stage, settings, inputs)
    origin = origin_of(workdir)
    if origin is not None:
        name = f"{stage}/{final.name}"
        return origin.has(name) and not (origin.find(name) and is_pruned(final))
    return os.path.exists(final) and not is_pruned(final)


def pruned_artifact(
    workdir: Path, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, Artifact | str]
) -> Artifact | None:
    """This artifact, if its files were removed by `cadc_rec.store.pruned.prune`."""
    final = workdir / stage / artifact_key(stage, settings, inputs)
    return Artifact(final, read_manifest(final), cached=True) if is_pruned(final) else None


def prune_artifact(path: Path, why: str) -> None:
    """Remove an artifact's files but for its manifest, on the disk or in the store.

    Args:
        path: the artifact's folder.
        why: a sentence for who asks for it.
    """
    origin = origin_of(path.parent.parent)
    if origin is None:
        prune(path, why)
    else:
        origin.prune(f"{path.parent.name}/{path.name}", why)


def committed(workdir: Path, stage: str) -> list[Path]:
    """The folders of a stage's artifacts; of a work folder in a store, those it has now.

    Each has its manifest, and its files once `open_artifact` has been called.
    """
    origin = origin_of(workdir)
    if origin is not None:
        return origin.known(stage)
    return sorted(file.parent for file in (workdir / stage).glob(f"*/{MANIFEST}"))


def bring(folder: Path, names: Iterable[str]) -> None:
    """Have some files of a committed artifact here, those of these names that it has."""
    origin = origin_of(folder.parent.parent)
    if origin is not None:
        origin.require(folder)
        files = read_manifest(folder)["files"]
        origin.fetch(folder, {name: files[name] for name in names if name in files})


def _exists(final: Path, origin: Origin | None) -> bool:
    if origin is None:
        return os.path.exists(final) and not is_pruned(final)
    return origin.find(f"{final.parent.name}/{final.name}") and not is_pruned(final)


def _commit(draft: Path, final: Path, origin: Origin | None, force: bool) -> bool:
    """Make the draft the artifact; False where another writer's stands there, in a store."""
    if origin is None:
        commit(draft, final)
        return True
    # In the place of one whose files were removed it is made anew.
    return origin.commit(draft, f"{final.parent.name}/{final.name}", force or is_pruned(final))


def _open_together(final: Path, group: Group, origin: Origin | None) -> Artifact:
    """Open an existing artifact on every rank; of a folder that all see each hashes some files."""
    if origin is None:
        own = (lambda: _described(final)) if group.rank == 0 else None
        manifest: dict[str, Any] = group.broadcast(group.together(own))
        verify_together(group, final, manifest["files"], _FINISHED, _remedy(final))
        return Artifact(final, manifest, cached=True)
    if group.rank == 0:
        opened: Artifact = group.together(lambda: open_artifact(final, cached=True))
        return opened
    open_on_nodes([final], group, origin)
    return Artifact(final, read_manifest(final), cached=True)


def open_artifact(path: Path, *, cached: bool = False) -> Artifact:
    """Open an artifact and check every file against its manifest.

    Raises:
        CadcError: it is missing or of another schema, its files were pruned, or a file changed.
    """
    origin = origin_of(path.parent.parent)
    if origin is not None:
        origin.require(path)
    manifest = _described(path)
    files = manifest["files"]
    if origin is not None:
        origin.fetch(path, files)
    else:
        verify_files(path, files, files, _FINISHED, _remedy(path))
    return Artifact(path, manifest, cached=cached)


def _described(path: Path) -> dict[str, Any]:
    """An artifact's manifest, which names every file that is there."""
    manifest = read_manifest(path)
    if is_pruned(path):
        raise CadcError(
            f"{path}: its files were removed ({(path / MARK).read_text('utf-8').strip()}); take a "
            "newer update, or make it anew with cadc-rec run."
        )
    known = {path / name for name in (MANIFEST, *manifest["files"])}
    for file in path.rglob("*"):
        if file.is_file() and file not in known:
            raise CadcError(f"{file} does not belong to this artifact; delete that file.")
    return manifest


def _remedy(path: Path) -> str:
    return f"delete {path} and run again."


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the artifact in `path`, checked against its own digest.

    Raises:
        CadcError: there is none, it cannot be read, or it changed.
    """
    return read_sealed(path, SCHEMA_VERSION, _remedy(path))


def _manifest(
    stage: str,
    key: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, Artifact | str],
    draft: Draft,
    costs: Costs,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    every = (file for file in sorted(draft.path.rglob("*")) if file.is_file())
    here = (file for file in every if str(file.relative_to(draft.path)) not in known)
    files = dict(sorted({**file_entries(draft.path, here), **known}.items()))
    contents = {name: entry["sha256"] for name, entry in files.items()}
    seconds = draft.seconds_before + draft.meter.seconds
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": stage,
        "key": key,
        "fingerprint": digest({"stage": stage, "files": contents}),
        "settings": settings,
        "inputs": _fingerprints(inputs),
        "files": files,
        "versions": _versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": seconds,
        "rows": draft.rows,
        "rows_per_second": draft.rows / seconds if draft.rows and seconds else None,
        "peak_memory_bytes": peak_memory_bytes(),
        "costs": costs,
        "info": draft.info,
    }


@functools.cache
def _versions() -> dict[str, str]:
    """Those of this process; reading what is installed takes as long as a small artifact."""
    return library_versions()


def _fingerprints(inputs: Mapping[str, Artifact | str]) -> dict[str, str]:
    return {
        name: value.fingerprint if isinstance(value, Artifact) else value
        for name, value in inputs.items()
    }
