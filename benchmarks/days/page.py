"""The tables and the picture of docs/days.md, from the cells that were measured.

In: recorded results, which may have a part of the cells. Out: tables by the page's marks, and the
picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from benchmarks.days.picture import picture
from benchmarks.days.results import Cell, Results
from benchmarks.recorded.docs import Measured

PICTURE = "docs/images/days.svg"
_STAGES = ("prepare", "pretrain", "transitions", "prior", "select", "train", "evaluate", "updates")


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


_WITHIN = 0.98  # of a rebuild's HR@10: what an update is to reach


def summary(found: Results) -> Iterator[str]:
    """What came out, in sentences."""
    days = found.compared_days()
    if not days:
        yield "Not measured yet."
        return
    for kind, words in (("served", "As served"), ("live", "With recent counts up to each click")):
        ratios = {day: _of_rebuild(found, day, kind) for day in days}
        short = [day for day, ratio in ratios.items() if ratio < _WITHIN]
        below = ""
        if short:
            listed = ", ".join(f"{int(day)} ({ratios[day]:.3f})" for day in short)
            below = f"; below that on {'days' if len(short) > 1 else 'day'} {listed}"
        yield (
            f"- {words}, an update reached at least {_WITHIN:.0%} of a rebuild's HR@10 on "
            f"{len(days) - len(short)} of {len(days)} days{below}. Over all requests of these days "
            f"it is {_compared(found, days, kind)} from a rebuild of the same seed."
        )
    last = days[-1]
    update, rebuild = (found.seconds(one, last) for one in ("update", "rebuild"))
    if update and rebuild:
        yield (
            f"- The last update measured (judged on day {int(last)}) took {update / rebuild:.0%} "
            f"of a rebuild's CPU seconds: {update:.1f} of {rebuild:.1f}."
        )
    bounded = [day for day in days if found.of("half", day)]
    for kind, words in (("served", "as served"), ("live", "with counts up to each click")):
        if bounded:
            whole, half_of = (
                mean(found.metric(one, day, kind) or 0.0 for day in bounded)
                for one in ("update", "half")
            )
            yield (
                f"- Tables of half the rows reached {half_of / whole:.3f} of the HR@10 of "
                f"unbounded ones, {words}, as a mean of {len(bounded)} days."
            )


def _of_rebuild(found: Results, day: str, kind: str) -> float:
    update, rebuild = (found.metric(one, day, kind) for one in ("update", "rebuild"))
    return update / rebuild if update is not None and rebuild else 1.0


def accuracy(found: Results) -> Iterator[str]:
    """A row a day: what each contender reaches on the same requests."""
    yield from _accuracy(found, "served", "served")


def live(found: Results) -> Iterator[str]:
    """The same with recent counts up to each click."""
    yield from _accuracy(found, "live", "live")


def _accuracy(found: Results, kind: str, popular: str) -> Iterator[str]:
    hours = found.window()
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
    measured = found.of("update", day) and found.of("rebuild", day)
    return f"{_of_rebuild(found, day, kind):.3f}" if measured else "–"


def _all_days(found: Results, kind: str, popular: str) -> str:
    """The mean of the days that an update and a rebuild were judged on, each day alike."""
    days = found.compared_days()
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
    compared = found.compare(days, kind)
    low, high = (100 * end for end in compared.interval)
    return f"{100 * compared.difference:+.2f} ({low:+.2f} to {high:+.2f}) points"


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
        update, rebuild = (found.seconds(one, day) for one in ("update", "rebuild"))
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


def _without(cells: Sequence[Cell], stages: Sequence[str]) -> float:
    whole = [cell for cell in cells if not cell["interrupted"]]
    if not whole:
        return 0.0
    return mean(cell["cpu"] - sum(cell["stages"].get(one, 0.0) for one in stages) for cell in whole)


def stages(found: Results) -> Iterator[str]:
    """CPU seconds of each stage on the last day that both were made for."""
    days = found.compared_days()
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
    window = found.window()
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
    "days-summary": summary,
    "days-accuracy": accuracy,
    "days-live": live,
    "days-coverage": coverage,
    "days-cost": cost,
    "days-stages": stages,
    "days-half": half,
    "days-hours": hours,
}
"""By the marks of the page."""


def tables(content: Mapping[str, Any]) -> dict[str, str]:
    """Markdown by mark, of what `Results.record` gave."""
    found = Results.recorded(content)
    return {mark: "\n".join(made(found)) for mark, made in TABLES.items()}


DOCS = Measured(
    file="days",
    marks=dict.fromkeys(TABLES, "docs/days.md"),
    tables=tables,
    pictures=lambda content: {PICTURE: picture(Results.recorded(content))},
)
