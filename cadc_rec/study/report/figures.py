"""The report's figures: what is drawn of a study, and what a method looks like in all of them.

In: a study and its `Comparisons`. Out: `Figure` objects, each a finished drawing with its caption.
"""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cadc_rec.study.report import formatting
from cadc_rec.study.report.charts import (
    Axis,
    Bar,
    BarPanel,
    Curve,
    Level,
    Panel,
    Point,
    Series,
    Style,
    bars,
    plot,
)
from cadc_rec.study.report.fitted import ENOUGH_RATIOS, fitted_curve
from cadc_rec.study.report.groups import (
    Comparisons,
    Group,
    by_integration,
    datasets,
    label,
    order,
    time_ratio,
)
from cadc_rec.study.report.paper import METRICS, UNFILTERED, WITHOUT_TOWERS
from cadc_rec.study.report.sentences import work
from cadc_rec.study.report.study_data import Cell, Study

# Middle tones: each contrasts by 3 to 1 or more with white and with the dark page, so a picture
# needs no background. Shape and dash tell methods apart without colour.
_STAR = "M0,-1.2L.32,-.4L1.14,-.37L.5,.15L.71,.97L0,.5L-.71,.97L-.5,.15L-1.14,-.37L-.32,-.4Z"
_HEXAGON = "M0,-1L.87,-.5L.87,.5L0,1L-.87,.5L-.87,-.5Z"
_CROSS = (
    "M-.9,-.55L-.55,-.9L0,-.35L.55,-.9L.9,-.55L.35,0L.9,.55L.55,.9L0,.35L-.55,.9L-.9,.55L-.35,0Z"
)
METHOD_STYLES = {
    "random": Style("#848c97", "square"),
    "over-sampling": Style("#a8763e", "triangle-up"),
    "under-sampling": Style("#c2568f", "triangle-down"),
    "logq": Style("#14927f", "diamond"),
    "cadc-mlp": Style("#9a6ae8", _HEXAGON),
    "cadc": Style("#2f81f7", "circle"),
    "gold": Style("#b9810f", _STAR, dash=(7, 4)),
    "popularity": Style("#d9534a", "cross", dash=(2, 3)),
    "mf": Style("#6b9a1f", _CROSS, dash=(10, 3, 2, 3)),
    "als": Style("#5b87a6", "square", dash=(10, 3, 2, 3)),
    "prior": Style("#7f8a3a", _HEXAGON, dash=(2, 3)),
    "recipe": Style("#e0653a", "triangle-up"),
    "recipe-gold": Style("#b0782f", "diamond", dash=(7, 4)),
}
INTEGRATION_STYLES = {
    "hybrid": Style("#14927f", "square"),
    "init": Style("#d9534a", "triangle-up"),
    "init_frozen": METHOD_STYLES["cadc"],
    "linear": Style("#9a6ae8", "diamond"),
    "mlp": Style("#6b9a1f", "triangle-down"),
    "residual": Style("#c2568f", _HEXAGON),
}
_SHAPES = ("circle", "square", "cross", "diamond", "triangle-up", "triangle-down", _STAR, _HEXAGON)
STAGE_COLOURS = {
    "pretrain": "#2f81f7",
    "select": "#d9534a",
    "train": "#b9810f",
    "validation": "#848c97",
}
_VALIDATED_POINT = 22.0  # square pixels: curves of many epochs have many points


@dataclass(frozen=True)
class Figure:
    """A drawing and what it says.

    Attributes:
        name: the file's, without ending.
        caption: what is seen, in a few sentences.
        svg: the drawing.
    """

    name: str
    title: str
    caption: str
    svg: str


def study_figures(study: Study, comparisons: Comparisons) -> list[Figure]:
    """The figures a study has results for."""
    found = [_filtering(study, comparisons)] if _ratios(study) else []
    found.append(_pareto(study, comparisons))
    if not _ratios(study):  # in a grid of ratios, these would show a crowd
        found += [_time(study, comparisons), _validation(study, comparisons)]
    return [figure for figure in found if figure]


def style_of(kind: str, name: str) -> Style:
    """The style of a method (kind "method") or of an integration technique.

    A name of neither list gets the middle grey, and a shape that depends on the name alone.
    """
    known = METHOD_STYLES if kind == "method" else INTEGRATION_STYLES
    return known.get(name) or Style("#7d8590", _SHAPES[zlib.crc32(name.encode()) % len(_SHAPES)])


def _style(group: Group) -> Style:
    """A group's style: its method's, or that of its technique or variant where that is asked."""
    if group.contender.variant:
        return style_of("method", f"{group.method}, {group.contender.variant}")
    question = by_integration(group.study) and group.method == "cadc"
    if question:
        return style_of("integration", group.integration)
    return style_of("method", group.method)


