"""Reads a study's file: its datasets, methods, integration techniques, ratios and seeds.

In: a TOML file such as ``configs/study/table1.toml``. Out: a `Study` with its cells in the order of
the file. Each cell is a validated `Experiment`, so a grid that cannot be run is refused before its
first cell runs.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from cadc_rec import strict_json
from cadc_rec.config.errors import explain
from cadc_rec.config.experiment import Experiment
from cadc_rec.config.file import load_experiment, read_toml
from cadc_rec.config.methods import METHODS
from cadc_rec.config.types import PositiveFloat, PositiveInt, Section, Seed
from cadc_rec.errors import CadcError
from cadc_rec.study.prices import Prices

Names = Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
Ratio = Annotated[float, Field(ge=1, allow_inf_nan=False)]
FeatureName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
DatasetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]  # of files, too
Number = Annotated[float, Field(allow_inf_nan=False)]
Settings = dict[str, bool | int | Number | str | list[int] | list[Number] | list[str]]


class SizeEntry(Section):
    """How large a dataset is, for estimates made before it is prepared."""

    users: PositiveInt
    """Its users, after all filters."""
    items: PositiveInt
    """Its items, likewise."""
    interactions: PositiveInt
    """Those that are trained on."""


class DatasetEntry(Section):
    """One dataset of a study."""

    title: str
    """Its name in the report."""
    about: str = ""
    """Where it comes from, and what of it is genuine."""
    size: SizeEntry | None = None
    """Its size, for the plan of a study whose data are not prepared yet."""
    config: str
    """Its experiment file, relative to the study's."""
    set: Settings = Field(default_factory=dict)
    """Settings to override, ``"section.key" = value``."""
    features: dict[FeatureName, Settings] = Field(default_factory=dict)
    """Named sets of features: the settings, such as ``data.tables.items.text``, that name them."""


class GridEntry(Section):
    """A part of the grid: every combination of what it lists."""

    methods: Names
    """Names of methods."""
    integrations: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Values of ``model.id_embedding``; empty takes the methods' own."""
    ratios: Annotated[tuple[Ratio, ...], Field(strict=False)] = ()
    """Filtering ratios; empty takes the config's. Methods that take everything ignore them."""
    datasets: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of datasets; empty takes all."""
    seeds: Annotated[tuple[Seed, ...], Field(strict=False)] = ()
    """Seeds of this part; empty takes the study's."""
    features: Annotated[tuple[FeatureName, ...], Field(strict=False)] = ()
    """Names of the datasets' sets of features; the others are compared with the first. A dataset
    without the first has no cell here, and one without another none of that."""
    variant: Annotated[str, Field(pattern=r"^[a-z0-9-]*$")] = ""
    """A name for this part's rows where other parts have the same method, such as ``uniform``."""
    config: str = ""
    """Another experiment file than the datasets' own, relative to the study's."""
    set: Settings = Field(default_factory=dict)
    """Settings to override in this part."""


class StudyFile(Section):
    """What a study's TOML file holds."""

    title: str
    """Heads the report."""
    layout: Literal["table1", "table2", "figure1", "grid"] = "grid"
    """The table or figure of the paper that it repeats; ``grid`` repeats none."""
    baseline: str = "gold"
    """The method that others are compared with."""
    second: str = "random"
    """A second method to compare HR@10 with, if the page has it."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, strict=False)] = (0, 1, 2)
    """Every combination is run once with each seed."""
    budget_hours: PositiveFloat | None = None
    """Hours of a processor core that all cells together may take; a study that would take more, by
    what is measured of cells like its own, is refused before its first cell."""
    set: Settings = Field(default_factory=dict)
    """Settings to override in every cell."""
    time: Literal["wall", "cpu"] = "wall"
    """What the report's times are: the clock's, or CPU seconds of a process, which other work on
    the machine changes little; with one thread an idle machine takes as long."""
    prices: Prices | None = None
    """What the report's dollars are computed with; no cell depends on them."""
    datasets: Annotated[dict[DatasetName, DatasetEntry], Field(min_length=1)]
    """The datasets, by short name."""
    grid: Annotated[list[GridEntry], Field(min_length=1)]
    """The parts of the grid, in the order in which they run."""


