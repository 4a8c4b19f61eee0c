"""Finds an experiment's finished run, or says which runs there are and what differs.

In: a pipeline. Out: its artifacts, none of them made now; or one sentence, with a line for each run
of the work folder that has other settings: what to add to the command to mean that one.

What a run was made with stands in its manifests. The settings that are asked for are formed from
the same inputs by the same rows of the table, so what differs is just what decides a result.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stage import Job, Opened
from cadc_rec.pipeline.table import MAKER, STAGES, TABLE
from cadc_rec.store.artifact import Artifact, read_manifest
from cadc_rec.store.manifest import MANIFEST

_SHOWN = 5  # runs that are listed
_CODE = "code"
_RENAMED = {  # settings of a stage that stand there under a shorter name
    "history": "history.length",
    "scale": "pretrain.scale",
    "processes": "compute.processes",
    "stream": "loader.buffer_rows",
    "frozen_storage": "sharding.frozen_storage",
}
_LEFT_OUT = {"evaluate.metrics": [], "evaluate.users": 0}
"""Settings that do not stand there where they have no say, and what they are then."""
_ABSENT = {"pretrain": ("pretrain.model", "none"), "transitions": ("transitions.window", 0)}
"""The setting that says that there is no such stage."""


def require_finished(pipeline: Pipeline, until: str = "evaluate") -> dict[str, Artifact]:
    """The artifacts of a finished run up to and with the stage `until`; none is made.

    Raises:
        CadcError: the work folder has no such run; names the runs that it has.
    """
    # In an empty work folder, raw data that may be large are not even read, or fetched.
    some = any((pipeline.workdir / "prepare").glob(f"*/{MANIFEST}"))
    found = pipeline.found(until) if some else None
    if found is None:
        raise CadcError(_none_found(pipeline, until))
    return found


def _none_found(pipeline: Pipeline, until: str) -> str:
    """What to say where the settings name no finished run."""
    workdir, experiment = pipeline.workdir, pipeline.experiment
    runs = list(_runs(workdir))
    if not runs:
        return f"{workdir}: holds no finished run; make one with cadc-rec run."
    ours = [stage for stage in pipeline.stages() if until == "evaluate" or stage != "evaluate"]
    differences = [_difference(run, experiment, ours, workdir) for run in runs]
    differences.sort(key=lambda one: len(one.options) + len(one.asked))
    lines = [f"  {one.line()}" for one in differences[:_SHOWN]]
    if len(runs) > _SHOWN:
        lines.append(f"  and {len(runs) - _SHOWN} more")
    head = (
        f"{workdir}: no finished run has these settings (method {experiment.method}); make it with "
        "cadc-rec run, or add the options of one that is there:"
    )
    return "\n".join((head, *lines))


@dataclass(frozen=True)
class _Run:
    """A finished run: its artifacts by stage, in order."""

    artifacts: Mapping[str, Artifact]

    def settings(self) -> dict[str, Any]:
        """What decided it, by dotted name."""
        told = {name: value for stage, (name, value) in _ABSENT.items() if not self.has(stage)}
        for stage, made in self.artifacts.items():
            told |= _flat(stage, made.manifest["settings"])
        return told

    def has(self, stage: str) -> bool:
        """Whether its method has the stage."""
        return stage in self.artifacts


@dataclass(frozen=True)
class _Difference:
    """What tells a run from what was asked.

    Attributes:
        path: of its evaluation.
        options: of a command that means the run.
        asked: settings that have other values there, as they were asked for.
    """

    path: Path
    options: list[str]
    asked: list[str]

    def line(self) -> str:
        """For people."""
        if not (self.options or self.asked):
            told = "made of other data (files that changed, or another [data.generated])"
        else:
            told = " ".join(self.options)
        asked = f" (asked: {', '.join(self.asked)})" if self.asked else ""
        return f"{told}{asked}: {self.path}"


def _runs(workdir: Path) -> Iterator[_Run]:
    """The finished runs of a work folder; not what updates made of them."""
    by_fingerprint: dict[tuple[str, str], Artifact] = {}
    evaluations: list[Artifact] = []
    for stage in STAGES:
        for file in sorted((workdir / stage).glob(f"*/{MANIFEST}")):
            with contextlib.suppress(CadcError):  # damaged, or of another version of cadc-rec
                made = Artifact(file.parent, read_manifest(file.parent))
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
        if "prepare" in found and "raw" in found["prepare"].manifest["inputs"]:
            yield _Run({stage: found[stage] for stage in STAGES if stage in found})


def _difference(
    run: _Run, experiment: Experiment, stages: Sequence[str], workdir: Path
) -> _Difference:
    """What tells the run from the experiment, in the settings of these stages."""
    method = _method(run.settings(), experiment.method)
    named = method and method != experiment.method
    rows = METHODS[experiment.method] | METHODS[method] if named else {}
    options, asked = [f"--method {method}"] if named else [], []
    inputs = {TABLE[stage].makes: made for stage, made in run.artifacts.items()}
    differing: dict[str, tuple[Any, Any]] = {}
    for stage in stages:
        if not run.has(stage):
            continue
        reads = [name for name in TABLE[stage].reads(experiment) if name in inputs]
        job = Job(
            TABLE[stage],
            experiment,
            {name: inputs[name] for name in reads},
            workdir,
            ranks=1,
            readers=experiment.compute.processes,
            opened=Opened(),
        )
        ours = _flat(stage, json.loads(json.dumps(job.settings)))
        theirs = _flat(stage, run.artifacts[stage].manifest["settings"])
        theirs = {key: value for key, value in _LEFT_OUT.items() if key in ours} | theirs
        for key, value in theirs.items():
            # Another kind of selection, say, may not have the setting among those that decide.
            wanted = ours[key] if key in ours else _setting(experiment, key)
            if value != wanted and key not in rows:
                differing[key] = value, wanted
    if differing.pop(_CODE, None):
        asked.append("this version of cadc-rec, which computes otherwise")
    for key, (value, wanted) in differing.items():
        options.append(f"--set {key}={_toml(value)}")
        asked.append(f"{key}={_toml(wanted)}")
    return _Difference(run.artifacts["evaluate"].path, options, asked)


def _setting(experiment: Experiment, dotted: str) -> Any:
    """A setting of the experiment by its dotted name, as a JSON value."""
    node: Any = experiment.model_dump(mode="json")
    for part in dotted.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def _method(told: Mapping[str, Any], asked: str) -> str:
    """The method whose row these settings have; empty where none does.

    The one that is asked for, if it fits; or else that with the most settings.
    """
    fitting = [
        (name == asked, sum(key in told for key in row), name)
        for name, row in METHODS.items()
        if all(told.get(key, value) == value for key, value in row.items())
    ]
    return max(fitting)[2] if fitting else ""


def _flat(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings by their dotted names in a configuration."""
    found: dict[str, Any] = {}

    def add(prefix: str, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{name}.", value)
            else:
                found[f"{prefix}{name}" if prefix else _RENAMED.get(name, name)] = value

    own = {name: value for name, value in settings.items() if name != _CODE}
    add("", {"data": own} if stage == "prepare" else own)
    return {**found, _CODE: settings[_CODE]}


def _toml(value: Any) -> str:
    """A value as ``--set`` takes it in a shell."""
    text = json.dumps(value, ensure_ascii=False)  # JSON's numbers, strings and arrays are TOML's
    return text.strip('"') if isinstance(value, str) and value.isidentifier() else shlex.quote(text)
