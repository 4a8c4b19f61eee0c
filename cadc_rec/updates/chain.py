"""The updates of an experiment, one on top of the other, and how later commands name them.

An update leaves ordinary artifacts and, last of all, one of the stage ``updates``, whose manifest
lists them: that one makes the update valid. In: an experiment's pipeline. Out: its finished updates
in order, and a pipeline whose stages are those of the newest of them, or of the one that was named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.finished import require_finished
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.table import MAKER, TABLE
from cadc_rec.store.artifact import Artifact, committed, open_artifact, read_manifest
from cadc_rec.store.manifest import MANIFEST
from cadc_rec.store.pruned import is_pruned

STAGE = "updates"
Wanted = int | Literal["newest"]
"""Which update a command takes: its number, 0 for the run itself, or the newest."""


@dataclass(frozen=True)
class Update:
    """A finished update.

    Attributes:
        number: from 1.
        path: folder of its record.
        day: fingerprint of the day's files.
        name: of the day's folder; empty in records of before 28 November 2026.
        artifacts: each stage's folder, relative to the work folder.
        report: what `cadc-rec update` printed.
    """

    number: int
    path: Path
    day: str
    name: str
    artifacts: Mapping[str, str]
    report: Mapping[str, Any]


def line_of(base: Mapping[str, Artifact]) -> str:
    """Names the chain of updates on a full run: its last artifact's key."""
    return str(base["evaluate"].manifest["key"])


def updates_of(workdir: Path, line: str) -> list[Update]:
    """The finished updates of a line, in order.

    Raises:
        CadcError: a record is damaged, or one in the middle was removed.
    """
    found = [update for named, update in every_update(workdir) if named == line]
    found.sort(key=lambda update: update.number)
    if [update.number for update in found] != list(range(1, len(found) + 1)):
        numbers = ", ".join(str(update.number) for update in found)
        raise CadcError(
            f"{workdir / STAGE}: holds the updates {numbers} of this experiment, and not those "
            "between; bring the missing folders back, or remove the later ones."
        )
    return found


def every_update(workdir: Path) -> list[tuple[str, Update]]:
    """Every finished update of a work folder with the name of its line, the newest first."""
    found = []
    for folder in committed(workdir, STAGE):
        record = read_manifest(folder)
        info = record["info"]
        number, day, artifacts, report = (info[n] for n in ("number", "day", "artifacts", "report"))
        update = Update(number, folder, day, info.get("name", ""), artifacts, report)
        found.append((str(record["created"]), str(info["line"]), update))
    found.sort(key=lambda one: one[:2], reverse=True)
    return [(line, update) for _, line, update in found]


def artifacts_of(workdir: Path, update: Update) -> dict[str, Artifact]:
    """Its artifacts by stage, each checked against its manifest."""
    return {
        stage: open_artifact(workdir / folder, cached=True)
        for stage, folder in update.artifacts.items()
    }


def records_of(workdir: Path, update: Update) -> dict[str, Artifact]:
    """Its artifacts by stage, of pruned ones the manifests alone; no file is compared."""
    folders = {stage: workdir / folder for stage, folder in update.artifacts.items()}
    return {stage: Artifact(path, read_manifest(path)) for stage, path in folders.items()}


def update_text(update: Update, of: int) -> str:
    """Such as ``monday, update 1 of 1``."""
    day = f"{update.name}, " if update.name else ""
    return f"{day}update {update.number} of {of}"


@dataclass(frozen=True)
class Taken:
    """The state of an experiment that a command goes on with.

    Attributes:
        pipeline: has its artifacts in place of the run's own.
        update: the update it is; None for the run itself.
        of: how many updates the run has.
        built: the artifacts of the last full build that it goes back to: the run's, or those of an
            update that made all anew; of pruned ones the manifests alone.
    """

    pipeline: Pipeline
    update: Update | None
    of: int
    built: Mapping[str, Artifact] = field(default_factory=dict)

    def document(self) -> dict[str, Any] | None:
        """The update as JSON; None for the run itself."""
        if self.update is None:
            return None
        update = self.update
        return {"text": str(self), "day": update.name, "number": update.number, "of": self.of}

    def __str__(self) -> str:
        """Such as ``monday, update 1 of 1``; empty for a run without updates."""
        if self.update is not None:
            return update_text(self.update, self.of)
        updates = "update" if self.of == 1 else "updates"
        return f"the run itself, before its {self.of} {updates}" if self.of else ""


def take_update(base: Pipeline, wanted: Wanted = "newest", until: str = "evaluate") -> Taken:
    """The state of a finished run that a later command goes on with, and a line that says which.

    Args:
        base: the pipeline of the run.
        wanted: which update.
        until: what is taken of it. ``evaluate`` is all. ``train`` leaves the evaluation to the
            pipeline, which may have other settings for it. ``prepare`` takes the data alone, of
            any method's updates; there need not be a finished run.

    Raises:
        CadcError: there is no such finished run, or no such update.
    """
    found = (base.found(until) or {}) if until == "prepare" else require_finished(base, until)
    done = _updates_on(base, found, until)
    number = len(done) if wanted == "newest" else wanted
    if not 0 <= number <= len(done):
        raise CadcError(
            f"{base.workdir}: has no update {number} of this experiment; it has {len(done)}."
        )
    taken = Taken(base, None, len(done), found)
    if not number and any(is_pruned(made.path) for made in found.values()):
        raise CadcError(
            f"{base.workdir}: the run itself was pruned; take one of its updates, or make it anew "
            "with cadc-rec run."
        )
    if number:
        made = artifacts_of(base.workdir, done[number - 1])
        left_out = {"evaluate": (), "train": ("evaluate",), "prepare": set(made) - {"prepare"}}
        given = {stage: one for stage, one in made.items() if stage not in left_out[until]}
        rebuilt = [update for update in done[:number] if update.report.get("rebuilt")]
        built = records_of(base.workdir, rebuilt[-1]) if rebuilt else found
        taken = Taken(replace(base, given=given), done[number - 1], len(done), built)
    if done:
        log.info("takes %s", taken)
    return taken


def newest_update(base: Pipeline, made: Mapping[str, Artifact]) -> Taken | None:
    """The newest update of a run that has just been made or found; None where it has none.

    Its pipeline is the run's own.
    """
    done = updates_of(base.workdir, line_of(made))
    return Taken(base, done[-1], len(done)) if done else None


def _updates_on(base: Pipeline, found: Mapping[str, Artifact], until: str) -> list[Update]:
    """The updates of a run with these artifacts; those with the newest record, of several lines."""
    workdir = base.workdir
    whole = base.found() if until == "train" else found
    if whole and "evaluate" in whole and (own := updates_of(workdir, line_of(whole))):
        return own
    if until == "evaluate" or not found:
        return []
    makes = {MAKER[name]: name for name in TABLE["evaluate"].reads(base.experiment)}
    inputs = {makes[stage]: made.fingerprint for stage, made in found.items() if stage in makes}
    committed(workdir, "evaluate")  # has their manifests here, where they lie in a store
    for line, _ in every_update(workdir):
        folder = workdir / "evaluate" / line
        if not (folder / MANIFEST).exists():  # of an experiment that was deleted
            continue
        evaluation = read_manifest(folder)
        if inputs.items() <= evaluation["inputs"].items():
            return updates_of(workdir, line)
    return []
