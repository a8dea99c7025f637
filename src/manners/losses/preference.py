"""Losses of a reward model on comparisons of two answers; ties are a third outcome where a likelihood has room for them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss(
    preferred: Tensor,
    other: Tensor,
    *,
    margin: float | Tensor = 0.0,
    label_smoothing: float = 0.0,
    probability: float | Tensor = 1.0,
) -> Tensor:
    """−log σ(r_j − r_k − margin) with j preferred, per pair, and its mirror image as far as the label is in doubt.

    preferred, other [N]: rewards r_j, r_k. Bradley & Terry 1952; Ouyang et al. 2022 (arXiv 2203.02155), eq. 1. `probability`
    (a number or [N]) is the soft label: the share of people, or the probability a judge gives, for j being the better (Bai et al.
    2022, arXiv 2212.08073). `label_smoothing` ε is the chance that a label was swapped. Known value: r_j = r_k gives
    log 2 whatever the label.
    """
    difference = preferred - other - margin
    label, swapped = _labels(probability, label_smoothing)
    return -label * F.logsigmoid(difference) - swapped * F.logsigmoid(-difference)


def centring_loss(preferred: Tensor, other: Tensor) -> Tensor:
    """(r_j + r_k)² per pair: keeps the free constant of the rewards near 0. Eisenstein et al. 2023 (arXiv 2312.09244)."""
    return (preferred + other) ** 2


class Outcomes(NamedTuple):
    """Log-probabilities [N], in nats, of what can come of comparing j with k: j is preferred, k is, or they are tied."""

    win: Tensor
    loss: Tensor
    tie: Tensor


def davidson(preferred: Tensor, other: Tensor, log_tie: Tensor) -> Outcomes:
    """Outcomes in the proportions e^{r_j} : e^{r_k} : ν·e^{(r_j + r_k)/2}, ν = e^{log_tie}. Davidson 1970.

    preferred, other [N]; log_tie [] has no bounds: −∞ is Bradley–Terry, without ties. Known value: equal rewards and log_tie 0
    give each outcome 1/3.
    """
    difference = preferred - other
    tie = log_tie - difference / 2
    total = torch.logsumexp(torch.stack([torch.zeros_like(difference), -difference, tie]), 0)
    return Outcomes(-total, -difference - total, tie - total)


def rao_kupper(preferred: Tensor, other: Tensor, log_tie: Tensor) -> Outcomes:
    """Outcomes of a judge who sees no difference below log θ: P(j) = e^{r_j}/(e^{r_j} + θ·e^{r_k}), θ = 1 + e^{log_tie}.

    preferred, other [N]; log_tie [] has no bounds: −∞ is Bradley–Terry, without ties. Rao & Kupper 1967:
    P(tie) = (θ² − 1)·P(j)·P(k). Known value: equal rewards and log_tie 0 give each outcome 1/3.
    """
    difference = preferred - other
    threshold = F.softplus(log_tie)
    win, loss = F.logsigmoid(difference - threshold), F.logsigmoid(-difference - threshold)
    # θ² − 1 = e^t·(e^t + 2)
    return Outcomes(win, loss, log_tie + torch.logaddexp(log_tie, log_tie.new_tensor(math.log(2))) + win + loss)


def outcome_loss(
    outcomes: Outcomes, tied: Tensor, *, label_smoothing: float = 0.0, probability: float | Tensor = 1.0
) -> Tensor:
    """−log P of what was said, per pair: tied [N] bool, or else j preferred, with the soft label of `pair_loss`.

    With a `log_tie` of −∞ and nothing tied this is `pair_loss`.
    """
    label, swapped = _labels(probability, label_smoothing)
    return torch.where(tied, -outcomes.tie, -label * outcomes.win - swapped * outcomes.loss)


def _labels(probability: float | Tensor, label_smoothing: float) -> tuple[float | Tensor, float | Tensor]:
    """The weights of "j is the better" and of "k is"."""
    label = probability * (1 - label_smoothing) + (1 - probability) * label_smoothing
    return label, probability * label_smoothing + (1 - probability) * (1 - label_smoothing)
