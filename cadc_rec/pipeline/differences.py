"""What tells a finished run from an experiment, and which options of a command mean that run.

What a run was made with stands in its manifests. With these settings laid over the experiment, the
table of stages says under which keys its artifacts would be looked for. If these are the run's own
keys, then the settings, as options, find it. If not, something else differs: the data, or the
version of cadc-rec.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cadc_rec.config.experiment import DataConfig, Experiment, LoaderConfig
from cadc_rec.config.methods import DEFAULTS, METHODS
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.stage import Job
from cadc_rec.pipeline.table import TABLE
from cadc_rec.store.artifact import Artifact

_NAMED = 3  # settings that an obstacle lists
_RENAMED = {  # settings of a stage that stand there under a shorter name
    "history": "history.length",
    "scale": "pretrain.scale",
    "processes": "compute.processes",
    "stream": "loader.buffer_rows",
    "frozen_storage": "sharding.frozen_storage",
}
_ABSENT = {"pretrain": ("pretrain.model", "none"), "transitions": ("transitions.window", 0)}
"""The setting that says that there is no such stage."""
_UNUSED = {"history": ("history.length", 0), "prior": ("prior.use", False)}
"""The setting that says why a section stands there empty."""
_LEFT_OUT = {
    "transitions.form": "factors",
    "prior.fit": "none",
    "prior.recent": False,
    "prior.content": True,
    "model.keep": "towers",
}
"""Settings that a section names only where they have other values than these."""
_PERHAPS = ("data.k_core", "select.shards", "transitions.window")
"""Settings that stand there otherwise than they were given, or that nothing read."""


@dataclass(frozen=True)
class Run:
    """A finished run: its artifacts by stage, in order."""

    artifacts: Mapping[str, Artifact]

    def settings(self) -> dict[str, Any]:
        """What decided it, by dotted name."""
        told = {name: value for stage, (name, value) in _ABSENT.items() if not self.has(stage)}
        for stage, made in self.artifacts.items():
            settings = made.manifest["settings"]
            told |= _flat(stage, settings)
            told |= {
                name: value for key, (name, value) in _UNUSED.items() if settings.get(key) == {}
            }
        sections = {name.partition(".")[0] for name in told}
        left_out = {k: v for k, v in _LEFT_OUT.items() if k.partition(".")[0] in sections}
        return left_out | told

    def has(self, stage: str) -> bool:
        """Whether its method has the stage."""
        return stage in self.artifacts


@dataclass(frozen=True)
class Difference:
    """What tells a run from what was asked.

    Attributes:
        path: of its evaluation.
        options: of a command, which give it the run's settings.
        of_other_method: whether the first of them names another method.
        asked: settings that have other values there, as they were asked for.
        obstacles: what else differs, which no option gives: with one, the options find no run.
    """

    path: Path
    options: tuple[str, ...]
    of_other_method: bool
    asked: tuple[str, ...]
    obstacles: tuple[str, ...]

    def line(self) -> str:
        """For people."""
        asked = f" (asked: {', '.join(self.asked)})" if self.asked else ""
        if not self.obstacles:
            return f"{' '.join(self.options)}{asked}: {self.path}"
        made = f"; made with {' '.join(self.options)}" if self.options else ""
        return f"no option means it: {'; '.join(self.obstacles)}{made}{asked}: {self.path}"


def difference(run: Run, pipeline: Pipeline, until: str) -> Difference:
    """What tells the run from the pipeline's experiment, in its stages up to and with `until`."""
    experiment, told = pipeline.experiment, run.settings()
    method = _method(told, experiment.method) or experiment.method
    base = _under(experiment, method)
    told |= _reading(run, LoaderConfig.model_validate(base["loader"]))
    differing = {k: v for k, v in told.items() if k in _usual() and _get(base, k) != v}
    if until != "evaluate":  # whose own settings are then left as they are asked for
        differing = {k: v for k, v in differing.items() if not k.startswith("evaluate.")}
    stages = [stage for stage in run.artifacts if until == "evaluate" or stage != "evaluate"]
    if told["data.source"] == "tables" != experiment.data.source:
        # Whatever is asked for, it has no tables; how they were read tells nobody anything.
        stages.remove("prepare")
        differing = {k: v for k, v in differing.items() if not k.startswith("data.tables.")}
    unread = {}
    if not _is_allowed(base, differing):  # because of settings that only the asked ones allow
        unread = {k: v for k, v in _usual().items() if k not in told and _get(base, k) != v}
        unread = {k: v for k, v in unread.items() if k != "method" and k[:11] != "data.tables"}
        differing |= unread
    before, obstacles = _obstacles(run, stages, base, differing, pipeline)
    for key in [key for key in (*_PERHAPS, *unread) if key in differing]:
        fewer = {name: value for name, value in differing.items() if name != key}
        if _obstacles(run, stages, base, fewer, pipeline)[1] == obstacles:
            differing = fewer
    differing |= before
    options = [f"--method {method}"] if method != experiment.method else []
    options += [f"--set {k}={_toml(v)}" for k, v in differing.items() if v is not None]
    row = METHODS[experiment.method] if method != experiment.method else {}
    asked = {key: _get(experiment.model_dump(mode="json"), key) for key in differing}
    return Difference(
        run.artifacts["evaluate"].path,
        tuple(options),
        method != experiment.method,
        tuple(f"{k}={_toml(v)}" for k, v in asked.items() if k not in row and v is not None),
        tuple(obstacles),
    )