def _ordered(study: Study, comparisons: Comparisons, dataset: str) -> list[Group]:
    """The groups of a dataset that have results, in the order of the tables."""
    found = [g for g in comparisons.groups(study) if g.dataset == dataset and g.done]
    return sorted(found, key=lambda g: order(study, g.contender))


def _name(group: Group) -> str:
    return label(group.study, group.contender)


def _short_name(group: Group) -> str:
    """Without the ratio: what a line over ratios, or its points, are called."""
    return label(group.study, group.contender, with_ratio=False)


def _ratios(study: Study) -> list[float]:
    """The filtering ratios of a study that compares several."""
    found = sorted({cell.ratio for cell in study.cells if cell.method not in UNFILTERED})
    return found if len(found) > 1 else []


def _filtering(study: Study, comparisons: Comparisons) -> Figure | None:
    title = "Accuracy against filtering ratio"
    axis = Axis(
        "filtering ratio: training interactions / labelled examples (log scale)",
        log=True,
        ticks=tuple(_ratios(study)),
    )
    panels: list[Panel] = []
    lines: dict[str, Style] = {}
    flat: dict[str, Style] = {}
    for dataset, name in datasets(study).items():
        groups = _ordered(study, comparisons, dataset)
        filtered = [g for g in groups if g.method not in UNFILTERED]
        whole = [g for g in groups if g.method in UNFILTERED]
        if "gold" not in {g.method for g in whole}:  # another study of the page may have it
            gold = comparisons.find(study, dataset, lambda g: g.method == "gold")
            whole += [gold] if gold else []
        if not filtered:
            continue
        lines |= {_short_name(group): _style(group) for group in filtered}
        flat |= {_name(group): style_of("method", group.method) for group in whole}
        for metric in METRICS:
            levels = tuple(_level(group, metric) for group in whole)
            curves = _fits(filtered, comparisons) if metric == METRICS[0] else ()
            series = _lines(filtered, metric)
            panels.append(Panel(name, _axis(metric), series, levels, curves=curves))
    if not panels:
        return None
    fitted = (
        " A line through many ratios is the law that is fitted to them, with its 90% interval."
        if any(panel.curves for panel in panels)
        else ""
    )
    return Figure(
        "figure1",
        title,
        "Mean over seeds on test; the band is one standard deviation to either side. Level lines "
        f"belong to methods that have no filtering ratio: they use every row.{fitted}",
        plot(title, axis, panels, lines | flat),
    )


def _fits(groups: Sequence[Group], comparisons: Comparisons) -> tuple[Curve, ...]:
    """The law of each method that was measured at enough ratios, over ratios."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(_short_name(group), []).append(group)
    curves = []
    for name, line in found.items():
        enough = len({group.ratio for group in line}) >= ENOUGH_RATIOS
        band = fitted_curve(comparisons, line) if enough else None
        if band is not None:
            corners = np.stack([1 / band.shares, band.value, band.low, band.high], axis=1)
            from_left = corners[np.argsort(corners[:, 0])].tolist()
            curves.append(Curve(name, tuple((x, y, low, high) for x, y, low, high in from_left)))
    return tuple(curves)


def _axis(metric: str) -> str:
    return f"{metric.upper()}, %"


def _lines(groups: Sequence[Group], metric: str) -> tuple[Series, ...]:
    found: dict[str, list[Point]] = {}
    for group in groups:
        point = _point(group, group.ratio, metric, f"ratio {group.ratio:g}")
        found.setdefault(_short_name(group), []).append(point)
    return tuple(Series(name, tuple(points)) for name, points in found.items())


def _point(group: Group, x: float, metric: str, at: str) -> Point:
    value = group.metric(metric)
    assert value is not None
    low = high = None
    if value.deviation is not None:
        low, high = max(value.mean - value.deviation, 0.0), value.mean + value.deviation
    number = formatting.spread(value)
    tip = f"{_name(group)}, {at}\n{metric.upper()} {number}%\n{_seeds(len(group.done))}"
    return Point(x, value.mean, tip, low, high)


def _level(group: Group, metric: str) -> Level:
    point = _point(group, 1.0, metric, group.cells[0].dataset_title)
    return Level(_name(group), point.y, point.tip)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _pareto(study: Study, comparisons: Comparisons) -> Figure | None:
    title = "Accuracy against time"
    panels: list[Panel] = []
    styles: dict[str, Style] = {}
    for dataset, name in datasets(study).items():
        timed = [(g, work(g)) for g in _ordered(study, comparisons, dataset) if g.trained]
        if not timed:
            continue
        styles |= {_short_name(group): _style(group) for group, _ in timed}
        for metric in METRICS:
            series = []
            for group, seconds in timed:
                point = _point(group, seconds, metric, f"{formatting.seconds(seconds)} s")
                filtered = _ratios(study) and group.method not in UNFILTERED
                beside = f"1/{group.ratio:g}" if filtered else ""
                series.append(Series(_short_name(group), (point,), False, beside))
            front = pareto_front([(one.points[0].x, one.points[0].y) for one in series])
            panels.append(Panel(name, _axis(metric), tuple(series), front=tuple(front)))
    if not panels:
        return None
    axis = Axis("seconds of pre-training, selection and training (log scale)", log=True)
    return Figure(
        "pareto",
        title,
        "Median seconds without validation; means over seeds with one standard deviation. No "
        "method is both faster and more accurate than one on the dashed line. Methods without "
        "training are left out."
        + (" Beside each mark: the part of the rows." if _ratios(study) else ""),
        plot(title, axis, panels, styles),
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points no other one beats by less time and no less accuracy, the fastest first.

    Args:
        points: (time, accuracy), in any order.
    """
    front: list[tuple[float, float]] = []
    for seconds, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((seconds, value))
    return front


