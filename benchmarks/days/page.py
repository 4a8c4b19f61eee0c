"""The tables and the picture of docs/days.md, from the cells that were measured.

In: the folder of results, which may have a part of the cells. Out: tables between the page's marks,
and `PICTURE` beside the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.paper import ROOT, between
from cadc_rec.evaluation.statistics import mean_gains, paired_bootstrap
from cadc_rec.study.report.charts import Axis, Panel, Point, Series, Style, plot

PAGE = ROOT / "docs" / "days.md"
PICTURE = "days.svg"
_STYLES = {
    "no update": Style("#8b949e", "square"),
    "update": Style("#2f81f7", "circle"),
    "rebuild": Style("#d9534a", "triangle-up"),
    "half the rows": Style("#9a6ae8", "triangle-down"),
    "popular in the last hours": Style("#b9810f", "diamond"),
}
_STAGES = ("prepare", "pretrain", "transitions", "prior", "select", "train", "evaluate", "updates")

Cell = Mapping[str, Any]


@dataclass(frozen=True)
class Results:
    """The measured cells.

    Attributes:
        folder: with their files.
        cells: by name.
    """

    folder: Path
    cells: Mapping[str, Cell]

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Those of a folder."""
        files = sorted(folder.glob("*.json"))
        return cls(folder, {file.stem: json.loads(file.read_text("utf-8")) for file in files})

    def days(self) -> list[str]:
        """The days that were judged, such as ``03``."""
        return [name[-2:] for name in self.cells if re.fullmatch(r"none-\d\d", name)]

    def of(self, contender: str, day: str) -> list[Cell]:
        """The cells of a contender on a day: of a rebuild one a seed."""
        first = f"rebuild-{day}-seed-0"
        if contender == "rebuild" or (contender == "update" and day == self.days()[0]):
            names = [name for name in self.cells if name.startswith(f"rebuild-{day}-seed-")]
            names = names if contender == "rebuild" else [first]
        else:
            names = [f"{contender}-{day}"]
        return [self.cells[name] for name in names if name in self.cells]

    def metric(
        self, contender: str, day: str, kind: str = "served", name: str = "hr@10", of: str = "all"
    ) -> float | None:
        """A metric in percent, the mean of the seeds; None where it was not measured."""
        found = [cell["metrics"][kind][of] for cell in self.of(contender, day)]
        return 100 * mean(one[name] for one in found) if found and all(found) else None

    def ranks(self, contender: str, days: Sequence[str], kind: str) -> NDArray[np.int64]:
        """The ranks of all requests of some days, of a rebuild those of seed 0."""
        last = "-seed-0" if contender == "rebuild" else ""
        every = []
        for day in days:
            with np.load(self.folder / f"{contender}-{day}{last}.npz") as kept:
                every.append(kept[kind].astype(np.int64))
        return np.concatenate(every)


def into_docs(folder: Path, page: Path = PAGE) -> None:
    """Put the tables between the page's marks, and the picture beside the page.

    Args:
        folder: of the results.
        page: with the marks.
    """
    found = Results.read(folder)
    text = page.read_text("utf-8")
    for mark, made in TABLES.items():
        text = between(text, mark, "\n".join(made(found)), page)
    page.write_text(text, "utf-8")
    (page.parent / "images" / PICTURE).write_text(picture(found), "utf-8")


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def accuracy(found: Results) -> Iterator[str]:
    """A row a day: what each contender reaches on the same requests."""
    yield from _accuracy(found, "served", "served")


def live(found: Results) -> Iterator[str]:
    """The same with recent counts up to each click."""
    yield from _accuracy(found, "live", "live")


def _accuracy(found: Results, kind: str, popular: str) -> Iterator[str]:
    hours = _window(found)
    yield (
        "| day | requests | no update | update | rebuild (seeds) | update / rebuild "
        f"| popular in {hours} h |"
    )
    yield "|---|---|---|---|---|---|---|"
    for day in found.days():
        pairs = [_both(found, contender, day, kind) for contender in ("none", "update", "rebuild")]
        seeds = len(found.of("rebuild", day))
        pairs[2] += f" ({seeds})" if seeds else ""
        popularity = _both(found, "popularity", day, f"{popular}-{hours}h")
        requests = found.cells[f"none-{day}"]["requests"]
        row = [str(int(day)), f"{requests:,}", *pairs, _ratio(found, day, kind), popularity]
        yield f"| {' | '.join(row)} |"
    yield _all_days(found, kind, f"{popular}-{hours}h")


