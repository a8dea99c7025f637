"""Generalised advantage estimation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Advantages(NamedTuple):
    """advantages, returns [B, T], in reward units; 0 outside the mask. returns = advantages + values."""

    advantages: Tensor
    returns: Tensor


def gae(rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float) -> Advantages:
    """Advantages by GAE(γ, λ) over the masked stretch of each row; the value after the last token is 0.

    rewards, values [B, T]; mask [B, T] bool, contiguous in each row. Position t acts by emitting token t, so values[:, t] is
    the value of the state *before* token t. δ_t = r_t + γ V_{t+1} − V_t, A_t = δ_t + γλ A_{t+1}.

    Schulman et al. 2015 (arXiv 1506.02438), eq. 16. λ = 1, γ = 1: A_t = Σ_{s ≥ t} r_s − V_t. λ = 0: A_t = δ_t.
    """
    rewards = torch.where(mask, rewards, 0)
    values = torch.where(mask, values, 0)
    advantages = torch.zeros_like(rewards)
    running = torch.zeros_like(rewards[:, 0])
    following = torch.zeros_like(running)
    for t in range(rewards.shape[1] - 1, -1, -1):
        delta = rewards[:, t] + gamma * following - values[:, t]
        running = torch.where(mask[:, t], delta + gamma * lam * running, 0)
        following = values[:, t]
        advantages[:, t] = running
    return Advantages(advantages, torch.where(mask, advantages + values, 0))
