"""Draws charts as SVG with Vega-Lite: points, lines and fitted curves over two axes, stacked bars.

In: numbers, each with the text a reader sees on hovering. Out: SVG text that works in a page and as
a file of its own. Nothing here knows of studies.

Vega runs in `vl_convert`, so a page holds the finished drawing and no plotting library: it opens
at once, prints, and needs no script. A mark that holds a value carries its text as ``aria-label``
and `VALUE` as ``aria-roledescription``; the page shows that text on hovering and to the keyboard.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

VALUE = "value"
"""The ``aria-roledescription`` of every mark that stands for a value."""

# Text and axes have the colour of the page around them. A file that stands alone has a middle grey
# instead, readable on white and on near black.
_INK, _ALONE = "currentColor", "#757b85"
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"  # widths are measured with the first
_WIDTH, _HEIGHT, _BAR_STEP = 430, 250, 26
_COLUMNS = 2
_FEWEST = 3  # ticks of an axis that say what lies between them

Spec = dict[str, Any]


@dataclass(frozen=True)
class Style:
    """How a series looks: colour, and shape and dash, so that colour is not needed.

    Attributes:
        colour: ``#rrggbb``.
        shape: a symbol of Vega, or an SVG path within -1 to 1.
        dash: lengths of line and gap in pixels; empty is a whole line.
    """

    colour: str
    shape: str = "circle"
    dash: tuple[int, ...] = ()


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit, and its ticks where they are not to be chosen."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Point:
    """A value and its interval; `low` and `high` are absent where there is none."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one name.

    Attributes:
        name: its entry in the legend.
        joined: whether a line with a band joins the points; else each has a whisker.
        beside: written beside each point.
    """

    name: str
    points: tuple[Point, ...]
    joined: bool = True
    beside: str = ""


@dataclass(frozen=True)
class Level:
    """A horizontal line from side to side."""

    name: str
    y: float
    tip: str


@dataclass(frozen=True)
class Curve:
    """A line that was computed, such as a fit, with its band; its corners are no values.

    Attributes:
        name: the series or level whose colour it has, or an entry of its own in the legend.
        corners: (x, y, low, high) from left to right; low and high are y where there is no band.
    """

    name: str
    corners: tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Panel:
    """One drawing area.

    Attributes:
        title: above it.
        y: the left axis' title, with the unit.
        front: corners of a dashed line of stairs beneath all, in data units.
        x: the lower axis, where it is not that of all panels.
        from_zero: whether the left axis starts at 0 wherever the values lie, as beside others.
    """

    title: str
    y: str
    series: tuple[Series, ...] = ()
    levels: tuple[Level, ...] = ()
    front: tuple[tuple[float, float], ...] = ()
    curves: tuple[Curve, ...] = ()
    x: Axis | None = None
    from_zero: bool = False


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: (name, length, tip) of its parts from left to right, and its end."""

    name: str
    parts: tuple[tuple[str, float, str], ...]
    total: str = ""


@dataclass(frozen=True)
class BarPanel:
    """Bars over one axis."""

    title: str
    bars: tuple[Bar, ...]


def plot(
    title: str,
    x: Axis,
    panels: Sequence[Panel],
    styles: dict[str, Style],
    point_size: float = 100.0,
) -> str:
    """Points, lines and levels over two axes.

    Args:
        title: what the drawing is called where it is not seen.
        x: the lower axis of all panels.
        panels: at least one, each with at least one point or level.
        styles: by name of series and level, in the order of the legend.
        point_size: area of a point in square pixels.

    Returns:
        SVG.
    """
    parts = [
        {
            "title": panel.title,
            "width": _WIDTH,
            "height": _HEIGHT,
            "layer": list(_layers(panel, panel.x or x, styles, point_size)),
        }
        for panel in panels
    ]
    return _draw(title, parts)


