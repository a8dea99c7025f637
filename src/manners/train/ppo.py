"""Proximal policy optimisation from human feedback, in cycles.

Phase I completes prompts and carries out experiments: the policy answers, the judge scores, the shift penalty against the frozen
reference becomes part of the reward, the value function estimates advantages. Phase II updates the policy inside the trust region:
clipped policy loss, clipped value loss and entropy loss in one weighted sum. Only adapter and value head change.
Details, values and sources: docs/details/ppo.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.config import Config
from manners.errors import MannersError
from manners.guards import DEFAULTS, Alarm, Guard, Guards
from manners.learner.local import POLICY, LocalLearner
from manners.learner.offending import keep_tensors, keep_texts, watching
from manners.learner.optimiser import EpsPlacement, Optimiser, Schedule
from manners.learner.progress import Progress, load_progress, save_progress
from manners.learner.randomness import seed_randomness
from manners.losses.kl import forward_kl_loss, reverse_kl_loss
from manners.losses.policy import clipped_policy_loss
from manners.losses.value import clipped_value_loss
from manners.models.load import load_trunk
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.advantages import gae
from manners.ops.kl import adaptive_coefficient, importance_weights, k1, k3, shift_penalised_rewards
from manners.ops.masks import masked_whiten
from manners.ops.moments import Moments
from manners.protocols import Evaluated, Learner, Objective, Sampler, Scorer
from manners.records import Prompt
from manners.rewards.load import ScorerConfig, load_scorer
from manners.rewards.model import RewardModel
from manners.rewards.opinion import ask
from manners.runs import Run, Track, untracked
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat
from manners.train.recording import Clock, describe, judged, microscope, sampler_kl

BENDING = (
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "min_new_tokens",
    "min_length",
)


class PPOConfig(Config):
    """Settings of `train ppo`."""

    model: str = Field("starter", description="the policy to start from; it is also the frozen reference")
    prompts: str = Field(
        "", description="a file of prompts, or 'starter' for the built-in ones; \"\" = those of the pairs"
    )
    reward: ScorerConfig = Field(ScorerConfig(), description="the judge that is optimised")
    second_judge: ScorerConfig = Field(ScorerConfig(), description="a judge that is only watched, never optimised")
    train_layers: TrainLayers = Field(8, description="adapters on the top N layers, or 'all'")
    rank: int = Field(16, gt=0, description="LoRA rank")
    alpha: float = Field(32, gt=0, description="LoRA alpha")
    critic: Literal["shared", "adapter", "reward"] = Field(
        "shared",
        description="the value function: a head on the policy's states; an adapter of its own; or one that begins as the reward model",
    )

    steps: int = Field(20, gt=0, description="cycles of Phase I and Phase II")
    batch: int = Field(64, gt=1, description="prompts, and so episodes, per step; whitening wants at least 8")
    max_tokens: int = Field(48, gt=0, description="longest answer, end-of-turn token included")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="a longer prompt ends at the last line break that fits; none: it must fit as it is"
    )
    temperature: float = Field(1.0, gt=0, description="of sampling; divides the logits in every log-probability alike")
    importance_cap: float | None = Field(
        None, gt=0, description="for a sampler on another engine: log-probabilities are taken again by the learner, and the policy loss is"
        " weighted by their ratio, at most this",
    )  # fmt: skip

    beta: float = Field(0.05, ge=0, description="coefficient of the shift penalty, reward units per nat")
    kl_target_per_sequence: float | None = Field(
        None, gt=0, description="nats per sequence; set it to adapt beta, else beta is fixed"
    )
    kl_horizon_episodes: float = Field(10_000, gt=0, description="how slowly beta adapts")
    kl_budget_per_sequence: float | None = Field(
        None, gt=0, description="stop when the KL of a step exceeds this, nats per sequence"
    )
    target_reward: float | None = Field(None, description="stop when the held-out reward reaches this")

    missing_eos_reward: float | None = Field(
        None, description="reward units: this replaces the score of an answer that never ends"
    )
    missing_eos_penalty: float = Field(
        0.0, ge=0, description="reward units: this is subtracted from the score of an answer that never ends"
    )
    length_penalty_per_token: float = Field(0.0, ge=0, description="reward units subtracted per response token")
    scale_scores: bool = Field(False, description="divide scores by their running standard deviation; the mean stays")
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to ± this, reward units")
    whiten_rewards: bool = Field(False, description="scale the rewards of all tokens to variance 1; the mean stays")

    gamma: float = Field(1.0, ge=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    value_lam: float | None = Field(None, ge=0, le=1, description="λ of the returns the critic learns; none = lam")
    whiten_advantages: bool = True

    epochs: int = Field(4, gt=0, description="passes over the batch in Phase II")
    minibatches: int = Field(1, gt=0, description="optimizer steps per epoch")
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.2, gt=0)
    dual_clip: float | None = Field(None, gt=1, description="bound of the ratio where the advantage is negative")
    value_clip: float = Field(0.2, gt=0)
    value_weight: float = Field(0.1, ge=0)
    entropy_weight: float = Field(0.0, description="of the entropy bonus; 0 = entropy is only logged")
    kl_loss_weight: float = Field(0.0, ge=0, description="of a KL term in the loss, beside the one in the reward")
    kl_loss: Literal["reverse", "forward"] = Field(
        "reverse", description="its gradient: of KL(π ‖ π_ref), by k2, or of KL(π_ref ‖ π), by k3"
    )
    approx_kl_limit: float | None = Field(
        None, gt=0, description="nats per token: no further epoch once the policy is this far from the one that sampled"
    )
    max_mean_ratio: float = Field(10.0, gt=1, description="a minibatch with a larger mean ratio is skipped")
    critic_warmup_steps: int = Field(0, ge=0, description="steps in which only the value function learns")

    learning_rate: float = Field(3e-4, gt=0, description="peak, policy adapter")
    value_learning_rate: float = Field(1e-3, gt=0, description="peak, value function")
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the optimizer steps with rising learning rate")
    schedule: Schedule = Field("linear", description="of the learning rates after the warm-up")
    adam_eps: float = Field(1e-5, gt=0)
    adam_eps_placement: EpsPlacement = Field("torch", description="ε outside the bias correction is 'tensorflow'")
    max_grad_norm: float = Field(1.0, gt=0)
    micro_tokens: int = Field(4096, gt=0, description="positions with padding per forward pass")

    guards: tuple[Guard, ...] = Field(DEFAULTS, description="what is watched for hacking and collapse")
    max_roll_backs: int = Field(2, ge=0, description="the next alarm that would roll back stops the run")
    roll_back_beta_factor: float = Field(2.0, ge=1, description="beta is multiplied by this at each roll back")

    evaluate_every: int = Field(
        5, gt=0, description="steps between looks at the held-out prompts; the best of them is kept"
    )
    evaluate_prompts: int = Field(32, ge=0, description="held-out prompts per look; 0 = never look, keep the last")
    evaluate_samples: int = Field(
        1, gt=0, description="answers per held-out prompt and look; more make the choice surer"
    )
    log_rollouts: int = Field(6, ge=0, description="answers per step that the report opens token by token")
    save_every: int = Field(1, gt=0, description="steps between the states that a run can be resumed from")
    trust_remote_code: bool = False
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _full_distribution(cls, values: Any) -> Any:
        if isinstance(values, dict) and (named := [key for key in BENDING if key in values]):
            raise ValueError(
                f"{named[0]} bends the distribution that is sampled from: the update would see other log-probabilities; leave it out"
            )
        return values

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
    state: Path | None = None,
) -> Trunk:
    """Train on `prompts`; `heldout` prompts choose RUN/checkpoints/best. Gives the trunk with the adapter "policy" on it.

    `state`: the folder that `run.resume()` gave, to go on from.
    """
    if not prompts:
        raise MannersError("there are no prompts to train on")
    trunk = trunk or load_trunk(config.model, config.train_layers, trust_remote_code=config.trust_remote_code)
    judges = judges or load_judges(config, trunk)
    learner = make_learner(config, trunk, judges)
    if config.max_prompt_tokens is not None:
        cut = partial(Chat(trunk.tokenizer, trunk.context).shortened, limit=config.max_prompt_tokens)
        prompts, heldout = list(map(cut, prompts)), list(map(cut, heldout))
    sampler = LocalSampler(trunk, POLICY, batch=config.batch, model_name=str(run.path))
    ppo_loop(config, prompts, heldout[: config.evaluate_prompts], run, sampler, judges, learner, track, state)
    return trunk


def load_judges(config: PPOConfig, trunk: Trunk) -> Judges:
    second = load_scorer(config.second_judge, trunk, "second judge") if config.second_judge.named else None
    return Judges(load_scorer(config.reward, trunk, "reward"), second)


def make_learner(config: PPOConfig, trunk: Trunk, judges: Judges) -> LocalLearner:
    """The learner with its optimizer. Raises MannersError where the critic cannot begin as the reward model."""
    learner = LocalLearner(
        trunk, rank=config.rank, alpha=config.alpha, temperature=config.temperature, minibatches=config.minibatches,
        micro_tokens=config.micro_tokens, seed=config.seed, entropy_gradient=config.entropy_weight != 0,
        critic="shared" if config.critic == "shared" else "adapter", max_mean_ratio=config.max_mean_ratio,
    )  # fmt: skip
    if config.critic == "reward":
        judge = judges.reward
        if not isinstance(judge, RewardModel) or judge.trunk is not trunk:
            raise MannersError(
                "critic: reward needs a reward model on the policy's own base as the judge; use critic: adapter"
            )
        learner.begin_critic(judge.adapter, judge.head, judge.mean, judge.std)
    updates = config.steps * config.epochs * config.minibatches
    learner.optimise(
        partial(
            Optimiser, steps=updates, warmup_steps=round(config.warmup * updates), schedule=config.schedule,
            max_grad_norm=config.max_grad_norm, eps=config.adam_eps, eps_placement=config.adam_eps_placement,
        ),
        config.learning_rate, config.value_learning_rate,
    )  # fmt: skip
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
) -> None:
    """The loop itself, on the three seams. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final."""
    objective = partial(ppo_objective, config=config)
    order = _prompt_order(len(prompts), config)
    if state:
        progress = load_progress(state, learner)
        if progress.stopped == "steps" and progress.step < config.steps:  # there are more of them now
            progress.stopped = ""
    else:
        seed_randomness(config.seed)
        progress = Progress()
    guards = Guards(config.guards).replay(run.metrics())
    if progress.step == 0 and any(guard.action == "roll_back" for guard in config.guards):
        learner.save(run.checkpoint("start"))
    for step in track([] if progress.stopped else range(progress.step, config.steps), "PPO"):
        clock, beta = Clock(), config.beta * progress.beta_factor
        chosen = [prompts[i] for i in order[step]]  # Phase I: complete prompts, carry out experiments
        rollouts = sampler.sample(
            chosen, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed * 100_003 + step
        )
        clock.lap("sample")
        with watching(run, step, rollouts):
            opinion = ask(judges.reward, rollouts, "the judge")
            second = ask(judges.second, rollouts, "the second judge") if judges.second else None
            clock.lap("score")
            drawn = rollouts
            rollouts, weights = take_again(drawn, learner, config.importance_cap)
            scores, progress.scores = shape_scores(opinion.scores, rollouts, progress.scores, config)
            scored = with_shift_penalty(rollouts, scores, learner.logprobs(rollouts, "reference"), beta)
            clock.lap("reference")
            batch = ppo_batch(scored, learner.values(rollouts), config, weights)
            clock.lap("value")
        with watching(run, step, rollouts, batch):
            epochs = update(learner, batch, objective, config, step)  # Phase II: update inside the trust region
        if skipped := sum(epoch["skipped"] for epoch in epochs):
            keep_texts(run, step, rollouts)
            keep_tensors(run, step, batch)
        clock.lap("update")
        row: dict[str, Any] = {
            "step": step,
            "episodes": (step + 1) * config.batch,
            **judged(opinion, second),
            "skipped": skipped,
        }
        row |= describe(scored, batch, epochs, beta)
        row |= {} if weights is None else {"sampler_kl": sampler_kl(drawn, rollouts)}
        row |= {"unwatched": guards.unwatched(row)} if step == 0 else {}
        alarms = guards.look(row)
        row["alarms"] = [alarm.to_json() for alarm in alarms]
        for logged in microscope(scored, batch, opinion, second, learner, sampler, beta, config.log_rollouts):
            run.sample(step=step, **logged)
        progress.beta_factor = next_beta(progress.beta_factor, row["kl"], config)
        progress.stopped = _reason(row["kl"], step, alarms, progress, config)
        if heldout and (progress.stopped or (step + 1) % config.evaluate_every == 0):
            row |= look_at_heldout(config, heldout, sampler, judges, learner, run, step)
            row["best"] = _is_best(row, alarms, progress, config)
            if row["best"]:
                progress.best = row["heldout_reward"]
                learner.save(run.checkpoint("best"))
            if config.target_reward is not None and progress.best is not None and progress.best >= config.target_reward:
                progress.stopped = "target reward"
            clock.lap("evaluate")
        if any(alarm.action == "roll_back" for alarm in alarms):
            row["rolled_back_to"] = roll_back(run, learner, progress, config)
        row |= {"stopped": progress.stopped} if progress.stopped else {}
        run.log(**row)
        run.time(step=step, seconds=clock.total, phase_seconds=clock.laps)
        progress.step = step + 1
        # behind a roll back too: what it went back to may be replaced before the next state is due
        if progress.stopped or "rolled_back_to" in row or progress.step % config.save_every == 0:
            save_progress(run, progress, learner)
        if progress.stopped:
            break
    learner.save(run.checkpoint("final"))


def update(
    learner: Learner,
    batch: PPOBatch,
    objective: Callable[[Evaluated, PPOBatch], Objective],
    config: PPOConfig,
    step: int,
) -> list[dict[str, float]]:
    """Phase II: the metrics of each epoch over the batch. Ends early where the policy has gone `approx_kl_limit` away."""
    epochs: list[dict[str, float]] = []
    for _ in range(config.epochs):
        epochs.append(learner.step(batch, objective, only_critic=step < config.critic_warmup_steps))
        if config.approx_kl_limit is not None and epochs[-1].get("approx_kl", 0) > config.approx_kl_limit:
            break
    return epochs


def take_again(rollouts: Rollouts, learner: Learner, cap: float | None) -> tuple[Rollouts, Tensor | None]:
    """With a cap: the rollouts with the learner's own log-probabilities in place of the sampler's, and the weights [B, T] of the
    policy loss that make up for the difference. Without: as they are."""
    if cap is None:
        return rollouts, None
    own = learner.logprobs(rollouts, "policy")
    weights = importance_weights(own, rollouts.logps, rollouts.response_mask, cap=cap)
    return replace(rollouts, logps=own), weights


def shape_scores(scores: Tensor, rollouts: Rollouts, moments: Moments, config: PPOConfig) -> tuple[Tensor, Moments]:
    """Scores [B] as the policy is paid them, and the moments of all scores so far.

    Scaled by their running standard deviation, without moving the mean (Zheng et al. 2023, arXiv 2307.04964); clipped; less the
    length penalty; and where the answer never ends replaced (Ziegler et al. 2019) or less a penalty (TRL).
    """
    if config.scale_scores:
        moments = moments.with_batch(scores)
        scores = scores / moments.std
    if config.score_clip is not None:
        scores = scores.clamp(-config.score_clip, config.score_clip)
    scores = scores - config.length_penalty_per_token * rollouts.response_lengths
    if config.missing_eos_reward is not None:
        return torch.where(rollouts.finished, scores, config.missing_eos_reward), moments
    return torch.where(rollouts.finished, scores, scores - config.missing_eos_penalty), moments


def with_shift_penalty(rollouts: Rollouts, scores: Tensor, reference_logps: Tensor, beta: float) -> ScoredRollouts:
    """Rollouts with their rewards: −β·(log π − log π_ref) at every response token, plus the score on the last.

    Raises MannersError where one of them is not finite.
    """
    rewards = shift_penalised_rewards(scores, rollouts.logps, reference_logps, rollouts.response_mask, beta=beta)
    if not rewards.isfinite().all():
        raise MannersError("a log-probability of the policy or of the reference is not a finite number")
    return ScoredRollouts(**vars(rollouts), scores=scores, reference_logps=reference_logps, rewards=rewards)


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
    policy = clipped_policy_loss(
        now.logps, batch.old_logps, batch.advantages,
        clip_low=config.clip_low, clip_high=config.clip_high, dual_clip=config.dual_clip or math.inf,
    )  # fmt: skip
    value = clipped_value_loss(now.values, batch.old_values, batch.returns, clip=config.value_clip)
    total = policy.loss + config.value_weight * value.loss - config.entropy_weight * now.entropies
    parts = {"policy_loss": policy.loss, "value_loss": value.loss, "entropy": now.entropies}
    if config.kl_loss_weight:
        kl_loss = reverse_kl_loss if config.kl_loss == "reverse" else forward_kl_loss
        parts["kl_loss"] = kl_loss(now.logps, batch.old_logps, batch.reference_logps)
        total = total + config.kl_loss_weight * parts["kl_loss"]
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
    config: PPOConfig,
    prompts: Sequence[Prompt],
    sampler: Sampler,
    judges: Judges,
    learner: Learner,
    run: Run,
    step: int,
) -> dict[str, float]:
    """Mean score, second judge's score and KL on held-out prompts; the same random numbers every time."""
    prompts = [p for p in prompts for _ in range(config.evaluate_samples)]
    rollouts = sampler.sample(
        prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed + 7919
    )
    with watching(run, step, rollouts):
        kl = k1(rollouts.logps, learner.logprobs(rollouts, "reference")).sum(-1).mean()
        row = {
            "heldout_reward": float(ask(judges.reward, rollouts, "the judge").scores.mean()),
            "heldout_kl": float(kl),
        }
        if judges.second is not None:
            row["heldout_second_judge"] = float(ask(judges.second, rollouts, "the second judge").scores.mean())
    return row


