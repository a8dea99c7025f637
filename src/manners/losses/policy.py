"""The clipped policy loss, and the ratios of old and new policy that it clips."""

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
    log_ratio: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float = math.inf,
) -> PolicyLoss:
    """max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)) per token.

    log_ratio [B, T], nats: log ρ = log π − log π_old of each token, or what `mean_log_ratio` or `whole_log_ratio` give; it alone
    carries a gradient. advantages [B, T]. Schulman et al. 2017 (arXiv 1707.06347),
    eq. 7, with the sign of a loss. Known value: π = π_old gives −A. A log-ratio above 20 counts as 20: ρ stays finite, and so
    does the gradient of the branch that is not taken. `dual_clip` c > 1 bounds the loss by −c·A where A < 0: for samples of
    another policy (Ye et al. 2020, arXiv 1912.09729, eq. 5).
    """
    ratio = torch.exp(log_ratio.clamp(max=20))
    unclipped = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss, held = torch.maximum(unclipped, clipped), clipped > unclipped
    if math.isfinite(dual_clip):
        bound = -advantages * dual_clip
        beyond = (advantages < 0) & (loss > bound)
        loss, held = torch.where(beyond, bound, loss), held | beyond
    return PolicyLoss(loss, ratio, held)


def mean_log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """The mean over an answer's tokens of log π − log π_old, at each of them [B, T], 0 outside the mask.

    logps, old_logps (nats), mask (bool): [B, T]. Its exponential is the sequence-level ratio of GSPO, (π(y)/π_old(y))^(1/|y|): Zheng
    et al. 2025 (arXiv 2507.18071). Known value: of two tokens, one twice as likely as before and one just
    as likely, give ½ log 2 at both.
    """
    return whole_log_ratio(logps, old_logps, mask) / mask.sum(-1, keepdim=True).clamp(min=1)


def whole_log_ratio(logps: Tensor, old_logps: Tensor, mask: Tensor) -> Tensor:
    """log π(y) − log π_old(y) of the whole answer, at each of its tokens [B, T], 0 outside the mask.

    logps, old_logps (nats), mask (bool): [B, T]. The answer is one action, as in RLOO: Ahmadian et al. 2024 (arXiv 2402.14740).
    """
    total = torch.where(mask, logps - old_logps, 0).sum(-1, keepdim=True)
    return torch.where(mask, total, 0)
