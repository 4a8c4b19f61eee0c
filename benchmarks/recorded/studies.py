"""A study's results as one small file: every cell, and every comparison that its tables show.

In: studies as they were run, or such a file. Out: the file, or `Recorded` studies, which the tables
take for those that were run: ranks, which a comparison is made of, are not kept.

What all finished cells have alike (machine, versions, most settings) stands once under ``common``,
and what those of a dataset have alike under ``datasets``. A study can be run a dataset at a time,
on one machine or on several: recording replaces the datasets that the study's folder has results
of, and leaves the others as they were recorded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from benchmarks.recorded.files import FOLDER, small, write_json
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import Comparison, percent_difference
from cadc_rec.study.report.groups import Comparisons, Found, Group
from cadc_rec.study.report.study_data import Cell, Study

SCHEMA_VERSION = 1

_NO_HEAD = {"folder", "cells", "unlisted"}
_PLACE = ("id", "dataset", "dataset_title", "method", "integration", "ratio", "variant", "over",
          "seed", "status")  # fmt: skip
# Kept nowhere but in the study's folder: what it measured on the way, and files of that machine.
_LEFT_OUT = {"schema_version", "history", "artifacts", "ranks"}
_AGREES = 0.01  # percent, within which a comparison and the cells' means are one

Key = tuple[str, ...]
"""What is of ranks, by names: that of a comparison is both groups' and the metric."""
OfRanks = Comparison | list[float] | None


class Noted(Comparisons):
    """Comparisons of studies that were run; notes what was computed from ranks."""

    def __init__(self, studies: Sequence[Study]) -> None:
        super().__init__(studies)
        self.noted: dict[Key, OfRanks] = {}

    def of_ranks(self, key: Key, compute: Callable[[], Found]) -> Found:
        """As of `Comparisons`."""
        found = compute()
        self.noted[key] = found
        return found


class Recorded(Comparisons):
    """Comparisons of studies that were recorded: no ranks are read.

    Args:
        studies: of `read`.
        found: what was computed from their ranks.
    """

    def __init__(self, studies: Sequence[Study], found: Mapping[Key, OfRanks]) -> None:
        super().__init__(studies)
        self._found = found

    def of_ranks(self, key: Key, compute: Callable[[], Found]) -> Found:
        """As of `Comparisons`.

        Raises:
            CadcError: it was not recorded.
        """
        if key not in self._found:
            raise CadcError(
                f"{_file(key)}: has nothing of {', '.join(key)}; record the study again with the "
                "--docs of its command."
            )
        return cast(Found, self._found[key])


def _file(key: Key) -> str:
    """The file that has it, as messages name it."""
    return f"benchmarks/recorded/{key[0].partition('/')[0]}.json"


def write(study: Study, noted: Noted, folder: Path = FOLDER) -> Path:
    """Record a study; datasets that it has no finished cell of stay as they are recorded.

    Args:
        study: one of those that `noted` is of.
        noted: after the study's tables were made, so that it has their comparisons.
        folder: of the recorded results.

    Returns:
        The file.

    Raises:
        CadcError: no cell of it is finished, what is recorded cannot be used, or more of a dataset
            is recorded than is finished.
    """
    measured = {cell.dataset for cell in study.cells if cell.status == "done"}
    if not measured:
        raise CadcError(f"{study.folder}: no cell is finished, so there is nothing to record.")
    path = folder / f"{study.name}.json"
    earlier = _content(path) if path.is_file() else {"cells": [], "of_ranks": []}
    kept = {row["id"]: row for row in rows_of(earlier) if row["dataset"] not in measured}
    for dataset in measured:
        _require_all(study, dataset, earlier, path)
    cells = [kept.get(cell.id) or _row(cell) for cell in study.cells]
    done = [cell for cell in cells if cell["status"] == "done"]
    common = _shared([_measured(cell) for cell in done])
    datasets = {
        name: _shared(
            [_without(_measured(cell), common) for cell in done if cell["dataset"] == name]
        )
        for name in dict.fromkeys(cell["dataset"] for cell in done)
    }
    rows = []
    for cell in cells:
        place = {name: value for name, value in cell.items() if name in _PLACE}
        rest = _measured(cell)
        if cell["status"] == "done":
            rest = _without(_without(rest, common), datasets[cell["dataset"]])
        else:
            rest = {name: value for name, value in rest.items() if name == "error"}
        rows.append(place | rest)
    head = study.model_dump(mode="json", exclude=_NO_HEAD)
    of_ranks = [
        {"of": key, **_of_ranks(found)}
        for key, found in noted.noted.items()
        if key[0].partition("/")[0] == study.name and _dataset(key) in measured
    ]
    now = _study(head, cells, folder)
    groups = {group.name for group in Comparisons([now]).groups(now)}
    of_ranks += [
        row
        for row in earlier["of_ranks"]
        if _dataset(row["of"]) not in measured
        and groups.issuperset(name for name in row["of"] if name.startswith(f"{study.name}/"))
    ]
    parts = {"schema_version": SCHEMA_VERSION, "study": head, "common": common}
    parts |= {"datasets": datasets, "cells": rows, "of_ranks": of_ranks}
    write_json(path, parts)
    return path


