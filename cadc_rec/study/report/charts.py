"""Draws charts as SVG with Vega-Lite: points and lines over two axes, and stacked bars.

In: numbers, each with the text a reader sees on hovering. Out: SVG text that works in a page and as
a file of its own. Nothing here knows of studies.

Vega runs in `vl_convert`, so a page holds the finished drawing and no plotting library: it opens
at once, prints, and needs no script. A mark that holds a value carries its text as ``aria-label``
and `VALUE` as ``aria-roledescription``; the page shows that text on hovering and to the keyboard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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
_LEGEND_COLUMNS = 7

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
class Panel:
    """One drawing area.

    Attributes:
        title: above it.
        y: the left axis' title, with the unit.
        front: corners of a dashed line of stairs beneath all, in data units.
    """

    title: str
    y: str
    series: tuple[Series, ...] = ()
    levels: tuple[Level, ...] = ()
    front: tuple[tuple[float, float], ...] = ()


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
    bars: tuple[Bar, ...] = field(default_factory=tuple)


def plot(
    title: str,
    x: Axis,
    panels: Sequence[Panel],
    styles: dict[str, Style],
    point_size: float = 80.0,
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
            "layer": list(_layers(panel, x, styles, point_size)),
        }
        for panel in panels
    ]
    return _draw(title, parts)


def _layers(panel: Panel, x: Axis, styles: dict[str, Style], point_size: float) -> Iterable[Spec]:
    """The layers of one panel, the lowest first."""
    across = _across(x, panel.series)
    up = {
        "field": "y",
        "type": "quantitative",
        "title": panel.y,
        "scale": {"zero": _from_zero(panel), "nice": True},
    }
    colour = {"field": "name", "title": None, "scale": _range(styles, "colour"), "legend": _LEGEND}
    shape = {"field": "name", "title": None, "scale": _range(styles, "shape"), "legend": _LEGEND}
    dash = {"field": "name", "scale": _range(styles, "dash"), "legend": None}
    described = {"description": {"field": "tip"}}

    if panel.front:
        yield {
            "data": {"values": [{"x": a, "y": b} for a, b in panel.front]},
            "mark": {
                "type": "line",
                "interpolate": "step-after",
                "strokeDash": [3, 3],
                "strokeWidth": 1.5,
                "color": _INK,
                "aria": False,
            },
            "encoding": {"x": across, "y": up},
        }
    if panel.levels:
        values = [{"name": one.name, "y": one.y, "tip": one.tip} for one in panel.levels]
        for mark, more in (
            ({"strokeWidth": 2, "aria": False}, {"strokeDash": dash}),
            # A thin line is hard to hit: a wide one without colour carries the text.
            ({"strokeWidth": 12, "strokeOpacity": 0, "ariaRoleDescription": VALUE}, described),
        ):
            yield {
                "data": {"values": values},
                "mark": {"type": "rule", **mark},
                "encoding": {"y": up, "color": colour, **more},
            }
        yield {
            "data": {"values": values},
            "mark": {**_SYMBOL, "size": point_size, "aria": False},
            "encoding": {"x": {"value": _WIDTH}, "y": up, "color": colour, "shape": shape},
        }
    values = [
        {"name": one.name, "beside": one.beside, "joined": one.joined, **vars(point)}
        for one in panel.series
        for point in one.points
    ]
    spread = {
        "x": across,
        "y": {**up, "field": "low"},
        "y2": {"field": "high"},
        "color": colour,
    }
    if any(one.joined for one in panel.series):
        yield {
            "data": {"values": [v for v in values if v["low"] is not None and v["joined"]]},
            "mark": {"type": "area", "opacity": 0.14, "aria": False},
            "encoding": spread,
        }
        yield {
            "data": {"values": [v for v in values if v["joined"]]},
            "mark": {"type": "line", "strokeWidth": 2, "aria": False},
            "encoding": {"x": across, "y": up, "color": colour, "strokeDash": dash},
        }
    yield {
        "data": {"values": [v for v in values if v["low"] is not None and not v["joined"]]},
        "mark": {"type": "rule", "strokeWidth": 1.6, "aria": False},
        "encoding": spread,
    }
    yield {
        "data": {"values": values},
        "mark": {**_SYMBOL, "size": point_size, "ariaRoleDescription": VALUE},
        "encoding": {"x": across, "y": up, "color": colour, "shape": shape, **described},
    }
    if any(one.beside for one in panel.series):
        yield {
            "data": {"values": values},
            "mark": {"type": "text", "align": "left", "dx": 6, "dy": 11, "aria": False},
            "encoding": {"x": across, "y": up, "text": {"field": "beside"}},
        }


def _across(x: Axis, series: Sequence[Series]) -> Spec:
    """The lower axis, over the points of `series`."""
    scale: Spec = {"nice": False, "padding": 24, "zero": False}
    axis: Spec = {"grid": False, "tickCount": 6, "format": ",~f"}
    values = [point.x for one in series for point in one.points]
    if x.log and values:
        # Over less than a factor of 2, small differences would look large.
        low, high = min(values), max(values)
        room = max(1.0, (2.0 * low / high) ** 0.5)
        scale |= {"type": "log", "domain": [low / room, high * room]}
    if x.ticks:
        axis["values"] = list(x.ticks)
    return {
        "field": "x",
        "type": "quantitative",
        "title": x.title,
        "scale": scale,
        "axis": axis,
    }


def _from_zero(panel: Panel) -> bool:
    """Whether the left axis starts at 0: a range that reaches near to 0 is easier to read so."""
    values = [level.y for level in panel.levels]
    for one in panel.series:
        values += [v for p in one.points for v in (p.y, p.low, p.high) if v is not None]
    return min(values) < 0.5 * max(values)


def _range(styles: dict[str, Style], part: str) -> Spec:
    """One part of every style as a scale from names."""
    values = [getattr(style, part) for style in styles.values()]
    if part == "dash":
        values = [list(dash) or [1, 0] for dash in values]
    return {"domain": list(styles), "range": values}


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
    values, totals = [], []
    names = [bar.name for bar in panel.bars]
    for bar in panel.bars:
        end = 0.0
        for part, length, tip in bar.parts:
            if length > 0:
                values.append({"row": bar.name, "part": part, "from": end, "to": end + length})
                values[-1]["tip"] = tip
            end += length
        totals.append({"row": bar.name, "to": end, "total": bar.total})
    # Room behind the longest bar for its total, as a part of the axis.
    room = 1.0 + 0.022 * max(len(bar.total) for bar in panel.bars)
    row = {"field": "row", "type": "nominal", "title": None, "sort": names}
    row["axis"] = {"labelLimit": 220, "ticks": False, "domain": False}
    across = {
        "field": "to",
        "type": "quantitative",
        "title": x,
        "scale": {"domain": [0, room * max(total["to"] for total in totals)], "nice": False},
        "axis": {"tickCount": 5, "format": ",~f"},
    }
    return {
        "title": panel.title,
        "width": _WIDTH,
        "height": {"step": _BAR_STEP},
        "layer": [
            {
                "data": {"values": values},
                "mark": {"type": "bar", "height": 16, "ariaRoleDescription": VALUE},
                "encoding": {
                    "y": row,
                    "x": {**across, "field": "from"},
                    "x2": {"field": "to"},
                    "color": {
                        "field": "part",
                        "title": None,
                        "scale": {"domain": list(colours), "range": list(colours.values())},
                        "legend": _LEGEND,
                    },
                    "description": {"field": "tip"},
                },
            },
            {
                "data": {"values": totals},
                "mark": {"type": "text", "align": "left", "dx": 6, "aria": False},
                "encoding": {"y": row, "x": across, "text": {"field": "total"}},
            },
        ],
    }


_SYMBOL: Spec = {"type": "point", "filled": True, "opacity": 1}
_LEGEND: Spec = {"orient": "bottom", "columns": _LEGEND_COLUMNS, "symbolOpacity": 1}
_CONFIG: Spec = {
    "background": None,
    "padding": {"left": 16, "right": 16, "top": 4, "bottom": 4},  # another font may be wider
    "font": _FONT,
    "view": {"stroke": None},
    "concat": {"spacing": 28},
    "title": {"anchor": "start", "color": _INK, "fontSize": 13, "fontWeight": 600, "offset": 10},
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
    "legend": {
        "labelColor": _INK,
        "labelFontSize": 12,
        "labelLimit": 300,
        "symbolSize": 90,
        "columnPadding": 18,
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
