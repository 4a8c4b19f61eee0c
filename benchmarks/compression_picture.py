"""The pictures of docs/compression.md: what a method keeps of its own accuracy, and laws, by share.

In: the study of scale. Out: SVG with a panel for each method of `CURVES`, a line a set, and one of
what training takes; and SVG with a panel a set, of each method's accuracy and the law fitted to it.
A random sample of everything is the gold standard.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

from benchmarks.compression_grid import Grid
from cadc_rec.study.report import formatting
from cadc_rec.study.report.charts import Axis, Curve, Level, Panel, Point, Series, plot
from cadc_rec.study.report.figures import METHOD_STYLES
from cadc_rec.study.report.fitted import ENOUGH_RATIOS, corners_of, fitted_curve
from cadc_rec.study.report.groups import Group, time_ratio
from cadc_rec.study.report.overview import ALL, ALL_STYLE, SET_STYLES
from cadc_rec.study.report.paper import METHOD_TITLES, METRICS

_HR = METRICS[0]
_SHARES = Axis(
    "labelled examples, % of all (log scale)",
    log=True,
    ticks=(0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0),
)


def picture(grid: Grid, sets: dict[str, str], methods: Sequence[str]) -> str:
    """The picture of some sets; empty where no method has a share beside all labelled examples.

    Args:
        grid: the study.
        sets: titles by key, in the order of the legend.
        methods: a panel each; the last panel is of the time of the first.
    """
    level = Level(ALL, 100.0, f"{ALL}\n{_HR.upper()} kept: 100%")
    panels = []
    for method in methods:
        lines = [_kept(grid, dataset, title, method) for dataset, title in sets.items()]
        if some := tuple(line for line in lines if line.points):
            title = f"{METHOD_TITLES[method]}: what a share keeps"
            up = f"{_HR.upper()}, % of that of {ALL}"
            panels.append(Panel(title, up, some, (level,), from_zero=True))
    if not panels:
        return ""
    lines = [_time(grid, dataset, title, methods[0]) for dataset, title in sets.items()]
    if some := tuple(line for line in lines if line.points):
        title = f"{METHOD_TITLES[methods[0]]}: what a share takes"
        panels.append(Panel(title, "time, % of the gold standard's", some))
    drawn = {line.name for panel in panels for line in panel.series}
    named = [title for title in sets.values() if title in drawn]
    styles = dict(zip(named, cycle(SET_STYLES), strict=False)) | {ALL: ALL_STYLE}
    title = "Accuracy kept and time taken, by the share of labelled examples"
    return plot(title, _SHARES, panels, styles)


def laws(grid: Grid, sets: dict[str, str], methods: Sequence[str]) -> str:
    """HR@10 by share with its law, a panel a set; empty where no method has shares enough.

    Args:
        grid: the study.
        sets: titles by key, in the order of the panels.
        methods: a line and a law each.
    """
    panels, drawn = [], set[str]()
    for dataset, title in sets.items():
        series, curves = [], []
        for method in methods:
            whole, groups = grid.whole(dataset, method), grid.shares(dataset, method)
            groups += [whole] if whole else []
            if len(groups) < ENOUGH_RATIOS:
                continue
            name = METHOD_TITLES[method]
            points = sorted((_reached(title, name, group) for group in groups), key=lambda p: p.x)
            series.append(Series(name, tuple(points), joined=False))
            band = fitted_curve(grid.page, groups)
            if band is not None:
                curves.append(Curve(name, corners_of(band)))
        drawn |= {one.name for one in series}
        if series:
            up = f"{_HR.upper()}, %"
            panels.append(Panel(title, up, tuple(series), curves=tuple(curves), from_zero=True))
    if not panels:
        return ""
    styles = {METHOD_TITLES[m]: METHOD_STYLES[m] for m in methods if METHOD_TITLES[m] in drawn}
    return plot("Accuracy by the share of labelled examples, and its law", _SHARES, panels, styles)


def _reached(title: str, name: str, group: Group) -> Point:
    value = group.metric(_HR)
    assert value is not None
    spread, share = value.deviation or 0.0, 100.0 / group.ratio
    tip = f"{title}, {name} on {share:.3g}%\n{_HR.upper()}: {formatting.spread(value)}%"
    return Point(share, value.mean, tip, max(value.mean - spread, 0.0), value.mean + spread)


def _kept(grid: Grid, dataset: str, title: str, method: str) -> Series:
    whole, points = grid.whole(dataset, method), []
    for group in grid.shares(dataset, method):
        compared = grid.page.compare(group, whole, _HR) if whole else None
        if compared is None or compared.relative is None or compared.relative_interval is None:
            continue
        low, high = compared.relative_interval
        share, kept = 100.0 / group.ratio, 100.0 + compared.relative
        tip = (
            f"{title}, {METHOD_TITLES[method]} on 1/{group.ratio:g}\n{_HR.upper()} kept: "
            f"{kept:.1f}% ({100.0 + low:.1f} to {100.0 + high:.1f}%)"
        )
        points.append(Point(share, kept, tip, 100.0 + low, 100.0 + high))
    points.sort(key=lambda point: point.x)
    return Series(title, tuple(points), joined=len(points) > 1)


def _time(grid: Grid, dataset: str, title: str, method: str) -> Series:
    gold, points = grid.find(dataset, "gold", 1.0), []
    whole = grid.whole(dataset, method)
    groups: list[Group] = [*grid.shares(dataset, method), *([whole] if whole else [])]
    for group in groups:
        ratio = time_ratio(group, gold) if gold else None
        if ratio is not None:
            share = 100.0 / group.ratio
            tip = f"{title}, {share:.3g}% of the labelled examples\n{100 * ratio:.1f}% of the time"
            points.append(Point(share, 100.0 * ratio, tip))
    points.sort(key=lambda point: point.x)
    return Series(title, tuple(points), joined=len(points) > 1)
