"""How sure a difference between two methods is: spread over seeds, bootstrap over users.

In: metrics of a few seeds, or the ranks of every user's held-out item. Out: means, deviations,
intervals and a plain verdict; what is left of many verdicts, and how many users one would take.
NumPy only; nothing here knows of files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import rank_gains

Verdict = Literal["better", "worse", "cannot tell"]
Interval = tuple[float, float]

RESAMPLES = 10_000
LEVEL = 0.95
POWER = 0.8
# Counts drawn at once: 32 MiB of 64-bit integers.
_BLOCK = 1 << 22


@dataclass(frozen=True)
class Spread:
    """Mean of a few seeds, and their sample standard deviation (None for a single seed)."""

    mean: float
    deviation: float | None
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (divisor n - 1) of at least one value.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to average")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def percent_difference(value: float, reference: float) -> float | None:
    """How far `value` is from `reference`, in percent of it; None where that is 0."""
    return 100.0 * (value - reference) / reference if reference else None


@dataclass(frozen=True)
class UserGains:
    """What each user adds to a metric, averaged over seeds.

    Attributes:
        users: ids, ascending and different; ``[users]``.
        gains: from 0 to 1, float64; ``[users]``.
    """

    users: np.ndarray
    gains: np.ndarray


def mean_gains(seeds: Sequence[tuple[np.ndarray, np.ndarray]], metric: str) -> UserGains:
    """Average each user's gain over the seeds of one method.

    Args:
        seeds: for each seed the users' ids and their ranks, both ``[users]``, in any order.
        metric: such as ``hr@K`` or ``ndcg@K``, see `rank_gains`.

    Raises:
        CadcError: a user occurs twice, or the seeds have different users.
        ValueError: no seeds, or no such metric.
    """
    if not seeds:
        raise ValueError("no seeds to average")
    orders = [np.argsort(users, kind="stable") for users, _ in seeds]
    ids = [users[order] for (users, _), order in zip(seeds, orders, strict=True)]
    known = ids[0]
    if (known[1:] == known[:-1]).any():
        raise CadcError("a user occurs twice in one file of ranks; evaluate that cell anew.")
    for others in ids[1:]:
        _same_users(known, others)
    gains = [
        rank_gains(ranks[order], metric) for (_, ranks), order in zip(seeds, orders, strict=True)
    ]
    return UserGains(known, np.mean(gains, axis=0))


@dataclass(frozen=True)
class Comparison:
    """Method A against method B, on the same users.

    Attributes:
        difference: mean gain of A less that of B, as a fraction.
        interval: of `difference`.
        relative: the same in percent of B's mean; None where B's mean is 0.
        relative_interval: of `relative`; None where B's mean is 0, in any resample too.
        verdict: whether A is better; "cannot tell" where `interval` holds 0.
        users: how many were compared.
        p: how often a difference at least this far from 0, on either side, is found where there is
            none, by the same resamples; never below 2 / (resamples + 1).
        deviation: sample standard deviation of the users' differences.
        reference: mean gain of B.
    """

    difference: float
    interval: Interval
    relative: float | None
    relative_interval: Interval | None
    verdict: Verdict
    users: int
    p: float
    deviation: float
    reference: float

    def users_to_tell(self, share: float, power: float = POWER, level: float = LEVEL) -> float:
        """How many users, of this spread, would tell a difference of `share` of B's mean.

        By the normal approximation of a paired test: ((z of level, two-sided, + z of power) x
        deviation / difference)^2. Infinite where B's mean is 0.

        Args:
            share: the true difference, over B's mean.
            power: how often it is to be told.
            level: of the interval that has to exclude 0.
        """
        if not self.reference:
            return math.inf
        return (_both(power, level) * self.deviation / (share * self.reference)) ** 2

    def told_share(self, power: float = POWER, level: float = LEVEL) -> float:
        """The least difference, over B's mean, that these users tell; see `users_to_tell`."""
        if not self.reference:
            return math.inf
        return _both(power, level) * self.deviation / math.sqrt(self.users) / self.reference


def _both(power: float, level: float) -> float:
    """How many standard errors a difference must be long to be told this often."""
    normal = NormalDist()
    return normal.inv_cdf((1 + level) / 2) + normal.inv_cdf(power)


