"""Proximal policy optimisation from human feedback, in cycles.

Phase I completes prompts and carries out experiments: the policy answers, the judge scores, the shift penalty against the frozen
reference becomes part of the reward, the value function estimates advantages. Phase II updates the policy inside the trust region:
clipped policy loss, clipped value loss and entropy loss in one weighted sum. Only adapter and value head change.
Details, values and sources: docs/details/ppo.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from manners.batches import PPOBatch, ScoredRollouts
from manners.errors import MannersError
from manners.learner.local import POLICY, LocalLearner
from manners.losses.value import clipped_value_loss
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.ops.advantages import gae
from manners.ops.masks import masked_whiten
from manners.protocols import Evaluated, Learner, Objective, Sampler
from manners.records import Prompt
from manners.rewards.model import RewardModel
from manners.runs import Run, Track, untracked
from manners.sampling.local import LocalSampler
from manners.stopwatch import STILL, Stopwatch
from manners.train.cycle import Method, run_cycles, set_up_optimiser
from manners.train.experiment import Judges, load_judges, shortened
from manners.train.objective import policy_objective
from manners.train.recording import describe_critic, stopwatch_for
from manners.train.settings import OnPolicyConfig


class PPOConfig(OnPolicyConfig):
    """Settings of `train ppo`."""

    critic: Literal["shared", "adapter", "reward"] = Field(
        "shared",
        description="the value function: a head on the policy's states; an adapter of its own; or one that begins as the reward model",
    )

    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    value_lam: float | None = Field(None, ge=0, le=1, description="λ of the returns the critic learns; none = lam")
    whiten_rewards: bool = Field(False, description="scale the rewards of all tokens to variance 1; the mean stays")
    whiten_advantages: bool = True

    value_clip: float = Field(0.2, gt=0)
    value_weight: float = Field(0.1, ge=0)
    critic_warmup_steps: int = Field(0, ge=0, description="steps in which only the value function learns")
    value_learning_rate: float = Field(1e-3, gt=0, description="peak, value function")


def train_ppo(
    config: PPOConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    trunk: Trunk | None = None,
    judges: Judges | None = None,
    track: Track = untracked,
    state: Path | None = None,
) -> Trunk:
    """Train on `prompts`; `heldout` prompts choose RUN/checkpoints/best. Gives the trunk with the adapter "policy" on it.

    `state`: the folder that `run.resume()` gave, to go on from.
    """
    if not prompts:
        raise MannersError("there are no prompts to train on")
    trunk = trunk or load_trunk(
        config.model, config.train_layers, trust_remote_code=config.trust_remote_code,
        gradient_checkpointing=config.gradient_checkpointing, base_bits=config.base_bits,
    )  # fmt: skip
    judges = judges or load_judges(config, trunk)
    stopwatch = stopwatch_for(config.profile, trunk.device)
    learner = make_learner(config, trunk, judges, stopwatch)
    prompts, heldout = shortened(config, trunk, prompts), shortened(config, trunk, heldout)
    sampler = LocalSampler(trunk, POLICY, batch=config.batch, model_name=str(run.path), stopwatch=stopwatch)
    heldout = heldout[: config.evaluate_prompts]
    ppo_loop(config, prompts, heldout, run, sampler, judges, learner, track, state, stopwatch)
    return trunk


def make_learner(config: PPOConfig, trunk: Trunk, judges: Judges, stopwatch: Stopwatch = STILL) -> LocalLearner:
    """The learner with its optimizer. Raises MannersError where the critic cannot begin as the reward model."""
    learner = LocalLearner(
        trunk, rank=config.rank, alpha=config.alpha, temperature=config.temperature, minibatches=config.minibatches,
        micro_tokens=config.micro_tokens, seed=config.seed, entropy_gradient=config.entropy_weight != 0,
        critic="shared" if config.critic == "shared" else "adapter", max_mean_ratio=config.max_mean_ratio,
        stopwatch=stopwatch,
    )  # fmt: skip
    if config.critic == "reward":
        judge = judges.reward
        if not isinstance(judge, RewardModel) or judge.trunk is not trunk:
            raise MannersError(
                "critic: reward needs a reward model on the policy's own base as the judge; use critic: adapter"
            )
        learner.begin_critic(judge.adapter, judge.head, judge.mean, judge.std)
    set_up_optimiser(config, learner, config.value_learning_rate)
    return learner


def ppo_loop(
    config: PPOConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    sampler: Sampler,
    judges: Judges,
    learner: Learner,
    track: Track = untracked,
    state: Path | None = None,
    stopwatch: Stopwatch = STILL,
) -> None:
    """The cycles of PPO on the three seams. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final."""

    def advantages(scored: ScoredRollouts, weights: Tensor | None) -> tuple[PPOBatch, dict[str, float]]:
        with stopwatch.part("values"):
            values = learner.values(scored)
        batch = ppo_batch(scored, values, config, weights)
        return batch, describe_critic(batch)

    def opened(batch: PPOBatch) -> dict[str, Tensor]:
        return {"value": batch.old_values}

    method = Method(advantages, partial(ppo_objective, config=config), opened, config.critic_warmup_steps)
    run_cycles(config, prompts, heldout, run, sampler, judges, learner, method, track, state, stopwatch)


def ppo_batch(scored: ScoredRollouts, values: Tensor, config: PPOConfig, weights: Tensor | None = None) -> PPOBatch:
    """Advantages (whitened over the whole batch, then weighted by `weights` [B, T] where there are any) and returns by GAE."""
    mask = scored.response_mask
    rewards = masked_whiten(scored.rewards, mask, shift_mean=False) if config.whiten_rewards else scored.rewards
    advantages, returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.lam)
    if config.value_lam is not None:
        returns = gae(rewards, values, mask, gamma=config.gamma, lam=config.value_lam).returns
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    if weights is not None:
        advantages = advantages * weights
    return PPOBatch(
        scored.tokens, scored.prompt_lengths, scored.lengths, scored.states, scored.logps, scored.reference_logps,
        advantages, returns, values,
    )  # fmt: skip


def ppo_objective(now: Evaluated, batch: PPOBatch, *, config: PPOConfig) -> Objective:
    """policy loss + value_weight · value loss − entropy_weight · entropy + kl_loss_weight · KL loss, per token, unreduced."""
    policy = policy_objective(now, batch, now.logps - batch.old_logps, config)
    value = clipped_value_loss(now.values, batch.old_values, batch.returns, clip=config.value_clip)
    return Objective(
        policy.total + config.value_weight * value.loss,
        {**policy.parts, "value_loss": value.loss},
        {**policy.statistics, "value_clip_fraction": value.clipped},
    )
