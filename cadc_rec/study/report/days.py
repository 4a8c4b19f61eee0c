"""A chain of updates, drawn over its days: what was foreseen, what was new, how far vectors moved.

In: the records of updates. Out: a picture (SVG) and a page of Markdown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.store.atomic import write_atomically
from cadc_rec.study.report.charts import Axis, Panel, Point, Series, Style, plot
from cadc_rec.updates.chain import Update

PAGE, PICTURE = "updates.md", "updates.svg"
_CERTAIN = 1.96  # standard errors to either side of 95% of all samples
_STYLES = {
    "next items, before they were learned": Style("#2f81f7", "circle"),
    "known user and item": Style("#14927f", "square"),
    "of new users": Style("#d9534a", "triangle-up"),
    "of new items": Style("#b9810f", "diamond"),
    "users": Style("#9a6ae8", "square"),
    "items": Style("#6b9a1f", "triangle-down"),
}
_Value = Callable[[Mapping[str, Any]], "tuple[float, float] | None"]
"""Of a report: a number and how far its interval reaches to either side."""


def write_days(updates: Sequence[Update], folder: Path) -> Path:
    """Draw a chain of updates.

    Args:
        updates: in their order.
        folder: receives the page and the picture; made if need be.

    Returns:
        The page.

    Raises:
        CadcError: there is no update whose record tells what was foreseen.
    """
    told = [update for update in updates if "progressive" in update.report]
    if not told:
        raise CadcError(
            "no update here tells what was foreseen: there is none yet, or all are of an earlier "
            "version; make one with cadc-rec update."
        )
    title = "Updates over the days"
    picture = plot(title, Axis("update", ticks=_ticks(told)), _panels(told), _STYLES, 40.0)
    write_atomically(folder / PICTURE, picture)
    lines = [f"# {title}", "", f"![{title}]({PICTURE})", "", *_table(told), ""]
    write_atomically(folder / PAGE, "\n".join(lines))
    return folder / PAGE


def _ticks(updates: Sequence[Update]) -> tuple[float, ...]:
    """A few whole numbers; fractions of an update mean nothing."""
    first, last = updates[0].number, updates[-1].number
    step = max(1, math.ceil((last - first) / 10))
    return tuple(float(number) for number in range(first, last + 1, step))


def _panels(updates: Sequence[Update]) -> list[Panel]:
    foreseen = "next items, before they were learned"
    panels = [
        Panel(foreseen, "HR@10 (%)", _series(updates, {foreseen: _hit_rate}, "%")),
        Panel(
            "new interactions",
            "share (%)",
            _series(
                updates,
                {
                    "known user and item": lambda r: _share(r, "known"),
                    "of new users": lambda r: _share(r, "new_user", "new_both"),
                    "of new items": lambda r: _share(r, "new_item", "new_both"),
                },
                "%",
            ),
        ),
        Panel(
            "served vectors of known rows, before and with the update",
            "mean cosine",
            _series(updates, {f"{side}s": _cosine_of(side) for side in ("user", "item")}, ""),
        ),
        Panel(
            "served vectors",
            "mean length",
            _series(updates, {f"{side}s": _length_of(side) for side in ("user", "item")}, ""),
        ),
    ]
    return [panel for panel in panels if panel.series]


def _series(
    updates: Sequence[Update], values: Mapping[str, _Value], unit: str
) -> tuple[Series, ...]:
    """A line of each name; days without a number have no point."""
    found = []
    for name, value in values.items():
        points = []
        for update in updates:
            got = value(update.report)
            if got is None:
                continue
            number, reach = got
            tip = f"{_day(update)}\n{name}: {number:.3g}{unit}"
            low, high = (number - reach, number + reach) if reach else (None, None)
            points.append(Point(float(update.number), number, tip, low, high))
        if points:
            found.append(Series(name, tuple(points)))
    return tuple(found)


def _hit_rate(report: Mapping[str, Any]) -> tuple[float, float] | None:
    """HR@10 in percent, and the reach of its 95% interval."""
    found = report["progressive"]
    if found["metrics"] is None:
        return None
    rate = found["metrics"]["hr@10"]
    return 100 * rate, 100 * _CERTAIN * math.sqrt(rate * (1 - rate) / found["users"])


def _share(report: Mapping[str, Any], *kinds: str) -> tuple[float, float] | None:
    """Of the day's rows, in percent."""
    rows = report["progressive"]["rows"]
    every = sum(rows.values())
    return (100 * sum(rows[kind] for kind in kinds) / every, 0.0) if every else None


def _cosine_of(side: str) -> _Value:
    def value(report: Mapping[str, Any]) -> tuple[float, float] | None:
        drift = report["vectors"].get(side)
        every = drift and drift["all"]
        return (every["cosine"], 0.0) if every else None

    return value


def _length_of(side: str) -> _Value:
    def value(report: Mapping[str, Any]) -> tuple[float, float] | None:
        length = report["norms"]["vectors"][side]["after"]
        return None if length is None else (length, 0.0)

    return value


def _day(update: Update) -> str:
    return f"{update.name}, update {update.number}" if update.name else f"update {update.number}"


def _table(updates: Sequence[Update]) -> list[str]:
    """A row a day."""
    lines = [
        "| update | day | new rows | known user and item | of new users | of new items | users "
        "who came back | HR@10 | NDCG@10 | rebuild |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for update in updates:
        found, report = update.report["progressive"], update.report
        shares = [
            _share(report, "known"),
            _share(report, "new_user", "new_both"),
            _share(report, "new_item", "new_both"),
        ]
        texts = ["" if share is None else f"{share[0]:.1f}%" for share in shares]
        metrics = found["metrics"]
        reached = [f"{metrics[m]:.2%}" if metrics else "" for m in ("hr@10", "ndcg@10")]
        rebuild = "made" if report["rebuilt"] else "advised" if report["rebuild"] else ""
        name = update.name.replace("|", "\\|")
        cells = [
            *(str(update.number), name, f"{sum(found['rows'].values()):,}", *texts),
            *(f"{found['users']:,}", *reached, rebuild),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
