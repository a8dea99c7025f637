"""The law of over-optimisation: how the true reward moves as a policy moves away from where it started.

Distance is d = √KL(policy ‖ start), in √nats; R(0) = 0. Gao, Schulman & Hilton 2022 (arXiv 2210.10760) found
R(d) = d·(α − β·d) for best-of-n and R(d) = d·(α − β·ln d) for reinforcement learning. Both are linear in α and β, so that a fit is
one least-squares solution, and the mean of several curves has the mean α and β.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Law(ABC):
    """R(d) = α·d − β·bend(d). α and β are in reward units per √nat, as the slope at 1 √nat and what bends it."""

    alpha: float
    beta: float

    @staticmethod
    @abstractmethod
    def bend(distances: Tensor) -> Tensor:
        """What β multiplies, at distances [N]; 0 at 0."""

    @property
    @abstractmethod
    def peak(self) -> float:
        """The distance d* of the highest reward: infinity where the law never turns down, 0 where it never goes up."""

    @property
    @abstractmethod
    def height(self) -> float:
        """The reward at the peak: infinity where that is, 0 where the law never goes up."""

    def at(self, distances: Tensor) -> Tensor:
        """Rewards [N] at distances [N]."""
        distances = distances.double()
        return self.alpha * distances - self.beta * self.bend(distances)

    @classmethod
    def fit(cls, distances: Tensor, rewards: Tensor) -> Self:
        """The law nearest to points distances, rewards [N], two of them or more, in squared reward."""
        distances = distances.double()
        design = torch.stack([distances, -cls.bend(distances)], 1)
        alpha, beta = torch.linalg.lstsq(design, rewards.double()[:, None]).solution[:, 0].tolist()
        return cls(alpha, beta)

    def r2(self, distances: Tensor, rewards: Tensor) -> float:
        """The share of the rewards' variance that the law explains: 1 = all of it, below 0 = worse than their mean.

        Rewards that do not vary give 1 where the law meets them, else 0.
        """
        rewards = rewards.double()
        missed = float((rewards - self.at(distances)).square().sum())
        spread = float((rewards - rewards.mean()).square().sum())
        return 1 - missed / spread if spread else float(missed == 0)


class BestOfNLaw(Law):
    """R(d) = d·(α − β·d), with its peak d* = α/2β of height α²/4β."""

    @staticmethod
    def bend(distances: Tensor) -> Tensor:
        return distances.square()

    @property
    def peak(self) -> float:
        if self.beta <= 0:
            return math.inf
        return max(0.0, self.alpha / (2 * self.beta))

    @property
    def height(self) -> float:
        return math.inf if self.beta <= 0 else self.peak * self.alpha / 2


class PolicyLaw(Law):
    """R(d) = d·(α − β·ln d), with its peak d* = e^(α/β − 1) of height β·d*."""

    @staticmethod
    def bend(distances: Tensor) -> Tensor:
        return torch.xlogy(distances, distances)

    @property
    def peak(self) -> float:
        if self.beta <= 0:
            return math.inf
        return math.exp(min(self.alpha / self.beta - 1, 700.0))  # e^710 is more than a float holds

    @property
    def height(self) -> float:
        return math.inf if self.beta <= 0 else self.beta * self.peak


def best_of_n_kl(n: int) -> float:
    """KL of best-of-n to what it draws from: ln n − (n − 1)/n nats, the known values 0.636 at n = 4, 1.835 at 16, 3.175 at 64.

    Stiennon et al. 2020 (arXiv 2009.01325). Exact where every answer is drawn once at most, else an upper bound (Beirami et al.
    2024, arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


def best_of_n_means(scores: Tensor, values: Tensor, sizes: Sequence[int]) -> Tensor:
    """The mean value of the best of n answers [P, S], for the S sizes n, from N ≥ n drawn answers to each of P prompts.

    scores [P, N] choose, values [P, N] are averaged. All C(N, n) choices of n answers count alike, so that nothing is left to chance:
    the answer with the i-th lowest score is the best of C(i − 1, n − 1) of them. Nakano et al. 2021 (arXiv 2112.09332). Known
    values: n = 1 gives the plain mean, n = N the value of the answer with the highest score.
    """
    count = scores.shape[1]
    if not 1 <= min(sizes) <= max(sizes) <= count:
        raise ValueError(
            f"the sizes must lie between 1 and the {count} answers there are to a prompt, not {list(sizes)}"
        )
    ranked = values.gather(1, scores.argsort(1)).double()
    return torch.stack([ranked @ _shares(count, n) for n in sizes], 1)


def _shares(count: int, n: int) -> Tensor:
    """[N]: the share of all choices of n of `count` answers in which the answer of that rank, the lowest first, is the best."""
    rank = torch.arange(1, count + 1, dtype=torch.double)
    below = (rank - 1).clamp(min=n - 1)
    chosen = torch.lgamma(below + 1) - math.lgamma(n) - torch.lgamma(below - n + 2)
    choices = math.lgamma(count + 1) - math.lgamma(n + 1) - math.lgamma(count - n + 1)
    return torch.where(rank >= n, (chosen - choices).exp(), 0)
