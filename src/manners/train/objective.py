"""What the objectives of on-policy methods have in common: the clipped policy loss, the entropy bonus, the KL loss."""

from __future__ import annotations

import math

from torch import Tensor

from manners.batches import PolicyBatch
from manners.losses.kl import forward_kl_loss, reverse_kl_loss
from manners.losses.policy import clipped_policy_loss
from manners.ops.kl import k3
from manners.protocols import Evaluated, Objective
from manners.train.settings import OnPolicyConfig


def policy_objective(now: Evaluated, batch: PolicyBatch, log_ratio: Tensor, config: OnPolicyConfig) -> Objective:
    """policy loss − entropy_weight · entropy + kl_loss_weight · KL loss, per token [B, T], unreduced. `log_ratio` [B, T] is what the
    policy loss clips."""
    policy = clipped_policy_loss(
        log_ratio, batch.advantages,
        clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip or math.inf,
    )  # fmt: skip
    total = policy.loss - config.entropy_weight * now.entropies
    parts = {"policy_loss": policy.loss, "entropy": now.entropies}
    if config.kl_loss_weight:
        kl_loss = reverse_kl_loss if config.kl_loss == "reverse" else forward_kl_loss
        parts["kl_loss"] = kl_loss(now.logps, batch.old_logps, batch.reference_logps)
        total = total + config.kl_loss_weight * parts["kl_loss"]
    statistics = {
        "ratio": policy.ratio,
        "clip_fraction": policy.clipped,
        "approx_kl": k3(batch.old_logps, now.logps),
    }
    return Objective(total, parts, statistics)
