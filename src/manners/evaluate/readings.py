"""A number of the card with its interval, and the difference between two models on the same items.

Three kinds: the mean of values (or its exponential), the calibration error, and the win rate at equal length. Items are prompts or
questions: whatever was asked as one. Several values of one item, such as several answers to one prompt, are drawn together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from manners.ops.intervals import Interval, bootstrap_mean
from manners.ops.significance import mcnemar, sign_flip, wilson
from manners.ops.win_rate import length_controlled

RESAMPLES = 1000  # of what has to be computed anew in each
BINS = 10


class Difference(NamedTuple):
    """How much higher, with its interval, and how likely that is by chance alone."""

    span: Interval
    p: float
    test: str

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.span.mean, "ci": self.span.ends, "p": self.p, "test": self.test}


class Reading(Protocol):
    """A number with its interval."""

    @property
    def items(self) -> int:
        """How many prompts or questions it rests on."""
        ...

    def span(self) -> Interval: ...

    def beside(self, base: Any) -> Difference | None:
        """The difference to the same number of another model; without one, of what compares two models itself, to a draw; None where
        there is nothing to compare."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of values [N] of items [N]. `flags`: every value says yes, 1, or no, 0; `exponential`: e to that mean, as a perplexity is
    of nats per token; `level`: what the mean is where two models that it compares are equal."""

    values: Tensor
    owners: Tensor
    flags: bool = False
    exponential: bool = False
    level: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], *, flags: bool = False) -> Mean:
        """One value for each item."""
        return cls(torch.tensor(values, dtype=torch.double), torch.arange(len(values)), flags)

    @classmethod
    def grouped(cls, values: Sequence[Sequence[float]], *, flags: bool = False) -> Mean:
        """Several values for each item."""
        owners = torch.tensor([place for place, own in enumerate(values) for _ in own])
        return cls(torch.tensor([v for own in values for v in own], dtype=torch.double), owners, flags)

    @property
    def items(self) -> int:
        return len(self.owners.unique())

    def span(self) -> Interval:
        """By Wilson for a share of items, or where all values are the same flag; else by bootstrap over items."""
        single = self.items == len(self.values)
        if self.flags and (single or len(self.values.unique()) == 1):
            return wilson(float(self.values.mean()) * self.items, self.items)
        return self._shown(bootstrap_mean(self.values, self.owners))

    def beside(self, base: Mean | None) -> Difference | None:
        """McNemar's exact test for one flag an item, else by random signs; the interval by bootstrap over items."""
        if base is None:
            return None if self.level is None else self._over(self.level)
        if not torch.equal(self.owners, base.owners):
            return None
        change = self.values - base.values
        span = bootstrap_mean(change, self.owners)
        if self.exponential:
            span = _exponential_change(self.values, base.values, self.owners)
        if self.flags and self.items == len(self.values):
            return Difference(span, mcnemar(base.values, self.values), "McNemar exact")
        return Difference(span, sign_flip(change, self.owners), "random signs")

    def _over(self, level: float) -> Difference:
        change = self.values - level
        span = self.span()
        moved = Interval(span.mean - level, span.low - level, span.high - level)
        return Difference(moved, sign_flip(change, self.owners), "random signs")

    def _shown(self, span: Interval) -> Interval:
        return Interval(*(math.exp(end) for end in span)) if self.exponential else span


@dataclass(frozen=True)
class CalibrationError:
    """Σ over bins of their share times |accuracy − confidence|, from confidence [N] in 0 … 1 and right [N]. Guo et al. 2017.

    It is never below 0, so chance alone makes it positive; the interval is the basic bootstrap's, which takes that off.
    """

    confidence: Tensor
    right: Tensor

    @property
    def items(self) -> int:
        return len(self.right)

    def span(self) -> Interval:
        found = float(self._error(torch.arange(self.items)[None])[0])
        low, high = _ends(self._error(_draws(self.items)))
        return Interval(found, max(0.0, 2 * found - high), min(1.0, max(found, 2 * found - low)))

    def beside(self, base: CalibrationError | None) -> Difference | None:
        if base is None or base.items != self.items:
            return None
        draws, whole = _draws(self.items), torch.arange(self.items)[None]
        change = self._error(draws) - base._error(draws)
        found = float(self._error(whole)[0] - base._error(whole)[0])
        return Difference(Interval(found, *_ends(change)), _chance(change), "bootstrap")

    def _error(self, draws: Tensor) -> Tensor:
        """Errors [R] of the items drawn [R, N]."""
        place = (self.confidence * BINS).long().clamp(max=BINS - 1)
        gap = (self.right.double() - self.confidence.double())[draws]
        sums = torch.zeros(len(draws), BINS, dtype=torch.double).scatter_add_(1, place[draws], gap)
        return sums.abs().sum(1) / self.items


@dataclass(frozen=True)
class LengthControlled:
    """The win rate at equal length, from preferences [N], length differences [N] and the item of each [N]."""

    preferences: Tensor
    lengths: Tensor
    owners: Tensor

    @property
    def items(self) -> int:
        return len(self.owners.unique())

    def span(self) -> Interval:
        found = float(length_controlled(self.preferences, self.lengths)[0])
        return Interval(found, *_ends(self._resampled()))

    def beside(self, base: Any = None) -> Difference:  # noqa: ARG002 - it compares two models itself
        span = self.span()
        moved = Interval(span.mean - 0.5, span.low - 0.5, span.high - 0.5)
        return Difference(moved, _chance(self._resampled() - 0.5), "bootstrap")

    def _resampled(self) -> Tensor:
        _, group = self.owners.unique(return_inverse=True)
        draws = _draws(int(group.max()) + 1)
        counts = torch.zeros(draws.shape, dtype=torch.double).scatter_add_(
            1, draws, torch.ones(draws.shape, dtype=torch.double)
        )
        return length_controlled(self.preferences, self.lengths, counts[:, group])


def _draws(count: int) -> Tensor:
    return torch.randint(count, (RESAMPLES, count), generator=torch.Generator().manual_seed(0))


def _ends(values: Tensor) -> tuple[float, float]:
    low, high = values.double().quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return low, high


def _chance(values: Tensor) -> float:
    """Two-sided p of a resampled difference being 0: twice the share on the other side of it."""
    smaller = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (len(values) + 1))


def _exponential_change(after: Tensor, before: Tensor, owners: Tensor) -> Interval:
    """e^mean(after) − e^mean(before), with the bootstrap over items drawn alike for both."""
    _, group = owners.unique(return_inverse=True)
    count = int(group.max()) + 1
    draws = _draws(count)
    sizes = torch.zeros(count, dtype=torch.double).index_add_(0, group, torch.ones(len(group), dtype=torch.double))
    means = []
    for values in (after, before):
        sums = torch.zeros(count, dtype=torch.double).index_add_(0, group, values.double())
        means.append((sums[draws].sum(1) / sizes[draws].sum(1)).exp())
    found = float(after.double().mean().exp() - before.double().mean().exp())
    return Interval(found, *_ends(means[0] - means[1]))
