"""Intervals against closed forms, simulation and cases one can settle by looking."""

import math

import numpy as np
import pytest
from scipy import stats

from cadc_rec.errors import CadcError
from cadc_rec.evaluation.metrics import rank_gains
from cadc_rec.evaluation.statistics import (
    UserGains,
    holm,
    mean_gains,
    mean_intervals,
    paired_bootstrap,
    percent_difference,
    spread,
)


def gains(values):
    return UserGains(np.arange(len(values)), np.asarray(values, dtype=float))


def test_spread_is_the_mean_and_the_sample_deviation():
    assert spread([1.0, 2.0, 6.0]).mean == 3.0
    assert spread([1.0, 2.0, 6.0]).deviation == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert spread([1.0]).deviation is None


def test_percent_difference_is_of_the_reference():
    assert percent_difference(3.0, 4.0) == -25.0
    assert percent_difference(3.0, 0.0) is None


def test_gains_of_ranks_worked_out_by_hand():
    ranks = np.array([1, 3, 10, 11])
    assert rank_gains(ranks, "hr@10").tolist() == [1, 1, 1, 0]
    expected = [1.0, 1 / math.log2(4), 1 / math.log2(11), 0.0]
    assert rank_gains(ranks, "ndcg@10") == pytest.approx(expected)
    with pytest.raises(ValueError, match="no metric"):
        rank_gains(ranks, "mrr")


def test_users_are_paired_by_id_whatever_their_order():
    first = (np.array([7, 3, 5]), np.array([1, 20, 20]))
    second = (np.array([3, 5, 7]), np.array([2, 20, 4]))
    mean = mean_gains([first, second], "hr@10")
    assert mean.users.tolist() == [3, 5, 7]
    assert mean.gains.tolist() == [0.5, 0.0, 1.0]


def test_users_with_names_are_paired_too():
    mean = mean_gains([(np.array(["b", "a"], dtype=object), np.array([1, 20]))], "hr@10")
    assert mean.gains.tolist() == [0.0, 1.0]


def test_different_users_are_an_error_of_one_sentence():
    one, other = gains([0, 1, 1]), gains([0, 1])
    with pytest.raises(CadcError, match=r"different users \(3 and 2, 2 of them the same\)"):
        paired_bootstrap(one, other)
    with pytest.raises(CadcError, match="different users"):
        mean_gains([(np.arange(2), np.ones(2)), (np.arange(2) + 1, np.ones(2))], "hr@10")
    with pytest.raises(CadcError, match="occurs twice"):
        mean_gains([(np.array([1, 1]), np.array([1, 2]))], "hr@10")
    with pytest.raises(CadcError, match="no users"):
        paired_bootstrap(gains([]), gains([]))


def test_interval_is_that_of_the_normal_approximation_of_the_paired_mean():
    random = np.random.default_rng(1)
    b = random.random(500)
    a = b + random.normal(0.02, 0.3, 500)
    found = paired_bootstrap(gains(a), gains(b))
    mean, error = (a - b).mean(), (a - b).std(ddof=1) / math.sqrt(500)
    assert found.difference == pytest.approx(mean)
    # The ends of 10,000 resamples' percentiles scatter by about 2% of the standard error.
    expected = [mean - 1.96 * error, mean + 1.96 * error]
    assert found.interval == pytest.approx(expected, abs=0.1 * error)
    # The delta method's standard error of a ratio of means, in percent.
    ratio = a.mean() / b.mean()
    error = 100 * (a - ratio * b).std(ddof=1) / b.mean() / math.sqrt(500)
    assert found.relative == pytest.approx(100 * (ratio - 1))
    expected = [100 * (ratio - 1) - 1.96 * error, 100 * (ratio - 1) + 1.96 * error]
    assert found.relative_interval == pytest.approx(expected, abs=0.1 * error)


def test_resampling_pairs_of_gains_is_resampling_users():
    random = np.random.default_rng(2)
    a, b = random.integers(0, 2, 50) * 1.0, random.integers(0, 3, 50) / 2
    found = paired_bootstrap(gains(a), gains(b), resamples=20_000)
    rows = random.integers(0, 50, (20_000, 50))
    plain = np.percentile((a[rows] - b[rows]).mean(axis=1), [2.5, 97.5])
    assert found.interval == pytest.approx(plain, abs=0.011)  # means lie 0.01 apart


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(3)
    hits = 0
    for n in range(300):
        easy = random.random(400) < 0.1  # both methods find these users' items
        a = easy | (random.random(400) < 0.06)
        b = easy | (random.random(400) < 0.03)
        found = paired_bootstrap(gains(a), gains(b), resamples=1000, seed=n)
        hits += found.interval[0] <= 0.9 * (0.06 - 0.03) <= found.interval[1]
    assert 0.91 <= hits / 300 <= 0.985  # 0.95, give or take three standard errors