@dataclass(frozen=True)
class Cell:
    """One experiment of a study."""

    dataset: str
    dataset_title: str
    config: Path
    method: str
    variant: str
    """The part's own, after the name of its set of features where it has one."""
    sets: tuple[str, ...]
    """Overrides for ``--set``, the seed among them."""
    experiment: Experiment
    over: str = ""
    """The variant whose features are fewer, or others: what the cell's features are compared with;
    empty without such a comparison."""

    @property
    def integration(self) -> str:
        """How pre-trained vectors are used; ``trainable`` if there are none."""
        model = self.experiment.model
        return "none" if model.kind == "tables" else model.id_embedding

    @property
    def ratio(self) -> float:
        """Filtering ratio; 1 if everything is read."""
        everything = self.experiment.select.kind == "everything"
        tables = self.experiment.model.kind == "tables"
        return 1.0 if everything or tables else self.experiment.select.ratio

    @functools.cached_property
    def digest(self) -> str:
        """Of all settings that decide the cell's result: a changed config is run again."""
        settings = self.experiment.model_dump(mode="json", exclude={"tracking", "update"})
        text = strict_json.dumps(settings, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The cell's name, unique in a study, also used for files."""
        how = f"{self.method}.{self.integration}.r{self.ratio:g}"
        if self.variant:
            how += f".{self.variant}"
        return f"{self.dataset}.{how}.s{self.experiment.seed}"

    def to_dict(self) -> dict[str, Any]:
        """The cell's place in the grid, as the study's record holds it."""
        return {
            "id": self.id,
            "dataset": self.dataset,
            "dataset_title": self.dataset_title,
            "method": self.method,
            "integration": self.integration,
            "ratio": self.ratio,
            "variant": self.variant,
            **({"over": self.over} if self.over else {}),
            "seed": self.experiment.seed,
        }


@dataclass(frozen=True)
class Study:
    """A study and its cells."""

    name: str
    file: StudyFile
    cells: tuple[Cell, ...]
    """All that the file wants."""
    datasets: tuple[str, ...] = ()
    """Names of the datasets whose cells are run now; empty for all."""

    @property
    def chosen(self) -> tuple[Cell, ...]:
        """The cells that are run now."""
        names = self.datasets
        return tuple(cell for cell in self.cells if not names or cell.dataset in names)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``study.json``: the cells that are wanted."""
        about = {name: entry.about for name, entry in self.file.datasets.items() if entry.about}
        prices = self.file.prices
        return {
            "schema_version": 1,
            "name": self.name,
            "title": self.file.title,
            "layout": self.file.layout,
            "baseline": self.file.baseline,
            "second": self.file.second,
            **({"about": about} if about else {}),
            **({"time": self.file.time} if self.file.time != "wall" else {}),
            **({"prices": prices.model_dump(exclude_none=True)} if prices else {}),
            "cells": [{**cell.to_dict(), "digest": cell.digest} for cell in self.cells],
        }


def by_data(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells that read the same data, together: parts of a grid may have other files."""
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.experiment.data.model_dump_json(), []).append(cell)
    return list(found.values())


