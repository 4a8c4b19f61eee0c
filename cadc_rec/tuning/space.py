"""Which settings of an experiment a search tries, and which values of each.

Only settings that the method uses are there, so that no trial is wasted. The values are few and the
same for every data set: trials that agree in the settings of a stage share its artifact, which
values drawn from a range would never do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError

_BY_TIME = ("recent", "recency-weighted", "user-stratified", "uniform")


@dataclass(frozen=True)
class Setting:
    """A setting that is searched.

    Attributes:
        name: dotted.
        values: JSON values, numbers ascending; the experiment's own among them.
        own: place of that one.
    """

    name: str
    values: tuple[Any, ...]
    own: int

    @property
    def ordered(self) -> bool:
        """Whether a value's neighbours are like it."""
        return all(isinstance(value, int | float) for value in self.values)


def search_space(
    config: Path, method: str | None, sets: Sequence[str], experiment: Experiment
) -> list[Setting]:
    """The settings to search.

    Args:
        config: the experiment's file.
        method: as on the command line.
        sets: overrides of the command line; what they name stays as it is.
        experiment: what these three give.

    Raises:
        CadcError: the method has no settings to search.
    """
    fixed = {text.partition("=")[0].strip() for text in sets}
    settings = experiment.model_dump(mode="json")
    space = []
    for name, tried in _tried(experiment):
        if fixed & {key for key in (name, *_linked({name: 1})) if key}:
            continue
        own = _get(settings, name)
        allowed = [own]
        for value in tried:
            if value not in allowed and _is_allowed(config, method, sets, {name: value}):
                allowed.append(value)
        if len(allowed) > 1:
            if not isinstance(own, str | list):
                allowed.sort()
            space.append(Setting(name, tuple(allowed), allowed.index(own)))
    if not space:
        raise CadcError(
            f"{config}: there are no settings to search with the method {experiment.method}"
            f"{' beside those of --set' if fixed else ''}; choose another one with --method."
        )
    return space


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """A trial's values as ``section.key=value``, with the settings that must follow them."""
    return [f"{name}={json.dumps(value)}" for name, value in with_linked(values).items()]


def with_linked(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's values, and those of settings that must follow them."""
    return {**values, **_linked(values)}


def _linked(values: Mapping[str, Any]) -> dict[str, Any]:
    if "pretrain.factors" in values:  # a vector's factors and its bias
        return {"model.id_dim": values["pretrain.factors"] + 1}
    return {}


def _is_allowed(
    config: Path, method: str | None, sets: Sequence[str], values: Mapping[str, Any]
) -> bool:
    try:
        load_experiment(config, method=method, overrides=[*sets, *as_overrides(values)])
    except CadcError:
        return False
    return True


def _get(settings: Mapping[str, Any], dotted: str) -> Any:
    node: Any = settings
    for part in dotted.split("."):
        node = node[part]
    return node


def _tried(e: Experiment) -> Iterator[tuple[str, Sequence[Any]]]:
    """Settings that the method uses, and the values to try beside its own."""
    towers = e.model.kind == "two_tower"
    yield from _of_pretraining(e)
    if e.transitions.window and (towers or e.prior.use):
        yield "transitions.window", (3, 5, 10, 20, 40)
        yield "transitions.decay", (0.6, 0.7, 0.8, 0.9)
        yield "transitions.normalization", (0.0, 0.2, 0.3, 0.4, 0.5)
        if e.transitions.form == "lists":
            yield "transitions.targets", (100, 200, 500)
        else:
            yield "transitions.dim", (48, 96, 192)
    if e.prior.use:
        if e.prior.fit == "none":  # else a stage of its own chooses them
            yield "prior.alpha", (4.0, 8.0, 16.0)
            yield "prior.half_life", (2.0, 3.0, 5.0, 10.0)
            yield "prior.decay", (0.5, 0.6, 0.7, 0.8, 0.9)
        yield "history.length", (20, 50, 100)
    if towers:
        yield from _of_towers(e)


def _of_pretraining(e: Experiment) -> Iterator[tuple[str, Sequence[Any]]]:
    model = e.pretrain.model
    if model in ("mf", "als", "mlp"):
        yield "pretrain.factors", (31, 63, 95, 127)
    if model == "mf":
        yield "pretrain.l2", (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
        yield "pretrain.learning_rate", (0.01, 0.02, 0.04)
        yield "pretrain.loss", ("binary", "softmax")
    elif model == "als":
        yield "pretrain.als.l2", (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 40.0)
        yield "pretrain.als.alpha", (1.0, 2.0, 4.0, 8.0, 16.0)
    elif model == "mlp":
        yield "pretrain.mlp.learning_rate", (3e-4, 1e-3, 3e-3)
        yield "pretrain.mlp.weight_decay", (0.0, 1e-6, 1e-5, 1e-4)


def _of_towers(e: Experiment) -> Iterator[tuple[str, Sequence[Any]]]:
    epochs = e.train.epochs
    if e.model.id_embedding == "trainable":
        yield "model.id_dim", (32, 64, 96, 128)
    yield "model.id_dropout", (0.0, 0.1, 0.2, 0.3, 0.4)
    if e.history.length:
        yield "history.windows", ([1, 3, 10, 50], [1, 2, 5, 15, 50], [1, 3, 10], [1, 2, 4, 8])
        if e.select.kind in _BY_TIME:
            yield "select.kind", _BY_TIME
    yield "train.loss", ("binary", "sampled-softmax", "in-batch-softmax")
    yield "train.learning_rate", (3e-4, 6e-4, 1e-3, 2e-3, 4e-3)
    yield "train.batch_size", (256, 512, 1024, 2048)
    yield "train.epochs", (max(1, epochs // 2), epochs, 2 * epochs)
    yield "train.patience", (2, 5)
