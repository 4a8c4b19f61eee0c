"""Two kinds of chart as SVG: points and lines over two axes, and stacked bars.

In: numbers with the text that hovering shows. Out: a `Panel`. Nothing here knows of studies.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from cadc_rec.study.report import svg
from cadc_rec.study.report.scales import Axis, Scale
from cadc_rec.study.report.svg import FONT, LETTER, Look, Panel

WIDTH, HEIGHT = 440.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, 14.0, 30.0, 44.0
_BAR, _BAR_STEP = 17.0, 28.0

Spot = tuple[float, float, str]  # a name's place and its text-anchor
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Point:
    """A value with its spread; `low` and `high` are absent where there is none."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one look; `joined` by a line with a band, else with whiskers and a name each."""

    label: str
    look: Look
    points: tuple[Point, ...]
    joined: bool = True
    size: float = 5.0


@dataclass(frozen=True)
class Level:
    """A horizontal line from side to side."""

    label: str
    look: Look
    y: float
    tip: str


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart: its parts from left to right, and the text behind them."""

    label: str
    look: Look
    parts: tuple[tuple[str, float, str], ...]  # kind (a key of BAR_KINDS), length, tip
    total: str


def plot(
    title: str,
    x: Axis,
    y: Axis,
    series: Sequence[Series],
    levels: Sequence[Level] = (),
    front: Sequence[tuple[float, float]] = (),
) -> Panel:
    """Points and lines over two axes.

    Args:
        title: above the panel.
        x: the lower axis.
        y: the left axis.
        series: at least one point among them, or a level.
        levels: horizontal lines.
        front: corners of a line drawn beneath all, such as a Pareto front, in data units.
    """
    points = [point for one in series for point in one.points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    across = Scale.over(x, [p.x for p in points] or [1.0, 2.0], _LEFT, WIDTH - _RIGHT)
    named = [one for one in series if not one.joined]
    heights = [*ys, *(level.y for level in levels)]
    up = Scale.over(y, heights, HEIGHT - _BOTTOM, _TOP, pad=0.12 if named else 0.06)
    parts = [svg.text(_LEFT - 38, 16, title, kind="title"), _axes(across, up)]
    if front:
        places = [(across(a), up(b)) for a, b in front]
        parts.append(svg.path(places, Look("currentColor", "circle"), "front"))
    for level in levels:
        height = up(level.y)
        ends = [(_LEFT, height), (WIDTH - _RIGHT, height)]
        shape = svg.path(ends, level.look, "line") + svg.path(ends, level.look, "reach")
        parts.append(svg.mark(level.tip, shape, "level"))
    for one in series:
        parts.append(_spread(one, across, up))
    for one in series:
        for p in one.points:
            shape = svg.symbol(across(p.x), up(p.y), one.look, one.size)
            parts.append(svg.mark(p.tip, shape, "point"))
    stairs = [(across(a), up(b)) for a, b in front]
    parts.append(_names(named, stairs, across, up))
    return Panel(title, WIDTH, HEIGHT, "".join(parts))


def _axes(across: Scale, up: Scale) -> str:
    bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
    parts = []
    for value, label in up.ticks():
        parts.append(svg.line(_LEFT, up(value), right, up(value), "grid"))
        parts.append(svg.text(_LEFT - 7, up(value) + 4, label, "end", "tick"))
    for value, label in across.ticks():
        parts.append(svg.line(across(value), bottom, across(value), bottom + 5, "axis"))
        parts.append(svg.text(across(value), bottom + 18, label, "middle", "tick"))
    parts.append(svg.line(_LEFT, bottom, right, bottom, "axis"))
    parts.append(svg.text((_LEFT + right) / 2, HEIGHT - 8, across.axis.title, "middle", "tick"))
    return "".join(parts)


def _spread(one: Series, across: Scale, up: Scale) -> str:
    """The line and its band, or the whiskers."""
    ranged = [(p, p.low, p.high) for p in one.points if p.low is not None and p.high is not None]
    if not one.joined:
        ends = [(across(p.x), up(low), up(high)) for p, low, high in ranged]
        return "".join(svg.path([(x, a), (x, b)], one.look, "whisker") for x, a, b in ends)
    parts = []
    if len(ranged) > 1:
        upper = [(across(p.x), up(high)) for p, _, high in ranged]
        lower = [(across(p.x), up(low)) for p, low, _ in ranged]
        parts.append(svg.path([*upper, *reversed(lower)], one.look, "band", closed=True))
    if len(one.points) > 1:
        parts.append(svg.path([(across(p.x), up(p.y)) for p in one.points], one.look, "line"))
    return "".join(parts)


def _names(
    series: Sequence[Series], stairs: Sequence[tuple[float, float]], across: Scale, up: Scale
) -> str:
    """Each point's name beside it, where it covers no point, no other name and not the front."""
    places = [(one, across(p.x), up(p.y)) for one in series for p in one.points]
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for _, x, y in places]
    for one in series:
        for p in one.points:
            if p.low is not None and p.high is not None:
                taken.append((across(p.x) - 2, up(p.high), across(p.x) + 2, up(p.low)))
    for (x1, y1), (x2, y2) in itertools.pairwise(stairs):
        taken.append((x1 - 2, min(y1, y2) - 2, x2 + 2, max(y1, y2) + 2))
    parts = []
    # A long name finds a place less easily: it chooses first.
    for one, x, y in sorted(places, key=lambda place: -len(place[0].label)):
        wide = LETTER * len(one.label)
        best = min(_spots(x, y), key=lambda spot: _cost(spot, wide, taken))
        taken.append(_box(best, wide))
        left, top, right, _ = _box(best, wide)
        if abs(best[1] - y) > 22:
            end = top if best[1] > y else best[1] + 3
            parts.append(svg.line(x, y, (left + right) / 2, end, "leader"))
        parts.append(svg.text(best[0], best[1], one.label, best[2], "name"))
    return "".join(parts)


