"""A number as it is written down: its value, a 95 % interval for which whole prompts are drawn, and how many it rests on."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manners.ops.resampling import Statistic, bootstrap_statistic, weighted_mean


def numbered(names: Iterable[Hashable]) -> Tensor:
    """[N] long: the place of each name among the different ones, in the order in which they come."""
    places: dict[Hashable, int] = {}
    return torch.tensor([places.setdefault(name, len(places)) for name in names], dtype=torch.long)


def estimate(statistic: Statistic, clusters: Tensor) -> dict[str, Any]:
    """value, ci, n rows and prompts of `statistic` (see `bootstrap_statistic`), None where it is undefined."""
    found = bootstrap_statistic(statistic, clusters)
    defined = found.mean == found.mean
    return {
        "value": found.mean if defined else None,
        "ci": found.ends if defined else [None, None],
        "n": len(clusters),
        "prompts": len(clusters.unique()),
    }


def mean_of(values: Tensor, clusters: Tensor, chosen: Tensor | None = None) -> dict[str, Any]:
    """The mean of `values` [N], or of the rows `chosen` [N] bool alone, as `estimate` writes it."""
    if chosen is not None:
        values, clusters = values[chosen], clusters[chosen]
    return estimate(lambda weights: weighted_mean(values, weights), clusters)


@dataclass(frozen=True)
class Parts:
    """A score that is a weighted sum of means, with all that an interval of it needs.

    values [N, K], NaN where a row says nothing of a part; weights [K]; clusters: what is drawn together, one name for each row.
    """

    values: Tensor
    weights: Tensor
    clusters: tuple[Hashable, ...]

    @classmethod
    def single(cls, values: Tensor, clusters: Sequence[Hashable]) -> Parts:
        """The plain mean of `values` [N]."""
        return cls(values.double()[:, None], torch.ones(1, dtype=torch.double), tuple(clusters))

    @classmethod
    def combined(cls, scores: Sequence[Parts], shares: Sequence[float]) -> Parts:
        """The mean of `scores`, weighted by `shares` of any sum."""
        widths = [len(score.weights) for score in scores]
        rows = []
        for place, score in enumerate(scores):
            row = torch.full((len(score.values), sum(widths)), float("nan"), dtype=torch.double)
            start = sum(widths[:place])
            row[:, start : start + widths[place]] = score.values
            rows.append(row)
        weights = [score.weights * (share / sum(shares)) for score, share in zip(scores, shares, strict=True)]
        return cls(torch.cat(rows), torch.cat(weights), tuple(name for score in scores for name in score.clusters))

    def estimate(self) -> dict[str, Any]:
        return estimate(self._score, numbered(self.clusters))

    def _score(self, weights: Tensor) -> Tensor:
        means = torch.stack([weighted_mean(column, weights) for column in self.values.T], 1)
        return means @ self.weights
