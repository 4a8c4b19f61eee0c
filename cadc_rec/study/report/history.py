"""What the seeds of a method measured on validation, epoch by epoch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from cadc_rec.study.report.study_data import Cell

# Epoch, mean, lowest, highest (percent), and the number of seeds.
Measured = tuple[float, float, float, float, int]


def validation_curves(cells: Sequence[Cell], metric: str) -> list[Measured]:
    """The epochs at least one cell measured, in order; empty for a method without epochs."""
    found: dict[float, list[float]] = defaultdict(list)
    for cell in cells:
        for entry in cell.history:
            epoch, value = _number(entry.get("epoch")), _number(entry.get(metric))
            if epoch is not None and value is not None:
                found[epoch].append(100.0 * value)
    return [
        (epoch, sum(values) / len(values), min(values), max(values), len(values))
        for epoch, values in sorted(found.items())
    ]


def _number(value: Any) -> float | None:
    """A number to draw: an epoch without validation holds null or no key at all."""
    return value if isinstance(value, int | float) and math.isfinite(value) else None
