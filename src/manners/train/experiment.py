"""Phase I of a cycle: the policy's answers become scored experiments, with the price of its shift from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manners.batches import Rollouts, ScoredRollouts
from manners.errors import MannersError
from manners.learner.offending import watching
from manners.learner.progress import Progress
from manners.models.trunk import Trunk
from manners.ops.kl import importance_weights, k1, shift_penalised_rewards
from manners.ops.moments import Moments
from manners.protocols import Learner, Sampler, Scorer
from manners.records import Prompt
from manners.rewards.load import load_scorer
from manners.rewards.opinion import Opinion, ask
from manners.runs import Run
from manners.stopwatch import STILL, Stopwatch
from manners.text.chat import Chat
from manners.train.recording import Clock
from manners.train.settings import OnPolicyConfig


@dataclass(frozen=True)
class Judges:
    """The judge that is optimised and the one that only watches."""

    reward: Scorer
    second: Scorer | None


def load_judges(config: OnPolicyConfig, trunk: Trunk) -> Judges:
    second = load_scorer(config.second_judge, trunk, "second judge") if config.second_judge.named else None
    return Judges(load_scorer(config.reward, trunk, "reward"), second)


def shortened(config: OnPolicyConfig, trunk: Trunk, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts, cut to `max_prompt_tokens` where there is such a limit."""
    if config.max_prompt_tokens is None:
        return list(prompts)
    chat = Chat(trunk.tokenizer, trunk.context)
    return [chat.shortened(prompt, config.max_prompt_tokens) for prompt in prompts]


def prompt_order(count: int, config: OnPolicyConfig) -> list[list[int]]:
    """Which prompts each step takes: every prompt once before any comes again, each round in a new order."""
    generator = torch.Generator().manual_seed(config.seed)
    each = config.batch // config.answers
    needed = config.steps * each
    rounds = -(-needed // count)
    flat = torch.cat([torch.randperm(count, generator=generator) for _ in range(rounds)])[:needed].tolist()
    return [flat[i : i + each] for i in range(0, needed, each)]


@dataclass(frozen=True)
class Experiment:
    """What came of Phase I: the answers as they were `drawn` and as they were `scored`, what the judges said, and, where another
    engine sampled, the `weights` [B, T] that make up for it."""

    drawn: Rollouts
    scored: ScoredRollouts
    opinion: Opinion
    second: Opinion | None
    weights: Tensor | None


def carry_out(
    config: OnPolicyConfig,
    prompts: Sequence[Prompt],
    run: Run,
    sampler: Sampler,
    judges: Judges,
    learner: Learner,
    step: int,
    progress: Progress,
    clock: Clock,
    stopwatch: Stopwatch = STILL,
) -> Experiment:
    """Phase I: complete the prompts, have the answers judged, and put a price on their shift from the reference."""
    with stopwatch.part("sample"):
        drawn = sampler.sample(
            prompts, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed * 100_003 + step
        )
    clock.lap("sample")
    with watching(run, step, drawn):
        with stopwatch.part("score"):
            opinion = ask(judges.reward, drawn, "the judge")
        second = None
        if judges.second:
            with stopwatch.part("second judge"):
                second = ask(judges.second, drawn, "the second judge")
        clock.lap("score")
        with stopwatch.part("reference"):
            rollouts, weights = take_again(drawn, learner, config.importance_cap)
            scores, progress.scores = shape_scores(opinion.scores, rollouts, progress.scores, config)
            reference, beta = learner.logprobs(rollouts, "reference"), config.beta * progress.beta_factor
            scored = with_shift_penalty(rollouts, scores, reference, beta)
        clock.lap("reference")
    return Experiment(drawn, scored, opinion, second, weights)


def take_again(rollouts: Rollouts, learner: Learner, cap: float | None) -> tuple[Rollouts, Tensor | None]:
    """With a cap: the rollouts with the learner's own log-probabilities in place of the sampler's, and the weights [B, T] of the
    policy loss that make up for the difference. Without: as they are."""
    if cap is None:
        return rollouts, None
    own = learner.logprobs(rollouts, "policy")
    weights = importance_weights(own, rollouts.logps, rollouts.response_mask, cap=cap)
    return replace(rollouts, logps=own), weights


def shape_scores(
    scores: Tensor, rollouts: Rollouts, moments: Moments, config: OnPolicyConfig
) -> tuple[Tensor, Moments]:
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


def look_at_heldout(
    config: OnPolicyConfig,
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
