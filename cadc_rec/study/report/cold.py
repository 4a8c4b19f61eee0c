"""A study's second table where items were cold: what they reach, and what the baselines reach.

In: a study whose cells have the ranks of cold items. Out: a `TableView`, or None without any. All
numbers are of the test rows; the comparisons are paired bootstraps over their users.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.content_baselines import BASELINES
from cadc_rec.evaluation.statistics import (
    Comparison,
    UserGains,
    mean_gains,
    paired_bootstrap,
    spread,
)
from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import Comparisons, Group, datasets, label, order
from cadc_rec.study.report.many import corrected
from cadc_rec.study.report.paper import METRICS
from cadc_rec.study.report.sizes import SIZES, beside_sizes
from cadc_rec.study.report.study_data import Study
from cadc_rec.study.report.table_view import Column, Entry, Row, TableView, Tested, tested

AMONG = {"among_cold": "among cold", "among_all": "among all"}
"""Columns of ranks, and what they are called."""
_NONE = Entry("–", tone="word")
_AGAIN = "run that cell of the study again"


def cold_table(study: Study, comparisons: Comparisons) -> TableView | None:
    """The table of cold items; None where no cell has any.

    Raises:
        CadcError: the ranks of a cell cannot be read, or those to compare are of different users.
    """
    groups = {
        (group.dataset, group.contender): group
        for group in comparisons.groups(study)
        if any(cell.cold_ranks for cell in group.done)
    }
    if not groups:
        return None
    having = {dataset for dataset, _ in groups}
    titles = {key: title for key, title in datasets(study).items() if key in having}
    contenders = sorted({key[1] for key in groups}, key=lambda key: order(study, key))
    columns = (*_columns(), *SIZES)
    nothing = (_NONE,) * len(columns)
    rows = []
    for place, contender in enumerate(contenders):
        found = [groups.get((dataset, contender)) for dataset in titles]
        entries = tuple(
            _entries(comparisons, group, _known(group, list(groups.values()))) if group else nothing
            for group in found
        )
        rows.append(Row(label(study, contender), place, beside_sizes(entries, found)))
    names = tuple(titles.values())
    return TableView("method", names, columns, tuple(rows), corrected(tested(names, rows)))


def _columns() -> tuple[Column, ...]:
    found = []
    for among in AMONG.values():
        for metric in METRICS:
            name = metric.upper()
            found.append(
                Column(
                    f"{name} % {among}",
                    "",
                    f"{name} on test of the held-out cold items, ranked {among} items (cold ones "
                    "alone, or every item); mean ± standard deviation over seeds",
                )
            )
            for baseline in BASELINES:
                found.append(
                    Column(
                        baseline.replace("_", " "),
                        "verdict",
                        "the same metric of a baseline that knows the items' content alone; "
                        "whether the method is better, by a paired bootstrap over users, and the "
                        "interval of the difference in percent of the baseline's",
                    )
                )
    about = (
        "HR@10 among all items, in percent of what the same items reach when they are known "
        "(data.cold_control), over the seeds that both have; with the 95% interval over users"
    )
    control = (
        "the row in which they are known, the seeds that both have where not all, and the settings "
        "of that row which are others"
    )
    return (*found, Column("of known %", "95%", about), Column("known in", "", control))


def _known(group: Group, groups: list[Group]) -> Group | None:
    """The control of a group: the same method's, of the same share; of several the most alike."""
    wanted = (group.dataset, group.method, group.ratio)
    same = [g for g in groups if (g.dataset, g.method, g.ratio) == wanted and _is_control(g)]
    return min(same, key=lambda control: len(_other_settings(group, control)), default=None)


def _other_settings(group: Group, control: Group) -> dict[str, Any]:
    """The control's settings that differ from the group's, but for those that make it one."""
    mine, theirs = (_flat(each.done[0].config) for each in (group, control))
    return {
        name: theirs.get(name)
        for name in sorted(mine.keys() | theirs.keys())
        if mine.get(name) != theirs.get(name) and name not in ("seed", "data.cold_control")
    }


