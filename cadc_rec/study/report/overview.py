"""The report's first view: three sentences, one picture, and a table with a row a set.

In: what samples keep (`kept`). Out: an `Overview`; where nothing can be compared yet, one sentence
says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cadc_rec.study.report import formatting
from cadc_rec.study.report.charts import Axis, Curve, Level, Panel, Point, Series, Style, plot
from cadc_rec.study.report.figures import Figure
from cadc_rec.study.report.fitted import ENOUGH_RATIOS, corners_of, fitted_curve
from cadc_rec.study.report.groups import Comparisons
from cadc_rec.study.report.kept import (
    ENOUGH,
    METRIC,
    Kept,
    Sample,
    kept,
    method_name,
    paired_difference,
)
from cadc_rec.study.report.paper import METRICS
from cadc_rec.study.report.sentences import (
    Sentence,
    name,
    of_interval,
    sentences_of_many,
    sentences_of_one,
    work,
)
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.table_view import Column, Entry

SET_STYLES = (
    Style("#2f81f7", "circle"),
    Style("#e0653a", "triangle-up"),
    Style("#14927f", "square"),
    Style("#9a6ae8", "diamond"),
    Style("#b9810f", "triangle-down", (7, 4)),
    Style("#c2568f", "cross", (7, 4)),
    Style("#6b9a1f", "circle", (7, 4)),
    Style("#d9534a", "square", (2, 3)),
    Style("#5b87a6", "triangle-up", (2, 3)),
    Style("#7f8a3a", "diamond", (2, 3)),
    Style("#a8763e", "triangle-down", (10, 3, 2, 3)),
    Style("#848c97", "cross", (10, 3, 2, 3)),
)
"""Of sets, by their order; shapes and dashes tell them apart without colour. More begin anew."""
ALL = "all labelled examples"
ALL_STYLE = Style("#848c97", "square", (7, 4))
_SHARES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


@dataclass(frozen=True)
class Overview:
    """What the page begins with.

    Attributes:
        sentences: what can be left out, what that costs, what it saves; or that nothing is known.
        of_set: the same three of one set, by its key.
        figure: what is kept against the share and the time; None where nothing is known.
        columns: of the table.
        rows: of the table, one a set: its sample and that one's entries.
    """

    sentences: tuple[Sentence, ...]
    of_set: Mapping[str, tuple[Sentence, ...]]
    figure: Figure | None
    columns: tuple[Column, ...] = ()
    rows: tuple[tuple[Kept, tuple[Entry, ...]], ...] = ()


def overview(comparisons: Comparisons) -> Overview:
    """The overview of a page.

    Args:
        comparisons: of its studies.

    Raises:
        CadcError: ranks to compare cannot be read, or are of different users.
    """
    found = kept(comparisons)
    if not found:
        none = "No run on a part of the labelled examples is finished beside one on all of them."
        return Overview((Sentence("Nothing to compare yet", none),), {}, None)
    of_set = {one.dataset: sentences_of_one(one) for one in found}
    main = [one for one in found if not one.by_time] or found
    return Overview(
        sentences_of_many(main) if len(main) > 1 else sentences_of_one(main[0]),
        of_set,
        _figure(main, len(found) - len(main), comparisons),
        _columns(found[0].everything.study),
        tuple((one, _entries(one, comparisons)) for one in found),
    )


def _columns(study: Study) -> tuple[Column, ...]:
    """The table shows each set's smallest share that keeps enough, or the one of the most."""
    return (
        Column(
            "share",
            "examples",
            f"the smallest measured share of the labelled examples that keeps {ENOUGH:.0f}% of the "
            f"{METRIC.upper()} of all on validation, or the share that keeps the most; how many "
            "examples",
        ),
        *(
            Column(
                f"{metric.upper()} kept %",
                "verdict",
                f"{metric.upper()} on test in percent of what all labelled examples reach, over "
                "the seeds that both have; the verdict is that of a paired bootstrap over users",
            )
            for metric in METRICS
        ),
        Column(
            f"{METRIC.upper()} %",
            "of all",
            "on test, mean ± standard deviation over the seeds that both have; the same on all "
            "labelled examples",
        ),
        Column("time s", "of all", study.about_time),
        Column("time / all", "", "that time over the one on all labelled examples"),
        Column("against", "", "the run on all labelled examples that it is measured against"),
    )


