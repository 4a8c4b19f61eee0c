"""Finds the smallest share of the data that costs little accuracy, with a few short runs.

In: an experiment's file, and the part of a metric that may be lost. Out: an `Advice`. CADC is run
at a few filtering ratios, found by bisection, and each is compared, user by user, with a reference
trained on every row. Only validation items decide; the ranks of test items are never opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import Comparison, UserGains, mean_gains, paired_bootstrap
from cadc_rec.log import log
from cadc_rec.study.run.short_runs import Measured, Runner, ShortRuns

Reference = Literal["auto", "gold", "cadc"]
Standing = Literal["surely", "probably", "no"]

RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
START = 10.0
BUDGET_SECONDS = 1800.0
METRIC = "hr@10"
_ROUNDING = 1e-9  # so that rounding does not put a loss of exactly the tolerance outside it


@dataclass(frozen=True)
class Trial:
    """The short runs of one method at one ratio, one run a seed.

    Attributes:
        value: the metric on validation, a fraction, mean of the seeds.
        against: this trial against the reference; None for the reference itself.
    """

    method: str
    ratio: float
    runs: tuple[Measured, ...]
    value: float
    against: Comparison | None = None

    @property
    def seconds(self) -> float:
        """Seconds of one short run without validation, mean of the seeds."""
        return float(np.mean([run.fixed_seconds + run.training_seconds for run in self.runs]))

    @property
    def full_seconds(self) -> float:
        """Estimate of `seconds` for all the epochs that the file asks for."""
        spent = [
            run.fixed_seconds + run.training_seconds * run.full_epochs / run.epochs
            for run in self.runs
        ]
        return float(np.mean(spent))

    @property
    def loss(self) -> float:
        """The part of the reference's metric that is lost, a fraction; below 0 is a gain."""
        if self.against is None or self.against.relative is None:
            return 0.0
        return -self.against.relative / 100.0

    @property
    def loss_interval(self) -> tuple[float, float] | None:
        """95% interval of `loss`; None where there are too few hits for one."""
        if self.against is None or self.against.relative_interval is None:
            return None
        low, high = self.against.relative_interval
        return -high / 100.0, -low / 100.0

    def standing(self, tolerance: float) -> Standing:
        """Whether the loss is at most `tolerance`.

        Returns:
            ``surely`` where its whole interval is, ``probably`` where only the estimate is, else
            ``no``.
        """
        if self.loss > tolerance + _ROUNDING:
            return "no"
        interval = self.loss_interval
        surely = interval is not None and interval[1] <= tolerance + _ROUNDING
        return "surely" if surely else "probably"


@dataclass(frozen=True)
class Advice:
    """Which share to keep, and every trial that led to it.

    Attributes:
        tolerance: the loss allowed, a fraction of the reference's metric.
        reference: gold (the towers trained on everything), or CADC on everything.
        reason: why that reference.
        tried: CADC at each ratio that was run, ascending.
        chosen: the one with the largest ratio within the tolerance; None when there is none.
    """

    metric: str
    tolerance: float
    seeds: tuple[int, ...]
    reference: Trial
    reason: str
    tried: tuple[Trial, ...]
    chosen: Trial | None

    def time_share(self, trial: Trial) -> float:
        """Estimated time of `trial` over the reference's: all epochs, without validation."""
        return trial.full_seconds / self.reference.full_seconds


