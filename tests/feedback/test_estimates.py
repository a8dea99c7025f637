"""Shares, intervals and tests, against scipy and by hand."""

from __future__ import annotations

import math
import random
from statistics import mean

import pytest
from scipy import stats

from manners.feedback.estimates import binomial_p, bootstrap, chi_square_p, share_of, sign_p, two_sided, wilson


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 20), (3, 20), (10, 20), (20, 20), (700, 1000)])
def test_wilson_is_scipys(successes: int, n: int) -> None:
    known = stats.binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes, n) == pytest.approx((known.low, known.high), abs=1e-9)


@pytest.mark.parametrize("share", [0.5, 1 / 3, 0.9])
@pytest.mark.parametrize(("successes", "n"), [(0, 5), (2, 5), (5, 5), (40, 61), (300, 1000)])
def test_the_exact_test_is_scipys(successes: int, n: int, share: float) -> None:
    known = stats.binomtest(successes, n, share).pvalue
    assert binomial_p(successes, n, share) == pytest.approx(known, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("freedom", range(1, 12))
@pytest.mark.parametrize("statistic", [0.0, 0.3, 4.0, 25.0, 90.0])
def test_the_chi_square_tail_is_scipys(statistic: float, freedom: int) -> None:
    assert chi_square_p(statistic, freedom) == pytest.approx(stats.chi2.sf(statistic, freedom), rel=1e-9)


def test_signs_of_whole_clusters() -> None:
    assert sign_p([1.0] * 4) == pytest.approx(2 * stats.norm.sf(2))
    assert sign_p([3.0, -3.0]) == 1
    assert sign_p([0.0, 0.0]) is None
    assert two_sided(-1.96) == pytest.approx(0.05, abs=1e-4)


def test_a_share_of_single_observations_has_the_usual_interval() -> None:
    found = share_of([(1.0, 1.0)] * 60 + [(0.0, 1.0)] * 40, "")
    known = stats.binomtest(60, 100).proportion_ci(method="wilson")
    assert found.value == 0.6
    assert found.n == 100
    assert found.low == pytest.approx(known.low, abs=0.002)
    assert found.high == pytest.approx(known.high, abs=0.002)


def test_saying_everything_ten_times_makes_nothing_surer() -> None:
    once = [(float(n % 3 == 0), 1.0) for n in range(90)]
    ten_times = [(10 * successes, 10 * size) for successes, size in once]
    one, ten = share_of(once, ""), share_of(ten_times, "")
    assert (ten.low, ten.high) == pytest.approx((one.low, one.high))
    assert ten.n == 900


def test_where_nothing_varies_each_cluster_counts_once() -> None:
    found = share_of([(5.0, 5.0)] * 8, "")
    assert (found.low, found.high) == pytest.approx(wilson(8, 8))
    assert share_of([(0.0, 0.0)], "no coin was thrown").undefined == "no coin was thrown"


@pytest.mark.parametrize("size", [60, 900])
def test_the_bootstrap_finds_the_standard_error_of_a_mean(size: int) -> None:
    """Below and above the size from which clusters are put together."""
    draws = random.Random(5)
    values = [draws.gauss(3, 2) for _ in range(size)]
    interval = bootstrap([(value, 1.0) for value in values], lambda sums: sums[0] / sums[1])
    assert interval is not None
    error = math.sqrt(stats.tvar(values) / size)
    assert mean(interval) == pytest.approx(mean(values), abs=0.2 * error)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_the_bootstrap_covers_as_often_as_it_says() -> None:
    draws = random.Random(1)
    covered = 0
    for seed in range(150):
        rows = [(float(draws.random() < 0.7), 1.0) for _ in range(80)]
        low, high = bootstrap(rows, lambda sums: sums[0] / sums[1], 200, seed) or (0, 0)
        covered += low <= 0.7 <= high
    assert stats.binomtest(covered, 150, 0.94).pvalue > 0.01


def test_what_one_cluster_says_has_no_interval() -> None:
    assert bootstrap([(1.0, 1.0)], lambda sums: sums[0]) is None
    assert bootstrap([(1.0,), (2.0,)], lambda _: None) is None