def _entries(one: Kept, comparisons: Comparisons) -> tuple[Entry, ...]:
    best, whole = one.shown, one.everything
    rows = best.group.done[0].rows
    assert rows is not None
    share = Entry(
        f"1/{best.group.ratio:g}", second=f"{rows.selected:,} of {rows.train:,}", sort=best.share
    )
    values = [group.metric(METRIC, best.seeds) for group in (best.group, whole)]
    mine, theirs = (formatting.spread(value) for value in values if value is not None)
    reached = Entry(mine, second=theirs, sort=values[0].mean if values[0] else None)
    parts, others = best.group.seconds() or {}, whole.seconds() or {}
    time = Entry(
        formatting.time_sum(parts["pretrain"], parts["select"] + parts["train"]),
        second=formatting.time_sum(others["pretrain"], others["select"] + others["train"]),
        sort=work(best.group),
    )
    ratio = (
        Entry("–", tone="word") if best.time is None else Entry(f"{best.time:.3f}", sort=best.time)
    )
    found = [_kept(one, metric, comparisons) for metric in METRICS]
    return (share, *found, reached, time, ratio, Entry(name(whole), tone="word"))


def _kept(one: Kept, metric: str, comparisons: Comparisons) -> Entry:
    group, whole = one.shown.group, one.everything
    difference = paired_difference(group, whole, metric)
    if difference is None:
        return Entry("–", tone="word")
    share = 100.0 + difference
    compared = comparisons.compare(group, whole, metric)
    seeds = comparisons.common_seeds(group, whole)
    return Entry(
        f"{share:.1f}",
        second=compared.verdict if compared else "",
        interval=formatting.interval(compared) if compared else "",
        tip=formatting.comparison_tip(metric, name(whole), compared, seeds),
        sort=share,
        tone=compared.verdict.replace(" ", "-") if compared else "",
    )


def _figure(found: Sequence[Kept], others: int, comparisons: Comparisons) -> Figure:
    """The picture of sets that are one task; `others` are in the table alone."""
    styles = {one.title: SET_STYLES[place % len(SET_STYLES)] for place, one in enumerate(found)}
    styles[ALL] = ALL_STYLE
    level = Level(ALL, 100.0, f"{ALL}\n{METRIC.upper()} kept: 100%")
    up = f"{METRIC.upper()} kept, % of that of {ALL}"
    shares = tuple(_series(one, lambda sample: sample.share) for one in found)
    ticks = [x for x in _SHARES if x >= min(p.x for one in shares for p in one.points) / 1.5]
    fits = tuple(fit for one in found if (fit := _fit(one, comparisons)) is not None)
    panels = [
        Panel(
            "What is kept by a share of the labelled examples",
            up,
            shares,
            (level,),
            curves=fits,
            x=Axis("labelled examples, % of all (log scale)", log=True, ticks=tuple(ticks)),
        )
    ]
    timed = tuple(
        _series(one, lambda sample: None if sample.time is None else 100 * sample.time)
        for one in found
    )
    if any(one.points for one in timed):
        axis = Axis("time of training, % of that on all (log scale)", log=True)
        panels.append(Panel("What it takes", up, timed, (level,), x=axis))
    title = "Accuracy kept, against the share of labelled examples and the time"
    methods = dict.fromkeys(f"{one.method} against {name(one.everything)}" for one in found)
    return Figure(
        "overview",
        title,
        f"A line a set ({'; '.join(methods)}), means on test over the seeds that both have; the "
        "band is the 95% interval over users."
        + (" A line without marks is the law that is fitted to a set." if fits else "")
        + (" Sets split by time, another task, are in the table alone." if others else ""),
        plot(title, Axis(""), panels, styles),
    )


def _fit(one: Kept, comparisons: Comparisons) -> Curve | None:
    """The law of a set's samples with its band, in percent of what everything reaches."""
    seeds = frozenset.intersection(*(sample.seeds for sample in one.samples))
    whole = one.everything.metric(METRIC, seeds)
    if whole is None or not whole.mean or len(one.samples) < ENOUGH_RATIOS:
        return None
    band = fitted_curve(comparisons, [sample.group for sample in one.samples], seeds=seeds)
    return None if band is None else Curve(one.title, corners_of(band, 100 / whole.mean))


def _series(one: Kept, across: Callable[[Sample], float | None]) -> Series:
    points = []
    for sample in one.samples:
        x = across(sample)
        if not x:
            continue
        low, high = sample.interval or (None, None)
        tip = (
            f"{one.title}, {method_name(sample.group)} on 1/{sample.group.ratio:g}\n"
            f"{METRIC.upper()} kept: {sample.kept:.1f}%{of_interval(sample)}\n"
            f"{sample.share:.3g}% of the labelled examples"
        )
        tip += "" if sample.time is None else f", {100 * sample.time:.3g}% of the time"
        points.append(Point(x, sample.kept, tip, low, high))
    points.sort(key=lambda point: point.x)
    return Series(one.title, tuple(points), joined=len(points) > 1)
