"""A study's cells as an update left them.

In: studies, and which update is wanted. Out: the same studies; the results of a dataset's cells are
those of the update, if all of them have it. An update has other users and other held-out items, so
that with a cell that lacks it nothing could be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.pipeline.summary import run_result
from cadc_rec.store.artifact import Artifact, read_manifest
from cadc_rec.study.report.study_data import Cell, Study
from cadc_rec.study.run.records import measured
from cadc_rec.updates.chain import Update, Wanted, update_text, updates_of


def as_updated(studies: Sequence[Study], wanted: Wanted = "newest") -> list[Study]:
    """The studies of a page with the results of an update, and a line that says which.

    Args:
        studies: as they were read.
        wanted: which update; of several datasets each takes its own.

    Raises:
        CadcError: the finished cells of a dataset do not all have the update that is named, or its
            artifacts cannot be read.
    """
    done = [cell for study in studies for cell in study.cells if cell.status == "done"]
    renewed: dict[int, Cell] = {}
    for dataset in dict.fromkeys(cell.dataset for cell in done):
        cells = [cell for cell in done if cell.dataset == dataset]
        chains = [_updates(cell) for cell in cells]
        # Updates on the same days, one after the other.
        common = list(takewhile(_of_one_day, zip(*chains, strict=False)))
        number = len(common) if wanted == "newest" else wanted
        title, having = cells[0].dataset_title, sum(bool(chain) for chain in chains)
        if number > len(common):
            raise CadcError(
                f"{title}: not all {len(cells)} finished cells have update {number}; all have "
                f"{len(common)}: give the others theirs (cadc-rec update), or leave --update out."
            )
        if number:
            updates = common[number - 1]
            text = update_text(updates[0], len(common))
            log.info("%s: takes %s", title, text)
            for cell, update in zip(cells, updates, strict=True):
                renewed[id(cell)] = _renewed(cell, update, text)
        elif wanted == 0 and having:
            log.info("%s: takes the runs themselves, before their updates", title)
        elif having:
            lacking = len(cells) - having
            why = (
                f"{lacking} of {len(cells)} finished cells have none"
                if lacking
                else ("those of its cells are of different days")
            )
            log.warning("%s: takes the runs themselves, no update: %s", title, why)
    return [
        study.model_copy(update={"cells": tuple(renewed.get(id(c), c) for c in study.cells)})
        for study in studies
    ]


def _updates(cell: Cell) -> list[Update]:
    """The updates of a cell's run, in order."""
    if "evaluate" not in cell.artifacts:
        return []
    evaluation = Path(cell.artifacts["evaluate"])
    return updates_of(evaluation.parent.parent, evaluation.name)


def _of_one_day(updates: Sequence[Update]) -> bool:
    return len({update.day for update in updates}) == 1


def _renewed(cell: Cell, update: Update, text: str) -> Cell:
    """The cell with an update's results; its ranks are read where they are."""
    workdir = update.path.parent.parent
    folders = {stage: workdir / folder for stage, folder in update.artifacts.items()}
    made = {stage: Artifact(folder, read_manifest(folder)) for stage, folder in folders.items()}
    result = run_result(cell.method, cell.seed, made)
    result["split"] = f"{result['split']}; {text}"
    new = measured(result, {stage: one.manifest for stage, one in made.items()})
    # Of cold items an update measures nothing.
    ranks = {
        "ranks": str(folders["evaluate"].resolve() / "ranks.parquet"),
        "cold": None,
        "cold_ranks": None,
    }
    return Cell.model_validate({**cell.model_dump(), **new, **ranks})