def _layers(panel: Panel, x: Axis, styles: dict[str, Style], point_size: float) -> Iterable[Spec]:
    """The layers of one panel, the lowest first."""
    across = _across(x, panel)
    scale = {"zero": _from_zero(panel), "nice": True}
    up = {"field": "y", "type": "quantitative", "title": panel.y, "scale": scale}
    colour, shape = _style(styles, "colour"), _style(styles, "shape")
    dash = {**_style(styles, "dash"), "legend": None}
    symbol = {"type": "point", "filled": True, "opacity": 1, "size": point_size}

    if panel.front:
        corners = [{"x": a, "y": b} for a, b in panel.front]
        stairs = {"type": "line", "interpolate": "step-after", "strokeDash": [3, 3], "color": _INK}
        yield _layer(corners, stairs | {"strokeWidth": 1.5}, x=across, y=up)
    if panel.levels:
        levels = [vars(level) for level in panel.levels]
        line = {"type": "rule", "strokeWidth": 2}
        yield _layer(levels, line, y=up, color=colour, strokeDash=dash)
        # A thin line is hard to hit: a wide one that is not seen carries the text.
        wide = {"type": "rule", "strokeWidth": 12, "strokeOpacity": 0}
        yield _value_layer(levels, wide, y=up, color=colour)
        yield _layer(levels, symbol, x={"value": _WIDTH}, y=up, color=colour, shape=shape)
    yield from _curve_layers(panel.curves, across, up, colour)
    values = [
        {"name": one.name, "beside": one.beside, "joined": one.joined, **vars(point)}
        for one in panel.series
        for point in one.points
    ]
    joined = [value for value in values if value["joined"]]
    for mark, mine in (
        ({"type": "area", "opacity": 0.14}, True),
        ({"type": "rule", "strokeWidth": 1.6}, False),
    ):
        ends = [v for v in values if v["low"] is not None and v["joined"] is mine]
        low, high = {**up, "field": "low"}, {"field": "high"}
        yield _layer(ends, mark, x=across, y=low, y2=high, color=colour)
    line = {"type": "line", "strokeWidth": 2}
    yield _layer(joined, line, x=across, y=up, color=colour, strokeDash=dash)
    yield _value_layer(values, symbol, x=across, y=up, color=colour, shape=shape)
    beside = {"type": "text", "align": "left", "dx": 6, "dy": 11}
    yield _layer(values, beside, x=across, y=up, text={"field": "beside"})


def _curve_layers(curves: Sequence[Curve], across: Spec, up: Spec, colour: Spec) -> Iterable[Spec]:
    """Bands and lines of what was computed."""
    corners: list[Spec] = [
        {"name": curve.name, "x": x, "y": y, "low": low, "high": high}
        for curve in curves
        for x, y, low, high in curve.corners
    ]
    if corners:
        low, high = {**up, "field": "low"}, {"field": "high"}
        band = {"type": "area", "opacity": 0.1}
        yield _layer(corners, band, x=across, y=low, y2=high, color=colour)
        line = {"type": "line", "strokeWidth": 1.4, "opacity": 0.8}
        yield _layer(corners, line, x=across, y=up, color=colour)


def _layer(values: list[Spec], mark: Spec, **encoding: Spec) -> Spec:
    """Marks that say nothing by themselves."""
    return {"data": {"values": values}, "mark": {**mark, "aria": False}, "encoding": encoding}


def _value_layer(values: list[Spec], mark: Spec, **encoding: Spec) -> Spec:
    """Marks that stand for values, each with its text in the key ``tip``."""
    return {
        "data": {"values": values},
        "mark": {**mark, "ariaRoleDescription": VALUE},
        "encoding": {**encoding, "description": {"field": "tip"}},
    }


def _across(x: Axis, panel: Panel) -> Spec:
    """The lower axis, over the panel's points and curves."""
    scale: Spec = {"nice": False, "padding": 24, "zero": False}
    axis: Spec = {"grid": False, "tickCount": 6, "format": ",~f"}
    values = [point.x for one in panel.series for point in one.points]
    values += [corner[0] for curve in panel.curves for corner in curve.corners]
    ticks = list(x.ticks)
    if x.log and values:
        # Over less than a factor of 2, small differences would look large.
        low, high = min(values), max(values)
        room = max(1.0, (2.0 * low / high) ** 0.5)
        scale |= {"type": "log", "domain": [low / room, high * room]}
        ticks = ticks or _log_ticks(low / room, high * room)
    if ticks:
        axis["values"] = ticks
    return {"field": "x", "type": "quantitative", "title": x.title, "scale": scale, "axis": axis}


_FACTORS = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9))


