"""Tables as the page has them: a row for each method on each set, which can be filtered.

In: a `TableView`, with whatever columns. Out: a `PageTable`. A `TableView` repeats its columns for
each set, which is too wide for many; here the sets stand below one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cadc_rec.study.report import formatting
from cadc_rec.study.report.groups import label, order, work_seconds
from cadc_rec.study.report.paper import METHOD_TITLES, METRICS
from cadc_rec.study.report.study_data import Cell, Study
from cadc_rec.study.report.table_view import Column, Entry, TableView
from cadc_rec.study.report.tables import absent


@dataclass(frozen=True)
class PageRow:
    """A row of the page.

    Attributes:
        label: its heading.
        place: where it stands among the rows of a set.
        dataset: number of its set on the page, from 1.
        method: key of its method, which the filter asks for; empty if it has none.
        runs: ids of its cells, as `Records` numbers them.
        apart: draws a line above it.
        first: the first row of its set.
    """

    label: str
    place: int
    dataset: int
    method: str
    runs: tuple[int, ...]
    entries: tuple[Entry, ...]
    apart: bool = False
    first: bool = False


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        notes: lines under it, and the number of the set that each is of; 0 is all.
    """

    corner: str
    columns: tuple[Column, ...]
    rows: tuple[PageRow, ...]
    notes: tuple[tuple[int, str], ...] = ()

    @property
    def sets(self) -> int:
        """How many sets it has rows of."""
        return len({row.dataset for row in self.rows})


@dataclass(frozen=True)
class Sets:
    """The sets of a page, numbered from 1 in the order of its studies.

    Attributes:
        titles: by key.
    """

    titles: Mapping[str, str]

    @staticmethod
    def of(studies: Iterable[Study]) -> Sets:
        """All sets of the studies."""
        found: dict[str, str] = {}
        for study in studies:
            for cell in study.cells:
                found.setdefault(cell.dataset, cell.dataset_title)
        return Sets(found)

    def number(self, dataset: str) -> int:
        """Of a set's key."""
        return list(self.titles).index(dataset) + 1


def page_table(
    view: TableView, study: Study, sets: Sets, numbers: Mapping[tuple[str, str], int]
) -> PageTable:
    """A study's table, set after set.

    Args:
        view: any table of the study, whose rows are named by `label`.
        study: whose cells the rows are of.
        sets: of the page.
        numbers: of every cell on the page, by `cell_key`.
    """
    places: dict[str, int] = {}
    runs: dict[tuple[str, str], list[Cell]] = {}
    for cell in study.cells:
        places.setdefault(cell.dataset_title, sets.number(cell.dataset))
        runs.setdefault((cell.dataset_title, label(study, cell.contender)), []).append(cell)
    rows: list[PageRow] = []
    for column, title in enumerate(view.datasets):
        first = True
        for row in view.rows:
            entries = row.entries[column]
            if entries == absent(view):
                continue  # no part of the grid on this set
            cells = runs.get((title, row.label), [])
            rows.append(
                PageRow(
                    row.label,
                    row.place,
                    places.get(title, 0),
                    cells[0].method if cells else "",
                    tuple(numbers[cell_key(study, cell)] for cell in cells),
                    entries,
                    row.apart and not first,
                    first,
                )
            )
            first = False
    notes = tuple(
        (next((places[title] for title in places if note.startswith(f"{title}: ")), 0), note)
        for note in view.notes
    )
    return PageTable(view.corner, _headed(view.columns, rows), tuple(rows), notes)


def _headed(columns: Sequence[Column], rows: Sequence[PageRow]) -> tuple[Column, ...]:
    """The columns, each without its second heading where no row has anything below it."""
    return tuple(
        column if any(row.entries[place].second for row in rows) else replace(column, second="")
        for place, column in enumerate(columns)
    )


def cell_key(study: Study, cell: Cell) -> tuple[str, str]:
    """What no other cell of a page has."""
    return str(study.folder), cell.id


_STATES = ("done", "failed", "unavailable", "missing")
_RUN_COLUMNS = (
    Column("study", "", "the grid that the run is a cell of"),
    Column("seed", "", "training seed"),
    Column("state", "", "done, failed, not available (its data is not there) or not run yet"),
    *(Column(f"{metric.upper()} %", "", f"{metric.upper()} on test") for metric in METRICS),
    Column("time s", "", "pre-training, selection and training, without validation"),
    Column("examples", "", "labelled examples that the towers are trained on"),
    Column("finished", "", "when the run ended"),
)


def runs_table(
    studies: Iterable[Study], sets: Sets, numbers: Mapping[tuple[str, str], int]
) -> PageTable:
    """Every cell of the page's grids, run or not.

    Args:
        studies: of the page.
        sets: of the page.
        numbers: of every cell, by `cell_key`.
    """
    found = [(study, place, cell) for place, study in enumerate(studies) for cell in study.cells]
    found.sort(
        key=lambda one: (
            sets.number(one[2].dataset),
            one[1],
            order(one[0], one[2].contender),
            one[2].seed,
        )
    )
    rows: list[PageRow] = []
    for place, (study, study_place, cell) in enumerate(found):
        number = sets.number(cell.dataset)
        rows.append(
            PageRow(
                label(study, cell.contender),
                place,
                number,
                cell.method,
                (numbers[cell_key(study, cell)],),
                _run_entries(study, study_place, cell),
                first=not rows or rows[-1].dataset != number,
            )
        )
    return PageTable("run", _RUN_COLUMNS, tuple(rows))


def _run_entries(study: Study, place: int, cell: Cell) -> tuple[Entry, ...]:
    state = Entry(
        formatting.STATUS[cell.status],
        tip=cell.error,
        sort=_STATES.index(cell.status),
        tone=f"word {cell.status}",
    )
    head = (Entry(study.title, sort=place, tone="word"), Entry(str(cell.seed), sort=cell.seed))
    metrics, seconds, rows = cell.metrics, cell.seconds, cell.rows
    if cell.status != "done" or metrics is None or seconds is None or rows is None:
        return (*head, state, *(Entry("") for _ in _RUN_COLUMNS[3:]))
    work = work_seconds(cell)
    return (
        *head,
        state,
        *(Entry(f"{100 * metrics[name]:.2f}", sort=metrics[name]) for name in METRICS),
        Entry(formatting.seconds(work), sort=work),
        Entry(f"{rows.selected:,}", sort=rows.selected),
        Entry(cell.finished[:16].replace("T", " "), tip=cell.finished, tone="word"),
    )


def methods(studies: Iterable[Study]) -> dict[str, str]:
    """Key and title of every method of the page, in the order of its tables."""
    known = list(METHOD_TITLES)
    keys = dict.fromkeys(cell.method for study in studies for cell in study.cells)
    ordered = sorted(keys, key=lambda key: known.index(key) if key in known else len(known))
    return {key: METHOD_TITLES.get(key, key) for key in ordered}
