"""The bootstrap of any statistic, not only of a mean: whole clusters are drawn, and the statistic sees how often each row was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from manners.ops.intervals import Interval

_AT_ONCE = 4_000_000  # weights in memory together

Statistic = Callable[[Tensor], Tensor]


def bootstrap_statistic(
    statistic: Statistic, clusters: Tensor, *, level: float = 0.95, resamples: int = 2_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of `statistic`, for which whole `clusters` [N] long are drawn.

    `statistic` takes weights [R, N], how often each row was drawn in each of R resamples, and gives its values [R], NaN where it is
    undefined. With weights of 1 it gives the estimate itself. Undefined resamples are left out; with one cluster, or where every
    resample is undefined, the interval spans everything (−inf, inf). Efron & Tibshirani 1993, ch. 13.
    """
    rows = len(clusters)
    estimate = float(statistic(torch.ones(1, rows, dtype=torch.double))[0]) if rows else float("nan")
    _, group = clusters.unique(return_inverse=True)
    count = int(group.max()) + 1 if rows else 0
    if count < 2:
        return Interval(estimate, float("-inf"), float("inf"))
    generator = torch.Generator().manual_seed(seed)
    found = []
    for start in range(0, resamples, size := max(1, _AT_ONCE // rows)):
        draws = torch.randint(count, (min(size, resamples - start), count), generator=generator)
        times = torch.zeros(draws.shape, dtype=torch.double).scatter_add_(1, draws, torch.ones_like(draws).double())
        found.append(statistic(times[:, group]))
    values = torch.cat(found).double()
    values = values[~values.isnan()]
    if not len(values):
        return Interval(estimate, float("-inf"), float("inf"))
    tail = (1 - level) / 2
    low, high = values.quantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return Interval(estimate, low, high)


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Means [R] of values [N] under weights [R, N]; a value of NaN is left out. NaN where nothing is left."""
    known = ~values.isnan()
    filled = torch.where(known, values, 0.0).double()
    return (weights @ filled) / (weights @ known.double())
