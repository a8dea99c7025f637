"""Losses that teach a policy from preferences directly, without a reward model and without sampling.

`chosen` and `rejected` [N] are what a loss compares. Where there is a reference they are log-ratios log π(y|x) − log π_ref(y|x) of
whole answers, in nats: summed over the answer's tokens, or their mean per token. β times a log-ratio is the implicit reward (Rafailov
et al. 2023, arXiv 2305.18290, eq. 5). Losses without a reference (`simpo_loss`, `orpo_loss`) compare mean log-probabilities per token.

`probability` (a number or [N]) is the soft label: how likely the chosen answer really is the better one. A loss is then the mean over
both ways round; a margin stays on the side of the chosen answer, as in `pair_loss`. Nothing is reduced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from manners.losses.preference import pair_loss

LOG_HALF = -math.log(2)


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    margin: float | Tensor = 0.0,
    label_smoothing: float = 0.0,
    probability: float | Tensor = 1.0,
) -> Tensor:
    """−log σ(β·(chosen − rejected) − margin), per pair: the loss of a reward model on the implicit rewards.

    Rafailov et al. 2023 (arXiv 2305.18290), eq. 7. `label_smoothing` ε is the chance that a label was swapped: cDPO (Mitchell 2023).
    `margin` is by how much the implicit rewards should differ at least: DPO with an offset (Amini et al. 2024, arXiv 2402.10571).
    Known value: policy = reference gives log 2.
    """
    return pair_loss(
        beta * chosen, beta * rejected, margin=margin, label_smoothing=label_smoothing, probability=probability
    )


def robust_dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    label_smoothing: float,
    margin: float | Tensor = 0.0,
    probability: float | Tensor = 1.0,
) -> Tensor:
    """((1 − ε)·L(chosen, rejected) − ε·L(rejected, chosen))/(1 − 2ε), L being `dpo_loss`, per pair.

    Chowdhury et al. 2024 (arXiv 2403.00409), eq. 12: where a share ε of the labels was swapped, its mean is that of L on the true labels.
    Known value: policy = reference gives log 2.
    """
    unbiased = (probability - label_smoothing) / (1 - 2 * label_smoothing)
    return dpo_loss(chosen, rejected, beta=beta, margin=margin, probability=unbiased)


def ipo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, probability: float | Tensor = 1.0) -> Tensor:
    """(chosen − rejected − 1/(2β))² per pair. Azar et al. 2023 (arXiv 2310.12036), eq. 17, with β for their τ.

    Its optimum is bounded: a difference of 1/(2β), or (2·probability − 1)/(2β) with a soft label. Known value: policy = reference
    gives 1/(4β²).
    """

    def squared(one: Tensor, other: Tensor) -> Tensor:
        return (one - other - 1 / (2 * beta)) ** 2

    return _both_ways(squared, chosen, rejected, probability)


def hinge_loss(
    chosen: Tensor,
    rejected: Tensor,
    *,
    beta: float,
    margin: float | Tensor = 0.0,
    probability: float | Tensor = 1.0,
) -> Tensor:
    """max(0, 1 + margin − β·(chosen − rejected)) per pair.

    Zhao et al. 2023 (SLiC-HF, arXiv 2305.10425), on log-ratios as in Liu et al. 2023 (RSO, arXiv 2309.06657). Known value:
    policy = reference gives 1.
    """

    def hinge(one: Tensor, other: Tensor) -> Tensor:
        return torch.relu(1 + margin - beta * (one - other))

    return _both_ways(hinge, chosen, rejected, probability)


def simpo_loss(
    chosen: Tensor, rejected: Tensor, *, beta: float, gamma: float | Tensor, probability: float | Tensor = 1.0
) -> Tensor:
    """−log σ(β·(chosen − rejected) − γ) of mean log-probabilities per token, without a reference, per pair.

    Meng et al. 2024 (arXiv 2405.14734), eq. 6. γ is in units of β·log-probability. Known value: γ = 0 and equal means give log 2.
    """
    return pair_loss(beta * chosen, beta * rejected, margin=gamma, probability=probability)


def orpo_loss(chosen: Tensor, rejected: Tensor, *, beta: float, probability: float | Tensor = 1.0) -> Tensor:
    """−chosen − β·log σ(log odds of chosen − log odds of rejected) of mean log-probabilities per token, per pair.

    Hong et al. 2024 (arXiv 2403.07691), eqs. 6 and 7, with β for their λ and odds = p/(1 − p), p = e^(mean log-probability). There
    is no reference; the first term is that of fine-tuning on the chosen answer. Known value: equal means m give −m + β·log 2.
    """

    def odds_ratio(one: Tensor, other: Tensor) -> Tensor:
        return -one - beta * F.logsigmoid(log_odds(one) - log_odds(other))

    return _both_ways(odds_ratio, chosen, rejected, probability)


def log_odds(logps: Tensor) -> Tensor:
    """log(p/(1 − p)) from log p [N], nats, exact near p = 0 and near p = 1. Known value: log p = −log 2 gives 0.

    A p that rounds to 1 counts as the next smaller number, so that value and gradient stay finite.
    """
    logps = logps.clamp(max=-torch.finfo(logps.dtype).eps)
    near_one = torch.log(-torch.expm1(logps.clamp(min=LOG_HALF)))
    near_zero = torch.log1p(-torch.exp(logps.clamp(max=LOG_HALF)))
    return logps - torch.where(logps > LOG_HALF, near_one, near_zero)


def apo_zero_loss(chosen: Tensor, rejected: Tensor, *, beta: float, probability: float | Tensor = 1.0) -> Tensor:
    """1 − σ(β·chosen) + σ(β·rejected) per pair: the chosen answer becomes likelier and the rejected one less likely.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 7: for chosen answers better than the model's own. Known value:
    policy = reference gives 1.
    """

    def anchored(one: Tensor, other: Tensor) -> Tensor:
        return torch.sigmoid(-beta * one) + torch.sigmoid(beta * other)

    return _both_ways(anchored, chosen, rejected, probability)


def apo_down_loss(chosen: Tensor, rejected: Tensor, *, beta: float, probability: float | Tensor = 1.0) -> Tensor:
    """σ(β·chosen) + 1 − σ(β·(chosen − rejected)) per pair: both become less likely, the rejected answer more so.

    D'Oosterlinck et al. 2024 (arXiv 2408.06266), eq. 8: for models whose own answers are better than the chosen ones. Known value:
    policy = reference gives 1.
    """

    def anchored(one: Tensor, other: Tensor) -> Tensor:
        return torch.sigmoid(beta * one) + torch.sigmoid(-beta * (one - other))

    return _both_ways(anchored, chosen, rejected, probability)


def kto_loss(
    shifts: Tensor,
    desirable: Tensor,
    reference_point: Tensor,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> Tensor:
    """λ_D·(1 − σ(β·(shift − z₀))) of a desirable answer, λ_U·(1 − σ(β·(z₀ − shift))) of an undesirable one, per answer.

    shifts [N]: log-ratios of single answers. desirable [N]: how likely the answer is a good one, 1 or 0 for a plain thumb. reference_point
    []: z₀ of `kto_reference_point`, without gradient. Ethayarajh et al. 2024 (arXiv 2402.01306), eq. 7. Known value: policy = reference
    gives λ/2.
    """
    gain = beta * (shifts - reference_point.detach())
    good = desirable_weight * torch.sigmoid(-gain)
    bad = undesirable_weight * torch.sigmoid(gain)
    return desirable * good + (1 - desirable) * bad


def kto_reference_point(shifts: Tensor) -> Tensor:
    """z₀ []: the mean log-ratio of answers to *other* prompts, shifts [M], at least 0: a low-variance estimate of KL(π ‖ π_ref).

    Ethayarajh et al. 2024 (arXiv 2402.01306), section 4.1. No answers give 0. It carries no gradient.
    """
    return shifts.detach().mean().clamp(min=0) if len(shifts) else shifts.new_zeros(())


def _both_ways(
    loss: Callable[[Tensor, Tensor], Tensor], chosen: Tensor, rejected: Tensor, probability: float | Tensor
) -> Tensor:
    return probability * loss(chosen, rejected) + (1 - probability) * loss(rejected, chosen)
