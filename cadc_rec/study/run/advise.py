"""Finds the smallest share of the labelled examples that costs little accuracy, by extrapolation.

In: an experiment's file, and the part of HR@10 that may be lost. Out: an `Advice`. The method runs
in full length, but on small shares only, which together cost at most a twentieth of training on
everything; the law of `cadc_rec.study.law` says from them what larger shares reach. Only validation
items decide; the ranks of test items are never opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.study.law import Curve, Law, Point, fit
from cadc_rec.study.run.cheap_runs import CheapRuns, Measured, Runner
from cadc_rec.study.usual import Kind
from cadc_rec.updates.chain import Wanted

Standing = Literal["surely", "probably", "no"]

RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
BUDGET = 0.05
SURELY = 0.95
_FIRST_RATIO = 500.0
_PARTS = (1 / 7, 1 / 3, 1.0)  # of what is left of the budget: shares that double, and spend it
_CAREFUL = 0.9  # estimates of seconds are not exact
_LEAST_ROWS = 64
_LEAST_SHARES = 3


@dataclass(frozen=True)
class Trial:
    """The runs at one ratio, one a seed."""

    ratio: float
    runs: tuple[Measured, ...]

    @property
    def value(self) -> float:
        """HR@10 on validation, a fraction, mean of the seeds; at least half a hit."""
        return max(float(np.mean([run.value for run in self.runs])), 0.5 / self.runs[0].users)

    @property
    def seconds(self) -> float:
        """Of all seeds' runs, without the tables and validation."""
        return sum(run.seconds for run in self.runs)

    @property
    def share(self) -> float:
        """Labelled examples over all training interactions."""
        return self.runs[0].rows / self.runs[0].of


@dataclass(frozen=True)
class Cost:
    """What was spent, and what training on everything is estimated to take.

    Attributes:
        tables: seconds that the tables of all seeds took; every share needs them, and whoever
            follows the advice finds them made.
        runs: seconds of selection and training on the small shares.
        everything: estimated seconds of the steps on every row, of all seeds.
        budget: the part of `everything` that `tables` and `runs` may take.
    """

    tables: float
    runs: float
    everything: float
    budget: float

    @property
    def share(self) -> float:
        """What was spent, of what everything takes."""
        return (self.tables + self.runs) / self.everything

    @property
    def left(self) -> float:
        """Seconds for further runs: at least half of the budget goes to runs."""
        allowed = self.budget * self.everything
        return max(allowed - self.tables, allowed / 2) - self.runs


@dataclass(frozen=True)
class Predicted:
    """What the law says of one ratio.

    Attributes:
        value: HR@10 on validation, a fraction.
        interval: that of the mean of as many runs as there are seeds, 90%.
        loss: the part of HR@10 on everything that is lost, a fraction; below 0 is a gain.
        loss_interval: of the loss, 90%.
        chance: that the loss is within the tolerance.
        seconds: estimated for tables and training at this ratio, all seeds, without validation.
    """

    ratio: float
    rows: int
    value: float
    interval: tuple[float, float]
    loss: float
    loss_interval: tuple[float, float]
    chance: float
    seconds: float

    @property
    def standing(self) -> Standing:
        """Whether the loss is within the tolerance.

        Returns:
            ``surely`` with a chance of 95%, ``probably`` with one of a half, else ``no``.
        """
        return "surely" if self.chance >= SURELY else "probably" if self.chance >= 0.5 else "no"