def read_study(path: Path, datasets: Sequence[str] = ()) -> Study:
    """Read a study's file and validate every cell of its grid.

    Args:
        path: the file.
        datasets: names of those whose cells are to be run; empty for all.

    Raises:
        CadcError: the file, a method, a dataset, a ratio or a combination is not allowed; or a
            dataset that is to be run has no cells.
    """
    raw = read_toml(path)
    if "grid" not in raw and "datasets" not in raw and raw.keys() & Experiment.model_fields.keys():
        raise CadcError(
            f"{path}: has no [[grid]], so it is an experiment's file and not a study's; run it "
            "with cadc-rec run, or name it as a config in a study's file (docs/study.md)."
        )
    try:
        file = StudyFile.model_validate(raw)
    except ValidationError as error:
        raise CadcError(explain(error, StudyFile, str(path))) from None
    if file.layout != "table2":  # which compares with an integration technique
        _known(tuple(filter(None, [file.baseline])), METHODS, "baseline", path)
        _known(tuple(filter(None, [file.second])), METHODS, "second", path)
    for entry in file.grid:
        _known(entry.methods, METHODS, "method", path)
        _known(entry.datasets, file.datasets, "dataset", path)
        named = {name for dataset in file.datasets.values() for name in dataset.features}
        _known(entry.features, dict.fromkeys(sorted(named)), "set of features", path)
    cells: dict[str, Cell] = {}  # a cell that two parts of the grid ask for is run once
    for cell in _cells(file, path):
        known = cells.setdefault(cell.id, cell)
        if cell.over and not known.over:
            cells[cell.id] = replace(known, over=cell.over)
        if not _alike(known, cell):
            raise CadcError(
                f"{path}: two parts of the grid ask for {cell.id} with different settings, and one "
                "result would stand for both; name one with variant, or make two studies."
            )
    _known(tuple(datasets), {cell.dataset: cell for cell in cells.values()}, "dataset", path)
    return Study(path.stem, file, tuple(cells.values()), tuple(datasets))


def _alike(first: Cell, second: Cell) -> bool:
    """Whether two cells of one id compute the same; a ratio that no stage reads may differ."""
    first_settings, second_settings = (
        cell.experiment.model_dump(exclude={"select": {"ratio"}}) for cell in (first, second)
    )
    return first.ratio == second.ratio and first_settings == second_settings


def _known(names: tuple[str, ...], allowed: dict[str, Any], what: str, path: Path) -> None:
    for name in names:
        if name not in allowed:
            raise CadcError(
                f"{path}: {what} {name!r} is unknown; choose from {', '.join(allowed)}."
            )


def _cells(file: StudyFile, path: Path) -> Iterator[Cell]:
    """Seeds outermost, so that a study cut short has all methods of its first seeds."""
    of_parts = (seed for entry in file.grid for seed in entry.seeds)
    for seed in dict.fromkeys((*file.seeds, *of_parts)):
        for number, entry in enumerate(file.grid):
            if seed not in (entry.seeds or file.seeds):
                continue
            for name in entry.datasets or file.datasets:
                dataset = file.datasets[name]
                for method, integration, ratio, features in itertools.product(
                    entry.methods,
                    entry.integrations or (None,),
                    entry.ratios or (None,),
                    _features(entry, dataset),
                ):
                    settings = {**file.set, **dataset.set, **entry.set}
                    if features:
                        settings |= dataset.features[features]
                    settings["seed"] = seed
                    if integration is not None:
                        settings["model.id_embedding"] = integration
                    if ratio is not None:
                        settings["select.ratio"] = ratio
                    try:
                        cell = _cell(file, path, entry, name, method, settings, features)
                    except CadcError as error:
                        where = f"{path}, grid.{number}, dataset {name}, method {method}"
                        raise CadcError(f"{where}: {error}") from error
                    yield cell


def _features(entry: GridEntry, dataset: DatasetEntry) -> list[str]:
    """The sets of features that the entry has on a dataset; one empty name without any."""
    if not entry.features:
        return [""]
    if entry.features[0] not in dataset.features:
        return []
    return [name for name in entry.features if name in dataset.features]


def _cell(
    file: StudyFile,
    path: Path,
    entry: GridEntry,
    name: str,
    method: str,
    settings: Settings,
    features: str,
) -> Cell:
    # JSON writes these kinds of value as TOML does, but for letters beyond 16 bits.
    sets = tuple(
        f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()
    )
    dataset = file.datasets[name]
    config = path.parent / (entry.config or dataset.config)
    experiment = load_experiment(config, method=method, overrides=sets)
    variant, over = (_joined(each, entry.variant) for each in (features, (*entry.features, "")[0]))
    over = over if variant != over else ""
    return Cell(name, dataset.title, config, method, variant, sets, experiment, over)


def _joined(features: str, variant: str) -> str:
    return "-".join(filter(None, (features, variant)))
