"""Running mean and variance of a stream of numbers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of all numbers so far. Chan et al. 1979: batches are merged without a second pass."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def with_batch(self, values: Tensor) -> Moments:
        """The moments after the numbers `values` [N] as well."""
        values = values.double()
        count = self.count + len(values)
        mean = float(values.mean())
        shift = mean - self.mean
        squares = float(((values - mean) ** 2).sum())
        return Moments(
            count,
            self.mean + shift * len(values) / count,
            self.squares + squares + shift**2 * self.count * len(values) / count,
        )

    @property
    def std(self) -> float:
        """The unbiased standard deviation; 1 while there are fewer than two numbers, or all are equal."""
        return (self.squares / (self.count - 1)) ** 0.5 if self.count > 1 and self.squares > 0 else 1.0
