"""The updates of an experiment, one on top of the other, and how later commands name them.

An update leaves ordinary artifacts and, last of all, one of the stage ``updates``, whose manifest
lists them: that one makes the update valid. In: an experiment and a work folder. Out: its finished
updates in order, and a pipeline whose stages are those of one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact, open_artifact, read_manifest
from cadc_rec.store.manifest import MANIFEST

STAGE = "updates"


@dataclass(frozen=True)
class Update:
    """A finished update.

    Attributes:
        number: from 1.
        path: folder of its record.
        day: fingerprint of the day's files.
        artifacts: each stage's folder, relative to the work folder.
        report: what `cadc-rec update` printed.
    """

    number: int
    path: Path
    day: str
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
    found = []
    for file in sorted((workdir / STAGE).glob(f"*/{MANIFEST}")):
        info = read_manifest(file.parent)["info"]
        if info["line"] == line:
            names = ("number", "day", "artifacts", "report")
            number, day, artifacts, report = (info[name] for name in names)
            found.append(Update(number, file.parent, day, artifacts, report))
    found.sort(key=lambda update: update.number)
    if [update.number for update in found] != list(range(1, len(found) + 1)):
        numbers = ", ".join(str(update.number) for update in found)
        raise CadcError(
            f"{workdir / STAGE}: holds the updates {numbers} of this experiment, and not those "
            "between; bring the missing folders back, or remove the later ones."
        )
    return found


def artifacts_of(workdir: Path, update: Update) -> dict[str, Artifact]:
    """Its artifacts by stage, each checked against its manifest."""
    return {
        stage: open_artifact(workdir / folder, cached=True)
        for stage, folder in update.artifacts.items()
    }


def updated_pipeline(
    experiment: Experiment,
    workdir: Path,
    data_dir: Path | None = None,
    number: int | Literal["latest"] = "latest",
) -> Pipeline:
    """The experiment's pipeline with the artifacts of an update in place of its own.

    Args:
        experiment: all the settings.
        workdir: where artifacts live.
        data_dir: as `Pipeline`'s.
        number: of the update; 0 is the full run itself.

    Raises:
        CadcError: there is no such update.
    """
    base = Pipeline(experiment, workdir, data_dir)
    done = updates_of(workdir, line_of(base.run()))
    wanted = len(done) if number == "latest" else number
    if not 0 <= wanted <= len(done):
        raise CadcError(
            f"{workdir}: has no update {wanted} of this experiment; it has {len(done)}."
        )
    if wanted == 0:
        return base
    given = artifacts_of(workdir, done[wanted - 1])
    return Pipeline(experiment, workdir, data_dir, given=given)
