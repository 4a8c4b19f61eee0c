"""Groups the cells of one method over its seeds, and compares groups.

In: studies. Out: `Group`, with means over the seeds that are done, and `Comparisons`, which finds
the group to compare another with and computes each comparison once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import (
    Comparison,
    Spread,
    UserGains,
    mean_gains,
    paired_bootstrap,
    spread,
)
from cadc_rec.study.data_changes import DataRead, of_older_data
from cadc_rec.study.report.paper import (
    INTEGRATION_TITLES,
    METHOD_TITLES,
    UNFILTERED,
    UNTRAINED,
)
from cadc_rec.study.report.study_data import Cell, Contender, Status, Study, read_ranks

STAGES = ("pretrain", "select", "train", "validation")
Found = TypeVar("Found", bound="Comparison | list[float] | None")


@dataclass(frozen=True)
class Group:
    """Cells that differ in their seed alone."""

    study: Study
    cells: tuple[Cell, ...]

    @property
    def dataset(self) -> str:
        """Key of the dataset."""
        return self.cells[0].dataset

    @property
    def method(self) -> str:
        """Key of the method."""
        return self.cells[0].method

    @property
    def integration(self) -> str:
        """Key of the integration technique, or empty."""
        return self.cells[0].integration

    @property
    def ratio(self) -> float:
        """The filtering ratio: training interactions over selected ones."""
        return self.cells[0].ratio

    @property
    def contender(self) -> Contender:
        """What was measured."""
        return self.cells[0].contender

    @property
    def name(self) -> str:
        """Its full name: ``table1/ml-1m/cadc+init_frozen@10``, with ``~uniform`` of a variant."""
        method, integration, ratio, variant = self.contender
        technique = f"+{integration}" if integration else ""
        tail = f"~{variant}" if variant else ""
        return f"{self.study.name}/{self.dataset}/{method}{technique}@{ratio:g}{tail}"

    @property
    def done(self) -> list[Cell]:
        """The cells with results."""
        return [cell for cell in self.cells if cell.status == "done"]

    @property
    def status(self) -> Status:
        """Done if one seed is; else the worst that happened."""
        found = {cell.status for cell in self.cells}
        order: tuple[Status, ...] = ("done", "failed", "unavailable", "missing")
        return next(status for status in order if status in found)

    def metric(self, name: str, seeds: Container[int] | None = None) -> Spread | None:
        """A test metric over the seeds that are done and have it, in percent.

        Args:
            name: such as ``hr@10``.
            seeds: only of these; None takes all.
        """
        done = [cell for cell in self.done if seeds is None or cell.seed in seeds]
        measured = [cell.metrics or {} for cell in done]
        values = [100.0 * metrics[name] for metrics in measured if name in metrics]
        return spread(values) if values else None

    def seconds(self) -> dict[str, float] | None:
        """Median seconds of each of `STAGES` over the seeds; validation is in no other."""
        parts = [stage_seconds(cell) for cell in self.done]
        if not parts:
            return None
        return {stage: statistics.median(part[stage] for part in parts) for stage in STAGES}

    @property
    def trained(self) -> bool:
        """Whether the method is trained at all."""
        parts = self.seconds()
        idle = parts is None or not parts["pretrain"] + parts["train"]
        return not idle and self.method not in UNTRAINED

    def work_by_seed(self) -> dict[int, float]:
        """Seconds of pre-training, selection and training without validation, by seed."""
        return {cell.seed: work_seconds(cell) for cell in self.done}


def stage_seconds(cell: Cell) -> dict[str, float]:
    """Seconds of a finished cell by `STAGES`.

    Validation is taken out of training, and what training does not hold of it out of
    pre-training: only a method without towers spends it there to any amount.
    """
    seconds = cell.timed
    train = max(seconds.train - seconds.validation, 0.0)
    rest = max(seconds.validation - seconds.train, 0.0)
    return {
        "pretrain": max(seconds.pretrain - rest, 0.0) + seconds.transitions + seconds.prior,
        "select": seconds.select,
        "train": train,
        "validation": seconds.validation,
    }


def work_seconds(cell: Cell) -> float:
    """Seconds of pre-training, selection and training, validation left out."""
    parts = stage_seconds(cell)
    return parts["pretrain"] + parts["select"] + parts["train"]


def same_task(a: Group, b: Group) -> bool:
    """Whether both have the same rows: two studies may cut or split a set of one name otherwise."""
    tasks = [
        {(cell.users, cell.items, cell.split, cell.rows and cell.rows.train) for cell in group.done}
        for group in (a, b)
    ]
    return tasks[0] == tasks[1]


def data_read(cells: Sequence[Cell]) -> list[DataRead]:
    """What finished cells read, as far as their records say."""
    return [
        DataRead(cell.id, cell.config["data"], cell.artifacts["prepare"], cell.finished)
        for cell in cells
        if "data" in cell.config and cell.artifacts.get("prepare")
    ]


def time_ratio(group: Group, reference: Group) -> float | None:
    """Median over the common seeds of this group's time over the reference's; None without."""
    if not group.trained:
        return None
    mine, theirs = group.work_by_seed(), reference.work_by_seed()
    ratios = [mine[seed] / theirs[seed] for seed in mine if theirs.get(seed)]
    return statistics.median(ratios) if ratios else None


class Comparisons:
    """All groups of the studies on one page, and the comparisons between them.

    Attributes:
        studies: as they were read.
    """

    def __init__(self, studies: Sequence[Study]) -> None:
        self.studies = list(studies)
        self._groups = {id(study): _groups(study) for study in studies}
        self._gains: dict[tuple[int, str, tuple[int, ...]], UserGains] = {}
        self._compared: dict[tuple[int, int, str], Comparison | None] = {}

    def groups(self, study: Study) -> list[Group]:
        """The study's groups, in the order of its grid."""
        return self._groups[id(study)]

    def find(
        self,
        study: Study,
        dataset: str,
        wanted: Callable[[Group], bool],
        like: Contender | None = None,
    ) -> Group | None:
        """The group to compare with: of this study, else of another one on the page.

        Of several, the one with the same ratio, and of those the one that is no variant; None
        where that leaves a choice. Another study's has the same rows, held-out ones too.
        """
        others = [other for other in self.studies if other is not study]
        mine = next((g for g in self.groups(study) if g.dataset == dataset and g.done), None)
        for place in (study, *others):
            found = [g for g in self.groups(place) if g.dataset == dataset and wanted(g) and g.done]
            if place is not study and mine is not None:
                found = [g for g in found if same_task(g, mine)]
            same = [g for g in found if like is None or g.ratio == like.ratio]
            plain = [g for g in same or found if not g.contender.variant]
            for choice in (same, found, plain):
                if len(choice) == 1:
                    return choice[0]
        return None

    def compare(self, a: Group, b: Group, metric: str) -> Comparison | None:
        """A against B on the seeds both have ranks for; None if there are none, or A is B.

        Raises:
            CadcError: their ranks cannot be read, or are of different users.
        """
        if a is b:
            return None
        key = (id(a), id(b), metric)
        if key not in self._compared:
            names = (a.name, b.name, metric)
            self._compared[key] = self.of_ranks(names, lambda: self._compare(a, b, metric))
        return self._compared[key]

    def of_ranks(self, key: tuple[str, ...], compute: Callable[[], Found]) -> Found:
        """What is computed from ranks, as long as they are there: recorded results have none.

        Args:
            key: names it among all of the page.
            compute: reads the ranks.
        """
        return compute()

    def common_seeds(self, a: Group, b: Group) -> tuple[int, ...]:
        """The seeds both have ranks for, ascending."""
        seeds = ({cell.seed for cell in group.done if cell.ranks} for group in (a, b))
        return tuple(sorted(set.intersection(*seeds)))

    def _compare(self, a: Group, b: Group, metric: str) -> Comparison | None:
        seeds = self.common_seeds(a, b)
        if not seeds:
            return None
        try:
            return paired_bootstrap(*(self._mean_gains(group, metric, seeds) for group in (a, b)))
        except CadcError as error:
            names = " and ".join(f"{g.study.folder}/cells/{g.done[0].id}.json" for g in (a, b))
            older = of_older_data(data_read([*a.done, *b.done]))
            if older:
                error = CadcError(
                    f"{error} Their data changed: remove the file of {older[0]}, and of each other "
                    "cell that was run before it did, and start the study again."
                )
            raise CadcError(f"{names}: {error}") from error

    def _mean_gains(self, group: Group, metric: str, seeds: tuple[int, ...]) -> UserGains:
        key = (id(group), metric, seeds)
        if key not in self._gains:
            read = [read_ranks(group.study, cell) for cell in group.done if cell.seed in seeds]
            self._gains[key] = mean_gains([ranks for ranks in read if ranks is not None], metric)
        return self._gains[key]


