"""Could it be chance? Tests for two models that answered the same prompts, intervals of shares, and many looks at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from manners.ops.intervals import Interval

Z = 1.959964  # of the standard normal distribution, 95 % two-sided
_EXACT = 12  # up to so many differences, all their signs are gone through


def wilson(successes: float, count: int, z: float = Z) -> Interval:
    """A share with its score interval (Wilson 1927), which is of use at 0 and 1 too. Known value: 0 of 40 gives [0, 0.0876]."""
    if count < 1:
        return Interval(float("nan"), float("-inf"), float("inf"))
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def mcnemar(before: Tensor, after: Tensor) -> float:
    """Exact two-sided p of flags [N] before and after being equally often true; only items that changed count.

    Twice the smaller tail of Binomial(changed, ½). McNemar 1947. Known value: 1 gained and 6 lost give 0.125.
    """
    gained = int((after.bool() & ~before.bool()).sum())
    lost = int((before.bool() & ~after.bool()).sum())
    changed = gained + lost
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def sign_flip(differences: Tensor, clusters: Tensor | None = None, *, draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of differences [N] having mean 0: how often as large a sum comes about when their signs are drawn at random.

    The differences of one cluster keep their signs together. Exact up to twelve clusters that differ from 0, else from `draws` draws,
    the observed one counted among them. Fisher 1935; Good 2005, ch. 3.
    """
    values = differences.double()
    if clusters is not None:
        _, group = clusters.unique(return_inverse=True)
        count = int(group.max()) + 1 if len(values) else 0
        values = torch.zeros(count, dtype=torch.double).index_add_(0, group, values)
    values = values[values != 0]
    if not len(values):
        return 1.0
    reached = float(values.sum().abs()) * (1 - 1e-12)
    if len(values) <= _EXACT:
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(values))), dtype=torch.double)
        return float(((signs @ values).abs() >= reached).double().mean())
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (draws, len(values)), generator=generator).double() * 2 - 1
    return (1 + int(((signs @ values).abs() >= reached).sum())) / (draws + 1)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for all being looked at: those below α are false with a chance of at most α together. Holm 1979.

    Known value: 0.01, 0.04, 0.03 give 0.03, 0.06, 0.06.
    """
    adjusted = [0.0] * len(p)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[place]))
        adjusted[place] = highest
    return adjusted
