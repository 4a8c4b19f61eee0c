"""Reads a study's folder: the grid that was wanted, and how each cell ended.

In: ``study.json`` and ``cells/*.json``, or a folder of such folders. Out: `Study` objects with
every cell of the grid in its place, whether it ran or not. Ranks are read only for comparisons.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)

from cadc_rec.errors import CadcError
from cadc_rec.study.prices import Prices

Layout = Literal["table1", "table2", "figure1", "grid"]
Status = Literal["done", "failed", "unavailable", "missing"]

_LAYOUTS = ("table1", "table2", "figure1", "grid")
_AGAIN = "run that cell of the study again"
# What a finished cell cannot do without.
_MEASURED = ("metrics", "validation", "seconds", "rows", "split")
_OF_DONE = (*_MEASURED, "cpu_seconds", "costs", "history", "ranks", "cold", "cold_ranks")
_PLACE = ("id", "dataset", "method", "integration", "ratio", "variant", "seed")

# A stage a method does not have may be written as null.
Seconds = Annotated[
    float, Field(ge=0, allow_inf_nan=False), BeforeValidator(lambda value: value or 0.0)
]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Model = TypeVar("Model", bound=BaseModel)
Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StageSeconds(_Part):
    """Seconds of each stage; `validation` is a part of pre-training and training."""

    prepare: Seconds
    pretrain: Seconds
    transitions: Seconds = 0.0
    prior: Seconds = 0.0
    select: Seconds
    train: Seconds
    evaluate: Seconds
    validation: Seconds


class Rows(_Part):
    """Interactions of the training split, and how many of them the towers saw."""

    train: int
    selected: int
    touched: int | None = None
    """Distinct interactions that the selected ones and their histories refer to."""
    bytes: int | None = None
    bytes_of: int | None = None
    """Bytes of D_sel and of D_full as Parquet."""


class ValidationSample(_Part):
    """How many users of how many were ranked on validation, and each metric's 95% interval."""

    users: int
    of: int
    interval: dict[str, tuple[FiniteFloat, FiniteFloat]]


class Machine(_Part):
    """Where a cell ran."""

    cpu: Text = ""
    cores: int | None = None
    memory_bytes: int | None = None
    device: Text = ""
    threads: int | None = None


class Other(_Part):
    """What a run measured and did not keep: ``tables`` or ``towers``, and its test metrics."""

    of: str
    test: dict[str, FiniteFloat]


class Cold(_Part):
    """The cold items of a cell: how many, and whether they were known (``data.cold_control``)."""

    items: int
    control: bool


class Place(_Part):
    """Where a cell stands in its grid; `integration` is empty for a method without one."""

    id: str
    dataset: str
    dataset_title: str
    method: str
    integration: Text
    ratio: float = Field(gt=0)
    variant: Text = ""
    over: Text = ""
    """The variant that this one's features are compared with."""
    seed: int
    digest: Text = ""
    """Of its settings; a cell that was run with other ones is not that of the grid."""


class Contender(NamedTuple):
    """What is measured on a dataset, over several seeds."""

    method: str
    integration: str
    ratio: float
    variant: str = ""


