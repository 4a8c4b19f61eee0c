"""Small pieces of SVG: marks with their values, legends, and pictures of several panels.

Texts from data pass through `escape` here and nowhere else. Colours of lines and letters come from
`assets/chart.css`, which a page and a picture that stands alone share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import escape

CHART_CSS = Path(__file__).parent / "assets" / "chart.css"
FONT = 12.5
# A letter's width on average, in the page's fonts; labels are placed by it.
LETTER = 0.58 * FONT
_LEGEND_LINE = 22


@dataclass(frozen=True)
class Look:
    """How a method looks in every chart: colour and shape, so that colour is not needed."""

    colour: str
    shape: str
    dash: str = ""


@dataclass(frozen=True)
class Panel:
    """One drawing area with its axes; `body` is SVG."""

    title: str
    width: float
    height: float
    body: str

    @property
    def svg(self) -> str:
        """The panel as an element of a page."""
        return (
            f'<svg class="chart" viewBox="0 0 {number(self.width)} {number(self.height)}" '
            f'role="img" aria-label="{escape(self.title)}">{self.body}</svg>'
        )


@dataclass(frozen=True)
class Key:
    """An entry of a legend; `swatch` is SVG within 26 × 14."""

    label: str
    swatch: str


def number(value: float) -> str:
    """A coordinate, no longer than it has to be."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    """A line of text; `anchor` is start, middle or end."""
    kind = f' class="{kind}"' if kind else ""
    return (
        f'<text x="{number(x)}" y="{number(y)}" text-anchor="{anchor}"{kind}>'
        f"{escape(content)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line of a class of chart.css."""
    ends = zip(("x1", "y1", "x2", "y2"), (x1, y1, x2, y2), strict=True)
    return f'<line class="{kind}" ' + " ".join(f'{k}="{number(v)}"' for k, v in ends) + "/>"


def path(points: Sequence[tuple[float, float]], look: Look, kind: str, closed: bool = False) -> str:
    """A line through points, or the area within them."""
    steps = "L".join(f"{number(x)} {number(y)}" for x, y in points)
    paint = f'fill="{look.colour}"' if closed else f'stroke="{look.colour}"'
    dash = f' stroke-dasharray="{look.dash}"' if look.dash and not closed else ""
    return f'<path class="{kind}" {paint}{dash} d="M{steps}{"Z" if closed else ""}"/>'


def rectangle(x: float, y: float, width: float, height: float, paint: str) -> str:
    """A rectangle; `paint` holds its further attributes."""
    size = f'width="{number(max(width, 0))}" height="{number(height)}"'
    return f'<rect x="{number(x)}" y="{number(y)}" {size} {paint}/>'


def mark(tip: str, shape: str, kind: str = "") -> str:
    """A data mark: whatever `shape` is, with the value hovering shows."""
    return f'<g class="mark {kind}"><title>{escape(tip)}</title>{shape}</g>'


def symbol(x: float, y: float, look: Look, size: float = 5.0) -> str:
    """A method's shape around a point."""
    if look.shape == "circle":
        return (
            f'<circle class="symbol" fill="{look.colour}" cx="{number(x)}" cy="{number(y)}" '
            f'r="{number(size)}"/>'
        )
    corners = "L".join(
        f"{number(x + size * dx)} {number(y + size * dy)}" for dx, dy in _SHAPES[look.shape]
    )
    return f'<path class="symbol" fill="{look.colour}" d="M{corners}Z"/>'


def line_key(label: str, look: Look, joined: bool = True, shaped: bool = True) -> Key:
    """A legend entry of a line, of a mark, or of both."""
    swatch = path([(1, 7), (25, 7)], look, "line") if joined else ""
    return Key(label, swatch + (symbol(13, 7, look) if shaped else ""))


def standalone(title: str, panels: Sequence[Panel], keys: Sequence[Key], columns: int) -> str:
    """Panels and their legend as one picture, its style within, without a background."""
    columns = min(columns, len(panels))
    width = max(panel.width for panel in panels)
    height = max(panel.height for panel in panels)
    parts = [text(12, 22, title, kind="heading")]
    for place, panel in enumerate(panels):
        x, y = (place % columns) * width, 34 + (place // columns) * height
        parts.append(f'<g transform="translate({number(x)} {number(y)})">{panel.body}</g>')
    bottom = 34 + math.ceil(len(panels) / columns) * height
    legend, lines = _legend(keys, columns * width - 24)
    parts.append(f'<g transform="translate(12 {number(bottom)})">{legend}</g>')
    size = (columns * width, bottom + lines * _LEGEND_LINE + 8)
    css = CHART_CSS.read_text("utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {number(size[0])} '
        f'{number(size[1])}" width="{number(size[0])}" height="{number(size[1])}" role="img">'
        f"<title>{escape(title)}</title><style>\n{css}</style>\n" + "\n".join(parts) + "</svg>\n"
    )


def _legend(keys: Sequence[Key], width: float) -> tuple[str, int]:
    """The legend, broken into lines of at most `width`, and how many they are."""
    x, lines, parts = 0.0, 1, []
    for key in keys:
        wide = 32 + LETTER * len(key.label) + 18
        if x and x + wide > width:
            x, lines = 0.0, lines + 1
        y = (lines - 1) * _LEGEND_LINE
        parts.append(
            f'<g transform="translate({number(x)} {number(y)})">{key.swatch}'
            f"{text(32, 11.5, key.label)}</g>"
        )
        x += wide
    return "".join(parts), lines if keys else 0


def _polygon(corners: int, turn: float, inner: float = 1.0) -> list[tuple[float, float]]:
    """Corners on a circle, `turn` half turns from the top; every second one nearer for a star."""
    points = []
    for n in range(corners):
        angle = math.pi * (2 * n / corners + turn)
        radius = 1.25 * (inner if n % 2 else 1.0)
        points.append((radius * math.sin(angle), -radius * math.cos(angle)))
    return points


def _cross(turn: float) -> list[tuple[float, float]]:
    """A cross of two thick arms."""
    points = []
    for quarter in range(4):
        angle = math.pi * (quarter / 2 + turn)
        sine, cosine = math.sin(angle), math.cos(angle)
        for x, y in ((0.42, 1.25), (0.42, 0.42), (1.25, 0.42)):
            points.append((x * cosine + y * sine, y * cosine - x * sine))
    return points


_SHAPES = {
    "square": _polygon(4, 0.25),
    "diamond": _polygon(4, 0.0),
    "up": _polygon(3, 0.0),
    "down": _polygon(3, 1.0),
    "star": _polygon(10, 0.0, inner=0.45),
    "hexagon": _polygon(6, 0.0),
    "plus": _cross(0.0),
    "cross": _cross(0.25),
}
SHAPES = ("circle", *_SHAPES)
