"""Many scores into one: the members of an ensemble, and rewards of different kinds with weights and floors.

The members of an ensemble speak of the same thing in the same unit, so their scores can be compared (`mean`, `worst_case`,
`uncertainty_weighted`). The parts of a combination speak of different things, each in its own unit; the weights say what a unit
of each is worth.

What is left out on purpose: weights that learn (the Lagrange multipliers of Moskovitz et al. 2023). They would be a state beside
the weights of the policy; a floor with a fixed price does without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.protocols import Scorer
from manners.rewards.opinion import ask

Combination = Callable[[Tensor], Tensor]


def mean(opinions: Tensor) -> Tensor:
    """Mean [B] of opinions [B, M]."""
    return opinions.mean(-1)


def worst_case(opinions: Tensor) -> Tensor:
    """Lowest [B] of opinions [B, M]: an answer is as good as its severest judge says. WCO, Coste et al. 2023 (arXiv 2310.02743)."""
    return opinions.min(-1).values


def uncertainty_weighted(opinions: Tensor, *, weight: float) -> Tensor:
    """mean − weight · variance [B] of opinions [B, M], the variance over the M members with divisor M; weight 0 = mean.

    UWO, Coste et al. 2023 (arXiv 2310.02743). Opinions 1 and 3 at weight 0.5: 2 − 0.5 · 1 = 1.5.
    """
    return opinions.mean(-1) - weight * opinions.var(-1, correction=0)


def with_floors(useful: Tensor, lacking: Tensor) -> Tensor:
    """min(useful, 0) + max(useful, 0) · max(0, 1 − lacking) − lacking, for useful [B] and lacking [B] ≥ 0, in reward units.

    Nothing lacking: useful. One unit or more lacking: nothing good about the answer counts any longer, only what is bad about it.
    Continuous; never falls when `useful` rises, and falls when `lacking` rises. useful 2, lacking 0.25: 2 · 0.75 − 0.25 = 1.25.
    The constraint of Moskovitz et al. 2023 (arXiv 2310.04373) answer by answer, with a fixed price.
    """
    return useful.clamp(max=0) + useful.clamp(min=0) * (1 - lacking).clamp(min=0) - lacking


@dataclass(frozen=True)
class Part:
    """One reward of a combination. Without a floor it earns `weight` per unit of its score; with one it earns nothing, but what it
    is short of the floor costs `weight` per unit."""

    name: str
    scorer: Scorer
    weight: float = 1.0
    floor: float | None = None


class CombinedReward:
    """Several rewards as one: Σ weight · score of the parts without a floor, under the floors of the others (see `with_floors`)."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)

    def score(self, rollouts: Rollouts) -> Tensor:
        """Scores [B]. Raises MannersError, with the part's name, for a score that is not finite."""
        return self.combine(self.part_scores(rollouts))

    def part_scores(self, rollouts: Rollouts) -> Tensor:
        """Scores [B, M] by each part, in its own unit."""
        scores = [ask(part.scorer, rollouts, part.name).scores for part in self.parts]
        return torch.stack([s.to(rollouts.tokens.device) for s in scores], 1)

    def combine(self, scores: Tensor) -> Tensor:
        """Scores [B] from those of the parts [B, M]."""
        useful, lacking = torch.zeros_like(scores[:, 0]), torch.zeros_like(scores[:, 0])
        for part, score in zip(self.parts, scores.unbind(1), strict=True):
            if part.floor is None:
                useful = useful + part.weight * score
            else:
                lacking = lacking + part.weight * (part.floor - score).clamp(min=0)
        return with_floors(useful, lacking)
