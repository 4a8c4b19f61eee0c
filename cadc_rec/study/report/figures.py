"""The report's figures: what is drawn of a study, and how a method looks in all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cadc_rec.study.report import words
from cadc_rec.study.report.charts import Bar, Level, Point, Series, bar_key, bars, plot
from cadc_rec.study.report.groups import (
    STAGES,
    Book,
    Group,
    by_integration,
    datasets,
    label,
    order,
    time_ratio,
)
from cadc_rec.study.report.history import validation_curves
from cadc_rec.study.report.looks import look
from cadc_rec.study.report.paper import METRICS, UNFILTERED, WITHOUT_TOWERS
from cadc_rec.study.report.scales import Axis
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.svg import Key, Panel, line_key, standalone

_BAR_KINDS = dict(zip(STAGES, ("striped", "barred", "solid", "outlined"), strict=True))


@dataclass(frozen=True)
class Figure:
    """Panels with one legend.

    Attributes:
        name: the file's, without ending.
        caption: what is seen, in a sentence or two.
    """

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    keys: tuple[Key, ...]

    def picture(self) -> str:
        """The figure as an SVG file."""
        return standalone(self.title, self.panels, self.keys, columns=2)


def study_figures(study: Study, book: Book) -> list[Figure]:
    """The figures a study has results for."""
    found = [_filtering(study, book)] if _ratios(study) else []
    found.append(_pareto(study, book))
    if not _ratios(study):  # of a grid of ratios, these would show a crowd
        found += [_time(study, book), _validation(study, book)]
    return [figure for figure in found if figure.panels]


def _ordered(study: Study, book: Book, dataset: str) -> list[Group]:
    """The groups of a dataset that have results, in the order of the tables."""
    found = [g for g in book.groups(study) if g.dataset == dataset and g.done]
    return sorted(found, key=lambda g: order(study, g.contender))


def _name(group: Group) -> str:
    return label(group.study, group.contender)


def _look_of(group: Group) -> tuple[str, str]:
    """What decides a group's look: its method, or its technique or variant where that is asked."""
    if group.contender.variant:
        return ("method", f"{group.method}, {group.contender.variant}")
    question = by_integration(group.study) and group.method == "cadc"
    return ("integration", group.integration) if question else ("method", group.method)


def _ratios(study: Study) -> list[float]:
    """The filtering ratios of a study that compares several."""
    found = sorted({cell.ratio for cell in study.cells if cell.method not in UNFILTERED})
    return found if len(found) > 1 else []


def _filtering(study: Study, book: Book) -> Figure:
    axis = Axis("filtering ratio |D_full| / |D_sel|", log=True, ticks=tuple(_ratios(study)))
    panels: list[Panel] = []
    lines: dict[str, Key] = {}
    flat: dict[str, Key] = {}
    for dataset, title in datasets(study).items():
        groups = _ordered(study, book, dataset)
        filtered = [g for g in groups if g.method not in UNFILTERED]
        whole = [g for g in groups if g.method in UNFILTERED]
        if "gold" not in {g.method for g in whole}:  # another study of the page may have it
            gold = book.find(study, dataset, lambda g: g.method == "gold")
            whole += [gold] if gold else []
        if not filtered:
            continue
        for metric in METRICS:
            series, levels = _lines(filtered, metric), [_level(g, metric) for g in whole]
            lines |= {one.label: line_key(one.label, one.look) for one in series}
            flat |= {one.label: line_key(one.label, one.look, shaped=False) for one in levels}
            head = f"{title}: {metric.upper()} %"
            panels.append(plot(head, axis, Axis(metric.upper()), series, levels))
    return Figure(
        "figure1",
        "Accuracy against filtering ratio",
        "Mean over seeds on test; the band is one standard deviation to either side. Lines "
        "without marks belong to methods that have no filtering ratio.",
        tuple(panels),
        (*lines.values(), *flat.values()),
    )


def _lines(groups: Sequence[Group], metric: str) -> list[Series]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        key = label(group.study, group.contender, with_ratio=False)
        found.setdefault(key, []).append(group)
    return [
        Series(
            name,
            look(*_look_of(mine[0])),
            tuple(_point(group, group.ratio, metric, f"ratio {group.ratio:g}") for group in mine),
        )
        for name, mine in found.items()
    ]


def _point(group: Group, x: float, metric: str, at: str) -> Point:
    value = group.metric(metric)
    assert value is not None
    low = high = None
    if value.deviation is not None:
        low, high = max(value.mean - value.deviation, 0.0), value.mean + value.deviation
    tip = f"{_name(group)}, {at}\n{metric.upper()} {words.spread(value)}%\n{_seeds(group)}"
    return Point(x, value.mean, tip, low, high)


def _level(group: Group, metric: str) -> Level:
    point = _point(group, 1.0, metric, group.cells[0].dataset_title)
    return Level(_name(group), look("method", group.method), point.y, point.tip)


