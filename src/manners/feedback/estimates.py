"""Numbers with their uncertainty, in plain Python, so that a server which collects judgements needs no numerical library.

What is counted here comes in clusters (the pairs of one question, the answers of one person), and members of a cluster are not
independent. Intervals and tests therefore take one row for each cluster.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
_LEVEL = 0.95
# More clusters than this are first put together at random: an interval needs no more, and large batches stay quick.
_BLOCKS = 200


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number from `n` observations with its 95 % interval, or the reason why there is none.

    `p` is the probability of what was seen, or something further off, if nothing but chance were at work.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    p: float | None = None
    undefined: str = ""


def wilson(successes: float, n: float, level: float = _LEVEL) -> tuple[float, float]:
    """The interval of a share of `n` > 0 independent observations. Wilson 1927; Brown, Cai & DasGupta 2001, eq. 4."""
    z = _NORMAL.inv_cdf(0.5 + level / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(clusters: Sequence[tuple[float, float]], nothing: str) -> Estimate:
    """The share of successes in rows of (successes, observations); `nothing` is the reason where there are no observations.

    The interval is Wilson's for the number of independent observations that would vary as much as these clusters do
    (Kish 1965, the effective sample size); where nothing varies every cluster is taken to be one observation.
    """
    total = sum(size for _, size in clusters)
    if not total:
        return Estimate(None, undefined=nothing)
    share = sum(successes for successes, _ in clusters) / total
    count = sum(1 for _, size in clusters if size)
    spread = sum((successes - share * size) ** 2 for successes, size in clusters)
    if spread and count > 1:
        variance = spread * count / (count - 1) / total**2
        effective = min(total, share * (1 - share) / variance)
    else:
        effective = float(count)
    low, high = wilson(share * effective, effective)
    return Estimate(share, low, high, round(total))


def bootstrap(
    clusters: Sequence[Sequence[float]],
    statistic: Callable[[Sequence[float]], float | None],
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float] | None:
    """The percentile interval of a statistic that is a function of the sum of the rows `clusters`; whole rows are drawn.

    None where there are fewer than two clusters, or where one resample in ten leaves the statistic undefined.
    Efron & Tibshirani 1993, ch. 13.
    """
    draws = random.Random(seed)
    blocks = _blocks(clusters, draws)
    if len(blocks) < 2:
        return None
    found = []
    for _ in range(resamples):
        value = statistic(summed(draws.choices(blocks, k=len(blocks))))
        if value is not None:
            found.append(value)
    if len(found) < 0.9 * resamples:
        return None
    found.sort()
    tail = (1 - _LEVEL) / 2
    return found[int(tail * len(found))], found[math.ceil((1 - tail) * len(found)) - 1]


def summed(rows: Sequence[Sequence[float]]) -> list[float]:
    """The sum of rows of one length."""
    return [sum(column) for column in zip(*rows, strict=True)]


def _blocks(clusters: Sequence[Sequence[float]], draws: random.Random) -> list[Sequence[float]]:
    if len(clusters) <= _BLOCKS:
        return list(clusters)
    shuffled = draws.sample(clusters, len(clusters))
    return [summed(shuffled[start::_BLOCKS]) for start in range(_BLOCKS)]


def binomial_p(successes: int, n: int, share: float) -> float:
    """Two-sided exact test of `successes` in `n` against `share`, 0 < share < 1: all outcomes that are no likelier than this one."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(share) + (n - k) * math.log1p(-share)
        for k in range(n + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(value) for value in logs if value <= logs[successes] + 1e-9))


def sign_p(deviations: Sequence[float]) -> float | None:
    """Two-sided test that the clusters' deviations are as often to one side as to the other: z = Σd / √Σd².

    The normal limit of the test that flips the sign of whole clusters. None where nothing deviates.
    """
    squares = math.fsum(d * d for d in deviations)
    if not squares:
        return None
    return two_sided(math.fsum(deviations) / math.sqrt(squares))


def two_sided(z: float) -> float:
    """The probability that a standard normal number lies as far from 0 as `z`."""
    return math.erfc(abs(z) / math.sqrt(2))


def chi_square_p(statistic: float, freedom: int) -> float:
    """The upper tail of the χ² distribution with `freedom` ≥ 1 degrees of freedom. Abramowitz & Stegun 26.4.4 and 26.4.5."""
    half = statistic / 2
    if freedom % 2 == 0:
        return math.exp(-half) * math.fsum(half**k / math.factorial(k) for k in range(freedom // 2))
    steps = (half ** (k + 0.5) / math.gamma(k + 1.5) for k in range(freedom // 2))
    return math.erfc(math.sqrt(half)) + math.exp(-half) * math.fsum(steps)
