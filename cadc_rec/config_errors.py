"""Turns pydantic's findings into sentences that name the key, the value and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], where: str) -> str:
    """One line for each finding of `error` in `where` (a file), validated against `model`."""
    lines = [f"{where}: {_sentence(dict(item), model)}" for item in error.errors()]
    return "\n".join(lines)


def _sentence(item: dict[str, Any], model: type[BaseModel]) -> str:
    loc = [str(part) for part in item["loc"]]
    key = ".".join(loc)
    if item["type"] == "extra_forbidden":
        near = nearest_key(key, model)
        section = _section(model, loc[:-1])
        allowed = ", ".join(section.model_fields) if section else ", ".join(model.model_fields)
        place = f"[{'.'.join(loc[:-1])}]" if len(loc) > 1 else "the top level"
        hint = f"did you mean {near}? " if near else ""
        return f"{key} is not a setting; {hint}{place} takes {allowed}."
    value = item["input"]
    message = item["msg"]
    message = message[0].lower() + message[1:]
    return f"{key} = {value!r} is not allowed: {message}."


def nearest_key(key: str, model: type[BaseModel]) -> str | None:
    """The valid dotted key that looks most like `key`, or None when none is near."""
    keys = list(_all_keys(model))
    # The same last word in another section is the likelier slip than a similar spelling.
    same_leaf = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    found = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    return same_leaf[0] if same_leaf else (found[0] if found else None)


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _all_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _section(model: type[BaseModel], loc: list[str]) -> type[BaseModel] | None:
    node = model
    for part in loc:
        field = node.model_fields.get(part)
        kind = field.annotation if field else None
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        node = kind
    return node
