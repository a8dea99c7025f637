"""Losses of a reward model on preferences."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def pair_loss(
    preferred: Tensor, other: Tensor, *, margin: float | Tensor = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """−log σ(r_j − r_k − margin) with j preferred, per pair; `label_smoothing` ε is the chance of a swapped label: a soft label 1 − ε.

    preferred, other [N]: rewards r_j, r_k. Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), eq. 1.
    Known value: r_j = r_k gives log 2.
    """
    difference = preferred - other - margin
    return -(1 - label_smoothing) * F.logsigmoid(difference) - label_smoothing * F.logsigmoid(-difference)


def centring_loss(preferred: Tensor, other: Tensor) -> Tensor:
    """(r_j + r_k)² per pair: keeps the free constant of the rewards near 0. Eisenstein et al. 2023 (arXiv 2312.09244)."""
    return (preferred + other) ** 2
