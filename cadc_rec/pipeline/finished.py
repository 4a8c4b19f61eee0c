"""Finds an experiment's finished run, or says which runs there are and what differs.

In: a pipeline. Out: its artifacts, none of them made now; or one sentence, with a line for each run
of the work folder: what to add to the command to mean that one, or why nothing can be added.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.pipeline.differences import Run, difference
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.table import MAKER, STAGES, TABLE
from cadc_rec.store.artifact import Artifact, committed, read_manifest
from cadc_rec.store.remote.cache import address_of

_SHOWN = 5  # runs that are listed


def require_finished(pipeline: Pipeline, until: str = "evaluate") -> dict[str, Artifact]:
    """The artifacts of a finished run up to and with the stage `until`; none is made.

    Raises:
        CadcError: the work folder has no such run; names the runs that it has.
    """
    # In an empty work folder, raw data that may be large are not even read, or fetched.
    some = bool(committed(pipeline.workdir, "prepare"))
    found = pipeline.found(until) if some else None
    if found is None:
        raise CadcError(_none_found(pipeline, until))
    return found


def _none_found(pipeline: Pipeline, until: str) -> str:
    """What to say where the settings name no finished run."""
    workdir = address_of(pipeline.workdir) or pipeline.workdir
    runs = list(runs_of(pipeline.workdir))
    if not runs:
        return f"{workdir}: holds no finished run; make one with cadc-rec run."
    differences = [difference(run, pipeline, until) for run in runs]
    # What options find comes first, then what is of the same method, then what differs least.
    differences.sort(
        key=lambda d: (len(d.obstacles), d.of_other_method, len(d.options) + len(d.asked))
    )
    lines = [f"  {one.line()}" for one in differences[:_SHOWN]]
    if len(runs) > _SHOWN:
        lines.append(f"  and {len(runs) - _SHOWN} more")
    head = (
        f"{workdir}: no finished run has these settings (method {pipeline.experiment.method}); "
        "make it with cadc-rec run"
    )
    if differences[0].obstacles:
        return "\n".join((f"{head}. Those that are there:", *lines))
    return "\n".join((f"{head}, or add the options of one that is there:", *lines))


def runs_of(workdir: Path) -> Iterator[Run]:
    """The finished runs of a work folder; not what updates made of them."""
    by_fingerprint: dict[tuple[str, str], Artifact] = {}
    evaluations: list[Artifact] = []
    for stage in STAGES:
        for folder in committed(workdir, stage):
            with contextlib.suppress(CadcError):  # damaged, or of another version of cadc-rec
                made = Artifact(folder, read_manifest(folder))
                by_fingerprint[stage, made.fingerprint] = made
                if stage == "evaluate":
                    evaluations.append(made)
    for evaluation in evaluations:
        found, left = {"evaluate": evaluation}, [evaluation]
        while left:
            for name, fingerprint in left.pop().manifest["inputs"].items():
                read = by_fingerprint.get((MAKER.get(name, ""), fingerprint))
                if read is not None and read.stage not in found:
                    found[read.stage] = read
                    left.append(read)
        read_by_all = {name for made in found.values() for name in made.manifest["inputs"]}
        # An update's dataset is made of other things, and a part of a run may have been removed.
        if read_by_all - {TABLE[stage].makes for stage in found} == {"raw"}:
            yield Run({stage: found[stage] for stage in STAGES if stage in found})
