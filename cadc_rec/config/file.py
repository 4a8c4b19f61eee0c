"""Reads an experiment from its TOML file, a method's row of settings and the command line.

In: a TOML file, a method name, ``section.key=value`` overrides. Out: a frozen `Experiment`.

Settings are laid over each other in this order, the later winning: the defaults of
`cadc_rec.config.experiment`, the file's sections, the method's row
(`cadc_rec.config.methods.METHODS`), the file's ``[methods.NAME]`` table, ``--set``. A method is
therefore a row of settings and nothing else.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cadc_rec.config.errors import explain
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.methods import METHODS
from cadc_rec.errors import CadcError


def load_experiment(
    path: Path, *, method: str | None = None, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> Experiment:
    """Read `path`, lay the method's row and the overrides over it, validate.

    Args:
        path: a TOML file.
        method: a name of `METHODS`; default: the file's ``method``.
        overrides: ``section.key=value``, where the value is TOML or a bare string; or values by
            dotted key.

    Raises:
        CadcError: the file cannot be read, or a key or value is not allowed; the message names
            the file, the key, the value and what is allowed.
    """
    raw = read_toml(path)
    if isinstance(overrides, Mapping):
        sets = list(overrides.items())
        where = " --set ".join([str(path), *(f"{key}={value}" for key, value in sets)])
    else:
        sets = [_parse_override(o) for o in overrides]
        where = " --set ".join([str(path), *overrides])
    per_method = raw.pop("methods", {})
    chosen = method or next((v for k, v in reversed(sets) if k == "method"), raw.get("method"))
    chosen = chosen or Experiment.model_fields["method"].default
    if not isinstance(chosen, str) or chosen not in METHODS:
        raise CadcError(f"method: {chosen!r} is unknown; choose one of {', '.join(METHODS)}.")
    _check_methods_table(per_method, path)

    row = METHODS[chosen]
    for key, value in row.items():
        written = _get(raw, key)
        if written is not None and written != value:
            raise CadcError(
                f"{path}: {key} = {written!r} cannot stand there, since the method decides it "
                f"({chosen} sets {value!r}); put it under [methods.{chosen}] to change that method."
            )
    for key, value in (*row.items(), *per_method.get(chosen, {}).items(), *sets):
        _put(raw, key, value)
    raw["method"] = chosen
    try:
        experiment = Experiment.model_validate(raw)
    except ValidationError as error:
        raise CadcError(explain(error, Experiment, where)) from None
    _check_together(experiment, where)
    return experiment


def _check_together(e: Experiment, where: str) -> None:
    """Refuse values that are each allowed and cannot stand together."""
    _check_weights(e, where)
    _check_vectors(e, where)
    _check_sharding(e, where)
    if e.model.kind == "tables":  # no towers: nothing below concerns it
        return
    if e.model.id_embedding != "trainable" and e.pretrain.model == "none":
        raise CadcError(
            f"{where}: model.id_embedding = {e.model.id_embedding!r} needs pre-trained vectors, "
            "and pretrain.model is 'none'; set pretrain.model = 'mf'."
        )
    if e.model.id_embedding == "trainable" and e.pretrain.model != "none":
        raise CadcError(
            f"{where}: pretrain.model = {e.pretrain.model!r} is of no use to "
            "model.id_embedding = 'trainable'; set one of them to match the other."
        )
    if e.pretrain.model != "none" and e.pretrain.factors + 1 != e.model.id_dim:
        raise CadcError(
            f"{where}: model.id_dim = {e.model.id_dim} must be pretrain.factors + 1 "
            f"(factors and bias) = {e.pretrain.factors + 1}; change one of them."
        )
    if e.model.id_embedding == "hybrid" and (e.model.id_dim % 4 or e.model.id_dim < 8):
        raise CadcError(
            f"{where}: model.id_embedding = 'hybrid' parts model.id_dim = {e.model.id_dim} in "
            "groups of four; set it (and pretrain.factors + 1) to a multiple of 4 from 8 on."
        )
    _check_reading(e, where)
    if 0 < e.select.shards < e.compute.processes:
        raise CadcError(
            f"{where}: compute.processes = {e.compute.processes} cannot share select.shards = "
            f"{e.select.shards}; set select.shards to at least {e.compute.processes}."
        )


def _check_weights(e: Experiment, where: str) -> None:
    """Refuse weights where vectors are learned by a model that would count all rows alike."""
    if e.pretrain.model not in ("mf", "mlp"):
        return
    weight = e.data.source == "tables" and e.data.tables.interactions.weight
    key = "data.tables.interactions.weight" if weight else "data.duplicates = 'sum'"
    if weight or e.data.duplicates == "sum":
        raise CadcError(
            f"{where}: {key} gives interactions weights, and pretrain.model = "
            f"{e.pretrain.model!r} counts all alike; set pretrain.model = 'als', or leave it out."
        )


def _check_reading(e: Experiment, where: str) -> None:
    """Refuse a loader or negatives that the rest of the training has no use for."""
    if e.loader.kind == "stream" and e.history.length:
        raise CadcError(
            f"{where}: loader.kind = 'stream' carries no histories, and history.length = "
            f"{e.history.length}; set loader.kind = 'memory'."
        )
    if e.negatives.distribution != "uniform" and e.train.loss in ("softmax", "in-batch-softmax"):
        raise CadcError(
            f"{where}: negatives.distribution = {e.negatives.distribution!r} is about drawn "
            f"negatives, and train.loss = {e.train.loss!r} draws none; set train.loss = 'binary' "
            "or 'sampled-softmax', or negatives.distribution = 'uniform'."
        )


def _check_sharding(e: Experiment, where: str) -> None:
    """Refuse kernels that a sharding type has not, and what no CPU can do."""
    s = e.sharding
    for group in ("trainable", "frozen"):
        kernel = getattr(s, f"{group}_kernel")
        if kernel != "auto" and getattr(s, group) == "data_parallel":
            raise CadcError(
                f"{where}: sharding.{group}_kernel = {kernel!r} is for model-parallel tables, and "
                f"sharding.{group} = 'data_parallel' copies them to every process; set "
                f"sharding.{group} = 'auto', or sharding.{group}_kernel = 'auto'."
            )
        if kernel.startswith("fused_uvm") and e.compute.device == "cpu":
            raise CadcError(
                f"{where}: sharding.{group}_kernel = {kernel!r} needs CUDA, and compute.device = "
                "'cpu'; set it to 'auto'."
            )
    if s.communication != "fp32" and e.compute.device == "cpu":
        raise CadcError(
            f"{where}: sharding.communication = {s.communication!r} needs CUDA, and "
            "compute.device = 'cpu'; set it to 'fp32'."
        )


def _check_vectors(e: Experiment, where: str) -> None:
    """Refuse uses of pre-trained vectors that have no meaning."""
    pretraining, use = e.pretrain.model, e.model.id_embedding
    if e.model.kind == "tables":
        if pretraining not in ("mf", "als", "popularity"):
            raise CadcError(
                f"{where}: model.kind = 'tables' scores pairs by the dot product of pre-trained "
                f"vectors, which pretrain.model = {pretraining!r} does not give; set "
                "pretrain.model = 'mf', 'als' or 'popularity'."
            )
    elif pretraining == "popularity":
        raise CadcError(
            f"{where}: pretrain.model = 'popularity' has no vectors for two towers; set "
            "model.kind = 'tables', or pretrain.model = 'mf'."
        )
    elif use == "residual" and pretraining in ("mlp", "als"):
        raise CadcError(
            f"{where}: model.id_embedding = 'residual' adds matrix factorization's score, and the "
            f"vectors of pretrain.model = {pretraining!r} have none; set pretrain.model = 'mf'."
        )
    elif use == "residual" and e.pretrain.scale != "none":
        raise CadcError(
            f"{where}: model.id_embedding = 'residual' adds the score of the vectors as they were "
            "learned; set pretrain.scale = 'none'."
        )
    if e.model.kind == "tables" and e.pretrain.scale != "none":
        raise CadcError(
            f"{where}: model.kind = 'tables' scores the vectors as they were learned; set "
            "pretrain.scale = 'none'."
        )
    if e.model.item_tower and e.model.item_tower[-1] != e.model.tower[-1]:
        raise CadcError(
            f"{where}: model.item_tower ends with {e.model.item_tower[-1]} and model.tower with "
            f"{e.model.tower[-1]}; a score is the dot product of the two, so they must be equal."
        )
    _check_context(e, where)


def _check_context(e: Experiment, where: str) -> None:
    """Refuse histories and transitions that nothing can be looked up in."""
    frozen = e.model.id_embedding in ("init_frozen", "hybrid", "linear", "mlp", "residual")
    towers = e.model.kind == "two_tower"
    if e.history.length and towers and not (frozen and e.model.id_embedding != "hybrid"):
        raise CadcError(
            f"{where}: history.length = {e.history.length} looks items up in a frozen table of "
            f"whole vectors, which model.id_embedding = {e.model.id_embedding!r} has not; set it "
            "to 'init_frozen', or history.length = 0."
        )
    if list(e.history.windows) != sorted(set(e.history.windows)):
        raise CadcError(
            f"{where}: history.windows = {list(e.history.windows)} must ascend, each once."
        )
    if e.prior.use and not (e.history.length and e.pretrain.model == "als"):
        raise CadcError(
            f"{where}: prior.use = true folds a history into ALS, and history.length = "
            f"{e.history.length} with pretrain.model = {e.pretrain.model!r} has not both; set "
            "history.length and pretrain.model = 'als', or prior.use = false."
        )
    if e.transitions.window and not e.history.length:
        raise CadcError(
            f"{where}: transitions.window = {e.transitions.window} tells what follows a user's "
            "last items, and history.length = 0 gives none; set one of them to match the other."
        )
    keeps_order = {"mf": ("none",), "als": ("none", "unit")}.get(e.pretrain.model)
    if e.select.kind == "hard" and keeps_order and e.pretrain.scale not in keeps_order:
        raise CadcError(
            f"{where}: select.kind = 'hard' scores rows by the pre-trained vectors, whose order "
            f"pretrain.scale = {e.pretrain.scale!r} changes; set pretrain.scale = 'none'."
        )
    if e.select.kind == "hard" and not keeps_order:
        raise CadcError(
            f"{where}: select.kind = 'hard' takes the rows that pre-trained vectors score lowest; "
            "set pretrain.model = 'mf' or 'als'."
        )


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at `path` as nested dictionaries.

    Raises:
        CadcError: there is no such file, or it is not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        raise CadcError(f"{path}: no such config file; check the path.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CadcError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise CadcError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None


def _parse_override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CadcError(f"--set {text}: write it as section.key=value.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()  # a bare word is a string: no shell quoting needed


def _check_methods_table(table: Any, path: Path) -> None:
    if not isinstance(table, Mapping) or not all(isinstance(v, Mapping) for v in table.values()):
        raise CadcError(f'{path}: [methods.NAME] holds lines such as "train.epochs" = 20.')
    for name in table:
        if name not in METHODS:
            raise CadcError(
                f"{path}: [methods.{name}] is unknown; the methods are {', '.join(METHODS)}."
            )


def _get(tree: Mapping[str, Any], dotted: str) -> Any:
    node: Any = tree
    for part in dotted.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return None
        node = node[part]
    return node


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `dotted` in nested tables; merges a table over a table, so both spellings work."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _put(tree, f"{dotted}.{key}", inner)
        return
    *parents, last = dotted.split(".")
    node = tree
    for part in parents:
        below = node.setdefault(part, {})
        if not isinstance(below, dict):
            raise CadcError(f"{dotted}: {part} is a value, not a section; check the key.")
        node = below
    node[last] = value