class Cell(Place):
    """One cell of a grid. Metrics are fractions; all but the place is absent unless it is done."""

    schema_version: Literal[1] = 1
    status: Status
    error: Text = ""
    metrics: dict[str, FiniteFloat] | None = None
    validation: dict[str, FiniteFloat] | None = None
    validation_sample: ValidationSample | None = None
    kept: Text = ""
    """``towers`` or ``tables``, where the one that is better on validation was kept."""
    beside: Other | None = None
    seconds: StageSeconds | None = None
    cpu_seconds: StageSeconds | None = None
    """The same of the processor; None of several ranks, and of older cells."""
    time: Literal["wall", "cpu"] = "wall"
    """Which of both its study goes by."""
    rows: Rows | None = None
    users: int | None = None
    items: int | None = None
    split: Text = ""
    interactions_per_second: float | None = None
    peak_memory_bytes: int | None = None
    costs: Annotated[dict[str, dict[str, Amount]], BeforeValidator(lambda value: value or {})] = {}
    """By stage, and ``all`` of them; of a stage that was made before they were measured, empty."""
    history: Annotated[list[dict[str, Any]], BeforeValidator(lambda value: value or [])] = []
    ranks: str | None = None
    cold: Cold | None = None
    cold_ranks: str | None = None
    """The ranks of cold items and of both baselines, with ``user_id`` and ``of``."""
    artifacts: Annotated[dict[str, str], BeforeValidator(lambda value: value or {})] = {}
    """Folders of its run's artifacts, by stage."""
    config: Annotated[dict[str, Any], BeforeValidator(lambda value: value or {})] = {}
    versions: Annotated[dict[str, Text], BeforeValidator(lambda value: value or {})] = {}
    machine: Annotated[Machine, BeforeValidator(lambda value: value or {})] = Machine()
    commit: Text = ""
    """Of the code that ran it, where that was a checkout."""
    finished: Text = ""

    @property
    def timed(self) -> StageSeconds:
        """The seconds that its study goes by; it is done."""
        found = self.cpu_seconds if self.time == "cpu" else self.seconds
        assert found is not None
        return found

    @property
    def contender(self) -> Contender:
        """What it measures; cells of one contender differ in dataset and seed."""
        return Contender(self.method, self.integration, self.ratio, self.variant)

    @model_validator(mode="before")
    @classmethod
    def _unmeasured(cls, content: Any) -> Any:
        """Drop what a cell measured before it failed: it is not a result."""
        if isinstance(content, dict) and content.get("status") != "done":
            return {k: v for k, v in content.items() if k not in _OF_DONE}
        return content

    @model_validator(mode="after")
    def _measured(self) -> Cell:
        absent = [name for name in _MEASURED if not getattr(self, name)]
        absent += [m for m in ("hr@10", "ndcg@10") if m not in (self.metrics or {})]
        if self.status == "done" and absent:
            raise ValueError(f"a cell that is done needs {absent[0]}")
        return self


class _StudyFile(_Part):
    schema_version: Literal[1]
    name: str
    title: str
    layout: Layout
    baseline: Text = ""
    second: Text = "random"
    time: Literal["wall", "cpu"] = "wall"
    about: dict[str, Text] = {}
    prices: Prices | None = None
    cells: tuple[Place, ...] = Field(min_length=1)


class Study(_Part):
    """A grid and how each of its cells ended.

    Attributes:
        cells: every cell of the grid, in its order; those without a file are "missing".
        time: what the cells' seconds are: the clock's, or the processor's.
        about: where a dataset comes from and what of it is genuine, by its key.
        prices: what dollars are computed with; None without.
        unlisted: files in ``cells/`` the grid does not name; they are not read.
    """

    folder: Path
    name: str
    title: str
    layout: Layout
    baseline: str
    second: str
    cells: tuple[Cell, ...]
    time: Literal["wall", "cpu"] = "wall"
    about: dict[str, str] = {}
    prices: Prices | None = None
    unlisted: tuple[str, ...] = ()

    @property
    def about_time(self) -> str:
        """What its times are, for those who read a table."""
        seconds = "CPU seconds of" if self.time == "cpu" else ""
        text = f"{seconds} pre-training + (selection + training), without validation"
        return f"{text.strip()}; median over seeds"


def load_studies(folder: Path) -> list[Study]:
    """The study in `folder`, or all studies in folders right below it, tables first.

    Raises:
        CadcError: there is none, or a file of one cannot be used.
    """
    if (folder / "study.json").is_file():
        return [_load(folder)]
    below = sorted(path.parent for path in folder.glob("*/study.json"))
    if not below:
        raise CadcError(
            f"{folder}: holds no study.json, nor does a folder in it; name the folder a study was "
            "run into."
        )
    return sorted(map(_load, below), key=lambda study: _LAYOUTS.index(study.layout))


