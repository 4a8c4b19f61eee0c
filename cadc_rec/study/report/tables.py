"""A study as a table: a row for each method, a group of columns for each dataset.

In: a study and the `Comparisons` of its page. Out: a `TableView`. The paper's numbers stand beside
ours. Every number was measured; a cell without a result has a word instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cadc_rec.evaluation.metrics import ALWAYS
from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import (
    Comparisons,
    Group,
    by_integration,
    datasets,
    label,
    order,
    time_ratio,
)
from cadc_rec.study.report.kept import paired_difference
from cadc_rec.study.report.many import corrected, power
from cadc_rec.study.report.paper import (
    INTEGRATION_TITLES,
    METHOD_TITLES,
    METRICS,
    WITHOUT_TOWERS,
    PaperNumbers,
    paper_numbers,
)
from cadc_rec.study.report.sizes import SIZES, sizes
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.table_view import Column as Column
from cadc_rec.study.report.table_view import Entry as Entry
from cadc_rec.study.report.table_view import Row, Tested, tested
from cadc_rec.study.report.table_view import TableView as TableView


@dataclass(frozen=True)
class _Frame:
    """What all entries of a table have in common."""

    study: Study
    comparisons: Comparisons
    main: str  # what is compared with first: a method or an integration technique
    main_title: str
    second: str  # a method that HR@10 is compared with too; empty is none

    def reference(self, group: Group, key: str) -> Group | None:
        """The group `group` is compared with."""

        def wanted(other: Group) -> bool:
            if key in INTEGRATION_TITLES:
                return other.integration == key and other.method == group.method
            return other.method == key

        return self.comparisons.find(self.study, group.dataset, wanted, group.contender)

    def paper(self, group: Group) -> PaperNumbers | None:
        """What the paper has of a group."""
        if group.contender.variant:
            return None
        techniques = by_integration(self.study)
        return paper_numbers(
            group.dataset, group.method, group.integration, group.ratio, techniques
        )


def study_table(study: Study, comparisons: Comparisons) -> TableView:
    """The study's table.

    Raises:
        CadcError: ranks to compare cannot be read, or are of different users.
    """
    frame = _frame(study, comparisons)
    titles = datasets(study)
    groups = {(g.dataset, g.contender): g for g in comparisons.groups(study)}
    contenders = sorted({key[1] for key in groups}, key=lambda key: order(study, key))
    columns = _columns(frame)
    empty = _absent(len(columns))
    rows: list[Row] = []
    for place, contender in enumerate(contenders):
        method = contender.method
        found = [groups.get((dataset, contender)) for dataset in titles]
        entries = tuple(_entries(group, frame) if group else empty for group in found)
        # The paper's rows end with the gold standard, or with the techniques.
        alone = method in WITHOUT_TOWERS or (by_integration(study) and method != "cadc")
        apart = alone and not any(row.apart for row in rows)
        rows.append(Row(label(study, contender), place, entries, apart))
    corner = "integration" if by_integration(study) else "method"
    notes = corrected(tested(tuple(titles.values()), rows))
    for dataset, title in titles.items():
        of = [group for group in groups.values() if group.dataset == dataset and group.done]
        notes += power(title, frame.main_title, {m: _with_main(of, m, frame) for m in METRICS})
    return TableView(corner, tuple(titles.values()), columns, tuple(rows), notes)


def _with_main(groups: Sequence[Group], metric: str, frame: _Frame) -> list[Comparison]:
    """The groups against what each is compared with first."""
    found = []
    for group in groups:
        main = frame.reference(group, frame.main)
        compared = frame.comparisons.compare(group, main, metric) if main else None
        found += [compared] if compared else []
    return found


def absent(table: TableView) -> tuple[Entry, ...]:
    """The entries of a row that the grid does not have on a dataset."""
    return _absent(len(table.columns))


def _absent(columns: int) -> tuple[Entry, ...]:
    return tuple(Entry("–", tone="word") for _ in range(columns))


def _frame(study: Study, comparisons: Comparisons) -> _Frame:
    main = study.baseline or "gold"
    if by_integration(study) and main not in INTEGRATION_TITLES:
        main = "init_frozen"
    title = INTEGRATION_TITLES.get(main) or METHOD_TITLES.get(main, main).split()[0].lower()
    methods = {cell.method for other in comparisons.studies for cell in other.cells}
    second = study.second if study.second in methods and main != study.second else ""
    return _Frame(study, comparisons, main, title, second)


def _columns(frame: _Frame) -> tuple[Column, ...]:
    found = []
    for metric in METRICS:
        name = metric.upper()
        found.append(
            Column(f"{name} %", "paper", f"{name} on test, mean ± standard deviation over seeds")
        )
        found.append(
            Column(
                f"vs {frame.main_title}",
                "verdict",
                f"difference of the means of {name} in percent of {frame.main_title}'s; the "
                "verdict is that of a paired bootstrap over users",
            )
        )
    if frame.second:
        name = METHOD_TITLES.get(frame.second, frame.second).lower()
        found.append(Column(f"vs {name}", "verdict", f"the same for HR@10 against {name}"))
    for metric in _more_metrics(frame.study):
        name = metric.upper()
        about = f"{name} on test, mean ± standard deviation over seeds"
        found.append(Column(f"{name} %", "", about))
    return (
        *found,
        Column(
            "time s",
            "paper",
            frame.study.about_time,
        ),
        Column(
            f"time / {frame.main_title}",
            "paper",
            f"that time over {frame.main_title}'s, median over the seeds both have",
        ),
        *SIZES,
        *([_KEPT] if _has_choices(frame.study) else []),
    )


_KEPT = Column(
    "kept",
    "the other",
    "whether towers that add to tables, or the tables alone, were kept, by validation, and in how "
    "many seeds; HR@10 and NDCG@10 on test, mean over seeds, of what was not kept",
)


def _more_metrics(study: Study) -> list[str]:
    """What ``evaluate.metrics`` had measured beside HR and NDCG, in any cell."""
    names = dict.fromkeys(name for cell in study.cells for name in cell.metrics or {})
    return [name for name in names if name.partition("@")[0] not in ALWAYS]


def _has_choices(study: Study) -> bool:
    return any(cell.kept for cell in study.cells)


def _entries(group: Group, frame: _Frame) -> tuple[Entry, ...]:
    width = len(_columns(frame))
    if not group.done:
        first = Entry(
            formatting.STATUS[group.status],
            tip=formatting.errors(group),
            tone=f"word {group.status}",
        )
        last = [*sizes(group), *([Entry("")] if _has_choices(frame.study) else [])]
        return (first, *(Entry("") for _ in range(width - 1 - len(last))), *last)
    paper = frame.paper(group)
    main = frame.reference(group, frame.main)
    entries = []
    for metric in METRICS:
        entries.append(_metric(group, metric, paper))
        entries.append(_against(group, main, metric, frame))
    if frame.second:
        other = frame.reference(group, frame.second)
        entries.append(_against(group, other, METRICS[0], frame))
    entries += [_metric(group, metric, None) for metric in _more_metrics(frame.study)]
    entries += [_time(group, paper), _time_share(group, main, paper, frame), *sizes(group)]
    if _has_choices(frame.study):
        entries.append(_kept(group))
    return tuple(entries)


def _metric(group: Group, metric: str, paper: PaperNumbers | None) -> Entry:
    value = group.metric(metric)
    if value is None:
        return Entry("–", tone="word")
    theirs = f"{paper.metrics[metric]:.2f}" if paper else ""
    return Entry(
        formatting.spread(value),
        second=theirs,
        tip=formatting.metric_tip(group, metric, theirs),
        sort=value.mean,
    )


def _against(group: Group, reference: Group | None, metric: str, frame: _Frame) -> Entry:
    if reference is None or reference is group:
        return Entry("–", tone="word")
    difference = paired_difference(group, reference, metric)
    compared = frame.comparisons.compare(group, reference, metric)
    seeds = frame.comparisons.common_seeds(group, reference)
    name = label(reference.study, reference.contender)
    if reference.study is not frame.study:
        name += f" of {reference.study.name}"
    return Entry(
        formatting.signed_percent(difference),
        second=compared.verdict if compared else "",
        interval=formatting.interval(compared) if compared else "",
        tip=formatting.comparison_tip(metric, name, compared, seeds),
        sort=difference,
        tone=compared.verdict.replace(" ", "-") if compared else "",
        tested=Tested(f"{metric.upper()} against {name}", compared) if compared else None,
    )


def _time(group: Group, paper: PaperNumbers | None) -> Entry:
    parts = group.seconds()
    assert parts is not None
    if not group.trained:
        return Entry("–", tip="nothing is trained", sort=0.0, tone="word")
    theirs = ""
    if paper and paper.train is not None:
        theirs = formatting.time_sum(paper.pretrain, paper.train)
    return Entry(
        formatting.time_sum(parts["pretrain"], parts["select"] + parts["train"]),
        second=theirs,
        tip=formatting.time_tip(group, parts),
        sort=parts["pretrain"] + parts["select"] + parts["train"],
    )


def _time_share(
    group: Group, main: Group | None, paper: PaperNumbers | None, frame: _Frame
) -> Entry:
    share = time_ratio(group, main) if main else None
    if share is None:
        return Entry("–", tone="word")
    theirs = ""
    if main and paper and paper.seconds is not None:
        reference = frame.paper(main)
        if reference and reference.seconds:
            theirs = f"{paper.seconds / reference.seconds:.3f}"
    return Entry(f"{share:.3f}", second=theirs, sort=share)


def _kept(group: Group) -> Entry:
    """What was kept of towers and tables, in how many seeds, and the metrics of the other."""
    cells = [cell for cell in group.done if cell.kept]
    if not cells:
        return Entry("–", tone="word")
    counts = Counter(cell.kept for cell in cells)
    kept = ", ".join(f"{name} {n} of {len(cells)}" for name, n in counts.most_common())
    others = [cell.beside.test for cell in cells if cell.beside is not None]
    means = [100 * float(np.mean([other[metric] for other in others])) for metric in METRICS]
    return Entry(kept, second=" / ".join(f"{mean:.2f}" for mean in means))