def _groups(study: Study) -> list[Group]:
    found: dict[tuple[str, Contender], list[Cell]] = {}
    for cell in study.cells:
        found.setdefault((cell.dataset, cell.contender), []).append(cell)
    return [Group(study, tuple(cells)) for cells in found.values()]


def datasets(study: Study) -> dict[str, str]:
    """Key and title of every dataset of a study, in the order of its grid."""
    return {cell.dataset: cell.dataset_title for cell in study.cells}


def by_integration(study: Study) -> bool:
    """Whether the study is about integration techniques, as the paper's Table 2 is."""
    return study.layout == "table2"


def _variants(study: Study, method: str, name: str) -> set[object]:
    return {getattr(cell, name) for cell in study.cells if cell.method == method}


def label(study: Study, contender: Contender, with_ratio: bool = True) -> str:
    """A group's name: as short as makes it unique within its study."""
    method, integration, ratio, variant = contender
    title = METHOD_TITLES.get(method, method)
    if len(_variants(study, method, "integration")) > 1:
        technique = INTEGRATION_TITLES.get(integration, integration)
        alone = by_integration(study) and method == "cadc"
        title = technique if alone else f"{title}, {technique}"
    if with_ratio and method not in UNFILTERED and _many_ratios(study, method):
        title += f", 1/{ratio:g}"
    return f"{title}, {variant}" if variant else title


def _many_ratios(study: Study, method: str) -> bool:
    return len(_variants(study, method, "ratio")) > 1


def order(study: Study, contender: Contender) -> tuple[int, int, int, float, str]:
    """A key that sorts as the paper's tables do; what is not in them comes last."""
    method, integration, ratio, variant = contender
    methods, techniques = list(METHOD_TITLES), list(INTEGRATION_TITLES)
    return (
        int(by_integration(study) and method != "cadc"),  # the techniques first
        methods.index(method) if method in methods else len(methods),
        techniques.index(integration) if integration in techniques else len(techniques),
        ratio,
        variant,
    )
