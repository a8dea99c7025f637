"""The clipped value loss of PPO."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class ValueLoss(NamedTuple):
    """loss [B, T] in squared reward units; clipped [B, T] bool: the clipped branch counts."""

    loss: Tensor
    clipped: Tensor


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, *, clip: float) -> ValueLoss:
    """½ max((V − R)², (V_clip − R)²) per token, V_clip = V_old + clip(V − V_old, −clip, clip).

    values, old_values, returns [B, T]. Source: openai/baselines `ppo2`. Known value: V = R and |V − V_old| ≤ clip gives 0.
    """
    near = old_values + (values - old_values).clamp(-clip, clip)
    unclipped, clipped = (values - returns) ** 2, (near - returns) ** 2
    outside = (values - old_values).abs() > clip
    return ValueLoss(0.5 * torch.maximum(unclipped, clipped), outside & (clipped > unclipped))
