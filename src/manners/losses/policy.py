"""The clipped policy loss of PPO."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class PolicyLoss(NamedTuple):
    """loss, ratio [B, T]; clipped [B, T] bool: a clipped branch is the one that counts and has no gradient."""

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_policy_loss(
    logps: Tensor,
    old_logps: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = math.inf,
) -> PolicyLoss:
    """max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)) per token, ρ = exp(log π − log π_old).

    logps, old_logps (nats), advantages: [B, T]. Only `logps` carries a gradient. Schulman et al. 2017 (arXiv 1707.06347),
    eq. 7, with the sign of a loss. Known value: π = π_old gives −A. A log-ratio above 20 counts as 20: ρ stays finite, and so
    does the gradient of the branch that is not taken. `dual_clip` c > 1 bounds the loss by −c·A where A < 0: for samples of
    another policy (Ye et al. 2020, arXiv 1912.09729, eq. 5).
    """
    ratio = torch.exp((logps - old_logps).clamp(max=20))
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, held = torch.maximum(unclipped, clipped), clipped > unclipped
    if math.isfinite(dual_clip):
        bound = -advantages * dual_clip
        beyond = (advantages < 0) & (loss > bound)
        loss, held = torch.where(beyond, bound, loss), held | beyond
    return PolicyLoss(loss, ratio, held)
