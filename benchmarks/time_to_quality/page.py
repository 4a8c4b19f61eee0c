"""The picture and the table of docs/accuracy.md, from recorded runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.recorded.docs import MeasuredApart
from benchmarks.time_to_quality.contenders import CONTENDERS
from benchmarks.time_to_quality.record import Record, Run, read
from cadc_rec.evaluation.statistics import spread
from cadc_rec.study.report import formatting
from cadc_rec.study.report.charts import Axis, Panel, Point, Series, Style, plot

REFERENCE = "prior"
"""The contender that the others are compared with."""
STYLES = {
    "prior": Style("#2f81f7", "circle"),
    "auto-100": Style("#d99a00", "triangle-up"),
    "auto-10": Style("#3fb950", "diamond"),
    "recipe": Style("#ec4899", "triangle-down"),
    "sasrec": Style("#8b949e", "square"),
    "esasrec": Style("#a855f7", "circle", (6, 3)),
    "esasrec-mixed": Style("#6358d6", "square", (2, 2)),
    "hstu": Style("#ef4444", "triangle-up", (8, 2)),
    "ease": Style("#14b8a6", "cross", (1, 3)),
    "als": Style("#b45309", "diamond", (4, 2)),
    "bpr": Style("#00a3d9", "triangle-down", (4, 4)),
    "item-item": Style("#84a61c", "cross", (6, 2, 1, 2)),
    "dssm": Style("#0f766e", "triangle-right", (2, 4)),
    "recbole": Style("#9d174d", "triangle-left", (8, 2, 2, 2)),
    "lightgcn": Style("#87783c", "square", (1, 2)),
}
"""Of every contender: readable on white and on near black, with a shape and dash of its own."""
_HR, _NDCG = "hr@10", "ndcg@10"


@dataclass(frozen=True)
class Mean:
    """A place of a curve, over the seeds: metrics in percent, a value a seed."""

    cpu_seconds: float
    epochs: float | None
    validation: dict[str, list[float]]
    test: dict[str, list[float]]

    def quality(self, split: str = "test") -> float:
        """Mean NDCG@10 in percent."""
        return spread(getattr(self, split)[_NDCG]).mean


def means(runs: Sequence[Run]) -> list[Mean]:
    """A contender's curve: its seeds' places one by one, as far as all of them came."""
    curves = [run.points for run in runs if run.points]
    found = []
    for points in zip(*curves, strict=False):
        epochs = [point["epochs"] for point in points if point.get("epochs") is not None]
        found.append(
            Mean(
                cpu_seconds=spread([point["cpu_seconds"] for point in points]).mean,
                epochs=spread(epochs).mean if epochs else None,
                validation=_percent([point["validation"] for point in points]),
                test=_percent([point["test"] for point in points]),
            )
        )
    return found


def _percent(metrics: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    return {name: [100 * each[name] for each in metrics] for name in (_HR, _NDCG)}


def _by_contender(record: Record) -> dict[str, list[Run]]:
    """Runs in the order of the registry, and of seeds."""
    names = [*CONTENDERS, *(run.contender for run in record.runs)]
    found = {name: [run for run in record.runs if run.contender == name] for name in names}
    return {name: sorted(runs, key=lambda run: run.seed) for name, runs in found.items() if runs}


def picture(records: Sequence[Record]) -> str:
    """Test NDCG@10 over CPU seconds, a panel a dataset; SVG.

    A line joins the places of a contender's curve; a band or whisker reaches from the lowest to the
    highest seed.
    """
    panels, styles = [], {}
    for record in records:
        series = []
        for name, runs in _by_contender(record).items():
            curve, title = means(runs), runs[0].title
            if curve:
                points = tuple(_point(title, mean) for mean in curve)
                series.append(Series(title, points, joined=len(points) > 1))
                styles[name] = title
        panels.append(Panel(record.about["title"], "test NDCG@10, %", tuple(series)))
    across = Axis("CPU seconds of learning, log scale", log=True)
    legend = {styles[name]: STYLES[name] for name in STYLES if name in styles}
    return plot("Time to quality", across, panels, legend, point_size=70.0)


def _point(title: str, mean: Mean) -> Point:
    values = mean.test[_NDCG]
    several = len(values) > 1
    return Point(
        mean.cpu_seconds,
        mean.quality(),
        f"{title}: {_both(mean.test)} after {_seconds(mean.cpu_seconds)} CPU s",
        min(values) if several else None,
        max(values) if several else None,
    )


def table(records: Sequence[Record]) -> str:
    """Every contender at its best place by validation, in Markdown; what cannot says why."""
    head = [
        "dataset",
        "what",
        "CPU s",
        "epochs",
        "validation",
        "test",
        f"as good as {REFERENCE} on test after, CPU s",
        "GiB",
        "seeds",
    ]
    lines = [_row(head), "|" + "---|" * len(head)]
    for record in records:
        groups = _by_contender(record)
        reference = means(groups.get(REFERENCE, []))
        rows, missing = [], []
        for name, runs in groups.items():
            curve = means(runs)
            why = list(dict.fromkeys(run.cannot for run in runs if run.cannot))
            said = "".join(f"; cannot: {_cell(one)}" for one in why)
            if not curve:
                missing.append([record.about["title"], runs[0].title + said, *["–"] * 7])
                continue
            best = max(curve, key=lambda mean: mean.quality("validation"))
            passed = "" if name == REFERENCE else _passed(curve, reference)
            seeds = [str(run.seed) for run in runs if run.points]
            rows.append(
                (
                    best.cpu_seconds,
                    [
                        record.about["title"],
                        runs[0].title + _kept(runs) + said,
                        _seconds(best.cpu_seconds),
                        "–" if best.epochs is None else f"{best.epochs:.1f}",
                        _both(best.validation),
                        _both(best.test),
                        passed,
                        f"{max(run.peak_bytes for run in runs) / 2**30:.1f}",
                        ", ".join(seeds),
                    ],
                )
            )
        rows.sort(key=lambda row: row[0])
        lines += [_row(cells) for _, cells in rows] + [_row(cells) for cells in missing]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    """Text that stays in one cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _kept(runs: Sequence[Run]) -> str:
    """What ``auto`` kept, where a run says so."""
    kept = dict.fromkeys(point["kept"] for run in runs for point in run.points if point.get("kept"))
    return f"; kept: {', '.join(kept)}" if kept else ""


def _passed(curve: Sequence[Mean], reference: Sequence[Mean]) -> str:
    """The first place where a curve is as good as the reference, or that none is."""
    if not reference:
        return f"{REFERENCE} not run"
    as_good = [mean for mean in curve if mean.quality() >= reference[-1].quality()]
    if as_good:
        return _seconds(as_good[0].cpu_seconds)
    return f"not within {_seconds(curve[-1].cpu_seconds)}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _both(metrics: Mapping[str, list[float]]) -> str:
    """HR@10 / NDCG@10 in percent, with the deviation over seeds where there are several."""
    return " / ".join(formatting.spread(spread(metrics[name])) for name in (_HR, _NDCG))


def _records(files: Sequence[Path]) -> list[Record]:
    return [read(file) for file in files]


DOCS = MeasuredApart(
    files="time-to-quality-*.json",
    marks={"time-to-quality": "docs/accuracy.md"},
    tables=lambda files: {"time-to-quality": table(_records(files))},
    pictures=lambda files: {"docs/images/time-to-quality.svg": picture(_records(files))},
)
"""What is recorded, into the page."""
