"""Scalar heads on the trunk: one number from a hidden state, a reward or a value."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ScalarHead(nn.Module):
    """Hidden states [..., H] to numbers [...], float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    @classmethod
    def for_reward(cls, width: int, seed: int) -> ScalarHead:
        """Weights drawn with standard deviation 1/√(H + 1), bias 0 (Ziegler et al. 2019)."""
        head = cls(width)
        nn.init.normal_(head.linear.weight, std=1 / math.sqrt(width + 1), generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(head.linear.bias)
        return head

    @classmethod
    def for_value(cls, width: int) -> ScalarHead:
        """All zero: before the first update every value is 0 (Ziegler et al. 2019, shared trunk)."""
        head = cls(width)
        nn.init.zeros_(head.linear.weight)
        nn.init.zeros_(head.linear.bias)
        return head

    def forward(self, hidden: Tensor) -> Tensor:
        values: Tensor = self.linear(hidden.to(self.linear.weight.dtype))[..., 0]
        return values
