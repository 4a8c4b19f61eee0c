"""Curves of accuracy against share, as studies measured them: what `advise` is checked by.

In: studies that were run (``cadc-rec study``) or recorded, or a file of curves. Out: for each set,
method and split HR@10 by ratio and seed, and what a base without labelled examples reaches.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cadc_rec.config.experiment import Experiment
from cadc_rec.errors import CadcError
from cadc_rec.study.law import Curve, Point
from cadc_rec.study.report.study_data import Cell, Study
from cadc_rec.study.run.cheap_runs import LEAST_STEPS
from cadc_rec.study.usual import Kind, kind_of

Split = Literal["validation", "test"]
SPLITS: tuple[Split, ...] = ("validation", "test")
METRIC = "hr@10"


@dataclass(frozen=True)
class Recorded:
    """A curve that was measured: HR@10 of one method on one set, fractions.

    Attributes:
        base: of the base, by seed.
        values: by filtering ratio, by seed.
        users: ranked.
        seeds: that a single value is the mean of, where seeds were not told apart; else 1.
        source: the command that measured it.
    """

    set: str
    method: str
    kind: Kind
    split: Split
    users: int
    base: Mapping[str, float]
    values: Mapping[str, Mapping[str, float]]
    seeds: int = 1
    source: str = ""

    def curve(self, ratios: Iterable[float] | None = None, seed: str | None = None) -> Curve:
        """Its points at these ratios (None: all), of one seed or the mean of all."""
        wanted = self.ratios() if ratios is None else ratios
        values = ((ratio, self.values[f"{ratio:g}"]) for ratio in wanted)
        points = [self._point(1 / ratio, of, seed) for ratio, of in values]
        return Curve(self.kind, self._point(1.0, self.base, seed), tuple(points))

    def ratios(self) -> list[float]:
        """Ascending."""
        return sorted(map(float, self.values))

    def truth(self, ratio: float) -> Point:
        """The mean over all seeds."""
        return self._point(1 / ratio, self.values[f"{ratio:g}"], None)

    def _point(self, share: float, by_seed: Mapping[str, float], seed: str | None) -> Point:
        values = list(by_seed.values()) if seed is None else [by_seed[seed]]
        value = max(float(np.mean(values)), 0.5 / self.users)
        return Point(share, value, self.users, len(values) * self.seeds)


def curves_of(studies: Sequence[Study]) -> list[Recorded]:
    """The curves of studies: methods that ran at several ratios, and their base."""
    found = []
    for study in studies:
        done = [cell for cell in study.cells if cell.status == "done" and not cell.variant]
        grouped = defaultdict(list)
        for cell in done:
            grouped[cell.dataset, cell.method, cell.integration].append(cell)
        for (dataset, method, _), cells in grouped.items():
            kind, base_method = kind_of(Experiment.model_validate(cells[0].config))
            cells = [cell for cell in cells if kind == "added" or _steps(cell) >= LEAST_STEPS]
            if len({cell.ratio for cell in cells}) < 2:
                continue
            base = [c for c in done if (c.dataset, c.method) == (dataset, base_method)]
            if base:
                source = f"study {study.name}, {cells[0].finished[:10]}"
                found += [_recorded(dataset, method, kind, s, cells, base, source) for s in SPLITS]
    return found


def _steps(cell: Cell) -> int:
    """That a cell took; `advise` gives a sample with few of them a smaller batch."""
    train, rows = Experiment.model_validate(cell.config).train, cell.rows
    assert rows is not None  # the cell is done
    return train.epochs * math.ceil(rows.selected / train.sized(rows.selected).batch_size)


def _recorded(
    dataset: str,
    method: str,
    kind: Kind,
    split: Split,
    cells: Sequence[Cell],
    base: Sequence[Cell],
    source: str,
) -> Recorded:
    sample = cells[0].validation_sample
    users = sample.users if split == "validation" and sample else cells[0].users or 0
    values: dict[str, dict[str, float]] = defaultdict(dict)
    for cell in cells:
        values[f"{cell.ratio:g}"][str(cell.seed)] = _metric(cell, split)
    of_base = {str(cell.seed): _metric(cell, split) for cell in base}
    return Recorded(dataset, method, kind, split, users, of_base, dict(values), 1, source)


def _metric(cell: Cell, split: Split) -> float:
    metrics = cell.validation if split == "validation" else cell.metrics
    assert metrics is not None  # the cell is done
    return metrics[METRIC]


def read_curves(path: Path) -> list[Recorded]:
    """Recorded curves from a file.

    Raises:
        CadcError: it is not one.
    """
    try:
        return [Recorded(**one) for one in json.loads(path.read_text("utf-8"))["curves"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CadcError(f"{path}: holds no recorded curves ({error}).") from error
