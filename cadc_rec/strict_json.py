"""JSON as its standard has it: Python's own writer puts NaN and Infinity, which no other reads."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(value: Any, **layout: Any) -> str:
    """`value` as JSON; a number that is not finite becomes null.

    Args:
        value: what `json.dumps` takes.
        layout: its arguments, such as ``indent``.
    """
    try:
        return json.dumps(value, allow_nan=False, **layout)
    except ValueError:  # rare, so that nothing else is walked through in Python
        return json.dumps(_finite(value), allow_nan=False, **layout)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
