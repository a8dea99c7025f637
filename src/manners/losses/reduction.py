"""From token losses [B, T] to one number: how much each answer's tokens count in a minibatch.

A reduction takes the lengths of all answers of the minibatch, so that it comes out the same however the minibatch is cut into
micro-batches. Which one is chosen decides whether a long answer counts more than a short one, or its tokens less.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Shares(NamedTuple):
    """weights [B] of every token of a row, and what the weighted sum over all tokens is divided by."""

    weights: Tensor
    denominator: float


def token_mean(lengths: Tensor) -> Shares:
    """Every token counts the same: the mean over all response tokens. lengths [B] of the responses.

    So PPO, and Yu et al. 2025 (DAPO, arXiv 2503.14476).
    """
    return Shares(torch.ones_like(lengths, dtype=torch.float32), float(lengths.sum()))


def sequence_mean(lengths: Tensor) -> Shares:
    """Every answer counts the same: the mean over answers of the mean over their tokens. lengths [B] of the responses.

    Shao et al. 2024 (GRPO, arXiv 2402.03300). A token of a long answer counts less: a bad answer becomes cheaper by being longer.
    """
    return Shares(1 / lengths.float().clamp(min=1), float(len(lengths)))


def constant_length(lengths: Tensor, *, max_tokens: int) -> Shares:
    """The mean over answers of the sum over their tokens, divided by the longest that an answer could be. lengths [B] of the responses.

    Liu et al. 2025 (Dr. GRPO, arXiv 2503.20783): no division by a length that the policy itself chooses.
    """
    return Shares(torch.ones_like(lengths, dtype=torch.float32), float(len(lengths) * max_tokens))
