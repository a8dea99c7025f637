"""The Kullback–Leibler divergence from samples, and the coefficient that keeps it near a target."""

from __future__ import annotations

import torch
from torch import Tensor


def k1(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """log π − log π_ref of sampled tokens, nats: unbiased for KL(π ‖ π_ref), may be negative. Schulman 2020, "k1"."""
    return logps - reference_logps


def k2(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """½ (log π − log π_ref)², nats²: biased as a value; its on-policy gradient is that of KL(π ‖ π_ref). Schulman 2020, "k2"."""
    return 0.5 * (logps - reference_logps) ** 2


def k3(logps: Tensor, reference_logps: Tensor) -> Tensor:
    """r − 1 − log r with r = π_ref/π, nats: unbiased for KL(π ‖ π_ref) and never negative. Schulman 2020, "k3"."""
    log_ratio = reference_logps - logps
    return torch.expm1(log_ratio) - log_ratio


def adaptive_coefficient(
    coefficient: float, kl_per_sequence: float, *, target_per_sequence: float, horizon_episodes: float, episodes: int
) -> float:
    """The next shift-penalty coefficient β: raised where the KL (nats per sequence) is above its target, lowered where below.

    e = clip(KL/target − 1, −0.2, 0.2); β ← β · (1 + e · episodes/horizon). Ziegler et al. 2019 (arXiv 1909.08593), §2.2.
    Known value: KL 12, target 6, 256 of 10,000 episodes: β grows by the factor 1.00512.
    """
    error = min(max(kl_per_sequence / target_per_sequence - 1, -0.2), 0.2)
    return coefficient * (1 + error * episodes / horizon_episodes)


def shift_penalised_rewards(
    scores: Tensor, logps: Tensor, reference_logps: Tensor, mask: Tensor, *, beta: float
) -> Tensor:
    """Per-token rewards [B, T]: −β·(log π − log π_ref) at each response token, and the score on the last of them.

    scores [B]; logps, reference_logps, mask [B, T]. Each row's rewards add up to score − β·Σ(log π − log π_ref). A row without
    response tokens gets no reward. Source: Ziegler et al. 2019, eq. 2 (the score belongs to the last action, not to the
    padding after it).
    """
    rewards = torch.where(mask, -beta * k1(logps, reference_logps), 0)
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, positions, -1).amax(-1)
    return rewards + torch.where((positions[None] == last[:, None]) & mask, scores[:, None], 0)


def importance_weights(logps: Tensor, sampler_logps: Tensor, mask: Tensor, *, cap: float) -> Tensor:
    """min(π_learner/π_sampler, cap) per token [B, T], 0 outside the mask: truncated importance sampling, for samples of another engine.

    logps: the learner's own log-probabilities of what the sampler drew, sampler_logps: the sampler's; nats. Known value: equal
    ones give 1. Ionides 2008; Yao et al. 2025 ("Your efficient RL framework secretly brings you off-policy RL training").
    """
    return torch.where(mask, torch.exp((logps - sampler_logps).clamp(max=20)).clamp(max=cap), 0)