@dataclass(frozen=True)
class Advice:
    """Which share to keep, and what it follows from.

    Attributes:
        tolerance: the loss allowed, a fraction of HR@10 on everything.
        kind: of the law.
        base_method: the tables alone.
        base: their HR@10, mean of the seeds.
        base_loss: what they lose, with the interval's ends.
        tried: the runs, by ascending ratio.
        predicted: by ascending ratio.
        chosen: the largest ratio within the tolerance; None when there is none.
    """

    method: str
    tolerance: float
    seeds: tuple[int, ...]
    kind: Kind
    base_method: str
    base: float
    base_loss: tuple[float, float, float]
    tried: tuple[Trial, ...]
    cost: Cost
    law: Law
    predicted: tuple[Predicted, ...]
    chosen: Predicted | None

    def time_share(self, one: Predicted) -> float:
        """Estimated time at a ratio over that of everything: tables and training, no validation."""
        return one.seconds / (self.cost.tables + self.cost.everything)


def advise(
    config: Path,
    tolerance: float,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    method: str | None = None,
    sets: Sequence[str] = (),
    budget: float = BUDGET,
    seeds: Sequence[int] = (),
    ratios: Sequence[float] = RATIOS,
    update: Wanted = "newest",
    run: Runner | None = None,
) -> Advice:
    """Find the smallest share of `config`'s labelled examples that loses at most `tolerance`.

    Args:
        config: the experiment's file.
        tolerance: of HR@10 on everything, a fraction.
        workdir: where artifacts live; the runs share them, and a second call finds them.
        data_dir: folder with the raw data.
        method: None takes the file's.
        sets: overrides, ``section.key=value``.
        budget: what the runs may cost, a fraction of training on everything.
        seeds: metrics are averaged over them; none takes the file's.
        ratios: the filtering ratios to choose from.
        update: which update's data to read, where there are updates of `config`'s data.
        run: makes the runs; None makes them with pipelines over `workdir`.

    Raises:
        CadcError: the method trains on no sample, there is too little data, a ratio leaves no row
            of it, or nothing is found.
    """
    run = run or CheapRuns(config, workdir, data_dir, sets, method, update)
    seeds = tuple(seeds) or (run.seed,)
    _require_enough(run.rows(), max(ratios))
    trials = _trials(run, seeds, budget)
    base = _base(run, seeds, trials)
    users, count = trials[0].runs[0].users, len(seeds)
    points = tuple(Point(trial.share, trial.value, users, count) for trial in trials)
    law = fit(Curve(run.kind, Point(1.0, base, users, count), points))
    cost = _cost(trials, budget)
    predicted = _predict(law, tolerance, sorted(set(ratios)), trials, cost, count)
    within = [one for n, one in enumerate(predicted) if _all_within(predicted[: n + 1])]
    return Advice(
        method=run.method,
        tolerance=tolerance,
        seeds=seeds,
        kind=run.kind,
        base_method=run.base_method,
        base=base,
        base_loss=law.base_loss(),
        tried=tuple(sorted(trials, key=lambda trial: trial.ratio)),
        cost=cost,
        law=law,
        predicted=predicted,
        chosen=within[-1] if within else None,
    )


def _all_within(predicted: Sequence[Predicted]) -> bool:
    return all(one.standing != "no" for one in predicted)


def _require_enough(rows: int, largest_ratio: float) -> None:
    if rows / _LEAST_ROWS < 2.0 * _LEAST_SHARES:
        raise CadcError(
            f"there are only {rows:,} training interactions, too few for runs on parts of them; "
            "use everything."
        )
    if largest_ratio > rows:
        raise CadcError(
            f"--ratios {largest_ratio:g}: there are only {rows:,} training interactions; give at "
            f"most {rows:,}."
        )


def _trials(run: Runner, seeds: tuple[int, ...], budget: float) -> list[Trial]:
    """Runs on shares that double, as far as the budget goes; at least three, whatever they cost."""
    rows = run.rows()
    largest = rows / _LEAST_ROWS

    def made(ratio: float) -> Trial:
        trial = Trial(ratio, tuple(run(ratio, seed) for seed in seeds))
        log.info("advise: 1 in %g reaches HR@10 %.2f%%", ratio, 100 * trial.value)
        return trial

    trials = [made(_round_up(min(_FIRST_RATIO, largest)))]
    for part in _PARTS:
        ratio = _next_ratio(trials, part, budget)
        if ratio is not None:
            trials.append(made(ratio))
    while len(trials) < _LEAST_SHARES:  # the budget does not pay for what a law needs
        trials.append(made(_round_up(max(trials[-1].ratio / 2, 1.0))))
    return trials


