"""What `advise` says of larger shares beside what was measured there.

- `check_cells`: the law gets the cells of one seed at the smallest shares that together cost at
  most 5% of training on everything, and the base. Validation and test are checked apart, each from
  runs measured on the same. Nothing is run. Cells of fewer than 200 steps are left out: `advise`
  would have given them a smaller batch.
- `check_advise`: the command itself, on validation: it chooses and makes its own runs, in the
  study's work folder.

Runs and truth rank the same users, so which users were drawn is no error of a prediction here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.advice.curves import Recorded, Split, curves_of
from benchmarks.advice.usual import usual_without
from cadc_rec.study.law import fit
from cadc_rec.study.report.study_data import Cell, load_studies
from cadc_rec.study.report.study_data import Study as Measured
from cadc_rec.study.run.advise import BUDGET, Advice, advise
from cadc_rec.study.run.grid import Study

_LEAST_POINTS = 2


@dataclass(frozen=True)
class Checked:
    """One prediction and its truth; values are fractions.

    Attributes:
        cost: of the runs it was made from, tables included, over training on everything.
        truth_seeds: whose mean the truth is.
    """

    set: str
    method: str
    split: Split
    ratio: float
    seed: str
    cost: float | None
    predicted: float
    low: float
    high: float
    truth: float
    truth_seeds: int

    @property
    def inside(self) -> bool:
        """Whether the truth lies in the interval."""
        return self.low <= self.truth <= self.high

    @property
    def half_width(self) -> float:
        """Of the interval, over the prediction."""
        return (self.high - self.low) / 2 / self.predicted


def cheap_ratios(ratios: Sequence[float], budget: float = BUDGET) -> list[float]:
    """The smallest shares whose sum is within the budget."""
    found: list[float] = []
    for ratio in sorted(ratios, reverse=True):
        if sum(1 / r for r in (*found, ratio)) > budget:
            break
        found.append(ratio)
    return found


def costs_of(studies: Sequence[Measured]) -> dict[tuple[str, str, str, float], tuple[float, float]]:
    """Seconds, as studies count them: of tables, and of selection and training.

    By set, method, seed and ratio.
    """
    found = {}
    for study in studies:
        for cell in study.cells:
            if cell.seconds is not None and not cell.variant:
                s = cell.timed
                tables = s.pretrain + s.transitions + s.prior
                key = cell.dataset, cell.method, str(cell.seed), cell.ratio
                found[key] = tables, s.select + s.train - _validation_of(cell)
    return found


def _validation_of(cell: Cell) -> float:
    """Validation seconds of training; those of pre-training are not told apart, and are few."""
    return min(cell.timed.validation, cell.timed.train)


def check_cells(
    curves: Sequence[Recorded],
    costs: Mapping[tuple[str, str, str, float], tuple[float, float]],
    known: Sequence[Recorded] = (),
) -> Iterator[Checked]:
    """Predict the larger shares of every curve from one seed's cells at small ones.

    Args:
        curves: to check.
        costs: see `costs_of`.
        known: further curves to learn what is usual from.
    """
    for one in curves:
        cheap = cheap_ratios(one.ratios())
        if len(cheap) < _LEAST_POINTS:
            continue
        usual = usual_without([*curves, *known], one)
        larger = [ratio for ratio in one.ratios() if ratio not in cheap]
        for seed in one.base:
            if any(seed not in one.values[f"{ratio:g}"] for ratio in cheap):
                continue
            law = fit(one.curve(cheap, seed), usual)
            cost = _cost(one, costs, cheap, seed)
            for ratio in larger:
                truth = one.truth(ratio)
                band = law.band(truth.share, truth.seeds)
                ends = float(band.value[0]), float(band.low[0]), float(band.high[0])
                place = one.set, one.method, one.split, ratio, seed, cost
                yield Checked(*place, *ends, truth.value, truth.seeds)


def _cost(
    one: Recorded,
    costs: Mapping[tuple[str, str, str, float], tuple[float, float]],
    cheap: Sequence[float],
    seed: str,
) -> float | None:
    """Of the cheap cells and the tables over the steps of everything; None if that was not run."""
    everything = costs.get((one.set, one.method, seed, 1.0))
    spent = [costs.get((one.set, one.method, seed, ratio)) for ratio in cheap]
    if everything is None or None in spent:
        return None
    runs = [each for each in spent if each is not None]
    return (runs[0][0] + sum(seconds for _, seconds in runs)) / everything[1]


def check_advise(
    study: Study, folder: Path, workdir: Path, data_dir: Path | None
) -> Iterator[Checked]:
    """Call `advise` for each method, set and seed of a study, and compare with its cells."""
    curves = curves_of(load_studies(folder))
    truths = {(c.set, c.method): c for c in curves if c.split == "validation"}
    asked = set()
    for cell in study.cells:
        one = truths.get((cell.dataset, cell.method))
        key = cell.dataset, cell.method, cell.experiment.seed
        if one is None or key in asked or cell.variant:
            continue
        asked.add(key)
        sets = [s for s in cell.sets if not s.startswith(("seed=", "select.ratio="))]
        found = advise(
            cell.config,
            0.05,
            workdir,
            data_dir,
            method=cell.method,
            sets=sets,
            seeds=(cell.experiment.seed,),
            ratios=one.ratios(),
        )
        yield from _of_advice(found, one, str(cell.experiment.seed))


def _of_advice(found: Advice, one: Recorded, seed: str) -> Iterator[Checked]:
    largest_run = found.tried[0].ratio
    for predicted in found.predicted:
        if predicted.ratio >= largest_run:
            continue  # that share was run, or a larger one
        truth = one.truth(predicted.ratio)
        band = found.law.band(truth.share, truth.seeds)
        ends = float(band.value[0]), float(band.low[0]), float(band.high[0])
        place = one.set, one.method, one.split, predicted.ratio, seed, found.cost.share
        yield Checked(*place, *ends, truth.value, truth.seeds)
