"""What a study will take of a processor, cell by cell, before it runs.

In: a `Study`, and the records of cells that are finished. Out: a `Plan`: of every cell its seconds
of one core, where a stage that cells share counts in the first of them; what was spent already; and
the refusal of a study that would take more than its budget.

The estimate is that of `cadc_rec.study.run.estimates`, corrected by the records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cadc_rec.data.sources.raw_input import ARCHIVES, locate, table_folders
from cadc_rec.data.tables.files import find_tables
from cadc_rec.errors import CadcError
from cadc_rec.planning.sizes import find_sizes
from cadc_rec.store.remote.trees import bring_files
from cadc_rec.study.run.estimates import (
    START_SECONDS,
    Corrections,
    Size,
    estimated_stages,
    measured_seconds,
)
from cadc_rec.study.run.grid import Cell, Study, by_data

_HOUR = 3600.0
Key = TypeVar("Key")


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a plan.

    Attributes:
        cell: which.
        seconds: of one core, without stages that an earlier cell makes; of a cell that is done,
            those that were measured; None where its dataset's size is not known. Of an absent
            dataset they count in no sum.
        done: whether it is finished.
        absent: why its dataset is not at hand; empty where it is.
    """

    cell: Cell
    seconds: float | None
    done: bool = False
    absent: str = ""


@dataclass(frozen=True)
class Plan:
    """Every cell of a study, in the order in which they run."""

    name: str
    cells: tuple[PlannedCell, ...]
    finished: int
    """Cells of any study whose times the estimate was corrected by."""

    @property
    def spent(self) -> float:
        """Hours that the study's finished cells took."""
        return sum(one.seconds or 0.0 for one in self.cells if one.done) / _HOUR

    @property
    def left(self) -> float:
        """Hours of the cells that are still to run."""
        todo = (one for one in self.cells if not one.done and not one.absent)
        return sum(one.seconds or 0.0 for one in todo) / _HOUR

    @property
    def hours(self) -> float:
        """Hours of all cells."""
        return self.spent + self.left

    @property
    def uncounted(self) -> list[PlannedCell]:
        """Cells that run although nothing is known of the size of their datasets."""
        return [one for one in self.cells if one.seconds is None and not one.absent]

    def require(self, budget: float, path: Path) -> None:
        """Refuse a study that would take more.

        Args:
            budget: hours of one core.
            path: the study's file.

        Raises:
            CadcError: it would, and something is left to run.
        """
        if self.left and self.hours > budget:
            raise CadcError(
                f"{path}: its cells would take about {self.hours:.1f} hours of a core "
                f"({self.spent:.1f} of them spent), more than its budget of {budget:g}; "
                "cadc-rec study --plan shows which; leave some out, or raise budget_hours or "
                "--budget."
            )


def plan_study(study: Study, workdir: Path, data_dir: Path | None) -> Plan:
    """Estimate every cell; no dataset is downloaded or prepared.

    Args:
        study: its chosen cells, and those that are done already.
        workdir: where datasets may be prepared, and cells of this and other studies finished.
        data_dir: folder with the raw data.
    """
    mine = workdir / "studies" / study.name
    bring_files(mine, workdir)  # what another machine has done
    records = list(_records(workdir / "studies"))
    corrections = Corrections(records)
    finished = {cell.id: finished_record(mine / "cells", cell) for cell in study.cells}
    chosen = {cell.id for cell in study.chosen}
    cells = [cell for cell in study.cells if cell.id in chosen or finished[cell.id]]
    absent: dict[str, str] = {}
    for alike in by_data(cells):
        absent |= dict.fromkeys((cell.id for cell in alike), absence(alike[0], data_dir))
    sizes = {name: _size(study, cell, workdir) for name, cell in _by_dataset(cells)}
    made: set[str] = set()
    # What is done is there for the others, wherever it stands in the grid.
    planned: dict[str, PlannedCell] = {}
    for cell in sorted(cells, key=lambda cell: finished[cell.id] is None):
        record, size = finished[cell.id], sizes[cell.dataset]
        why = "" if record else absent[cell.id]
        measured = measured_seconds(record or {})
        if size is None and not measured:
            planned[cell.id] = PlannedCell(cell, None, absent=why)
            continue
        seconds = START_SECONDS
        for stage in estimated_stages(cell.experiment, size or Size(1, 1, 1)):
            if stage.digest not in made:
                factor = corrections.factor(stage, cell.dataset, cell.method)
                seconds += measured.get(stage.stage, stage.seconds * factor)
                made.add(stage.digest)
        planned[cell.id] = PlannedCell(cell, seconds, done=record is not None, absent=why)
    told = sum(record.get("status") == "done" for record in records)
    return Plan(study.name, tuple(planned[cell.id] for cell in cells), told)


def finished_record(cells: Path, cell: Cell) -> dict[str, Any] | None:
    """The record of a cell that is done with the settings it has now; None without one.

    Args:
        cells: folder of a study's records.
        cell: which.
    """
    try:
        record: dict[str, Any] = json.loads((cells / f"{cell.id}.json").read_text("utf-8"))
        done = record["status"] == "done" and record["digest"] == cell.digest
    except (OSError, ValueError, KeyError, TypeError):
        return None  # there is none, or not one of ours: the cell runs and replaces it
    return record if done else None


