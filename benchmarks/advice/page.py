"""Coverage and width of the intervals of `advise` as tables, those of docs/advice.md too.

In: predictions with their truths. Out: Markdown, and the summary's rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from benchmarks.advice.check import Checked
from benchmarks.recorded.docs import Measured


def summary(checked: Sequence[Checked]) -> list[dict[str, Any]]:
    """By split and method: predictions, pairs of set and ratio, coverage, half-widths, cost."""
    grouped = defaultdict(list)
    for one in checked:
        grouped[one.split, one.method].append(one)
    return [
        {
            "split": split,
            "method": method,
            "pairs": len({(one.set, one.ratio) for one in group}),
            "predictions": len(group),
            "inside": sum(one.inside for one in group),
            "coverage": float(np.mean([one.inside for one in group])),
            "half_width_median": float(np.median([one.half_width for one in group])),
            "half_width_largest": max(one.half_width for one in group),
            "error_median": float(np.median([abs(o.predicted / o.truth - 1) for o in group])),
            "cost_largest": max((o.cost for o in group if o.cost is not None), default=None),
        }
        for (split, method), group in sorted(grouped.items())
    ]


def shown(checked: Sequence[Checked], listed: Sequence[Checked] | None = None) -> str:
    """Tables in Markdown: each prediction that is `listed`, or all; then the summary of all."""
    each = ("set", "method", "split", "seed", "keep", "HR@10 %, predicted", "90%", "half-width")
    lines = _head(*each, "truth", "inside", "cost of the runs")
    lines += [
        _row(
            one.set,
            one.method,
            one.split,
            one.seed,
            f"1/{one.ratio:g}",
            f"{100 * one.predicted:.2f}",
            f"{100 * one.low:.2f} to {100 * one.high:.2f}",
            _percent(one.half_width),
            f"{100 * one.truth:.2f}",
            "yes" if one.inside else "no",
            _percent(one.cost),
        )
        for one in (checked if listed is None else listed)
    ]
    counted = ("split", "method", "pairs of set and share", "predictions", "truth inside")
    lines += ["", *_head(*counted, "half-width, median and largest", "largest cost")]
    lines += [
        _row(
            row["split"],
            row["method"],
            row["pairs"],
            row["predictions"],
            f"{row['inside']} ({_percent(row['coverage'])})",
            f"{_percent(row['half_width_median'])}, {_percent(row['half_width_largest'])}",
            _percent(row["cost_largest"]),
        )
        for row in summary(checked)
    ]
    return "\n".join(lines)


def _head(*names: str) -> list[str]:
    return [_row(*names), "|" + "---|" * len(names)]


def _row(*values: object) -> str:
    return f"| {' | '.join(map(str, values))} |"


def _percent(fraction: float | None) -> str:
    return "not known" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f}%"


def recorded_tables(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables of docs/advice.md, of what ``--out`` wrote: methods with tables one by one.

    Of one seed each: those of the others are in the summary alone. So are those of test where
    validation was checked, which `advise` itself goes by.
    """
    names = [field.name for field in fields(Checked)]
    checked = [Checked(**{name: one[name] for name in names}) for one in content["predictions"]]
    first = min((one.seed for one in checked), default="")
    with_tables = [one for one in checked if one.method != "random" and one.seed == first]
    validated = [one for one in with_tables if one.split == "validation"]
    return {"advice": shown(checked, validated or with_tables)}


DOCS = Measured(file="advice", marks={"advice": "docs/advice.md"}, tables=recorded_tables)
"""What is recorded, into the page."""
