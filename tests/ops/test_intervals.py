from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manners.ops.intervals import Interval, bootstrap_mean, crossed_mean


def normal(count: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def test_width_is_that_of_the_normal_interval() -> None:
    values = normal(400, mean=2)
    got = bootstrap_mean(values)
    half = 1.96 * values.std().item() / math.sqrt(400)
    assert got.mean == pytest.approx(values.mean().item(), abs=1e-12)
    assert got.high - got.mean == pytest.approx(half, rel=0.06)
    assert got.mean - got.low == pytest.approx(half, rel=0.06)


def test_covers_the_truth_as_often_as_it_says() -> None:
    # 300 experiments with 40 values: 95 % intervals miss in about 18; binomial standard deviation 3.8, and the percentile
    # bootstrap is a little too narrow at this size
    inside = sum(
        interval.low <= 1 <= interval.high
        for interval in (bootstrap_mean(normal(40, seed, mean=1), resamples=400, seed=seed) for seed in range(300))
    )
    assert 0.89 <= inside / 300 <= 0.98


def test_covers_the_truth_with_clusters_and_fails_without_them() -> None:
    hits = {"clusters": 0, "rows": 0}
    clusters = torch.arange(30).repeat_interleave(8)
    for seed in range(200):
        values = normal(30, seed).repeat_interleave(8) + 0.3 * normal(240, 1_000 + seed)
        for name, groups in (("clusters", clusters), ("rows", None)):
            got = bootstrap_mean(values, groups, resamples=300, seed=seed)
            hits[name] += got.low <= 0 <= got.high
    assert 0.87 <= hits["clusters"] / 200 <= 0.99
    assert hits["rows"] / 200 < 0.7


def test_whole_clusters_are_wider_than_independent_rows() -> None:
    values = normal(20).repeat_interleave(10)
    clusters = torch.arange(20).repeat_interleave(10)
    apart, together = bootstrap_mean(values), bootstrap_mean(values, clusters)
    assert together.high - together.low == pytest.approx(math.sqrt(10) * (apart.high - apart.low), rel=0.15)
    # ten copies of a value say no more than the value
    single = bootstrap_mean(normal(20))
    assert (together.low, together.high) == pytest.approx((single.low, single.high), abs=1e-9)


def test_clusters_of_different_size_keep_the_weight_of_their_rows() -> None:
    values = torch.tensor([0.0, 0.0, 0.0, 1.0])
    got = bootstrap_mean(values, torch.tensor([7, 7, 7, 2]))
    assert got.mean == pytest.approx(0.25)
    # drawn twice out of two clusters: 0, 1/4 or 1, with probabilities 1/4, 1/2, 1/4
    assert (got.low, got.high) == (0, 1)
    inner = bootstrap_mean(values, torch.tensor([7, 7, 7, 2]), level=0.4)
    assert (inner.low, inner.high) == (0.25, 0.25)


def test_names_and_order_of_clusters_do_not_matter() -> None:
    values, clusters = normal(12), torch.tensor([0, 1, 2] * 4)
    got = bootstrap_mean(values, clusters)
    assert bootstrap_mean(values, clusters * 100 - 7) == got
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert bootstrap_mean(values[order], clusters[order]) == pytest.approx(got, abs=1e-12)


def test_one_cluster_says_nothing() -> None:
    got = bootstrap_mean(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3, dtype=torch.long))
    assert got == Interval(2.0, -math.inf, math.inf)
    assert not got.excludes_zero
    assert bootstrap_mean(torch.tensor([4.0])) == Interval(4.0, -math.inf, math.inf)


def test_no_values_have_no_mean() -> None:
    got = bootstrap_mean(torch.tensor([]))
    assert math.isnan(got.mean)
    assert (got.low, got.high) == (-math.inf, math.inf)


def test_same_seed_same_interval_and_another_seed_nearly_the_same() -> None:
    values = normal(50)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4)
    other = bootstrap_mean(values, seed=5)
    assert other != bootstrap_mean(values, seed=4)
    assert other == pytest.approx(bootstrap_mean(values, seed=4), abs=0.02)


def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    bootstrap_mean(normal(10))
    assert torch.equal(torch.get_rng_state(), before)


def test_level_is_the_share_between_the_ends() -> None:
    values = normal(400)
    narrow, wide = bootstrap_mean(values, level=0.5), bootstrap_mean(values, level=0.99)
    # quantiles of the normal distribution: 0.6745 and 2.5758
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2.5758 / 0.6745, rel=0.1)


def test_ends_are_none_where_json_has_no_number() -> None:
    assert Interval(2.0, 1.0, 3.0).ends == [1.0, 3.0]
    assert Interval(2.0, -math.inf, math.inf).ends == [None, None]


def test_excludes_zero() -> None:
    assert bootstrap_mean(normal(50, mean=3)).excludes_zero
    assert bootstrap_mean(normal(50, mean=-3)).excludes_zero
    assert not bootstrap_mean(normal(50)).excludes_zero
    assert not Interval(1.0, 0.0, 2.0).excludes_zero


def test_with_one_seed_crossed_means_are_bootstrapped_over_prompts() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0, 8.0]])
    assert crossed_mean(values) == bootstrap_mean(values[0])


def test_chance_of_seeds_and_of_prompts_both_widen_the_interval() -> None:
    def width(values: torch.Tensor) -> float:
        found = crossed_mean(values)
        return found.high - found.low

    noise = torch.linspace(-1, 1, 40)
    only_prompts, only_seeds = noise.repeat(5, 1), torch.linspace(-1, 1, 5)[:, None].repeat(1, 40)
    assert width(torch.zeros(5, 40)) == 0
    # the mean of n equal draws of deviation s has deviation s/sqrt(n)
    for values, alone in ((only_prompts, noise), (only_seeds, torch.linspace(-1, 1, 5))):
        assert width(values) == pytest.approx(2 * 1.96 * float(alone.std(correction=0)) / len(alone) ** 0.5, rel=0.08)
    assert width(only_prompts + only_seeds) > max(width(only_prompts), width(only_seeds))


def test_crossed_intervals_hold_the_truth_as_often_as_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    held = 0
    for trial in range(200):
        seeds, prompts = (torch.randn(n, generator=generator) for n in (10, 40))
        found = crossed_mean(
            seeds[:, None] + prompts + torch.randn(10, 40, generator=generator), resamples=400, seed=trial
        )
        held += found.low <= 0 <= found.high
    assert 0.88 <= held / 200 <= 1  # a percentile bootstrap over ten seeds is a little narrow