def _obstacles(
    run: Run,
    stages: Sequence[str],
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    pipeline: Pipeline,
) -> tuple[dict[str, Any], list[str]]:
    """Why an experiment with these settings laid over `base` would not find the run's stages.

    Returns:
        Settings that are newer than the run, and so are absent in its manifests: their defaults,
        where `base` has other values. And a clause for each thing that differs; none if the
        experiment finds the run.
    """
    unset = [key for key, value in settings.items() if value is None]  # TOML has no null
    clauses = [f"{key} is unset there, so leave it out here" for key in unset]
    if not _is_allowed(base, settings):
        return {}, [*clauses, "its settings do not go with the others here"]
    experiment = Experiment.model_validate(_laid(base, settings))
    inputs = {TABLE[stage].makes: made for stage, made in run.artifacts.items()}
    before: dict[str, Any] = {}
    codes, lacks, extra = [], [], []
    for stage in stages:
        there = run.artifacts[stage].manifest["settings"]
        reads = [name for name in TABLE[stage].reads(experiment) if name in inputs]
        job = Job(
            TABLE[stage],
            experiment,
            {name: inputs[name] for name in reads},
            pipeline.workdir,
            ranks=1,
            readers=experiment.compute.processes,
            opened=pipeline.opened,
        )
        ours = _flat(stage, json.loads(json.dumps(job.settings)))
        theirs = _flat(stage, there)
        if job.settings["code"] != there["code"]:
            codes.append(stage)
        lacks += [key for key in ours if key not in theirs]
        extra += [key for key in theirs if key not in ours]
        # What a number of ranks decided, say, which no setting gives.
        other = [key for key in theirs if key in ours and theirs[key] != ours[key]]
        clauses += [f"its {stage} has {key}={_toml(theirs[key])}" for key in other]
    another = "made by another version of cadc-rec, which"
    if codes:
        clauses.append(f"{another} computes {_few(codes)} otherwise")
    if lacks:
        clauses.append(f"{another} has no {_few(lacks)}")
        before = {k: _usual()[k] for k in lacks if _usual()[k] != _get(base, k)}
    if extra:
        clauses.append(f"{another} has {_few(extra)}")
    if not _same_data(run, experiment.data, pipeline):
        source = experiment.data.source
        how = ""
        if source == "generated":
            how = ", by another [data.generated]"
        elif source == pipeline.experiment.data.source:
            how = ": its files had other contents"
        clauses.append(f"made of other data{how}")
    return before, clauses


