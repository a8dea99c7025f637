"""Proximal policy optimisation from human feedback, in cycles.

Phase I completes prompts and carries out experiments: the policy answers, the judge scores, the shift penalty against the frozen
reference becomes part of the reward, the value function estimates advantages. Phase II updates the policy inside the trust region:
clipped policy loss, clipped value loss and entropy loss in one weighted sum. Only adapter and value head change.
Details, values and sources: docs/details/ppo.md.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.config import Config
from manners.errors import MannersError
from manners.learner.local import POLICY, LocalLearner
from manners.learner.optimiser import Optimiser
from manners.losses.policy import clipped_policy_loss
from manners.losses.value import clipped_value_loss
from manners.models.load import load_trunk
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.advantages import gae
from manners.ops.diversity import distinct_n
from manners.ops.kl import adaptive_coefficient, k1, k3, shift_penalised_rewards
from manners.ops.masks import masked_mean, masked_variance, masked_whiten
from manners.protocols import Evaluated, Learner, Objective, Sampler, Scorer
from manners.records import Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.runs import Run, Track, untracked
from manners.sampling.local import LocalSampler


class PPOConfig(Config):
    """Settings of `train ppo`."""

    model: str = Field("starter", description="the policy to start from; it is also the frozen reference")
    reward: ScorerConfig = Field(ScorerConfig(), description="the judge that is optimised")
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched, never optimised")
    train_layers: TrainLayers = Field(8, description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")

    steps: int = Field(20, gt=0, description="cycles of Phase I and Phase II")
    batch: int = Field(64, gt=1, description="prompts, and so episodes, per step")
    max_tokens: int = Field(48, gt=0, description="longest answer, end-of-turn token included")
    temperature: float = Field(1.0, gt=0, description="of sampling; divides the logits in every log-probability alike")

    beta: float = Field(0.05, ge=0, description="coefficient of the shift penalty, reward units per nat")
    kl_target_per_sequence: float | None = Field(
        None, gt=0, description="nats per sequence; set it to adapt beta, else beta is fixed"
    )
    kl_horizon_episodes: float = Field(10_000, gt=0, description="how slowly beta adapts")
    kl_budget_per_sequence: float | None = Field(
        None, gt=0, description="stop when the KL of a step exceeds this, nats per sequence"
    )
    target_reward: float | None = Field(None, description="stop when the held-out reward reaches this")

    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    whiten_advantages: bool = True
    missing_eos_reward: float | None = Field(
        None, description="reward units: this replaces the score of an answer that never ends"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="reward units: this is subtracted from the score of an answer that never ends"
    )
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to ± this, reward units")

    epochs: int = Field(4, gt=0, description="passes over the batch in Phase II")
    minibatches: int = Field(1, gt=0, description="optimizer steps per epoch")
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    value_clip: float = Field(0.2, gt=0)
    value_weight: float = Field(0.1, ge=0)
    entropy_weight: float = Field(0.0, description="of the entropy bonus; 0 = entropy is only logged")
    learning_rate: float = Field(3e-4, gt=0, description="peak, policy adapter")
    value_learning_rate: float = Field(1e-3, gt=0, description="peak, value head")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the optimizer steps with rising learning rate")
    max_grad_norm: float = Field(1.0, gt=0)
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")

    evaluate_every: int = Field(
        5, gt=0, description="steps between looks at the held-out prompts; the best of them is kept"
    )
    evaluate_prompts: int = Field(32, ge=0, description="held-out prompts per look; 0 = never look, keep the last")
    evaluate_samples: int = Field(
        1, gt=0, description="answers per held-out prompt and look; more make the choice surer"
    )
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _one_way(self) -> PPOConfig:
        if self.missing_eos_reward is not None and self.missing_eos_penalty:
            raise ValueError(
                "set missing_eos_reward (replaces the score) or missing_eos_penalty (is subtracted), not both"
            )
        return self


@dataclass(frozen=True)
class Judges:
    """The judge that is optimised and the one that only watches."""

    reward: Scorer
    second: Scorer | None


def train_ppo(
    config: PPOConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    trunk: Trunk | None = None,
    judges: Judges | None = None,
    track: Track = untracked,
) -> Trunk:
    """Train on `prompts`; `heldout` prompts choose RUN/checkpoints/best. Gives the trunk with the adapter "policy" on it."""
    if not prompts:
        raise MannersError("there are no prompts to train on")
    trunk = trunk or load_trunk(config.model, config.train_layers, trust_remote_code=config.trust_remote_code)
    judges = judges or load_judges(config, trunk)
    learner = LocalLearner(
        trunk, rank=config.rank, alpha=config.alpha, temperature=config.temperature, minibatches=config.minibatches,
        micro_tokens=config.micro_tokens, seed=config.seed, entropy_gradient=config.entropy_weight != 0,
    )  # fmt: skip
    updates = config.steps * config.epochs * config.minibatches
    learner.optimise(
        partial(Optimiser, steps=updates, warmup_steps=round(config.warmup * updates), max_grad_norm=config.max_grad_norm, eps=1e-5),
        config.learning_rate, config.value_learning_rate,
    )  # fmt: skip
    sampler = LocalSampler(trunk, POLICY, batch=config.batch, model_name=str(run.path))
    ppo_loop(config, prompts, heldout[: config.evaluate_prompts], run, sampler, judges, learner, track)
    return trunk


def load_judges(config: PPOConfig, trunk: Trunk) -> Judges:
    second = load_scorer(config.second_judge, trunk, "second judge") if config.second_judge.named else None
    return Judges(load_scorer(config.reward, trunk, "reward"), second)


def ppo_loop(
    config: PPOConfig,
    prompts: Sequence[Prompt],
    heldout: Sequence[Prompt],
    run: Run,
    sampler: Sampler,
    judges: Judges,
    learner: Learner,
    track: Track = untracked,
) -> None:
    """The loop itself, on the three seams. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final."""
    objective = partial(ppo_objective, config=config)
    order = _prompt_order(len(prompts), config)
    beta, best = config.beta, float("-inf")
    for step in track(range(config.steps), "PPO"):
        clock = _Clock()
        chosen = [prompts[i] for i in order[step]]  # Phase I: complete prompts, carry out experiments
        rollouts = sampler.sample(
            chosen, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed * 100_003 + step
        )
        clock.lap("sample")
        given = judges.reward.score(rollouts)
        scores = adjust_scores(given, rollouts.finished, config)
        clock.lap("score")
        scored = with_shift_penalty(rollouts, scores, learner.logprobs(rollouts, "reference"), beta)
        clock.lap("reference")
        batch = ppo_batch(scored, learner.values(rollouts), config)
        clock.lap("value")
        epochs = [
            learner.step(batch, objective) for _ in range(config.epochs)
        ]  # Phase II: update inside the trust region
        clock.lap("update")
        row: dict[str, Any] = {"step": step, "episodes": (step + 1) * config.batch, "reward": float(given.mean())}
        row |= _describe(scored, batch, epochs, beta)
        beta = next_beta(beta, row["kl"], config)
        reason = "KL budget" if _over_budget(row["kl"], config) else "steps" if step == config.steps - 1 else ""
        if heldout and (reason or (step + 1) % config.evaluate_every == 0):
            row |= look_at_heldout(config, heldout, sampler, judges, learner)
            row["best"] = row["heldout_reward"] > best and not _over_budget(row["heldout_kl"], config)
            if row["best"]:
                best = row["heldout_reward"]
                learner.save(run.checkpoint("best"))
            if config.target_reward is not None and best >= config.target_reward:
                reason = "target reward"
            clock.lap("evaluate")
        row |= {"stopped": reason} if reason else {}
        run.log(**row, phase_seconds=clock.laps, seconds=clock.total)
        _keep_samples(run, step, scored)
        if reason:
            break
    learner.save(run.checkpoint("final"))


def with_shift_penalty(rollouts: Rollouts, scores: Tensor, reference_logps: Tensor, beta: float) -> ScoredRollouts:
    """Rollouts with their rewards: −β·(log π − log π_ref) at every response token, plus the score on the last."""
    rewards = shift_penalised_rewards(scores, rollouts.logps, reference_logps, rollouts.response_mask, beta=beta)
    return ScoredRollouts(**vars(rollouts), scores=scores, reference_logps=reference_logps, rewards=rewards)


def adjust_scores(scores: Tensor, finished: Tensor, config: PPOConfig) -> Tensor:
    """Scores [B] after clipping, and with answers that never end replaced (Ziegler et al. 2019) or penalised (TRL)."""
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    if config.missing_eos_reward is not None:
        return torch.where(finished, scores, config.missing_eos_reward)
    return torch.where(finished, scores, scores - config.missing_eos_penalty)


def ppo_batch(scored: ScoredRollouts, values: Tensor, config: PPOConfig) -> PPOBatch:
    """Advantages (whitened over the whole batch) and returns by GAE."""
    mask = scored.response_mask
    advantages, returns = gae(scored.rewards, values, mask, gamma=config.gamma, lam=config.lam)
    if config.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    return PPOBatch(
        scored.tokens, scored.prompt_lengths, scored.lengths, scored.states, scored.logps, advantages, returns, values
    )


def ppo_objective(now: Evaluated, batch: PPOBatch, *, config: PPOConfig) -> Objective:
    """policy loss + value_weight · value loss − entropy_weight · entropy, per token, unreduced."""
    policy = clipped_policy_loss(
        now.logps, batch.old_logps, batch.advantages, clip_low=config.clip_low, clip_high=config.clip_high
    )
    value = clipped_value_loss(now.values, batch.old_values, batch.returns, clip=config.value_clip)
    total = policy.loss + config.value_weight * value.loss - config.entropy_weight * now.entropies
    parts = {"policy_loss": policy.loss, "value_loss": value.loss, "entropy": now.entropies}
    statistics = {
        "ratio": policy.ratio,
        "clip_fraction": policy.clipped,
        "value_clip_fraction": value.clipped,
        "approx_kl": k3(batch.old_logps, now.logps),
    }
    return Objective(total, parts, statistics)


def next_beta(beta: float, kl_per_sequence: float, config: PPOConfig) -> float:
    if config.kl_target_per_sequence is None:
        return beta
    return adaptive_coefficient(
        beta, kl_per_sequence, target_per_sequence=config.kl_target_per_sequence,
        horizon_episodes=config.kl_horizon_episodes, episodes=config.batch,
    )  # fmt: skip


def look_at_heldout(
    config: PPOConfig, prompts: Sequence[Prompt], sampler: Sampler, judges: Judges, learner: Learner
) -> dict[str, float]:
    """Mean score, second judge's score and KL on held-out prompts; the same random numbers every time."""
    prompts = [p for p in prompts for _ in range(config.evaluate_samples)]
    rollouts = sampler.sample(
        prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed + 7919
    )
    kl = k1(rollouts.logps, learner.logprobs(rollouts, "reference")).sum(-1).mean()
    row = {"heldout_reward": float(judges.reward.score(rollouts).mean()), "heldout_kl": float(kl)}
    if judges.second is not None:
        row["heldout_second_judge"] = float(judges.second.score(rollouts).mean())
    return row


