"""Runs that read other contents of their data than the newest run with the same settings of it.

In: finished runs. Out: those that are older. A study keeps its finished cells as long as their
settings stand, so a log that grew since then is read by the newer ones alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple


class DataRead(NamedTuple):
    """What a finished run read.

    Attributes:
        id: of its cell.
        settings: section ``data`` of its experiment.
        folder: of its prepared data, which is named by the settings and by the files' contents.
        finished: when it ended, in a form that sorts.
    """

    id: str
    settings: Any
    folder: str
    finished: str


def read_by(record: Mapping[str, Any]) -> DataRead | None:
    """What the run of a record read; None where it is not finished or does not say."""
    settings = (record.get("config") or {}).get("data")
    folder = (record.get("artifacts") or {}).get("prepare")
    if record.get("status") != "done" or settings is None or not folder:
        return None
    return DataRead(record["id"], settings, folder, record.get("finished") or "")


def of_older_data(runs: Iterable[DataRead]) -> list[str]:
    """Ids of the runs whose data changed afterwards: newer runs read other contents."""
    alike: dict[str, list[DataRead]] = defaultdict(list)
    for run in runs:
        alike[json.dumps(run.settings, sort_keys=True)].append(run)
    older = []
    for found in alike.values():
        newest = max(found, key=lambda run: run.finished)
        older += [run.id for run in found if _name(run) != _name(newest)]
    return older


def _name(run: DataRead) -> str:
    """Of the prepared data: the work folder itself may have moved."""
    return PurePath(run.folder).name
