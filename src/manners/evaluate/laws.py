"""From curves of reward over distance, one for each replicate, to laws with intervals.

Every replicate is fitted alone; α and β of the laws are averaged, which gives the law of the mean curve. Intervals resample replicates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from manners.ops.intervals import bootstrap_mean
from manners.ops.scaling_law import Law

RESAMPLES = 2000
JudgeT = TypeVar("JudgeT", bound=str)


@dataclass(frozen=True)
class Curve:
    """distances [N], √nats; gold and proxy rewards [N] there, less what they were at distance 0."""

    distances: Tensor
    gold: Tensor
    proxy: Tensor

    def to_json(self) -> dict[str, list[float]]:
        return {name: [round(x, 5) for x in values.tolist()] for name, values in vars(self).items()}


def describe(curves: Mapping[JudgeT, Sequence[Curve]], kind: type[Law], baseline: JudgeT) -> dict[str, Any]:
    """For each judge the laws of gold and proxy, what it does better than the judge `baseline`, and its curves, as JSON values.

    Replicate i of every judge learned from the same labels, so that differences are paired.
    """
    described: dict[str, Any] = {}
    for judge, own in curves.items():
        gold, proxy = ([(c.distances, c.gold) for c in own], [(c.distances, c.proxy) for c in own])
        described[judge] = {"gold": law_of(kind, gold), "proxy": law_of(kind, proxy)}
        if judge != baseline:
            described[judge][f"against_{baseline}"] = compare(kind, own, curves[baseline])
        described[judge]["curves"] = [curve.to_json() for curve in own]
    return described


def law_of(kind: type[Law], points: Sequence[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """α, β, peak and height with 95 % intervals, from (distances, rewards) of each replicate; R² on average and at its lowest.

    None for a peak or a height means that the law never turns down.
    """
    laws = [kind.fit(*each) for each in points]
    r2 = [law.r2(*each) for law, each in zip(laws, points, strict=True)]
    drawn = [_numbers(law) for law in _resampled(kind, laws)]
    found: dict[str, Any] = {}
    for name, value in _numbers(_mean(kind, laws)).items():
        found |= {name: _finite(value), f"{name}_ci": _ends([numbers[name] for numbers in drawn])}
    return {**found, "r2": sum(r2) / len(r2), "r2_lowest": min(r2)}


def compare(kind: type[Law], own: Sequence[Curve], others: Sequence[Curve]) -> dict[str, Any]:
    """What `own` gains in gold over `others`, replicate by replicate: at the highest point of the curve and at its last, with 95 %
    intervals; and in which share of resamples the fitted peak lies further out, and higher."""
    found: dict[str, Any] = {}
    for name, at in (("highest", lambda c: c.gold.max()), ("last", lambda c: c.gold[-1])):
        gain = bootstrap_mean(torch.stack([at(a) - at(b) for a, b in zip(own, others, strict=True)]))
        found |= {f"{name}_gain": gain.mean, f"{name}_gain_ci": gain.ends}
    pairs = list(
        zip(*(_resampled(kind, [kind.fit(c.distances, c.gold) for c in cs]) for cs in (own, others)), strict=True)
    )
    found["peak_further"] = sum(a.peak > b.peak for a, b in pairs) / len(pairs)
    found["peak_higher"] = sum(a.height > b.height for a, b in pairs) / len(pairs)
    return found


def _mean(kind: type[Law], laws: Sequence[Law]) -> Law:
    return kind(sum(law.alpha for law in laws) / len(laws), sum(law.beta for law in laws) / len(laws))


def _resampled(kind: type[Law], laws: Sequence[Law]) -> list[Law]:
    """Mean laws of replicates drawn with replacement: the same draws for every list of the same length."""
    draws = torch.randint(len(laws), (RESAMPLES, len(laws)), generator=torch.Generator().manual_seed(0))
    return [_mean(kind, [laws[i] for i in draw]) for draw in draws.tolist()]


def _numbers(law: Law) -> dict[str, float]:
    return {"alpha": law.alpha, "beta": law.beta, "peak": law.peak, "height": law.height}


def _ends(values: Sequence[float]) -> list[float | None]:
    """The 2.5th and 97.5th percentile. By rank, so that infinities are allowed."""
    ranked = sorted(values)
    low, high = round(0.025 * (len(ranked) - 1)), round(0.975 * (len(ranked) - 1))
    return [_finite(ranked[low]), _finite(ranked[high])]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