def _log_ticks(low: float, high: float) -> list[float]:
    """The roundest ticks of a logarithmic axis of which at least three are seen."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for factors in _FACTORS:
        ticks = [round(f * 10.0**decade, 12) for decade in decades for f in factors]
        if sum(low <= tick <= high for tick in ticks) >= _FEWEST:
            break
    return ticks


def _from_zero(panel: Panel) -> bool:
    """Whether the left axis starts at 0: a range that reaches near to 0 is easier to read so."""
    values = [level.y for level in panel.levels]
    for one in panel.series:
        values += [v for p in one.points for v in (p.y, p.low, p.high) if v is not None]
    values += [v for curve in panel.curves for corner in curve.corners for v in corner[1:]]
    return panel.from_zero or min(values) < 0.5 * max(values)


def _style(styles: dict[str, Style], part: str) -> Spec:
    """One part of every style, by name."""
    values = [getattr(style, part) for style in styles.values()]
    if part == "dash":
        values = [list(dash) or [1, 0] for dash in values]
    scale = {"domain": list(styles), "range": values}
    return {"field": "name", "title": None, "scale": scale, "legend": _legend(styles)}


def _legend(names: Iterable[str]) -> Spec:
    """The legend: as many entries in a line as two panels are wide."""
    widest = 7 * max(map(len, names), default=0) + 42  # pixels, about
    columns = max(1, min(8, (_COLUMNS * _WIDTH + 90) // widest))
    return {"orient": "bottom", "columns": columns, "symbolOpacity": 1}


def bars(title: str, x: str, panels: Sequence[BarPanel], colours: dict[str, str]) -> str:
    """Stacked horizontal bars, one a row, the total behind each.

    Args:
        title: what the drawing is called where it is not seen.
        x: the lower axis' title, with the unit.
        panels: at least one, each with at least one bar.
        colours: by name of a part, in the order of the legend.

    Returns:
        SVG.
    """
    return _draw(title, [_bars(panel, x, colours) for panel in panels])


def _bars(panel: BarPanel, x: str, colours: dict[str, str]) -> Spec:
    values: list[Spec] = []
    totals: list[Spec] = []
    for bar in panel.bars:
        end = 0.0
        for part, length, tip in bar.parts:
            start, end = end, end + length
            if length > 0:
                values.append({"row": bar.name, "part": part, "x": start, "to": end, "tip": tip})
        totals.append({"row": bar.name, "x": end, "total": bar.total})
    # Room behind the longest bar for its total, as a part of the axis.
    room = 1.0 + 0.022 * max(len(bar.total) for bar in panel.bars)
    row = {
        "field": "row",
        "type": "nominal",
        "title": None,
        "sort": [bar.name for bar in panel.bars],
        "axis": {"labelLimit": 220, "ticks": False, "domain": False},
    }
    across = {
        "field": "x",
        "type": "quantitative",
        "title": x,
        "scale": {"domain": [0, room * max(total["x"] for total in totals)], "nice": False},
        "axis": {"tickCount": 5, "format": ",~f"},
    }
    scale = {"domain": list(colours), "range": list(colours.values())}
    colour = {"field": "part", "title": None, "scale": scale, "legend": _legend(colours)}
    shape = {"type": "bar", "height": 16}
    behind = {"type": "text", "align": "left", "dx": 6}
    return {
        "title": panel.title,
        "width": _WIDTH,
        "height": {"step": _BAR_STEP},
        "layer": [
            _value_layer(values, shape, y=row, x=across, x2={"field": "to"}, color=colour),
            _layer(totals, behind, y=row, x=across, text={"field": "total"}),
        ],
    }


_CONFIG: Spec = {
    "background": None,
    "padding": {"left": 16, "right": 16, "top": 4, "bottom": 4},  # another font may be wider
    "font": _FONT,
    "view": {"stroke": None},
    "concat": {"spacing": 28},
    "title": {
        "anchor": "start",
        "frame": "group",
        "color": _INK,
        "fontSize": 13,
        "fontWeight": 600,
        "offset": 10,
    },
    "text": {"color": _INK, "fontSize": 12},
    "axis": {
        **{f"{part}Color": _INK for part in ("label", "title", "domain", "tick", "grid")},
        "gridOpacity": 0.2,
        "domainOpacity": 0.6,
        "tickOpacity": 0.6,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    },
    "axisY": {"minExtent": 30},
    "legend": {
        "labelColor": _INK,
        "labelFontSize": 12,
        "labelLimit": 300,
        "symbolSize": 90,
        "columnPadding": 36,  # a browser may have wider letters than those that were measured
        "offset": 14,
    },
}


def _draw(title: str, parts: list[Spec]) -> str:
    """Panels with one legend beneath them, drawn."""
    import vl_convert  # large, and needed by no other command

    spec = {"concat": parts, "columns": _COLUMNS, "config": _CONFIG}
    svg: str = vl_convert.vegalite_to_svg(spec)
    head = f'class="chart" color="{_ALONE}" role="graphics-document" aria-label="{escape(title)}"'
    return svg.replace('class="marks"', head, 1)