def _seeds(group: Group) -> str:
    return f"{len(group.done)} seed{'s' if len(group.done) > 1 else ''}"


def _pareto(study: Study, book: Book) -> Figure:
    axis = Axis("seconds of pre-training, selection and training", log=True)
    panels: list[Panel] = []
    keys: dict[str, Key] = {}
    for dataset, title in datasets(study).items():
        timed = [(g, _work(g)) for g in _ordered(study, book, dataset) if g.trained]
        if not timed:
            continue
        for group, _ in timed:
            name = label(study, group.contender, with_ratio=False)
            keys[name] = line_key(name, look(*_look_of(group)), joined=False)
        for metric in METRICS:
            series, corners = [], []
            for group, seconds in timed:
                point = _point(group, seconds, metric, f"{words.seconds(seconds)} s")
                filtered = _ratios(study) and group.method not in UNFILTERED
                name = f"1/{group.ratio:g}" if filtered else _name(group)
                series.append(Series(name, look(*_look_of(group)), (point,), joined=False))
                corners.append((seconds, point.y))
            axis_y = Axis(metric.upper())
            head = f"{title}: {metric.upper()} %"
            panels.append(plot(head, axis, axis_y, series, front=pareto_front(corners)))
    return Figure(
        "pareto",
        "Accuracy against time",
        "Median seconds without validation, means over seeds with one standard deviation. No "
        "method is both faster and more accurate than one on the dashed line. Methods without "
        "training are left out."
        + (" Beside each mark: the part of the rows." if _ratios(study) else ""),
        tuple(panels),
        tuple(keys.values()),
    )


def _work(group: Group) -> float:
    """Seconds without validation, as the tables have them."""
    return sum(value for stage, value in (group.seconds() or {}).items() if stage != "validation")


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the stairs through the points no other beats: less time, more accuracy.

    Args:
        points: (time, accuracy), in any order.
    """
    corners: list[tuple[float, float]] = []
    best = float("-inf")
    for seconds, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if value > best:
            if corners:
                corners.append((seconds, best))
            corners.append((seconds, value))
            best = value
    return corners


def _time(study: Study, book: Book) -> Figure:
    panels = []
    for dataset, title in datasets(study).items():
        groups = [g for g in _ordered(study, book, dataset) if g.trained]
        if groups:
            gold = book.find(study, dataset, lambda g: g.method == "gold")
            rows = [_bar(group, gold) for group in groups]
            panels.append(bars(title, Axis("seconds, median over seeds"), rows))
    keys = tuple(bar_key(words.STAGE_TITLES[stage], kind) for stage, kind in _BAR_KINDS.items())
    return Figure(
        "time",
        "Time by stage",
        "Behind each bar: seconds without validation, and their share of the gold standard's.",
        tuple(panels),
        keys,
    )


def _bar(group: Group, gold: Group | None) -> Bar:
    name, seconds = _name(group), group.seconds() or {}
    parts = tuple(
        (
            _BAR_KINDS[stage],
            value,
            f"{name}, {words.STAGE_TITLES[stage]}\n{words.seconds(value)} s, median\n"
            f"{_seeds(group)}",
        )
        for stage, value in seconds.items()
    )
    work = _work(group)
    share = time_ratio(group, gold) if gold and gold is not group else None
    total = f"{words.seconds(work)} s" + ("" if share is None else f" ({share:.1%})")
    return Bar(name, look(*_look_of(group)), parts, total)


def _validation(study: Study, book: Book) -> Figure:
    panels: list[Panel] = []
    keys: dict[str, Key] = {}
    for dataset, title in datasets(study).items():
        # An epoch of vectors without towers is another thing than one of towers.
        groups = [g for g in _ordered(study, book, dataset) if g.method not in WITHOUT_TOWERS]
        for metric in METRICS:
            series = list(_curves(groups, metric))
            keys |= {one.label: line_key(one.label, one.look) for one in series}
            if series:
                head = f"{title}: {metric.upper()} % on validation"
                panels.append(plot(head, Axis("epoch"), Axis(metric.upper()), series))
    return Figure(
        "validation",
        "Validation by epoch",
        "Mean over the seeds that measured an epoch; the band reaches from the lowest to the "
        "highest seed.",
        tuple(panels),
        tuple(keys.values()),
    )


def _curves(groups: Sequence[Group], metric: str) -> Iterator[Series]:
    for group in groups:
        points = tuple(
            Point(
                epoch,
                value,
                f"{_name(group)}, epoch {epoch:g}\n{metric.upper()} {value:.2f}%\n"
                f"{count} seed{'s' if count > 1 else ''}",
                low,
                high,
            )
            for epoch, value, low, high, count in validation_curves(group.done, metric)
        )
        if points:
            yield Series(_name(group), look(*_look_of(group)), points, size=2.4)