def holm(chances: Sequence[float]) -> NDArray[np.float64]:
    """The p values of comparisons that are made together, corrected for their number.

    Those that are below 0.05 are differences of which, with a chance of 95%, none is an accident
    (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure").

    Args:
        chances: the p value of each by itself.

    Returns:
        float64, in the same order.
    """
    values = np.asarray(chances, np.float64)
    order = np.argsort(values, kind="stable")
    left = np.arange(len(values), 0, -1)  # comparisons that are not yet settled
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(left * values[order]))
    return corrected


def paired_bootstrap(
    a: UserGains,
    b: UserGains,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Percentile interval of the difference of two means over users, by resampling users.

    The interval covers the choice of *users*: what the difference might have been with other
    users of the same kind, these trained models given. It does not cover what other training
    seeds would have made of the models; that is what the standard deviation over seeds shows.
    Both methods keep their own gain for a drawn user, so what makes a user easy for both cancels.

    A resample draws as many users as there are, with replacement. Only the gains of the drawn
    users matter, and few pairs of gains differ (most users are missed by both), so how often each
    *different* pair is drawn comes from one multinomial draw. That is the same distribution,
    exactly, and many times faster.

    Args:
        a: gains of the method in question.
        b: gains of the method it is compared with.
        resamples: how many.
        level: coverage of the intervals.
        seed: the same seed gives the same interval.

    Raises:
        CadcError: the users differ, or there are none.
    """
    if len(a.users) == 0:
        raise CadcError("the ranks hold no users to compare; evaluate those cells again.")
    _same_users(a.users, b.users)
    pairs, counts = np.unique(np.stack([a.gains, b.gains], axis=1), axis=0, return_counts=True)
    users = len(a.users)
    observed = counts @ pairs / users
    means = np.concatenate(list(_resampled(pairs, counts, resamples, seed)))
    tails = [50.0 * (1.0 - level), 50.0 * (1.0 + level)]

    differences = means[:, 0] - means[:, 1]
    low, high = (float(x) for x in np.percentile(differences, tails))
    beyond = min(np.count_nonzero(differences <= 0), np.count_nonzero(differences >= 0))
    relative_interval = None
    if (means[:, 1] > 0).all():
        ends = np.percentile(100.0 * (means[:, 0] / means[:, 1] - 1.0), tails)
        relative_interval = (float(ends[0]), float(ends[1]))
    verdict: Verdict = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return Comparison(
        difference=float(observed[0] - observed[1]),
        interval=(low, high),
        relative=percent_difference(float(observed[0]), float(observed[1])),
        relative_interval=relative_interval,
        verdict=verdict,
        users=users,
        p=min(1.0, 2 * (1 + beyond) / (1 + resamples)),
        deviation=_deviation(pairs[:, 0] - pairs[:, 1], counts),
        reference=float(observed[1]),
    )


def _deviation(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Sample standard deviation of values that occur so often; 0 of a single one."""
    users = int(counts.sum())
    squares = float(counts @ (values - counts @ values / users) ** 2)
    return math.sqrt(squares / max(users - 1, 1))


def mean_intervals(ranks: np.ndarray, metrics: Sequence[str]) -> dict[str, Interval]:
    """Percentile interval of each metric's mean over users, by resampling users.

    It covers the choice of users: what the metric might be of others of the same kind.

    Args:
        ranks: rank of each user's held-out item, from 1; int ``[users]``.
        metrics: such as ``hr@K``, see `rank_gains`.
    """
    users = np.arange(len(ranks))
    nothing = UserGains(users, np.zeros(len(ranks)))
    return {
        metric: paired_bootstrap(UserGains(users, rank_gains(ranks, metric)), nothing).interval
        for metric in metrics
    }


def _resampled(
    pairs: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Means of both columns of `pairs` in each resample; float ``[block, 2]``, block by block."""
    random = np.random.default_rng(seed)
    users = int(counts.sum())
    block = max(1, _BLOCK // len(pairs))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        yield random.multinomial(users, counts / users, size=size) @ pairs / users


def _same_users(one: np.ndarray, other: np.ndarray) -> None:
    if len(one) != len(other) or not (one == other).all():
        raise CadcError(
            f"the ranks to compare are of different users ({len(one):,} and {len(other):,}, "
            f"{len(np.intersect1d(one, other)):,} of them the same); run both cells on the same "
            "split."
        )
