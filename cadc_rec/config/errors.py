"""Turns pydantic's errors into sentences that name the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from cadc_rec.config.types import RULE


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One line for each error in `error`, found in `where` (a file) when it was read as `model`."""
    found = [dict(item) for item in error.errors()]
    # If members of an array are wrong, pydantic also says that the array is too short.
    found = [item for item in found if item["type"] != "too_short" or not item["input"]]
    return "\n".join(f"{where}: {_sentence(item, model)}" for item in found)


def _sentence(item: dict[str, Any], model: type[BaseModel]) -> str:
    loc = [str(part) for part in item["loc"]]
    key = ".".join(loc)
    if item["type"] == RULE:  # its sentence names the keys itself
        return str(item["msg"])
    if item["type"] == "extra_forbidden":
        near = nearest_key(key, model)
        section = _section(model, loc[:-1])
        allowed = ", ".join(section.model_fields) if section else ", ".join(model.model_fields)
        place = f"[{'.'.join(loc[:-1])}]" if len(loc) > 1 else "the top level"
        hint = f"did you mean {near}? " if near else ""
        return f"{key} is not a setting; {hint}{place} takes {allowed}."
    if item["type"] == "missing":
        return f"{key} is missing; add it."
    return f"{key} = {item['input']!r} is not allowed: {_allowed(item, key)}."


def _allowed(item: dict[str, Any], key: str) -> str:
    if item["type"] == "model_type":
        return f"{key} is a section; write [{key}] and its settings below it"
    if item["type"] in ("tuple_type", "too_short"):
        return "input should be an array of at least one value, such as [10]"
    message = item["msg"]
    return message[0].lower() + message[1:]


def nearest_key(key: str, model: type[BaseModel]) -> str | None:
    """The valid dotted key or section that looks most like `key`, or None if none looks like it."""
    keys = [k for k in _all_keys(model) if not key.startswith(f"{k}.")]  # not its own section
    section, _, leaf = key.rpartition(".")
    beside = [k.rpartition(".")[2] for k in keys if section and k.rpartition(".")[0] == section]
    misspelt = difflib.get_close_matches(leaf, beside, 1, 0.8)
    if misspelt:
        return f"{section}.{misspelt[0]}"
    # The right name in the wrong section is a likelier slip than a vaguely similar spelling.
    same_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    found = difflib.get_close_matches(key, same_leaf or keys, 1, 0.0 if same_leaf else 0.6)
    return found[0] if found else None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _all_keys(kind, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def _section(model: type[BaseModel], loc: list[str]) -> type[BaseModel] | None:
    node: Any = model
    for part in loc:
        if isinstance(node, type) and issubclass(node, BaseModel):
            field = node.model_fields.get(part)
            node = field.annotation if field else None
        else:  # an array's or a table's member: list[Model], dict[str, Model]
            node = get_args(node)[-1] if get_args(node) else None
    return node if isinstance(node, type) and issubclass(node, BaseModel) else None
