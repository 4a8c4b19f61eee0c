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
from cadc_rec.config.methods import DEFAULTS, METHODS, OF_PRIOR
from cadc_rec.errors import CadcError, link_to_nowhere


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
        sets = [parse_override(o) for o in overrides]
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
                f"{path}: {key} = {written!r} contradicts the method {chosen}, which sets "
                f"{value!r}; leave it out, or put it under [methods.{chosen}] to change the method."
            )
    for key, value in (*row.items(), *per_method.get(chosen, {}).items(), *sets):
        _put(raw, key, value)
    for key, value in DEFAULTS.get(chosen, {}).items():
        counts = "prior.use" not in row or _get(raw, "prior.use") or key not in OF_PRIOR
        if _get(raw, key) is None and counts:
            _put(raw, key, value)
    raw["method"] = chosen
    try:
        return Experiment.model_validate(raw)
    except ValidationError as error:
        raise CadcError(explain(error, Experiment, where)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """The TOML file at `path` as nested dictionaries.

    Raises:
        CadcError: there is no such file, or it is not TOML.
    """
    try:
        # Windows' editors begin a file with a byte order mark, which TOML does not know.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise CadcError(
            link_to_nowhere(path) or f"{path}: no such config file; check the path."
        ) from None
    except UnicodeDecodeError as error:
        raise CadcError(
            f"{path}: not valid TOML: byte {error.start} is not UTF-8; save it as UTF-8."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise CadcError(f"{path}: not valid TOML: {error}.") from None
    except OSError as error:
        raise CadcError(f"{path}: cannot be read ({error.strerror}); name a TOML file.") from None


def parse_override(text: str) -> tuple[str, Any]:
    """Key and value of ``section.key=value``; a value that is not TOML is a string.

    Raises:
        CadcError: there is no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise CadcError(f"--set {text}: write it as section.key=value.")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()  # a bare word is a string: no shell quoting needed


def _check_methods_table(table: Any, path: Path) -> None:
    if not isinstance(table, Mapping) or not all(isinstance(v, Mapping) for v in table.values()):
        raise CadcError(f'{path}: [methods.NAME] must hold lines such as "train.epochs" = 20.')
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
    """Set `dotted` in nested tables; a table is merged into a table, so both spellings work."""
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
