"""A study's table of what sets of features add: attributes, text, context, warm and cold.

In: a study in which a part of the grid names sets of features. Out: a `TableView`: each set beside
the first of its part, by differences in points with their intervals; None without such a part. The
warm columns are of the ordinary test items, the cold ones of items held out of training.
"""

from __future__ import annotations

from cadc_rec.evaluation.statistics import Comparison
from cadc_rec.study.report import formatting
from cadc_rec.study.report.cold import compare_cold
from cadc_rec.study.report.groups import Comparisons, Group, datasets, label, order
from cadc_rec.study.report.many import corrected
from cadc_rec.study.report.paper import METRICS
from cadc_rec.study.report.sizes import SIZES, sizes
from cadc_rec.study.report.study_data import Contender, Study
from cadc_rec.study.report.table_view import Column, Entry, Row, TableView, Tested, tested

_NONE = Entry("–", tone="word")
_COLD = {"among_cold": "cold items among cold", "among_all": "cold items among all"}


def features_table(study: Study, comparisons: Comparisons) -> TableView | None:
    """The table of sets of features; None where the grid compares none.

    Raises:
        CadcError: ranks cannot be read, or those to compare are of different users.
    """
    groups = {(g.dataset, g.contender): g for g in comparisons.groups(study)}
    of_base = {key: _base(group, groups) for key, group in groups.items()}
    wanted = {key: base for key, base in of_base.items() if base is not None}
    if not wanted:
        return None
    having = {dataset for dataset, _ in wanted}
    titles = {key: title for key, title in datasets(study).items() if key in having}
    cold = [among for among in _COLD if any(_has_cold(groups[key]) for key in wanted)]
    columns = (*_columns(cold), *SIZES)
    contenders = sorted({key[1] for key in wanted}, key=lambda key: order(study, key))
    rows = []
    for place, contender in enumerate(contenders):
        entries = []
        for dataset in titles:
            base = wanted.get((dataset, contender))
            group = groups.get((dataset, contender))
            if base is None or group is None:
                entries.append((_NONE,) * len(columns))
            else:
                entries.append((*_entries(group, base, cold, comparisons), *sizes(group)))
        rows.append(Row(label(study, contender), place, tuple(entries)))
    names = tuple(titles.values())
    return TableView("features", names, columns, tuple(rows), corrected(tested(names, rows)))


def _base(group: Group, groups: dict[tuple[str, Contender], Group]) -> Group | None:
    """What the group's features are compared with."""
    over = group.cells[0].over
    if not over:
        return None
    return groups.get((group.dataset, group.contender._replace(variant=over)))


def _has_cold(group: Group) -> bool:
    return any(cell.cold_ranks for cell in group.done)


def _columns(cold: list[str]) -> tuple[Column, ...]:
    found = [Column("over", "", "the variant that the row is compared with")]
    for what in ("", *(_COLD[among] for among in cold)):
        for metric in METRICS:
            name = f"{metric.upper()} {what}".strip()
            items = what or "the ordinary test items"
            found.append(
                Column(
                    f"{name}, points",
                    "verdict",
                    f"{metric.upper()} of {items}, on test: the difference in percentage points, "
                    "mean over the seeds; verdict and interval of a paired bootstrap over users",
                )
            )
    return tuple(found)


def _entries(
    group: Group, base: Group, cold: list[str], comparisons: Comparisons
) -> tuple[Entry, ...]:
    entries = [Entry(group.cells[0].over, tone="word")]
    for metric in METRICS:
        both = group.done and base.done
        compared = comparisons.compare(group, base, metric) if both else None
        entries.append(_added(compared, f"{metric.upper()} against {group.cells[0].over}"))
    # Of a record that was made a dataset at a time, only datasets with cold items have been asked.
    has_cold = _has_cold(group) and _has_cold(base)
    for among in cold:
        for metric in METRICS:
            columns = (among, among)
            compared = compare_cold(comparisons, group, base, metric, columns) if has_cold else None
            what = f"{metric.upper()} of {_COLD[among]} against {group.cells[0].over}"
            entries.append(_added(compared, what))
    return tuple(entries)


def _added(compared: Comparison | None, what: str) -> Entry:
    if compared is None:
        return _NONE
    return Entry(
        formatting.minus(f"{100 * compared.difference:+.2f}"),
        second=compared.verdict,
        interval=formatting.points(compared),
        sort=compared.difference,
        tone=compared.verdict.replace(" ", "-"),
        tested=Tested(what, compared),
    )