def _time(study: Study, comparisons: Comparisons) -> Figure | None:
    title = "Time by stage"
    panels = []
    for dataset, name in datasets(study).items():
        groups = [g for g in _ordered(study, comparisons, dataset) if g.trained]
        if groups:
            gold = comparisons.find(study, dataset, lambda g: g.method == "gold")
            panels.append(BarPanel(name, tuple(_bar(group, gold) for group in groups)))
    if not panels:
        return None
    colours = {formatting.STAGE_TITLES[key]: colour for key, colour in STAGE_COLOURS.items()}
    return Figure(
        "time",
        title,
        "Behind each bar: seconds without validation, and their share of the gold standard's.",
        bars(title, "seconds, median over seeds", panels, colours),
    )


def _bar(group: Group, gold: Group | None) -> Bar:
    name, parts = _name(group), []
    for stage, value in (group.seconds() or {}).items():
        part = formatting.STAGE_TITLES[stage]
        tip = f"{name}, {part}\n{formatting.seconds(value)} s, median\n{_seeds(len(group.done))}"
        parts.append((part, value, tip))
    share = time_ratio(group, gold) if gold and gold is not group else None
    total = f"{formatting.seconds(work(group))} s"
    return Bar(name, tuple(parts), total + ("" if share is None else f" ({share:.1%})"))


def _validation(study: Study, comparisons: Comparisons) -> Figure | None:
    title = "Validation by epoch"
    panels: list[Panel] = []
    styles: dict[str, Style] = {}
    for dataset, name in datasets(study).items():
        # An epoch of vectors without towers is another thing than one of towers.
        groups = [
            g for g in _ordered(study, comparisons, dataset) if g.method not in WITHOUT_TOWERS
        ]
        for metric in METRICS:
            found = [(group, validation_curve(group, metric)) for group in groups]
            series = tuple(Series(_name(group), curve) for group, curve in found if curve)
            styles |= {_name(group): _style(group) for group, curve in found if curve}
            if series:
                panels.append(Panel(name, f"{_axis(metric)}, validation", series))
    if not panels:
        return None
    return Figure(
        "validation",
        title,
        "Mean over the seeds that measured an epoch; the band reaches from the lowest to the "
        "highest seed.",
        plot(title, Axis("epoch"), panels, styles, _VALIDATED_POINT),
    )


def validation_curve(group: Group, metric: str) -> tuple[Point, ...]:
    """The epochs that at least one seed measured, in order, in percent: mean, lowest, highest."""
    measured: dict[float, list[float]] = defaultdict(list)
    for cell in group.done:
        for epoch, value in _measurements(cell, metric):
            measured[epoch].append(100.0 * value)
    points = []
    for epoch, values in sorted(measured.items()):
        mean = sum(values) / len(values)
        at = f"{_name(group)}, epoch {epoch:g}"
        tip = f"{at}\n{metric.upper()} {mean:.2f}%\n{_seeds(len(values))}"
        points.append(Point(epoch, mean, tip, min(values), max(values)))
    return tuple(points)


def _measurements(cell: Cell, metric: str) -> list[tuple[float, float]]:
    """Epochs and values: an entry of an epoch without validation holds null or no such key."""
    pairs = [(_number(entry.get("epoch")), _number(entry.get(metric))) for entry in cell.history]
    return [(epoch, value) for epoch, value in pairs if epoch is not None and value is not None]


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None
