"""Advantages from groups: the other answers to the same prompt stand in for a value function.

Returns [P, K] are those of K answers to each of P prompts, in reward units, and so are advantages [P, K]. A group whose answers are all
worth the same has nothing to compare: its advantages are exactly 0, whatever rounding makes of its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-4  # reward units; as TRL


def equal_groups(returns: Tensor) -> Tensor:
    """[P] bool: all answers of the group have the same return."""
    return (returns == returns[:, :1]).all(-1)


def centred(returns: Tensor) -> Tensor:
    """R_i − mean(R): group advantages without the standard deviation.

    Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783). In expectation (K − 1)/K times the policy gradient: the mean holds the answer
    itself. Known value: K = 2 gives ±(R₁ − R₂)/2. Raises ValueError for a single answer.
    """
    _refuse_single(returns)
    return torch.where(equal_groups(returns)[:, None], 0, returns - returns.mean(-1, keepdim=True))


def standardised(returns: Tensor, *, eps: float = EPS) -> Tensor:
    """(R_i − mean(R))/(std(R) + ε), std with K − 1 in the denominator: the advantages of GRPO.

    Shao et al. 2024 (arXiv 2402.03300), where neither the denominator nor ε is given; TRL has K − 1 and 1e-4 as well. Biased:
    groups with little spread count more. Known value: K = 2 gives ±1/√2 (with K in the denominator it would be ±1), up to ε.
    Raises ValueError for a single answer.
    """
    return centred(returns) / (returns.std(-1, keepdim=True) + eps)


def leave_one_out(returns: Tensor) -> Tensor:
    """R_i less the mean of the other answers: the advantages of RLOO, unbiased, since the baseline does not hold the answer itself.

    Kool et al. 2019; Ahmadian et al. 2024 (arXiv 2402.14740). They are K/(K − 1) times those of `centred`. Known values: each
    group adds up to 0; K = 2 gives ±(R₁ − R₂). Raises ValueError for a single answer.
    """
    _refuse_single(returns)
    count = returns.shape[-1]
    others = (returns.sum(-1, keepdim=True) - returns) / (count - 1)
    return torch.where(equal_groups(returns)[:, None], 0, returns - others)


def _refuse_single(returns: Tensor) -> None:
    if returns.shape[-1] < 2:
        raise ValueError(
            "a group needs at least two answers to the same prompt: one alone has nothing to be compared with"
        )