def read(names: Sequence[str], folder: Path = FOLDER) -> Recorded:
    """Recorded studies, as the tables of one page take them.

    Args:
        names: of the studies.
        folder: of the recorded results.

    Raises:
        CadcError: a file is absent or cannot be used, or a comparison is not that of the cells.
    """
    studies: list[Study] = []
    of_ranks: dict[Key, OfRanks] = {}
    for name in names:
        path = folder / f"{name}.json"
        content = _content(path)
        try:
            studies.append(_study(content["study"], rows_of(content), folder))
            of_ranks |= {tuple(row["of"]): _found(row) for row in content["of_ranks"]}
        except (ValueError, KeyError, TypeError) as error:
            raise _unusable(path, error) from error
    found = Recorded(studies, of_ranks)
    groups = {group.name: group for study in studies for group in found.groups(study)}
    for key, one in of_ranks.items():
        if isinstance(one, Comparison) and len(key) == 3 and groups.keys() >= set(key[:2]):
            _agree(key, one, groups[key[0]], groups[key[1]])
    return found


def _content(path: Path) -> dict[str, Any]:
    """What a file of `write` holds.

    Raises:
        CadcError: it cannot be read, or is no such file.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if content["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {content['schema_version']}")
        rows_of(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unusable(path, error) from error
    return content


def _unusable(path: Path, error: Exception) -> CadcError:
    return CadcError(
        f"{path}: cannot be used as the results of a study ({_first_line(error)}); record it with "
        "the --docs of its command."
    )


def rows_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of a file, each with all that it has."""
    return [
        _merged(_merged(content["common"], content["datasets"][cell["dataset"]]), cell)
        if cell["status"] == "done"
        else cell
        for cell in content["cells"]
    ]


def _require_all(study: Study, dataset: str, earlier: dict[str, Any], path: Path) -> None:
    """Raise if recording a dataset would lose cells that another folder had finished."""
    undone = {cell.id for cell in study.cells if cell.status != "done"}
    recorded = [row for row in earlier["cells"] if row["status"] == "done" and row["id"] in undone]
    lost = [row["id"] for row in recorded if row["dataset"] == dataset]
    if lost:
        raise CadcError(
            f"{path}: {len(lost)} cells of {dataset} are recorded that are not finished here, the "
            f"first of them {lost[0]}; finish them, or remove the file to record without them."
        )


def _study(head: dict[str, Any], rows: Sequence[dict[str, Any]], folder: Path) -> Study:
    cells = [Cell.model_validate({"integration": "", **row}) for row in rows]
    return Study.model_validate({"folder": folder / head["name"], "cells": cells, **head})


def _dataset(key: Sequence[str]) -> str:
    """The dataset of what was computed from ranks: both groups of a comparison are of one."""
    return key[0].split("/")[1]


def _of_ranks(found: OfRanks) -> dict[str, Any]:
    if isinstance(found, list):
        return {"values": small(found)}
    return {} if found is None else small(asdict(found))


def _found(row: dict[str, Any]) -> OfRanks:
    """The reverse of `_of_ranks`."""
    if "values" in row:
        return list(row["values"])
    if "difference" not in row:
        return None
    fields = {name: row[name] for name in Comparison.__dataclass_fields__}
    for name in ("interval", "relative_interval"):
        fields[name] = None if fields[name] is None else tuple(fields[name])
    return Comparison(**fields)


def _agree(key: Key, compared: Comparison, a: Group, b: Group) -> None:
    """Raise if a comparison is of other results than the cells."""
    seeds = {cell.seed for cell in a.done} & {cell.seed for cell in b.done}
    means = []
    for group in (a, b):
        cells = [cell.metrics or {} for cell in group.done if cell.seed in seeds]
        values = [metrics.get(key[2], math.nan) for metrics in cells]
        means.append(sum(values) / len(values) if values else math.nan)
    difference = percent_difference(means[0], means[1])
    relative = compared.relative
    if difference is None or relative is None:
        return
    if not abs(difference - relative) <= _AGREES:
        raise CadcError(
            f"{_file(key)}: compares {key[0]} with {key[1]} by {key[2]} as {relative:+.2f}%, but "
            f"the recorded cells differ by {difference:+.2f}%; one of the studies was recorded "
            "again without the other."
        )


def _row(cell: Cell) -> dict[str, Any]:
    """A cell without what is empty."""
    content = cell.model_dump(mode="json", exclude=_LEFT_OUT)
    return {name: small(one) for name, one in content.items() if one not in (None, "", {})}


def _measured(row: dict[str, Any]) -> dict[str, Any]:
    """What a row has beside its place in the grid."""
    return {name: value for name, value in row.items() if name not in _PLACE}


def _shared(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all of them have, with the same value."""
    first, others = parts[0], parts[1:]
    found = {}
    for name, value in first.items():
        values = [other.get(name, _ABSENT) for other in others]
        if all(other == value for other in values):
            found[name] = value
        elif isinstance(value, dict) and all(isinstance(other, dict) for other in values):
            inner = _shared([value, *values])
            if inner:
                found[name] = inner
    return found


_ABSENT = object()


def _without(part: dict[str, Any], common: dict[str, Any]) -> dict[str, Any]:
    """`part` less what `common` has of it."""
    found = {}
    for name, value in part.items():
        held = common.get(name, _ABSENT)
        if held == value:
            continue
        if isinstance(value, dict) and isinstance(held, dict):
            value = _without(value, held)
        found[name] = value
    return found


def _merged(common: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """`part` with what `common` has beside it."""
    found = dict(common)
    for name, value in part.items():
        held = found.get(name)
        both = isinstance(value, dict) and isinstance(held, dict)
        found[name] = _merged(held, value) if both and held is not None else value
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0].rstrip(".")
