"""Why numbers of one set may not compare: the log changed between runs, or the machine was busy.

In: the cells of a set. Out: sentences, none where all is well.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from cadc_rec.study.data_changes import of_older_data
from cadc_rec.study.report.groups import data_read, work_seconds
from cadc_rec.study.report.study_data import Cell

_BUSY = 1.5
"""So many seconds of the clock for each of the processor are more than a trained tower waits."""
_LEAST = 0.5
"""Seconds of the clock, below which a run's times are chance."""


def doubts(cells: Iterable[Cell]) -> tuple[str, ...]:
    """What stands in the way of comparing the cells of one set."""
    done = [cell for cell in cells if cell.status == "done"]
    return (*_changed_log(done), *_busy_machine(done))


def _changed_log(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Cells with the same settings of the data, which read other contents of it."""
    older = of_older_data(data_read(cells))
    if not older:
        return ()
    return (
        f"The data changed: {len(older)} of these {len(cells)} runs, {older[0]} among them, read "
        "other contents than the newest, so their numbers do not compare. Remove their files from "
        "the folder cells of the study, and start it again.",
    )


def _busy_machine(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Runs on processors alone whose clock went on while others had the processor."""
    waits = []
    for cell in cells:
        alone = cell.machine.device in ("", "cpu")
        if cell.time != "wall" or cell.cpu_seconds is None or not alone:
            continue
        used = work_seconds(cell.model_copy(update={"time": "cpu"}))
        if used and work_seconds(cell) >= _LEAST:
            waits.append(work_seconds(cell) / used)
    slow = [wait for wait in waits if wait > _BUSY]
    if not slow:
        return ()
    return (
        f"Times are the clock's, and in {len(slow)} of {len(waits)} runs it counts "
        f"{statistics.median(slow):.1f} times the processor's seconds in the median (up to "
        f"{max(slow):.1f}): other work ran on this machine, or the disk was slow. For the "
        "processor's seconds write time = \"cpu\" into the study's file and start the study again: "
        "no finished cell runs anew.",
    )
