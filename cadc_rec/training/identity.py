"""Which training a checkpoint is of, and how it differs from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Training:
    """Which training it is, for those who look for its checkpoints.

    Attributes:
        key: names it, whatever the number of processes and the sharding.
        identity: what the key is a digest of: settings and inputs.
        sizes: rows of the user and the item tables.
    """

    key: str
    identity: Mapping[str, Any]
    sizes: Mapping[str, int]


def difference(manifest: Mapping[str, Any], training: Training) -> str | None:
    """How a checkpoint's training differs from this one, as the end of a sentence."""
    for side, rows in training.sizes.items():
        if manifest["sizes"][side] != rows:
            return f"its table has {manifest['sizes'][side]:,} {side}, and there are {rows:,} here"
    there, here = flat(manifest["identity"]), flat(training.identity)
    for name in sorted(there.keys() | here.keys()):
        if there.get(name) == here.get(name):
            continue
        if name == "settings.code":
            return "another version of cadc-rec wrote it"
        kind, _, rest = name.partition(".")
        if kind == "inputs":
            return f"it was trained on another {rest}"
        return f"{rest} is {there.get(name)!r} there and {here.get(name)!r} here"
    return None


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, tuple) else value
    return found