def _both(found: Results, contender: str, day: str, kind: str) -> str:
    values = [found.metric(contender, day, kind, name) for name in ("hr@10", "ndcg@10")]
    return " / ".join(map(_percent, values))


def _ratio(found: Results, day: str, kind: str) -> str:
    update, rebuild = (found.metric(one, day, kind) for one in ("update", "rebuild"))
    if update is None or not rebuild:
        return "–"
    return f"{update / rebuild:.3f}"


def _all_days(found: Results, kind: str, popular: str) -> str:
    """The mean of the days that an update and a rebuild were judged on, each day alike."""
    days = [
        day
        for day in found.days()[1:]
        if found.of("update", day) and found.of("rebuild", day) and found.of("popularity", day)
    ]
    cells = []
    for contender, of in (
        ("none", kind),
        ("update", kind),
        ("rebuild", kind),
        ("popularity", popular),
    ):
        values = [
            mean(found.metric(contender, day, of, name) or 0.0 for day in days) if days else None
            for name in ("hr@10", "ndcg@10")
        ]
        cells.append(" / ".join(map(_percent, values)))
    difference = _compared(found, days, kind) if days else "–"
    requests = sum(found.cells[f"none-{day}"]["requests"] for day in days)
    return (
        f"| mean of {len(days)} | {requests:,} | {cells[0]} | {cells[1]} | {cells[2]} "
        f"| {difference} | {cells[3]} |"
    )


def _compared(found: Results, days: Sequence[str], kind: str) -> str:
    """HR@10 of updates less that of rebuilds of seed 0, over the requests of all days together."""
    gains = []
    for contender in ("update", "rebuild"):
        ranks = found.ranks(contender, days, kind)
        gains.append(mean_gains([(np.arange(len(ranks)), ranks)], "hr@10"))
    compared = paired_bootstrap(*gains)
    low, high = (100 * end for end in compared.interval)
    return f"{100 * compared.difference:+.2f} ({low:+.2f} to {high:+.2f}) points"


def _window(found: Results) -> int:
    """The hours whose counts foresee the first judged day best, as they stood when it began."""
    reached = found.cells[f"popularity-{found.days()[0]}"]["metrics"]
    served = {name: of["all"]["ndcg@10"] for name, of in reached.items() if "served" in name}
    best = max(served, key=lambda name: served[name])
    return int(best.removeprefix("served-").removesuffix("h"))


def coverage(found: Results) -> Iterator[str]:
    """A row a day: what of it anybody could foresee."""
    yield (
        "| day | clicks | log before | users who came back | of these with a known next item "
        "| new users | known to the two-day model |"
    )
    yield "|---|---|---|---|---|---|---|"
    for day in found.days():
        cell = found.cells[f"none-{day}"]
        share = f"{cell['requests']:,} ({cell['requests'] / max(1, cell['returned']):.0%})"
        old = f"{cell['old'] / max(1, cell['requests']):.0%}"
        rows, log, returned, new = (
            f"{cell[name]:,}" for name in ("rows", "log", "returned", "new_users")
        )
        yield f"| {int(day)} | {rows} | {log} | {returned} | {share} | {new} | {old} |"


