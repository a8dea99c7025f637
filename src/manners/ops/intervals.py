"""Confidence intervals by the bootstrap."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def ends(self) -> list[float | None]:
        """[low, high] for JSON, which has no infinity: None where the interval is undefined."""
        return [end if math.isfinite(end) else None for end in (self.low, self.high)]

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_mean(
    values: Tensor, clusters: Tensor | None = None, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean of `values` [N]; whole clusters are drawn where `clusters` [N] long names them.

    Pairs of one prompt are not independent: name the prompt as the cluster. With one cluster the interval is undefined and
    spans everything (−inf, inf). Efron & Tibshirani 1993, ch. 13.
    """
    values = values.double()
    if clusters is None:
        clusters = torch.arange(len(values))
    _, group = clusters.unique(return_inverse=True)
    count = int(group.max()) + 1 if len(values) else 0
    if count < 2:
        mean = values.mean().item() if len(values) else float("nan")
        return Interval(mean, float("-inf"), float("inf"))
    sums = torch.zeros(count, dtype=torch.double).index_add_(0, group, values)
    sizes = torch.zeros(count, dtype=torch.double).index_add_(0, group, torch.ones_like(values))
    draws = torch.randint(count, (resamples, count), generator=torch.Generator().manual_seed(seed))
    means = sums[draws].sum(1) / sizes[draws].sum(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return Interval(values.mean().item(), low, high)


def crossed_mean(values: Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Bootstrap of the mean of `values` [S, P], the same P prompts under S seeds: both are drawn anew, each by itself.

    Seeds and prompts are two sources of chance that cross; drawing whole rows and whole columns errs on the side of too wide an
    interval (Owen 2007, "The pigeonhole bootstrap"). With one seed only prompts are drawn, and the interval says nothing of other seeds.
    """
    values = values.double()
    seeds, prompts = values.shape
    if seeds == 1:
        return bootstrap_mean(values[0], level=level, resamples=resamples, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(seeds, (resamples, seeds), generator=generator)
    columns = torch.randint(prompts, (resamples, prompts), generator=generator)
    counts = torch.zeros(resamples, seeds, dtype=torch.double).scatter_add_(
        1, rows, torch.ones_like(rows, dtype=torch.double)
    )
    means = (counts @ values / seeds).gather(1, columns).mean(1)
    tail = (1 - level) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=torch.double)).tolist()
    return Interval(values.mean().item(), low, high)