def advise(
    config: Path,
    tolerance: float,
    workdir: Path,
    data_dir: Path | None = None,
    *,
    epochs: int | None = None,
    sets: Sequence[str] = (),
    reference: Reference = "auto",
    budget_seconds: float = BUDGET_SECONDS,
    seeds: Sequence[int] = (),
    metric: str = METRIC,
    ratios: Sequence[float] = RATIOS,
    run: Runner | None = None,
) -> Advice:
    """Find the smallest share of `config`'s data that loses at most `tolerance`.

    Args:
        config: the experiment's file.
        tolerance: of the reference's metric, a fraction.
        workdir: where artifacts live; the runs share them, and a second call finds them.
        data_dir: folder with the raw data.
        epochs: of every short run; None takes a fifth of the file's, at least 5.
        sets: overrides, ``section.key=value``.
        reference: what to compare with; ``auto`` is gold, unless its short runs are estimated to
            take longer than `budget_seconds`, and then CADC on everything.
        budget_seconds: for gold's short runs.
        seeds: gains are averaged over them; none takes the file's.
        metric: ``hr@K`` or ``ndcg@K``.
        ratios: the filtering ratios to choose from.
        run: makes the short runs; None makes them with pipelines over `workdir`.

    Raises:
        CadcError: the experiment cannot be run so, or the reference finds nothing.
    """
    if run is None:
        run = ShortRuns(config, workdir, data_dir, sets, epochs)
        for method in ("cadc",) if reference == "cadc" else ("cadc", "gold"):
            run.experiment(method, START, run.seed)  # fails now, not after an hour
        seeds = seeds or (run.seed,)
    seeds = tuple(seeds) or (0,)
    trials = _Trials(run, seeds, metric)
    ratios = sorted(set(ratios))
    start = START if START in ratios else ratios[(len(ratios) - 1) // 2]
    method, reason = str(reference), "asked for"
    if reference == "auto":
        method, reason = _affordable(trials.runs("cadc", start), budget_seconds)
        log.info("advise: %s", reason)
    base = trials.trial(method, 1.0)
    tried: dict[float, Trial] = {}

    def within(ratio: float) -> bool:
        tried[ratio] = trials.trial("cadc", ratio, base)
        log.info("advise: ratio %g loses %.1f%% of %s", ratio, 100 * tried[ratio].loss, metric)
        return tried[ratio].standing(tolerance) != "no"

    # CADC on everything is no candidate where it is what the others are compared with.
    candidates = [ratio for ratio in ratios if method == "gold" or ratio > 1.0]
    best = largest_within(candidates, within, start)
    in_order = tuple(tried[ratio] for ratio in sorted(tried))
    chosen = None if best is None else tried[best]
    return Advice(metric, tolerance, seeds, base, reason, in_order, chosen)


def largest_within(
    ratios: Sequence[float], within: Callable[[float], bool], start: float
) -> float | None:
    """The largest of the ascending `ratios` for which `within` is true, by few calls of it.

    It bisects, so it assumes that every ratio below one that is within is within too. `within` was
    called and was true for the ratio returned, and was false for the next larger one.
    """
    low, high = -1, len(ratios)
    probe = list(ratios).index(start) if start in ratios else (low + high) // 2
    while high - low > 1:
        low, high = (probe, high) if within(ratios[probe]) else (low, probe)
        probe = (low + high) // 2
    return ratios[low] if low >= 0 else None


def _affordable(first: Sequence[Measured], budget_seconds: float) -> tuple[str, str]:
    """The reference: gold if its estimated time fits the budget; and the reason, for the user."""
    # As many interactions a second as in the first runs, all rows, as many epochs.
    estimate = sum(run.training_seconds * run.of / run.rows for run in first)
    found = f"gold's short runs are estimated at {estimate / 60:.1f} minutes"
    budget = f"the budget of {budget_seconds / 60:g}"
    if estimate <= budget_seconds:
        return "gold", f"{found}, within {budget}"
    return "cadc", f"{found}, more than {budget}, so CADC on everything takes gold's place"


@dataclass
class _Trials:
    """Makes each short run once, and keeps it."""

    run: Runner
    seeds: tuple[int, ...]
    metric: str
    _made: dict[tuple[str, float], tuple[Measured, ...]] = field(default_factory=dict)

    def runs(self, method: str, ratio: float) -> tuple[Measured, ...]:
        key = (method, ratio)
        if key not in self._made:
            self._made[key] = tuple(self.run(method, ratio, seed) for seed in self.seeds)
        return self._made[key]

    def trial(self, method: str, ratio: float, base: Trial | None = None) -> Trial:
        runs = self.runs(method, ratio)
        gains = self._gains(runs)
        value = float(np.mean(gains.gains))
        if base is not None:
            against = paired_bootstrap(gains, self._gains(base.runs))
            return Trial(method, ratio, runs, value, against)
        if value == 0.0:
            raise CadcError(
                f"{method} on everything has a validation {self.metric.upper()} of 0, so no loss "
                "can be measured; use more --epochs or more data."
            )
        return Trial(method, ratio, runs, value)

    def _gains(self, runs: Sequence[Measured]) -> UserGains:
        return mean_gains([(run.users, run.ranks) for run in runs], self.metric)
