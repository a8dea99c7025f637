"""The losses of implicit language Q-learning (ILQL), per token: Snell et al. 2022 (arXiv 2206.11871).

A state is a text so far, an action the token that follows. Q says what comes of an action, V what comes of a state if only actions as
good as the better ones in the data are taken. Tensors are of any one shape, [B, T] or [N]; nothing is reduced. Values are in reward
units, log-probabilities in nats.
"""

from __future__ import annotations

import torch
from torch import Tensor


def td_loss(values: Tensor, targets: Tensor) -> Tensor:
    """(Q(s_t, a_t) − y_t)² per token; no gradient goes into the targets y_t = r_t + γ V(s_{t+1}).

    Snell et al. 2022, eq. 2, first term, without its ½. Known value: Q = y gives 0.
    """
    return (values - targets.detach()) ** 2


def expectile_loss(values: Tensor, targets: Tensor, *, tau: float) -> Tensor:
    """|τ − 1[Q̂ < V]|·(Q̂ − V)² per token, V being `values` and Q̂ `targets`, which get no gradient.

    Kostrikov et al. 2021 (arXiv 2110.06169), eq. 5. Its minimum over a constant V is the τ-expectile of Q̂: the mean for τ = ½, towards
    the maximum for τ → 1. Known value: Q̂ − V = 1 gives τ, −1 gives 1 − τ.
    """
    difference = targets.detach() - values
    return torch.where(difference < 0, 1 - tau, tau) * difference**2


def conservative_loss(chosen: Tensor, log_partition: Tensor) -> Tensor:
    """log Σ_a exp Q(s, a) − Q(s, a_t) per token, from Q of the tokens in the data and from the first term.

    It holds down the Q of tokens that the data never tried (Kumar et al. 2020, arXiv 2006.04779, CQL(H), eq. 4). Known value: a
    constant Q gives log V.
    """
    return log_partition - chosen


def advantage_weights(values: Tensor, targets: Tensor, *, beta: float, cap: float) -> Tensor:
    """min(exp(β·(Q̂ − V)), cap) per token, without gradient: how much its log-likelihood counts in the cloning term.

    Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177; Nair et al. 2020, arXiv 2006.09359). Known value: β = 0 gives 1,
    plain behaviour cloning, whatever the values.
    """
    return torch.exp(beta * (targets - values)).clamp(max=cap).detach()
