import math

import numpy as np
import pytest
from scipy import stats

from cadc_rec.study import law as laws
from cadc_rec.study.law import (
    FAMILIES,
    Curve,
    Point,
    fit,
    learn,
    morgan_mercer_flodin,
    shifted_power,
    weibull,
)
from cadc_rec.study.usual import BROAD, USUAL, Around, Usual

USERS = 5000


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(laws, "DRAWS", 1500)


def certain(**changed):
    """Curves of which nothing is open: floor half of the base, top a tenth above, c = 1."""
    known = {
        "floor": Around(math.log(0.5), 0.0),
        "top": Around(math.log(1.1), 0.0),
        "exponent": Around(0.0, 0.0),
        "knee": Around(math.log(0.5), 0.0),
        "noise": Around(math.log(0.3), 0.0),
        "misfit": 0.01,
    }
    return Usual(**(known | changed))


def of(points, value=0.1, users=10**9):
    """A curve over a base that is known almost exactly."""
    return Curve("frozen", Point(1.0, value, users), tuple(points))


@pytest.mark.parametrize(
    ("family", "at_a_quarter"),
    [
        (shifted_power, (1 - 1 / 1.5) / (1 - 1 / 3)),
        (morgan_mercer_flodin, (0.25 / 0.75) / (1 / 1.5)),
        (weibull, (1 - math.exp(-0.5)) / (1 - math.exp(-2))),
    ],
)
def test_each_family_rises_from_nothing_to_one(family, at_a_quarter):
    one, half = np.array(1.0), np.array(0.5)
    assert family(np.array(0.25), one, half) == pytest.approx(at_a_quarter, rel=1e-12)
    shares = np.geomspace(1e-12, 1.0, 50)
    for c in (0.2, 1.0, 3.0):
        rise = family(shares, np.array(c), np.array(0.01))
        assert rise[-1] == pytest.approx(1.0)
        assert (np.diff(rise) >= 0).all()
        assert 0 <= rise[0] < 0.02


def test_without_doubt_the_law_is_the_formula(few_draws):
    law = fit(of(()), certain(misfit=0.0))
    heights = [f(np.array(0.1), np.array(1.0), np.array(0.5)) for f in FAMILIES]
    expected = [0.1 * 0.5 * (1.1 / 0.5) ** h for h in heights]
    band = law.band([0.1, 1.0], seeds=None, level=0.999)
    assert band.value[1] == pytest.approx(0.11, rel=1e-3)
    assert band.low[0] == pytest.approx(min(expected), rel=1e-3)
    assert band.high[0] == pytest.approx(max(expected), rel=1e-3)
    lost = law.loss(0.1, level=0.999)
    assert lost.low[0] == pytest.approx(1 - max(expected) / 0.11, rel=1e-3)
    assert law.base_loss()[0] == pytest.approx(1 - 1 / 1.1)
    assert law.chance_within(0.1, 0.999) == pytest.approx(1.0)
    assert law.chance_within(0.1, 0.0) == 0.0
    assert law.chance_within(1.0, 0.0) == pytest.approx(1.0)


def test_a_point_moves_the_law_as_bayes_rule_says():
    """At share 1 all curves are at their top: a t distribution, times what the runs make likely."""
    value, seeds = 0.12, 3
    law = fit(of([Point(1.0, value, USERS, seeds)]), certain(top=Around(0.0, 0.1)))
    noise = 0.3 * (1 - value) / (value * USERS) / seeds + 0.01**2
    tops = np.linspace(-1.0, 1.0, 20_001)
    likely = stats.t.pdf(tops / 0.1, 3) * stats.norm.pdf(math.log(value / 0.1), tops, noise**0.5)
    likely /= likely.sum()
    middle, low, high = np.interp([0.5, 0.05, 0.95], np.cumsum(likely), tops)
    deviation = math.sqrt(likely @ tops**2 - (likely @ tops) ** 2)
    band = law.band(1.0, seeds=None)
    found = np.log([band.value[0] / 0.1, band.low[0] / 0.1, band.high[0] / 0.1])
    assert found == pytest.approx([middle, low, high], abs=3e-3)
    # A run adds its own noise to that; three runs add a third of it.
    for runs in (1, 3):
        own = 0.3 * (1 - value) / (value * USERS) / runs + 0.01**2
        wide = law.band(1.0, seeds=runs)
        expected = 2 * 1.645 * math.sqrt(deviation**2 + own)
        assert math.log(wide.high[0] / wide.low[0]) == pytest.approx(expected, rel=0.05)


