"""The law of accuracy against the share of labelled examples, fitted with an interval.

In: a metric measured at a few shares, and what the base, a model without examples, reaches. Out:
a `Law`, which gives the metric and the loss at any share up to everything, each with an interval.
NumPy only; nothing here knows of files or of training.

The logarithm of the metric rises over shares s from a floor at no example to a top at all of them:

    log y(s) = log base + floor + (top - floor) H(s),    H(0) = 0, H(1) = 1

H is one of three curves with an exponent c and a knee k that fit learning curves best in the
collection LCDB 1.1 (arXiv:2505.15657): a shifted power law, the curve of Morgan, Mercer and Flodin,
and Weibull's. Few cheap runs do not tell these parameters, so a fit is Bayesian: curves are drawn
from what is usual (`cadc_rec.study.usual`, learned from recorded curves by `learn`) and weighted by
how well they meet the runs, as those of Domhan, Springenberg and Hutter 2015 are by a training's
first epochs. The base is a model that is there before any example is seen, so the runs need to tell
only how far from it the curve goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cadc_rec.study.usual import USUAL, Around, Kind, Usual

Floats = NDArray[np.float64]
LEVEL = 0.9
DRAWS = 10_000  # of each family of curves
DEGREES = 3  # of freedom, of floor and top
_SHAPE = ("exponent", "knee", "noise")
_PARAMETERS = ("floor", "top", *_SHAPE)
_LEAST_ESS = 100.0  # draws that carry the weight; fewer would make an interval of their accidents
_MOST_WIDENED = 1e4


@dataclass(frozen=True)
class Point:
    """A metric that was measured.

    Attributes:
        share: of the labelled examples, above 0 and at most 1.
        value: of the metric, a fraction above 0; the mean of `seeds` runs.
        users: ranked in each.
    """

    share: float
    value: float
    users: int
    seeds: int = 1


@dataclass(frozen=True)
class Curve:
    """The points of one method on one set, and the base they rise from."""

    kind: Kind
    base: Point
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Band:
    """Estimates with their intervals; float64 ``[shares]`` each."""

    shares: Floats
    value: Floats
    low: Floats
    high: Floats


def shifted_power(share: Floats, c: Floats, k: Floats) -> Floats:
    """1 less (1 + s / k)^-c, brought to one at s = 1."""
    return np.expm1(-c * np.log1p(share / k)) / np.expm1(-c * np.log1p(1 / k))


def morgan_mercer_flodin(share: Floats, c: Floats, k: Floats) -> Floats:
    """s^c / (k^c + s^c), brought to one at s = 1."""
    return (1 + k**c) / (1 + (k / share) ** c)


def weibull(share: Floats, c: Floats, k: Floats) -> Floats:
    """1 less exp(-(s / k)^c), brought to one at s = 1."""
    return np.expm1(-((share / k) ** c)) / np.expm1(-(k**-c))


FAMILIES = (shifted_power, morgan_mercer_flodin, weibull)


@dataclass(frozen=True)
class Law:
    """A fitted law: curves that were drawn, and the weight that the runs give each.

    Attributes:
        users: ranked in a run.
    """

    curves: _Curves
    users: int

    @property
    def widened(self) -> float:
        """How many times the usual variance runs were taken to have, as no usual curve met them."""
        return self.curves.widened

    def band(self, shares: ArrayLike, seeds: int | None = 1, level: float = LEVEL) -> Band:
        """The metric at each share.

        Args:
            shares: above 0, at most 1.
            seeds: the interval is that of the mean of so many runs over the same users; None is
                that of the law itself, as if of endlessly many.
            level: of the interval.
        """
        at = np.atleast_1d(np.asarray(shares, np.float64))
        logs = self.curves.logs(at)
        if seeds is not None:
            added = self.curves.of_run(_of_users(np.exp(logs), self.users) / seeds)
            logs = logs + np.sqrt(added) * self.curves.unlike(at)
        return self._band(at, np.minimum(np.exp(logs), 1.0), level)  # no metric is above 1

    def loss(self, shares: ArrayLike, level: float = LEVEL) -> Band:
        """What is lost against everything, a fraction of it, at each share; below 0 is a gain."""
        at = np.atleast_1d(np.asarray(shares, np.float64))
        lost = -np.expm1(self.curves.logs(at) - self.curves.top_log[:, None])
        return self._band(at, lost, level)

    def chance_within(self, share: float, tolerance: float) -> float:
        """How likely it is that the loss at `share` is at most `tolerance`."""
        lost = -np.expm1(self.curves.logs(np.array([share]))[:, 0] - self.curves.top_log)
        return float(self.curves.weights[lost <= tolerance + 1e-12].sum())

    def base_loss(self, level: float = LEVEL) -> tuple[float, float, float]:
        """What the base alone loses against everything, and the ends of its interval."""
        lost = -np.expm1(-self.curves.drawn["top"])
        band = self._band(np.zeros(1), lost[:, None], level)
        return float(band.value[0]), float(band.low[0]), float(band.high[0])

    def _band(self, shares: Floats, values: Floats, level: float) -> Band:
        tails = [0.5, (1 - level) / 2, (1 + level) / 2]
        weights = self.curves.weights
        found = np.array([_quantiles(column, weights, tails) for column in values.T])
        return Band(shares, *np.ascontiguousarray(found.T))


def fit(curve: Curve, usual: Usual | None = None, seed: int = 0) -> Law:
    """Fit the law to what was measured.

    Args:
        curve: the points; none gives what is usual above the base.
        usual: what is usual for such curves; None takes `USUAL`.
        seed: of the draws; the same seed and points give the same law.

    Raises:
        ValueError: a share or a value is not above 0, or a share is above 1.
    """
    for point in (curve.base, *curve.points):
        if not (0 < point.share <= 1 and 0 < point.value <= 1 and point.users > 0):
            raise ValueError(f"not a share and a metric that can be fitted: {point}")
    usual = usual or USUAL[curve.kind]
    users = (*curve.points, curve.base)[0].users
    widened = 1.0
    while True:
        curves = _Curves(curve, usual, seed, widened)
        if 1 / np.sum(curves.weights**2) >= _LEAST_ESS or widened > _MOST_WIDENED:
            return Law(curves, users)
        widened *= 2.0


def learn(curves: Sequence[Curve], start: Usual, rounds: int = 8) -> Usual:
    """What is usual for curves of one kind, from recorded ones: empirical Bayes, by EM.

    Each round fits every curve with what the last round found usual, then takes the mean and the
    variance of the fitted parameters over all curves; in the heavy tails of floor and top a curve
    counts less. `start` counts as one curve for the means and as two for the variances, so that few
    curves do not make a narrow law.
    """
    usual = start
    for _ in range(rounds):
        laws = [fit(curve, usual) for curve in curves]
        learned = {}
        for name in _PARAMETERS:
            counts, sums, squares = (
                sum(law.curves.moment(name, power) for law in laws) for power in (0, 1, 2)
            )
            first = getattr(start, name)
            mean = (first.mean + sums) / (1 + counts)
            about_it = squares - 2 * mean * sums + counts * mean**2 + (first.mean - mean) ** 2
            variance = (2 * first.deviation**2 + about_it) / (2 + len(curves))
            learned[name] = Around(mean, math.sqrt(variance))
        usual = Usual(misfit=start.misfit, **learned)
    return usual


class _Curves:
    """Curves drawn to meet points: a shape each, and base, floor and top as Bayes' rule has them.

    Given exponent, knee, noise and how far in their tails floor and top are, log y is linear in
    the logarithms of base, floor and top, and all are normal. So only the former are drawn from
    what is usual and weighted; the rest follows exactly, point after point.
    """

    def __init__(self, curve: Curve, usual: Usual, seed: int, widened: float) -> None:
        self.seed, self.misfit, self.widened = seed, usual.misfit, widened
        random, count = np.random.default_rng(seed), DRAWS * len(FAMILIES)
        self.drawn = {name: _draw(random, getattr(usual, name), count) for name in _SHAPE}
        self.c, self.k = (np.exp(self.drawn[name])[:, None] for name in ("exponent", "knee"))
        base = curve.base
        mean = np.tile([math.log(base.value), usual.floor.mean, usual.top.mean], (count, 1))
        spread = np.zeros((count, 3, 3))
        spread[:, 0, 0] = widened * np.exp(self.drawn["noise"]) * _variance(base)
        self.tails = {name: DEGREES / random.chisquare(DEGREES, count) for name in ("floor", "top")}
        spread[:, 1, 1] = self.tails["floor"] * usual.floor.deviation**2
        spread[:, 2, 2] = self.tails["top"] * usual.top.deviation**2
        likely = np.zeros(count)
        heights = self.heights(np.array([point.share for point in curve.points]))
        for n, point in enumerate(curve.points):
            on = np.stack([np.ones(count), 1 - heights[:, n], heights[:, n]], axis=1)
            seen = np.einsum("nij,nj->ni", spread, on)
            of_run = self.of_run(_variance(point))
            variance = np.einsum("ni,ni->n", on, seen) + of_run
            far = math.log(point.value) - np.einsum("ni,ni->n", on, mean)
            gain = seen / variance[:, None]
            mean = mean + gain * far[:, None]
            spread = spread - gain[:, :, None] * seen[:, None, :]
            likely -= 0.5 * (far**2 / variance + np.log(variance))
        weights = np.exp(likely - likely.max())
        self.weights: Floats = weights / weights.sum()
        parts = mean + _correlated(spread, random.standard_normal((count, 3)))
        self.base_log, self.drawn["floor"], self.drawn["top"] = parts.T

    def of_run(self, variance: ArrayLike) -> Floats:
        """Variance that a run adds to log y, given that with users drawn anew; ``[curves]`` first.

        Args:
            variance: a number, or ``[curves, shares]``.
        """
        noise = np.exp(self.drawn["noise"])
        factor = noise if np.ndim(variance) == 0 else noise[:, None]
        found: Floats = self.widened * (factor * np.asarray(variance) + self.misfit**2)
        return found

    @cached_property
    def top_log(self) -> Floats:
        """Log of the metric on everything; ``[curves]``."""
        return self.base_log + self.drawn["top"]

    def logs(self, shares: Floats) -> Floats:
        """Log of the metric; ``[curves, shares]``."""
        floor = self.drawn["floor"]
        rise = (self.drawn["top"] - floor)[:, None] * self.heights(shares)
        return (self.base_log + floor)[:, None] + rise

    def heights(self, shares: Floats) -> Floats:
        """H; ``[curves, shares]``, the families' one after the other."""
        parts = [slice(n * DRAWS, (n + 1) * DRAWS) for n in range(len(FAMILIES))]
        return np.concatenate(
            [
                family(shares[None, :], self.c[part], self.k[part])
                for family, part in zip(FAMILIES, parts, strict=True)
            ]
        )

    def unlike(self, shares: Floats) -> Floats:
        """A standard normal number for each curve and share, for what a run adds to the law."""
        random = np.random.default_rng([self.seed, 1])
        return random.standard_normal((len(self.c), len(shares)))

    def moment(self, name: str, power: int) -> float:
        """Mean of a parameter's power, over that of its tail where it has one."""
        return float((self.weights / self.tails.get(name, 1.0)) @ self.drawn[name] ** power)


def _correlated(covariance: Floats, independent: Floats) -> Floats:
    """Around numbers ``[n, m]`` of these covariances ``[n, m, m]``, which may be singular."""
    values, vectors = np.linalg.eigh(covariance)
    return np.einsum("nij,nj->ni", vectors, np.sqrt(np.maximum(values, 0.0)) * independent)


def _draw(random: np.random.Generator, normal: Around, count: int) -> Floats:
    return normal.mean + normal.deviation * random.standard_normal(count)


def _variance(point: Point) -> float:
    """Of log y for the mean of a point's runs, if their users were drawn anew."""
    return float(_of_users(point.value, point.users)) / point.seeds


def _of_users(value: ArrayLike, users: int) -> Floats:
    hits = np.asarray(value, np.float64)
    return np.maximum(1 - hits, 0.0) / (np.maximum(hits, 1e-6) * users)


def _quantiles(values: Floats, weights: Floats, at: Sequence[float]) -> list[float]:
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    places = np.minimum(np.searchsorted(below, at), len(values) - 1)
    return [float(values[order[place]]) for place in places]