def _records(studies: Path) -> Iterator[dict[str, Any]]:
    """Those of all studies that can be read."""
    for file in sorted(studies.glob("*/cells/*.json")):
        try:
            record = json.loads(file.read_text("utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            yield record


def _by_dataset(cells: Sequence[Cell]) -> Iterable[tuple[str, Cell]]:
    """A cell of each dataset, the first without features: its experiment tells of the data."""
    return {cell.dataset: cell for cell in reversed(cells)}.items()


def absence(cell: Cell, data_dir: Path | None) -> str:
    """Why a cell's raw files are not here; empty where they are, or where a database has them.

    Args:
        cell: of the dataset.
        data_dir: folder with the raw data.
    """
    data = cell.experiment.data
    try:
        if data.source in ARCHIVES:
            archive = ARCHIVES[data.source]
            found = locate(data.source, data_dir)
            return "" if found else f"no {archive.names[0]} here ({archive.url})"
        if data.source == "tables" and not data.tables.queries():
            find_tables(data.tables, table_folders(data_dir), {})
    except CadcError as error:
        return str(error)
    return ""


def _size(study: Study, cell: Cell, workdir: Path) -> Size | None:
    """Of the dataset as it was prepared, or as the study's file says."""
    try:
        found = find_sizes(cell.experiment.data, workdir, None, None, str(cell.config))
    except CadcError:
        given = study.file.datasets[cell.dataset].size
        return None if given is None else Size(given.users, given.items, given.interactions)
    return Size(found.users, found.items, found.interactions)


def plan_lines(plan: Plan, budget: float | None) -> Iterator[str]:
    """The plan as Markdown: a row for each dataset and method, then sums.

    Args:
        plan: of a study.
        budget: hours that it may take, if there is a bound.
    """
    yield "| dataset | method | ratios | seeds | cells | done | core hours |"
    yield "|---|---|---|---|---|---|---|"
    for _, rows in _groups(plan.cells, lambda one: one.cell.dataset):
        for name, cells in _groups(rows, _contender):
            yield _row(cells[0].cell.dataset_title, name, cells)
        yield _row(f"**{rows[0].cell.dataset_title}**", "**all**", rows)
    yield ""
    yield (
        f"{len(plan.cells)} cells: about {plan.hours:.1f} hours of a core, {plan.spent:.1f} spent "
        f"and {plan.left:.1f} to come, by rates that {plan.finished} finished cells corrected. A "
        "stage that cells share counts in the first of them."
    )
    absent = [one for one in plan.cells if one.absent]
    for (title, reason), cells in _groups(absent, lambda one: (one.cell.dataset_title, one.absent)):
        hours = sum(one.seconds or 0.0 for one in cells) / _HOUR
        about = f" (about {hours:.1f} hours, once it is)" if hours else ""
        yield f"{title}: not at hand, so its cells are not counted{about}: {reason}"
    for title, cells in _groups(plan.uncounted, lambda one: one.cell.dataset_title):
        yield (
            f"{title}: its size is not known, so its {len(cells)} cells are not counted; run "
            f"cadc-rec prepare {cells[0].cell.config}, or give its size in the study's file."
        )
    if budget is not None:
        verdict = "more than" if plan.hours > budget else "within"
        rest = ", without the cells that are not counted" if plan.uncounted or absent else ""
        yield f"That is {verdict} the budget of {budget:g} hours{rest}."


def plan_document(plan: Plan, budget: float | None) -> dict[str, Any]:
    """The plan as JSON values."""
    return {
        "study": plan.name,
        "hours": plan.hours,
        "spent_hours": plan.spent,
        "left_hours": plan.left,
        "budget_hours": budget,
        "finished_cells": plan.finished,
        "cells": [
            {
                **one.cell.to_dict(),
                "core_seconds": one.seconds,
                "done": one.done,
                "absent": one.absent or None,
            }
            for one in plan.cells
        ],
    }


def _row(title: str, name: str, cells: Sequence[PlannedCell]) -> str:
    ratios = sorted({one.cell.ratio for one in cells})
    seeds = sorted({one.cell.experiment.seed for one in cells})
    known = [one.seconds for one in cells if one.seconds is not None and not one.absent]
    hours = "not at hand" if cells[0].absent else f"{sum(known) / _HOUR:.2f}" if known else "?"
    done = sum(one.done for one in cells)
    columns = (
        title,
        name,
        ", ".join(f"{ratio:g}" for ratio in ratios),
        ", ".join(map(str, seeds)),
        f"{len(cells)}",
        f"{done}",
        hours,
    )
    return "| " + " | ".join(columns) + " |"


def _contender(one: PlannedCell) -> str:
    cell = one.cell
    return ", ".join(filter(None, (cell.method, cell.variant)))


def _groups(
    cells: Iterable[PlannedCell], key: Callable[[PlannedCell], Key]
) -> Iterable[tuple[Key, list[PlannedCell]]]:
    found: dict[Key, list[PlannedCell]] = {}
    for one in cells:
        found.setdefault(key(one), []).append(one)
    return found.items()