def test_pairing_makes_the_interval_narrower():
    random = np.random.default_rng(4)
    b = random.integers(0, 2, 1000) * 1.0
    a = b.copy()
    a[:20] = 1.0 - a[:20]
    paired = paired_bootstrap(gains(a), gains(b)).interval
    apart = paired_bootstrap(gains(random.permutation(a)), gains(b)).interval
    assert paired[1] - paired[0] < 0.3 * (apart[1] - apart[0])


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([1] * 60 + [0] * 40, [0] * 100, "better"),
        ([0] * 100, [1] * 60 + [0] * 40, "worse"),
        ([1, 0] * 50, [0, 1] * 50, "cannot tell"),
        ([1, 0] * 50, [1, 0] * 50, "cannot tell"),
        ([0] * 100, [0] * 100, "cannot tell"),
    ],
)
def test_verdicts(a, b, verdict):
    assert paired_bootstrap(gains(a), gains(b)).verdict == verdict


def test_equal_gains_differ_by_nothing():
    found = paired_bootstrap(gains([0.5] * 30), gains([0.5] * 30))
    assert (found.difference, found.interval) == (0.0, (0.0, 0.0))
    assert (found.relative, found.relative_interval) == (0.0, (0.0, 0.0))


def test_a_reference_without_hits_has_no_relative_difference():
    found = paired_bootstrap(gains([1, 0, 1]), gains([0, 0, 0]))
    assert (found.relative, found.relative_interval) == (None, None)


def test_the_same_seed_gives_the_same_interval():
    a, b = gains([0, 1] * 40), gains([0, 0, 1, 1] * 20)
    assert paired_bootstrap(a, b, seed=5) == paired_bootstrap(a, b, seed=5)
    assert paired_bootstrap(a, b, seed=5) != paired_bootstrap(a, b, seed=6)


def test_the_interval_of_a_metric_is_that_of_the_normal_approximation_of_a_mean():
    ranks = np.random.default_rng(5).geometric(0.02, 4000)
    found = mean_intervals(ranks, ["hr@10", "mrr@10"])
    for metric, gain in (
        ("hr@10", (ranks <= 10) * 1.0),
        ("mrr@10", np.where(ranks <= 10, 1 / ranks, 0)),
    ):
        error = gain.std(ddof=1) / math.sqrt(len(ranks))
        expected = [gain.mean() - 1.96 * error, gain.mean() + 1.96 * error]
        assert found[metric] == pytest.approx(expected, abs=0.1 * error)


def test_p_is_that_of_the_normal_test_of_the_paired_mean():
    random = np.random.default_rng(6)
    for effect in (0.0, 0.01, 0.024):
        b = random.random(500)
        a = b + random.normal(effect, 0.3, 500)
        found = paired_bootstrap(gains(a), gains(b))
        expected = stats.ttest_rel(a, b).pvalue
        # Twice a share of 10,000 resamples: four standard errors of that.
        assert found.p == pytest.approx(expected, abs=4 * math.sqrt(2 * expected / 10_000))
        assert found.deviation == pytest.approx((a - b).std(ddof=1))
        assert found.reference == pytest.approx(b.mean())


def test_p_is_one_of_equal_gains_and_never_nothing():
    assert paired_bootstrap(gains([0.5] * 30), gains([0.5] * 30)).p == 1.0
    assert paired_bootstrap(gains([1] * 60), gains([0] * 60)).p == 2 / 10_001


@pytest.mark.parametrize(
    ("chances", "expected"),
    [
        # As p.adjust(p, "holm") of R has it: 4, 3, 2 and 1 times, and never less than before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.02, 0.9], [1.0, 0.06, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_multiplies_by_what_is_not_yet_settled(chances, expected):
    assert holm(chances) == pytest.approx(expected)


def test_holm_finds_an_accident_in_at_most_one_of_twenty_tables():
    """Ten comparisons of nothing with nothing and ten real ones, 2,000 times."""
    random = np.random.default_rng(7)
    real = 2 * stats.norm.sf(np.abs(random.normal(5, 1, (2000, 10))))
    tables = np.concatenate([random.random((2000, 10)), real], 1)
    accidents = np.mean([(holm(table)[:10] <= 0.05).any() for table in tables])
    assert accidents <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)
    assert np.mean([(table[:10] <= 0.05).any() for table in tables]) > 0.35  # without it


def test_as_many_users_as_it_says_tell_the_difference_in_four_of_five_tests():
    random = np.random.default_rng(8)
    b = random.random(1000)
    a = b + random.normal(0.05 * b.mean(), 0.2, 1000)
    users = paired_bootstrap(gains(a), gains(b)).users_to_tell(0.05)
    scale = 0.05 * b.mean() / (a - b).std(ddof=1)  # standard errors of one user
    size = math.ceil(users)
    beyond = stats.t.ppf(0.975, size - 1)
    power = 1 - stats.nct.cdf(beyond, size - 1, scale * math.sqrt(size))  # of the paired t test
    assert power == pytest.approx(0.8, abs=0.01)


def test_what_the_users_tell_is_what_they_are_enough_for():
    found = paired_bootstrap(gains([1, 0, 1, 1] * 50), gains([1, 0, 0, 1] * 50))
    assert found.users_to_tell(found.told_share()) == pytest.approx(200)
    nothing = paired_bootstrap(gains([1, 0]), gains([0, 0]))
    assert math.isinf(nothing.users_to_tell(0.02))
    assert math.isinf(nothing.told_share())