def roll_back(run: Run, learner: Learner, progress: Progress, config: PPOConfig) -> str:
    """Go back to the best checkpoint, or to the start where none was kept yet, with a dearer shift; gives its name."""
    name = "start" if progress.best is None else "best"
    learner.roll_back(run.checkpoint(name))
    progress.roll_backs += 1
    progress.beta_factor *= config.roll_back_beta_factor
    return name


def _reason(kl: float, step: int, alarms: Sequence[Alarm], progress: Progress, config: PPOConfig) -> str:
    """Why the run ends after this step; "" where it goes on."""
    if _over_budget(kl, config):
        return "KL budget"
    for alarm in alarms:
        if alarm.action == "stop" or (alarm.action == "roll_back" and progress.roll_backs >= config.max_roll_backs):
            return f"guard: {alarm.guard}"
    return "steps" if step == config.steps - 1 else ""


def _is_best(row: dict[str, Any], alarms: Sequence[Alarm], progress: Progress, config: PPOConfig) -> bool:
    """Whether this look is better than all before it. A policy over the budget, or one that a guard stops, never is."""
    if _over_budget(row["heldout_kl"], config) or any(alarm.action != "warn" for alarm in alarms):
        return False
    return progress.best is None or row["heldout_reward"] > progress.best


def _over_budget(kl: float, config: PPOConfig) -> bool:
    return config.kl_budget_per_sequence is not None and kl > config.kl_budget_per_sequence


def _prompt_order(count: int, config: PPOConfig) -> list[list[int]]:
    """Which prompts each step takes: every prompt once before any comes again, each round in a new order."""
    generator = torch.Generator().manual_seed(config.seed)
    needed = config.steps * config.batch
    rounds = -(-needed // count)
    flat = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:needed].tolist()
    return [flat[i : i + config.batch] for i in range(0, needed, config.batch)]