def _same_data(run: Run, data: DataConfig, pipeline: Pipeline) -> bool:
    """Whether the run was made of the raw input that these settings name."""
    from cadc_rec.data.sources.raw_input import find_raw

    if data.source == pipeline.experiment.data.source:
        now = pipeline.raw_fingerprint
    elif data.source == "generated":
        now = find_raw(data).fingerprint
    else:  # the paths of tables stand in no manifest; a public archive is the same for everybody
        return data.source != "tables"
    return bool(run.artifacts["prepare"].manifest["inputs"]["raw"] == now)


def _reading(run: Run, loader: LoaderConfig) -> dict[str, Any]:
    """How the run's training read its sample, if `loader` would read it otherwise."""
    if not run.has("train"):
        return {}
    settings = run.artifacts["train"].manifest["settings"]
    streamed, history = "stream" in settings, settings["history"].get("length", 0)
    by_example = history or "context" in settings
    if loader.streams(run.artifacts["select"].info["selected"], by_example) == streamed:
        return {}
    return {"loader.kind": "stream" if streamed else "memory"}


def _method(told: Mapping[str, Any], asked: str) -> str:
    """The method whose row these settings have; empty where none does.

    That with the most settings; of several, the one that is asked for.
    """
    rows = {name: {"model.kind": "two_tower", **row} for name, row in METHODS.items()}
    fitting = [
        (sum(key in told for key in row), name == asked, name)
        for name, row in rows.items()
        if all(told.get(key, value) == value for key, value in row.items())
    ]
    return max(fitting)[2] if fitting else ""


def _under(experiment: Experiment, method: str) -> dict[str, Any]:
    """The experiment's settings, with this method in place of its own."""
    settings = experiment.model_dump(mode="json")
    if method == experiment.method:
        return settings
    # What the method set falls back to what the file says, and that is, as a rule, nothing.
    own = {**DEFAULTS.get(experiment.method, {}), **METHODS[experiment.method]}
    fallen = {key: _usual()[key] for key, value in own.items() if _get(settings, key) == value}
    base = _laid(settings, fallen)
    news = DEFAULTS.get(method, {}).items()
    defaults = {key: value for key, value in news if _get(base, key) == _usual()[key]}
    return _laid(base, {**defaults, **METHODS[method], "method": method})


def _is_allowed(base: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether there can be an experiment with these settings laid over `base`."""
    try:
        Experiment.model_validate(_laid(base, settings))
    except ValidationError:
        return False
    return True


def _laid(base: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, with values by dotted name laid over them."""
    tree: dict[str, Any] = json.loads(json.dumps(base))
    for key, value in settings.items():
        *sections, last = key.split(".")
        node = tree
        for section in sections:
            node = node[section]
        node[last] = value
    return tree


def _get(tree: Any, dotted: str) -> Any:
    """A setting by its dotted name; None where there is none."""
    for part in dotted.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


@cache
def _usual() -> dict[str, Any]:
    """Every setting's default, by its dotted name."""
    return _flat("", Experiment().model_dump(mode="json"))


def _flat(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's settings by their dotted names in a configuration, without its code's version."""
    found: dict[str, Any] = {}

    def add(prefix: str, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if isinstance(value, Mapping):
                add(f"{prefix}{name}.", value)
            else:
                found[f"{prefix}{name}" if prefix else _RENAMED.get(name, name)] = value

    own = {name: value for name, value in settings.items() if name != "code"}
    add("", {"data": own} if stage == "prepare" else own)
    return found


def _few(names: list[str]) -> str:
    """A list for people."""
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    return ", ".join(different[:_NAMED]) + more


def _toml(value: Any) -> str:
    """A value as ``--set`` takes it in a shell."""
    # JSON's numbers, strings and arrays are TOML's, but that TOML also escapes DEL.
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    bare = isinstance(value, str) and value.isidentifier()
    return str(value) if bare and value not in _NO_TEXT else shlex.quote(text)


_NO_TEXT = ("true", "false", "inf", "nan")
"""Words that TOML takes for other than text."""
