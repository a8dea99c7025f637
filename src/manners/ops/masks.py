"""Means and whitening over the positions that count."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` where `mask` is True, over all dimensions; 0 where nothing counts."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def masked_variance(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance of `values` where `mask` is True (Ziegler et al. 2019 whiten with the biased one)."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask)


def masked_whiten(values: Tensor, mask: Tensor, *, shift_mean: bool = True, eps: float = 1e-8) -> Tensor:
    """Scale `values` to variance 1 over the mask and, with `shift_mean`, to mean 0; 0 where the mask is False.

    Whiten over the whole batch of a step, never per micro-batch. Source: openai/lm-human-preferences, `whiten`.
    """
    mean = masked_mean(values, mask)
    scaled = (values - mean) * torch.rsqrt(masked_variance(values, mask) + eps)
    return torch.where(mask, scaled if shift_mean else scaled + mean, 0)
