"""How curves of accuracy against share usually run, by kind of method.

It is what `cadc_rec.study.law` knows before it has seen a run of the set in question.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cadc_rec.config.experiment import Experiment

Kind = Literal["added", "frozen", "alone"]
"""What a share of examples is added to: towers that begin as their tables (``added``), towers over
frozen vectors (``frozen``; the base is these vectors alone), or nothing (``alone``; the base is
popularity)."""


def kind_of(experiment: Experiment) -> tuple[Kind, str]:
    """How the method's curve runs, and the method that is its base; see `Kind`."""
    model, pretrain = experiment.model, experiment.pretrain.model
    if experiment.prior.use:
        return "added", "prior"
    if pretrain in ("mf", "als"):
        return ("added" if model.keep == "better" else "frozen"), pretrain
    return "alone", "popularity"


@dataclass(frozen=True)
class Around:
    """Where a parameter usually is, and how far from there."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Usual:
    """How curves of one kind usually run.

    Floor and top have Student's t distribution with three degrees of freedom, whose tails leave
    room for a set that is unlike all others; the rest is normal. All are independent.

    Attributes:
        floor: log of the metric without examples, over the base.
        top: log of the metric on everything, over the base.
        exponent: log of c.
        knee: log of k, a share.
        noise: log of the factor by which one run's variance differs from that of a metric whose
            users are drawn anew, (1 - y) / (y users) for log y. Runs rank the same users, so it
            is usually below 1.
        misfit: standard deviation, in log y, of what no curve of the families has.
    """

    floor: Around
    top: Around
    exponent: Around
    knee: Around
    noise: Around
    misfit: float


BROAD: Mapping[Kind, Usual] = {
    "added": Usual(
        floor=Around(0.0, 0.005),
        top=Around(0.05, 0.06),
        exponent=Around(math.log(0.6), 0.5),
        knee=Around(math.log(0.05), 1.5),
        noise=Around(math.log(0.2), 0.7),
        misfit=0.01,
    ),
    "frozen": Usual(
        floor=Around(-0.7, 0.4),
        top=Around(0.0, 0.06),
        exponent=Around(math.log(0.6), 0.5),
        knee=Around(math.log(0.02), 1.5),
        noise=Around(math.log(0.4), 0.7),
        misfit=0.01,
    ),
    "alone": Usual(
        floor=Around(-0.4, 0.3),
        top=Around(0.6, 0.3),
        exponent=Around(math.log(0.8), 0.5),
        knee=Around(math.log(0.3), 1.5),
        noise=Around(math.log(0.5), 0.7),
        misfit=0.01,
    ),
}
"""Where learning starts: chosen by hand, wide."""

USUAL: Mapping[Kind, Usual] = {
    "added": Usual(
        floor=Around(0.0, 0.005),
        top=Around(0.047, 0.046),
        exponent=Around(-0.405, 0.458),
        knee=Around(-2.26, 1.58),
        noise=Around(-1.743, 0.691),
        misfit=0.01,
    ),
    "frozen": Usual(
        floor=Around(-0.617, 0.289),
        top=Around(0.007, 0.043),
        exponent=Around(-0.574, 0.428),
        knee=Around(-4.47, 1.195),
        noise=Around(-1.019, 0.662),
        misfit=0.01,
    ),
    "alone": Usual(
        floor=Around(-0.348, 0.216),
        top=Around(0.567, 0.22),
        exponent=Around(-0.441, 0.433),
        knee=Around(-0.332, 1.364),
        noise=Around(-0.32, 0.719),
        misfit=0.01,
    ),
}
"""Learned from recorded curves: ``python -m benchmarks.advice --learn
benchmarks/recorded/curves.json`` prints it, and a test compares."""
