"""The picture and the table of docs/accuracy.md, from files that earlier runs wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.paper import ROOT, between
from cadc_rec.study.report.charts import Axis, Panel, Point, Series, Style, plot

PAGE = ROOT / "docs" / "accuracy.md"
PICTURE = "time-to-quality.svg"
SASREC = "SASRec"
_STYLES = (
    Style("#8b949e", "square"),
    Style("#2f81f7", "circle"),
    Style("#d29922", "triangle-up"),
    Style("#3fb950", "diamond"),
)
_METRIC = "ndcg@10"

Measured = Mapping[str, Any]


def into_docs(files: Sequence[Path], page: Path = PAGE) -> None:
    """Put the table between the page's marks ``time-to-quality``, the picture beside the page.

    Args:
        files: JSON of finished runs, or of runs that were ended early.
        page: with the marks.
    """
    sets = [json.loads(file.read_text("utf-8")) for file in files]
    text = between(page.read_text("utf-8"), "time-to-quality", table(sets), page)
    page.write_text(text, "utf-8")
    (page.parent / "images" / PICTURE).write_text(picture(sets), "utf-8")


def picture(sets: Sequence[Measured]) -> str:
    """Test NDCG@10 over CPU seconds, a panel a dataset; SVG."""
    names = list(dict.fromkeys(point["name"] for one in sets for point in one["points"]))
    names.sort(key=lambda name: name != SASREC)
    panels = []
    for one in sets:
        series = []
        for name in names:
            mine = [point for point in one["points"] if point["name"] == name]
            points = tuple(
                Point(
                    point["cpu_seconds"],
                    100 * point["test"][_METRIC],
                    f"{name}: {_both(point['test'])} after {_seconds(point)} CPU s",
                )
                for point in mine
            )
            if points:
                series.append(Series(name, points, joined=len(points) > 1))
        panels.append(Panel(one["title"], "test NDCG@10, %", tuple(series)))
    across = Axis("CPU seconds of learning, log scale", log=True)
    styles = dict(zip(names, _STYLES, strict=False))
    return plot("Time to quality", across, panels, styles)


def table(sets: Sequence[Measured]) -> str:
    """All points in Markdown, each dataset's in the order of their CPU seconds."""
    lines = [
        "| dataset | what | CPU s | validation | test | SASRec has its test NDCG@10 after |",
        "|---|---|---|---|---|---|",
    ]
    for one in sets:
        rival = [point for point in one["points"] if point["name"] == SASREC]
        for point in sorted(one["points"], key=lambda point: float(point["cpu_seconds"])):
            more = f", {point['epochs']:.1f} epochs" if "epochs" in point else ""
            if point.get("kept"):
                more = f"; kept: {point['kept']}"
            passed = "" if point["name"] == SASREC else _passed(point, rival)
            row = [one["title"], point["name"] + more, _seconds(point)]
            row += [_both(point["validation"]), _both(point["test"]), passed]
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _passed(point: Measured, rival: Sequence[Measured]) -> str:
    """The first checkpoint at which the rival is as good, or that none is."""
    if not rival:
        return "not run"
    as_good = [one for one in rival if one["test"][_METRIC] >= point["test"][_METRIC]]
    return f"{_seconds(as_good[0])} s" if as_good else f"not within {_seconds(rival[-1])} s"


def _seconds(point: Measured) -> str:
    seconds = float(point["cpu_seconds"])
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _both(metrics: Mapping[str, float]) -> str:
    return f"{100 * metrics['hr@10']:.2f} / {100 * metrics['ndcg@10']:.2f}"