def simulated(kind, usual, random):
    """A curve drawn from what is usual: its cheap runs, and what larger shares truly reach."""
    floor, top = (n.mean + n.deviation * random.standard_t(3) for n in (usual.floor, usual.top))
    c, k, noise = (
        random.normal(n.mean, n.deviation) for n in (usual.exponent, usual.knee, usual.noise)
    )
    c, k, noise = np.exp(c), np.exp(k), np.exp(noise)
    family = FAMILIES[random.integers(3)]

    def value(share):
        return 0.1 * math.exp(floor + (top - floor) * float(family(np.array(share), c, k)))

    def run(share, seeds=1):
        true = value(share)
        deviation = math.sqrt(noise * (1 - true) / (true * USERS) / seeds + usual.misfit**2)
        return true * math.exp(random.normal(0, deviation))

    points = tuple(Point(s, run(s), USERS) for s in (1 / 500, 1 / 100, 1 / 40))
    base = Point(1.0, 0.1 * math.exp(random.normal(0, math.sqrt(noise * 9 / USERS))), USERS)
    return Curve(kind, base, points), {share: run(share, 3) for share in (0.1, 0.5, 1.0)}


def test_a_set_unlike_all_others_is_not_forced_into_what_is_usual():
    """Towers that end at half of their base, ten deviations away, once they were seen to."""
    seen = [Point(s, 0.05 * (s / (0.01 + s)) ** 0.1, USERS) for s in (0.02, 0.1, 0.5)]
    band = fit(of(seen)).band(1.0)
    assert band.low[0] < 0.0505 < band.high[0] < 0.075


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("added", marks=pytest.mark.slow),
        "frozen",
        pytest.param("alone", marks=pytest.mark.slow),
    ],
)
def test_nine_of_ten_intervals_hold_what_larger_shares_reach(kind, few_draws):
    random = np.random.default_rng(1)
    inside = []
    for _ in range(60):
        curve, truth = simulated(kind, USUAL[kind], random)
        band = fit(curve).band(list(truth), seeds=3)
        true = np.array(list(truth.values()))
        inside.append((band.low <= true) & (true <= band.high))
    # Of 60 independent curves, 54 expected with a standard deviation of 2.3.
    assert (np.abs(np.sum(inside, axis=0) - 54) <= 6).all()


def test_runs_that_no_usual_curve_meets_widen_the_interval(few_draws):
    usual = certain(top=Around(0.0, 0.05), noise=Around(math.log(0.3), 0.3))
    calm = fit(of([Point(0.01, 0.055, USERS), Point(0.02, 0.057, USERS)]), usual)
    wild = fit(of([Point(0.01, 0.09, USERS), Point(0.02, 0.02, USERS)]), usual)
    assert calm.widened == 1
    assert wild.widened > 10
    wide, narrow = (law.band(0.5).high[0] - law.band(0.5).low[0] for law in (wild, calm))
    assert wide > 1.2 * narrow


@pytest.mark.slow
def test_what_is_usual_is_learned_from_whole_curves(few_draws):
    """Twelve curves that end near 1.2 of the base move what is usual from 1 to there."""
    random = np.random.default_rng(0)
    tops = random.normal(math.log(1.2), 0.03, 12)
    curves = [
        of(
            [
                Point(s, 0.1 * math.exp(-0.5 + (top + 0.5) * s / (0.02 + s) * 1.02), USERS, 3)
                for s in (0.01, 0.05, 0.1, 0.5, 1.0)
            ]
        )
        for top in tops
    ]
    found = learn(curves, BROAD["frozen"])
    # The start, at 0, counts as one more.
    assert found.top.mean == pytest.approx(12 / 13 * tops.mean(), abs=0.02)
    assert 0.03 < found.top.deviation < BROAD["frozen"].top.deviation


@pytest.mark.parametrize(
    "point", [Point(0.0, 0.1, 10), Point(1.1, 0.1, 10), Point(0.1, 0.0, 10), Point(0.1, 0.1, 0)]
)
def test_what_is_no_share_or_metric_is_refused(point):
    with pytest.raises(ValueError, match="not a share and a metric"):
        fit(of([point]))
