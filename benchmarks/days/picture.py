"""The picture of docs/days.md: HR@10 and CPU seconds over the days, as SVG."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.days.results import Results
from cadc_rec.study.report.charts import Axis, Panel, Point, Series, Style, plot

_KNOWN = "known next items"
_STYLES = {
    "no update": Style("#8b949e", "square"),
    "update": Style("#2f81f7", "circle"),
    "rebuild": Style("#d9534a", "triangle-up"),
    "half the rows": Style("#9a6ae8", "triangle-down"),
    "popular in the last hours": Style("#b9810f", "diamond"),
    _KNOWN: Style("#14927f", "circle"),
}


def picture(found: Results) -> str:
    """HR@10 over the days as served and with live counts, and the CPU seconds; SVG."""
    window = found.window()
    names = {
        "no update": "none",
        "update": "update",
        "rebuild": "rebuild",
        "half the rows": "half",
        "popular in the last hours": "popularity",
    }

    def reached(kind: str, popular: str) -> tuple[Series, ...]:
        found_series = []
        for name, contender in names.items():
            of = popular if contender == "popularity" else kind
            values = {day: found.metric(contender, day, of) for day in found.days()}
            found_series.append(_series(name, values, "HR@10", "%"))
        return tuple(one for one in found_series if one.points)

    seconds = tuple(
        _series(
            name,
            {day: found.seconds(contender, day) for day in found.days()[1:]},
            "CPU seconds",
            "",
        )
        for name, contender in names.items()
        if contender in ("update", "rebuild", "half")
    )
    panels = [
        Panel("next clicks, as served", "HR@10 (%)", reached("served", f"served-{window}h")),
        Panel(
            "the same, recent counts up to each click",
            "HR@10 (%)",
            reached("live", f"live-{window}h"),
        ),
        Panel(
            "next items that the log had before the day",
            "of users who came back (%)",
            (_series(_KNOWN, {day: found.known(day) for day in found.days()}, _KNOWN, "%"),),
        ),
        Panel("learning", "CPU seconds", tuple(one for one in seconds if one.points)),
    ]
    days = [float(day) for day in found.days()]
    axis = Axis("day of October 2017", ticks=tuple(days[::2]))
    return plot("Sixteen days of Globo.com", axis, panels, _STYLES, 40.0)


def _series(name: str, values: Mapping[str, float | None], what: str, unit: str) -> Series:
    points = [
        Point(float(day), value, f"day {int(day)}\n{name}: {what} {value:.1f}{unit}")
        for day, value in values.items()
        if value is not None
    ]
    return Series(name, tuple(points))
