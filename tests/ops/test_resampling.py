"""The bootstrap of any statistic against the bootstrap of the mean, and its limits."""

from __future__ import annotations

import math

import torch

from manners.ops.intervals import bootstrap_mean
from manners.ops.resampling import bootstrap_statistic, weighted_mean


def test_of_a_mean_it_is_what_the_bootstrap_of_the_mean_gives() -> None:
    generator = torch.Generator().manual_seed(3)
    values, clusters = torch.randn(400, generator=generator).double(), torch.arange(400) // 4
    expected = bootstrap_mean(values, clusters, resamples=20_000)
    found = bootstrap_statistic(lambda w: weighted_mean(values, w), clusters, resamples=20_000, seed=5)
    assert math.isclose(found.mean, float(values.mean()), rel_tol=1e-12)
    assert abs(found.low - expected.low) < 0.005
    assert abs(found.high - expected.high) < 0.005


def test_of_a_mean_of_independent_values_it_is_the_normal_interval() -> None:
    values = (torch.arange(1000) % 2).double()  # deviation ½, so the mean's is ½/√1000
    found = bootstrap_statistic(lambda w: weighted_mean(values, w), torch.arange(1000), resamples=8_000)
    assert abs(found.low - (0.5 - 1.96 * 0.5 / math.sqrt(1000))) < 0.0015
    assert abs(found.high - (0.5 + 1.96 * 0.5 / math.sqrt(1000))) < 0.0015


def test_rows_of_a_cluster_are_drawn_together_and_as_often_as_there_are_clusters() -> None:
    seen: list[torch.Tensor] = []

    def statistic(weights: torch.Tensor) -> torch.Tensor:
        seen.append(weights)
        return weights.sum(1)

    bootstrap_statistic(statistic, torch.tensor([7, 9, 7, 8]), resamples=50)
    drawn = torch.cat(seen[1:])
    assert torch.equal(seen[0], torch.ones(1, 4, dtype=torch.double))
    assert torch.equal(drawn[:, 0], drawn[:, 2])
    assert torch.equal(drawn[:, [0, 1, 3]].sum(1), torch.full((50,), 3.0, dtype=torch.double))


def test_large_inputs_go_in_parts_and_give_the_same_numbers_for_the_same_seed() -> None:
    values, clusters = torch.arange(9_000).double(), torch.arange(9_000)
    one, other = (bootstrap_statistic(lambda w: weighted_mean(values, w), clusters, resamples=900) for _ in range(2))
    assert one == other
    assert one.low < 4499.5 < one.high


def test_one_cluster_or_nothing_defined_has_no_interval() -> None:
    one = bootstrap_statistic(lambda w: weighted_mean(torch.tensor([1.0, 3.0]), w), torch.zeros(2, dtype=torch.long))
    assert (one.mean, one.low, one.high) == (2.0, -math.inf, math.inf)
    none = bootstrap_statistic(lambda w: w.sum(1) * float("nan"), torch.arange(3))
    assert math.isnan(none.mean)
    assert none.ends == [None, None]
    empty = bootstrap_statistic(lambda w: w.sum(1), torch.zeros(0, dtype=torch.long))
    assert math.isnan(empty.mean)


def test_undefined_resamples_are_left_out() -> None:
    values = torch.tensor([float("nan"), 2.0])  # a third of the resamples hold only the first row
    found = bootstrap_statistic(lambda w: weighted_mean(values, w), torch.arange(2))
    assert (found.mean, found.low, found.high) == (2.0, 2.0, 2.0)


def test_a_weighted_mean_counts_rows_as_often_as_they_were_drawn() -> None:
    weights = torch.tensor([[2.0, 1.0, 1.0], [0.0, 0.0, 4.0], [1.0, 0.0, 0.0]], dtype=torch.double)
    found = weighted_mean(torch.tensor([1.0, 4.0, float("nan")]), weights)
    assert found[0] == 2.0
    assert found[1].isnan()
    assert found[2] == 1.0
