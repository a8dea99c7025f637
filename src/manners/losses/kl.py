"""The divergence from the reference as a loss. Which estimator of its value has which gradient is easily got wrong.

As a loss, k1 = log π − log π_ref has expected gradient 0 on samples of π: it holds nothing back. k2's is that of KL(π ‖ π_ref), and
k3's that of KL(π_ref ‖ π), though the *value* of k3 estimates the former. On samples of an older policy each term is multiplied by
its ratio, without which the gradient belongs to no divergence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manners.ops.kl import k2, k3


def reverse_kl_loss(logps: Tensor, old_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """ρ·½(log π − log π_ref)² per token: in expectation the gradient of KL(π ‖ π_ref). All [B, T], nats.

    ρ = π/π_old without gradient, at most e²⁰. Only `logps` carries a gradient. Known value: π = π_ref gives 0.
    """
    return _ratio(logps, old_logps) * k2(logps, reference_logps)


def forward_kl_loss(logps: Tensor, old_logps: Tensor, reference_logps: Tensor) -> Tensor:
    """ρ·(r − 1 − log r) per token with r = π_ref/π: in expectation the gradient of KL(π_ref ‖ π). All [B, T], nats.

    ρ = π/π_old without gradient, at most e²⁰. Only `logps` carries a gradient. Known value: π = π_ref gives 0.
    """
    return _ratio(logps, old_logps) * k3(logps, reference_logps)


def _ratio(logps: Tensor, old_logps: Tensor) -> Tensor:
    return torch.exp((logps.detach() - old_logps).clamp(max=20))
