"""The win rate of one model over another, and what it would be if both answered at the same length."""

from __future__ import annotations

import torch
from torch import Tensor

_STEPS = 25  # of Newton's method
_RIDGE = 0.01  # keeps the coefficients finite where one side wins always, or whenever it is longer


def both_orders(first: Tensor, second: Tensor) -> Tensor:
    """Preferences [N] for the answer a, from those for a when it stands first [N] and when it stands second [N].

    Their mean where both orders agree on the winner; a tie, ½, where the winner changes with the order. Zheng et al. 2023
    (arXiv 2306.05685), section 3.4.
    """
    disagree = (first - 0.5) * (second - 0.5) < 0
    return torch.where(disagree, 0.5, (first + second) / 2)


def length_controlled(preferences: Tensor, lengths: Tensor, weights: Tensor | None = None) -> Tensor:
    """Win rates [R] at equal length, from preferences [N] in 0 … 1, length differences [N], and weights [R, N] (none: all 1, R = 1).

    The fit of preference = σ(a + b · tanh(difference/deviation)), read off at difference 0: σ(a). Dubois et al. 2024 (arXiv
    2404.04475) without their difficulty of instructions. Known value: lengths that do not differ give the mean preference.
    """
    wins = preferences.double()
    rows = torch.ones(1, len(wins), dtype=torch.double) if weights is None else weights.double()
    spread = lengths.double().std(correction=0)
    longer = torch.tanh(lengths.double() / spread) if spread > 0 else torch.zeros_like(wins)
    design = torch.stack([torch.ones_like(wins), longer], 1)
    fitted = torch.zeros(len(rows), 2, dtype=torch.double)
    ridge = _RIDGE * torch.eye(2, dtype=torch.double)
    for _ in range(_STEPS):
        chance = torch.sigmoid(fitted @ design.T)
        gradient = (rows * (wins - chance)) @ design - _RIDGE * fitted
        curvature = torch.einsum("rn,ni,nj->rij", rows * chance * (1 - chance), design, design) + ridge
        step = torch.linalg.solve(curvature, gradient[..., None])[..., 0]
        fitted = fitted + step.clamp(-2, 2)
    return torch.sigmoid(fitted[:, 0])