def _spots(x: float, y: float) -> list[Spot]:
    """Where a point's name may stand, the best first."""
    near: list[Spot] = [(x + 10, y + 4, "start"), (x - 10, y + 4, "end")]
    near += [(x, y - 11, "middle"), (x, y + 20, "middle")]
    for shift in (-10, 19, -24, 32, -40, 48):
        near += [(x + 8, y + shift, "start"), (x - 8, y + shift, "end"), (x, y + shift, "middle")]
    return near


def _cost(spot: Spot, wide: float, taken: Sequence[Box]) -> float:
    """The area a name there would cover, and much more for leaving the panel."""
    left, top, right, bottom = _box(spot, wide)
    covered = sum(
        max(0.0, min(right, r) - max(left, le)) * max(0.0, min(bottom, b) - max(top, t))
        for le, t, r, b in taken
    )
    outside = max(0, _LEFT + 2 - left) + max(0, right - WIDTH + 4) + max(0, _TOP - 8 - top)
    return covered + 1000 * (outside + max(0, bottom - HEIGHT + _BOTTOM))


def _box(spot: Spot, wide: float) -> Box:
    x, y, anchor = spot
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left - 1, y - FONT + 2, left + wide + 1, y + 3


def _striped(x: float, y: float, width: float, colour: str) -> str:
    stripes = [
        svg.rectangle(x, y + up, width, 2.2, f'fill="{colour}"') for up in (1.5, 5.5, 9.5, 13.5)
    ]
    return svg.rectangle(x, y, width, _BAR, f'fill="{colour}" fill-opacity=".35"') + "".join(
        stripes
    )


def _outlined(x: float, y: float, width: float, colour: str) -> str:
    paint = f'fill="{colour}" fill-opacity=".15" stroke="{colour}" stroke-width="1"'
    return svg.rectangle(x + 0.5, y + 0.5, max(width - 1, 0), _BAR - 1, paint)


def _solid(x: float, y: float, width: float, colour: str) -> str:
    return svg.rectangle(x, y, width, _BAR, f'fill="{colour}"')


def _barred(x: float, y: float, width: float, colour: str) -> str:
    paint = f'fill="{colour}"'
    count = max(1, int(width / 4))
    lines = [svg.rectangle(x + 4 * n, y, min(2, width), _BAR, paint) for n in range(count)]
    return svg.rectangle(x, y, width, _BAR, f'{paint} fill-opacity=".35"') + "".join(lines)


# A bar has its method's colour; its parts differ by filling.
BAR_KINDS = {"striped": _striped, "barred": _barred, "solid": _solid, "outlined": _outlined}


def bars(title: str, axis: Axis, rows: Sequence[Bar]) -> Panel:
    """Stacked horizontal bars, one a row, the total behind each."""
    left = 22 + LETTER * max(len(row.label) for row in rows)
    right = 20 + LETTER * max(len(row.total) for row in rows)
    height = _TOP + _BAR_STEP * len(rows) + _BOTTOM - 4
    totals = [sum(length for _, length, _ in row.parts) for row in rows]
    across = Scale.over(axis, [0.0, *totals], left, WIDTH - right, pad=0.0)
    bottom = height - _BOTTOM
    parts = [svg.text(12, 16, title, kind="title")]
    for value, label in across.ticks():
        parts.append(svg.line(across(value), _TOP, across(value), bottom, "grid"))
        parts.append(svg.text(across(value), bottom + 16, label, "middle", "tick"))
    parts.append(svg.text((left + WIDTH - right) / 2, height - 10, axis.title, "middle", "tick"))
    for place, row in enumerate(rows):
        y = _TOP + 5 + place * _BAR_STEP
        start = 0.0
        parts.append(svg.text(left - 8, y + 13, row.label, "end", "name"))
        for kind, length, tip in row.parts:
            from_, to = across(start), across(start + length)
            if length > 0:
                shape = BAR_KINDS[kind](from_, y, max(to - from_, 0.8), row.look.colour)
                parts.append(svg.mark(tip, shape, "bar"))
            start += length
        parts.append(svg.text(across(start) + 7, y + 13, row.total, kind="name"))
    return Panel(title, WIDTH, height, "".join(parts))


def bar_key(label: str, kind: str) -> svg.Key:
    """A legend entry of a part of bars, in the colour of the letters."""
    shape = BAR_KINDS[kind](0, 0, 26, "currentColor")
    return svg.Key(label, f'<g transform="scale(1 .82)">{shape}</g>')