def _flat(settings: dict[str, Any], section: str = "") -> dict[str, Any]:
    """Settings by dotted names."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value, f"{section}{name}.") if isinstance(value, dict) else None
        found |= {section + name: value} if inner is None else inner
    return found


def _is_control(group: Group) -> bool:
    return any(cell.cold is not None and cell.cold.control for cell in group.done)


def _entries(comparisons: Comparisons, group: Group, known: Group | None) -> tuple[Entry, ...]:
    entries = []
    for among, place in AMONG.items():
        for metric in METRICS:
            found = spread(cold_means(comparisons, group, among, metric))
            entries.append(Entry(formatting.spread(found), sort=found.mean))
            for baseline in BASELINES:
                columns = among, f"{baseline}_{among}"
                other = compare_cold(comparisons, group, group, metric, columns)
                what = f"{metric.upper()} {place} against {baseline.replace('_', ' ')}"
                entries.append(_NONE if other is None else _beside(other, what))
    return (*entries, *_of_known(comparisons, group, known))


def cold_means(comparisons: Comparisons, group: Group, column: str, metric: str) -> list[float]:
    """A metric of the cold items by seed, in percent.

    Args:
        comparisons: of the page.
        group: cells of one contender.
        column: ``among_cold`` or ``among_all``.
        metric: such as ``hr@10``.
    """
    return comparisons.of_ranks(
        (group.name, column, metric),
        lambda: [100 * float(seed.gains.mean()) for seed in _of_seeds(group, column, metric)],
    )


def compare_cold(
    comparisons: Comparisons,
    a: Group,
    b: Group,
    metric: str,
    columns: tuple[str, str],
    seeds: Set[int] | None = None,
) -> Comparison | None:
    """Cold items of A against those of B; None if one of them has no such ranks.

    Args:
        comparisons: of the page.
        a: cells of one contender.
        b: those it is compared with.
        metric: such as ``hr@10``.
        columns: of A and of B, as `cold_gains` takes them.
        seeds: those that count; None is all.

    Raises:
        CadcError: the ranks cannot be read, or are of different users.
    """

    def compute() -> Comparison | None:
        both = zip((a, b), columns, strict=True)
        mine, theirs = (cold_gains(group, column, metric, seeds) for group, column in both)
        return None if mine is None or theirs is None else paired_bootstrap(mine, theirs)

    counted = [] if seeds is None else [f"seeds {', '.join(map(str, sorted(seeds)))}"]
    return comparisons.of_ranks((a.name, columns[0], b.name, columns[1], metric, *counted), compute)


def _beside(compared: Comparison, what: str) -> Entry:
    """A baseline's own value, and whether the method is better."""
    value = 100 * compared.reference
    return Entry(
        f"{value:.2f}",
        second=compared.verdict,
        interval=formatting.interval(compared),
        sort=value,
        tone=compared.verdict.replace(" ", "-"),
        tested=Tested(what, compared),
    )


def _of_known(comparisons: Comparisons, group: Group, known: Group | None) -> tuple[Entry, Entry]:
    """What it reaches of its control, and which that is."""
    if known is None or known is group:
        return _NONE, _NONE
    seeds = _seeds(group) & _seeds(known)
    columns = "among_all", "among_all"
    try:
        compared = compare_cold(comparisons, group, known, METRICS[0], columns, seeds)
    except CadcError as error:
        names = " and ".join(f"{g.study.folder}/cells/{g.done[0].id}.json" for g in (group, known))
        raise CadcError(f"{names}: {error}") from error
    if compared is None or compared.relative is None:
        return _NONE, _NONE
    share = 100 + compared.relative
    interval = compared.relative_interval
    ends = "" if interval is None else f"{100 + interval[0]:.0f} to {100 + interval[1]:.0f}"
    return Entry(f"{share:.0f}", second=ends, sort=share), _described(group, known, seeds)


def _described(group: Group, known: Group, seeds: Set[int]) -> Entry:
    parts = [known.contender.variant or known.method]
    if len(seeds) < len(_seeds(group)):
        parts.append("seeds " + ", ".join(map(str, sorted(seeds))))
    others = _other_settings(group, known).items()
    parts += [f"{name} = {strict_json.dumps(value)}" for name, value in others]
    return Entry("; ".join(parts), tone="word")


def _seeds(group: Group) -> set[int]:
    return {cell.seed for cell in group.done if cell.cold_ranks is not None}


def cold_gains(
    group: Group, column: str, metric: str, seeds: Set[int] | None = None
) -> UserGains | None:
    """What each user of a held-out cold item adds to a metric, the mean over the group's seeds.

    Args:
        group: cells of one contender.
        column: ``among_cold``, ``among_all``, or these of a baseline (``neighbours_among_all``).
        metric: such as ``hr@10``.
        seeds: those that count; None is all.

    Returns:
        None if the cells have no such ranks.

    Raises:
        CadcError: the ranks cannot be read, or are of different users.
    """
    found = _of_seeds(group, column, metric, seeds)
    if not found:
        return None
    users = [seed.users for seed in found]
    if any(len(users[0]) != len(other) or (users[0] != other).any() for other in users):
        raise CadcError(
            f"{group.study.folder}/cells/{group.done[0].id}.json: its seeds rank cold items of "
            "different users; run these cells of the study again."
        )
    return UserGains(users[0], np.mean([seed.gains for seed in found], axis=0))


def _of_seeds(
    group: Group, column: str, metric: str, seeds: Set[int] | None = None
) -> list[UserGains]:
    found = []
    for cell in group.done:
        if cell.cold_ranks is not None and (seeds is None or cell.seed in seeds):
            table = _test_ranks(group.study.folder / cell.cold_ranks)
            if column in table:
                users, ranks = np.asarray(table["user_id"]), np.asarray(table[column])
                found.append(mean_gains([(users, ranks)], metric))
    return found


def _test_ranks(path: Path) -> dict[str, np.ndarray]:
    """Columns of the test rows.

    Raises:
        CadcError: the file is absent, or is not what the study's record writes.
    """
    try:
        table = pq.read_table(path)
        table = table.filter(pc.equal(table["of"], "test")).drop_columns(["of"])
        found = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
        found["user_id"]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise CadcError(
            f"{path}: cannot be read as ranks of cold items ({error}); {_AGAIN}."
        ) from error
    return found