def told_apart(studies: list[Study]) -> list[Study]:
    """The studies with the key of a dataset behind its title where another one has that title."""
    titles = {cell.dataset: cell.dataset_title for study in studies[::-1] for cell in study.cells}
    counts = Counter(titles.values())

    def cell_apart(cell: Cell) -> Cell:
        if counts[cell.dataset_title] < 2:
            return cell
        return cell.model_copy(update={"dataset_title": f"{cell.dataset_title} ({cell.dataset})"})

    return [
        study.model_copy(update={"cells": tuple(map(cell_apart, study.cells))}) for study in studies
    ]


def read_ranks(study: Study, cell: Cell) -> tuple[np.ndarray, np.ndarray] | None:
    """Users' ids and the ranks of their held-out items, ``[users]`` each; None if not kept.

    Raises:
        CadcError: the file is absent or is not what `ranks.parquet` has to be.
    """
    if cell.ranks is None:
        return None
    path = study.folder / cell.ranks
    try:
        table = pq.read_table(path, columns=["user_id", "rank"])
        columns = [table[name].to_numpy(zero_copy_only=False) for name in ("user_id", "rank")]
    except (OSError, pa.ArrowException, KeyError) as error:
        raise CadcError(
            f"{path}: cannot be read as ranks with user_id and rank ({_first_line(error)}); "
            f"{_AGAIN}."
        ) from error
    users, ranks = columns
    if ranks.dtype.kind not in "iu" or (ranks < 1).any():
        raise CadcError(f"{path}: a rank is not a whole number from 1; {_AGAIN}.")
    return users, ranks


def _load(folder: Path) -> Study:
    path = folder / "study.json"
    remedy = "start the study again to write it anew"
    wanted = _parse(_StudyFile, _read_json(path, remedy), path, remedy)
    ids = [place.id for place in wanted.cells]
    twice = next((id for n, id in enumerate(ids) if id in ids[:n]), None)
    if twice is not None:
        raise CadcError(f"{path}: names the cell {twice} twice; {remedy}.")
    files = {file.stem: file for file in sorted((folder / "cells").glob("*.json"))}
    return Study(
        folder=folder,
        name=wanted.name,
        title=wanted.title,
        layout=wanted.layout,
        baseline=wanted.baseline,
        second=wanted.second,
        time=wanted.time,
        cells=tuple(_cell(place, files.get(place.id), wanted.time) for place in wanted.cells),
        about=wanted.about,
        prices=wanted.prices,
        unlisted=tuple(stem for stem in files if stem not in ids),
    )


def _cell(place: Place, path: Path | None, time: Literal["wall", "cpu"]) -> Cell:
    """A cell as it was recorded, with the seconds that the study goes by."""
    if path is None:
        return Cell(**place.model_dump(), status="missing")
    cell = _parse(Cell, _read_json(path, _AGAIN), path, _AGAIN)
    for name in _PLACE:
        found, wanted = getattr(cell, name), getattr(place, name)
        if found != wanted:
            raise CadcError(
                f"{path}: its {name} is {found!r} where study.json has {wanted!r}; remove the file "
                f"and {_AGAIN}."
            )
    if place.digest and cell.digest != place.digest:  # of settings that the grid had before
        return Cell(**place.model_dump(), status="missing")
    if time == "cpu" and cell.status == "done" and cell.cpu_seconds is None:
        raise CadcError(
            f"{path}: has no CPU seconds of one process, by which study.json measures time; remove "
            f"the file and the artifacts that it names, and {_AGAIN}."
        )
    # A grid may compare it with another now.
    return cell.model_copy(update={"over": place.over, "time": time})


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CadcError(f"{path}: is not JSON ({_first_line(error)}); {remedy}.") from error


def _parse(model: type[Model], content: Any, path: Path, remedy: str) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            problem = f"the key {where} is missing"
        else:
            problem = f"{where}: {first['msg']}" if where else first["msg"]
        raise CadcError(f"{path}: is not usable ({problem}); {remedy}.") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0].rstrip(".")