def _next_ratio(trials: Sequence[Trial], part: float, budget: float) -> float | None:
    """The smallest ratio whose runs take at most `part` of what is left; None if none is larger."""
    seconds = _CAREFUL * part * _cost(trials, budget).left
    last, speed = trials[-1], _speed(trials)

    def estimated(ratio: float) -> float:
        return sum(
            run.fixed_seconds
            + speed.of(max(run.everything_steps / ratio, run.steps), run.of * run.epochs / ratio)
            for run in last.runs
        )

    affordable = [r for r in np.geomspace(1.0, last.ratio / 1.2, 200) if estimated(r) <= seconds]
    return _round_up(float(affordable[0])) if affordable else None


@dataclass(frozen=True)
class _Speed:
    """Seconds of a step, and of a row in one."""

    step: float
    row: float

    def of(self, steps: float, visits: float) -> float:
        return self.step * steps + self.row * visits


def _speed(trials: Sequence[Trial]) -> _Speed:
    """What suits all runs best, each counted by its relative error.

    One run does not tell steps from rows; all is then put down to steps, so that everything is
    estimated to take less rather than more, and the budget is smaller rather than larger.
    """
    runs = [run for trial in trials for run in trial.runs]
    rows = len(trials) > 1
    parts = np.array([[run.steps, run.visits * rows] for run in runs], np.float64)
    seconds = np.array([max(run.training_seconds, 1e-9) for run in runs])
    step, row = nnls(parts / seconds[:, None], np.ones(len(runs)))[0]
    return _Speed(float(step), float(row))


def _round_up(ratio: float) -> float:
    """To two digits, so that an estimate's noise seldom makes another artifact."""
    unit = 10.0 ** (math.floor(math.log10(ratio)) - 1)
    return round(math.ceil(ratio / unit - 1e-9) * unit, 6)


def _cost(trials: Sequence[Trial], budget: float) -> Cost:
    last, speed = trials[-1].runs, _speed(trials)
    return Cost(
        tables=sum(run.tables_seconds for run in last),
        runs=sum(trial.seconds for trial in trials),
        everything=sum(speed.of(run.everything_steps, run.of * run.epochs) for run in last),
        budget=budget,
    )


def _base(run: Runner, seeds: Sequence[int], trials: Sequence[Trial]) -> float:
    """HR@10 of the tables alone, mean of the seeds, from the runs where they measured it."""
    measured = [one.base for one in trials[-1].runs]
    values = [run.base(s) if m is None else m for s, m in zip(seeds, measured, strict=True)]
    base = float(np.mean(values))
    if base == 0.0:
        raise CadcError(
            f"{run.base_method} has a validation HR@10 of 0, so no loss can be measured; use more "
            "data."
        )
    return base


def _predict(
    law: Law,
    tolerance: float,
    ratios: Sequence[float],
    trials: Sequence[Trial],
    cost: Cost,
    seeds: int,
) -> tuple[Predicted, ...]:
    of = trials[0].runs[0].of
    shares = [1.0 / ratio for ratio in ratios]
    band, loss = law.band(shares, seeds), law.loss(shares)
    return tuple(
        Predicted(
            ratio=ratio,
            rows=round(of / ratio),
            value=float(band.value[n]),
            interval=(float(band.low[n]), float(band.high[n])),
            loss=float(loss.value[n]),
            loss_interval=(float(loss.low[n]), float(loss.high[n])),
            chance=law.chance_within(1.0 / ratio, tolerance),
            seconds=cost.tables + cost.everything / ratio,
        )
        for n, ratio in enumerate(ratios)
    )