def _over_budget(kl: float, config: PPOConfig) -> bool:
    return config.kl_budget_per_sequence is not None and kl > config.kl_budget_per_sequence


def _prompt_order(count: int, config: PPOConfig) -> list[list[int]]:
    """Which prompts each step takes: every prompt once before any comes again, each round in a new order."""
    generator = torch.Generator().manual_seed(config.seed)
    needed = config.steps * config.batch
    rounds = -(-needed // count)
    flat = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:needed].tolist()
    return [flat[i : i + config.batch] for i in range(0, needed, config.batch)]


def _describe(scored: ScoredRollouts, batch: PPOBatch, epochs: list[dict[str, float]], beta: float) -> dict[str, Any]:
    """One row of metrics. `score` is the reward after clipping and the penalty for a missing end. KL is in nats per sequence;
    entropy, losses and fractions are means per response token."""
    mask = scored.response_mask
    penalty = torch.where(mask, k1(scored.logps, scored.reference_logps), 0).sum(-1)
    low_noise = torch.where(mask, k3(scored.logps, scored.reference_logps), 0).sum(-1)
    unexplained = masked_variance(batch.returns - batch.old_values, mask) / masked_variance(batch.returns, mask).clamp(
        min=1e-8
    )
    first, last = epochs[0], epochs[-1]
    return {
        "score": float(scored.scores.mean()),
        "reward_std": float(scored.scores.std()),
        "kl": float(penalty.mean()),
        "kl_k3": float(low_noise.mean()),
        "beta": beta,
        "shift_penalty": float(beta * penalty.mean()),
        "entropy": first["entropy"],
        "first_ratio": first["ratio"],
        "policy_loss": last["policy_loss"],
        "value_loss": last["value_loss"],
        "clip_fraction": last["clip_fraction"],
        "approx_kl": last["approx_kl"],
        "gradient_norm": last["gradient_norm"],
        "explained_variance": float(1 - unexplained),
        "value": float(masked_mean(batch.old_values, mask)),
        "length": float(scored.response_lengths.float().mean()),
        "finished": float(scored.finished.float().mean()),
        "distinct_2": distinct_n([c.text for c in scored.completions], 2),
    }


def _keep_samples(run: Run, step: int, scored: ScoredRollouts, count: int = 4) -> None:
    penalty = k1(scored.logps, scored.reference_logps).sum(-1)
    for i in range(min(count, len(scored))):
        run.sample(step=step, prompt=scored.prompts[i].text, completion=scored.completions[i].text,
                   reward=float(scored.scores[i]), kl=float(penalty[i]))  # fmt: skip


class _Clock:
    """Seconds of each phase of a step."""

    def __init__(self) -> None:
        self.start = self.last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self.last, 3)
        self.last = now

    @property
    def total(self) -> float:
        return round(time.monotonic() - self.start, 3)