def cost(found: Results) -> Iterator[str]:
    """A row a day: CPU seconds of the update that learned the day before, and of a rebuild."""
    yield (
        "| judged on day | learned rows | log | update, CPU s | rebuild, CPU s | share "
        "| less `prior` and `evaluate` | update, MiB | rebuild, MiB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for day in found.days()[1:]:
        update, rebuild = (_seconds(found.of(one, day)) for one in ("update", "rebuild"))
        cells = found.of("update", day), found.of("rebuild", day)
        if not cells[0]:
            continue
        report = cells[0][0]["report"]
        numbers = [f"{report['day']['interactions']:,}", f"{cells[0][0]['log']:,}"]
        share = f"{update / rebuild:.0%}" if update and rebuild else "–"
        parts = [_without(one, ("prior", "evaluate")) for one in cells]
        rest = f"{parts[0] / parts[1]:.0%}" if all(parts) else "–"
        peaks = [f"{one[0]['peak_mib']:,.0f}" if one else "–" for one in cells]
        row = [str(int(day)), *numbers, _percent(update, 1), _percent(rebuild, 1), share, rest]
        yield f"| {' | '.join([*row, *peaks])} |"


def _seconds(cells: Sequence[Cell]) -> float | None:
    """CPU seconds, the mean of the seeds; None where a command was interrupted."""
    whole = [cell["cpu"] for cell in cells if not cell["interrupted"]]
    return mean(whole) if whole else None


def _without(cells: Sequence[Cell], stages: Sequence[str]) -> float:
    whole = [cell for cell in cells if not cell["interrupted"]]
    if not whole:
        return 0.0
    return mean(cell["cpu"] - sum(cell["stages"].get(one, 0.0) for one in stages) for cell in whole)


def stages(found: Results) -> Iterator[str]:
    """CPU seconds of each stage on the last day that both were made for."""
    days = [day for day in found.days()[1:] if found.of("update", day) and found.of("rebuild", day)]
    yield "| day | what | " + " | ".join(_STAGES[:-1]) + " | comparison and the rest | all |"
    yield "|---|---|" + "---|" * (len(_STAGES) + 1)
    for day in dict.fromkeys([*days[:1], *days[-1:]]):
        for name in ("update", "rebuild"):
            cell = found.of(name, day)[0]
            of = [cell["stages"].get(stage, 0.0) for stage in _STAGES[:-1]]
            every = [*of, cell["cpu"] - sum(of), cell["cpu"]]
            yield f"| {int(day)} | {name} | {' | '.join(f'{s:.1f}' for s in every)} |"


def half(found: Results) -> Iterator[str]:
    """A row a day: tables of half the rows beside those without bounds."""
    yield (
        "| day | unbounded | half the rows | share | unbounded, live | half, live | share "
        "| saved, MiB | half, saved, MiB | half, memory, MiB |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for day in found.days():
        cells = found.of("half", day)
        if not cells:
            continue
        row = [str(int(day))]
        for kind in ("served", "live"):
            whole, bounded = (found.metric(one, day, kind) for one in ("update", "half"))
            share = f"{bounded / whole:.3f}" if whole and bounded is not None else "–"
            row += [_percent(whole), _percent(bounded), share]
        saved = [
            _mib(one[0]["bytes"]) if one and "bytes" in one[0] else "–"
            for one in (found.of("update", day), cells)
        ]
        row += [*saved, f"{cells[0]['peak_mib']:,.0f}"]
        yield f"| {' | '.join(row)} |"


def _mib(of_stages: Mapping[str, int]) -> str:
    return f"{sum(of_stages.values()) / 2**20:,.1f}"


def hours(found: Results) -> Iterator[str]:
    """A row an hour: hourly updates beside the model of the morning."""
    window = _window(found)
    yield (
        "| hour | requests | daily | hourly | daily, live | hourly, live "
        f"| popular in {window} h, at its start | the same, live | update, CPU s |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, daily in found.cells.items():
        match = re.fullmatch(r"daily-(\d\d-hour-(\d\d))", name)
        if not match:
            continue
        hourly = found.cells.get(f"hourly-{match[1]}", daily if match[2] == "00" else None)
        if hourly is None:
            continue
        popular = found.cells[f"popularity-{match[1]}"]
        values = [
            *((cell, kind) for kind in ("served", "live") for cell in (daily, hourly)),
            *((popular, f"{kind}-{window}h") for kind in ("served", "live")),
        ]
        row = [str(int(match[2])), f"{daily['requests']:,}"]
        row += [_hit_rate(cell, kind) for cell, kind in values]
        row.append(f"{hourly['cpu']:.1f}" if "cpu" in hourly else "–")
        yield f"| {' | '.join(row)} |"


def _hit_rate(cell: Cell, kind: str) -> str:
    reached = cell["metrics"][kind]["all"]
    return _percent(100 * reached["hr@10"] if reached else None)


TABLES: dict[str, Callable[[Results], Iterator[str]]] = {
    "days-accuracy": accuracy,
    "days-live": live,
    "days-coverage": coverage,
    "days-cost": cost,
    "days-stages": stages,
    "days-half": half,
    "days-hours": hours,
}
"""By the marks of the page."""


def picture(found: Results) -> str:
    """HR@10 over the days as served and with live counts, and the CPU seconds; SVG."""
    window = _window(found)
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
            {day: _seconds(found.of(contender, day)) for day in found.days()[1:]},
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
