"""Group methods: policy gradients without a value function, since the other answers to a prompt say what was to be expected.

GRPO, Dr. GRPO, RLOO, batch-normalised REINFORCE (REINFORCE++) and ReMax differ in `advantage`, GSPO in `ratio`, DAPO and Dr. GRPO in
`normalise`; all else is the cycle of every on-policy method. Details, values and sources: docs/details/grpo.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from manners.batches import PolicyBatch, ScoredRollouts
from manners.errors import MannersError
from manners.guards import DEFAULTS, Guard
from manners.learner.local import POLICY, LocalLearner
from manners.losses.policy import mean_log_ratio, whole_log_ratio
from manners.losses.reduction import Shares, constant_length, sequence_mean, token_mean
from manners.models.load import load_trunk
from manners.models.trunk import Trunk
from manners.ops.advantages import gae
from manners.ops.groups import centred, equal_groups, leave_one_out, standardised
from manners.ops.masks import masked_whiten
from manners.ops.moments import Moments
from manners.protocols import Evaluated, Learner, Objective, Sampler
from manners.records import Prompt
from manners.rewards.opinion import ask
from manners.runs import Run, Track, untracked
from manners.sampling.local import LocalSampler
from manners.stopwatch import STILL, Stopwatch
from manners.train.cycle import Method, run_cycles, set_up_optimiser
from manners.train.experiment import Judges, load_judges, shape_scores, shortened
from manners.train.objective import policy_objective
from manners.train.recording import stopwatch_for
from manners.train.settings import OnPolicyConfig

GroupAdvantages = Callable[[Tensor], Tensor]


class GRPOConfig(OnPolicyConfig):
    """Settings of `train grpo`."""

    advantage: Literal["grpo", "grpo_without_std", "rloo", "reinforce", "remax"] = Field(
        "grpo",
        description="an answer is measured by its group's mean in standard deviations; by the mean alone (Dr. GRPO); by the mean of"
        " the others (RLOO); by the whole batch (REINFORCE++); by the greedy answer (ReMax)",
    )
    ratio: Literal["token", "sequence", "answer"] = Field(
        "token",
        description="what is clipped: each token's ratio, the mean over an answer's tokens (GSPO), or that of the whole answer",
    )
    normalise: Literal["tokens", "sequences", "max_tokens"] = Field(
        "tokens",
        description="what a minibatch's loss is divided by: its tokens (DAPO); each answer's own, then the answers (GRPO); the"
        " answers times max_tokens (Dr. GRPO)",
    )

    answers: int = Field(8, gt=0, description="to each prompt: the group; the batch holds batch / answers prompts")
    beta: float = Field(0.03, ge=0, description="coefficient of the shift penalty, reward units per nat")
    epochs: int = Field(2, gt=0, description="passes over the batch in Phase II")
    guards: tuple[Guard, ...] = Field(
        tuple(guard for guard in DEFAULTS if guard.signal != "value_loss"),
        description="what is watched for hacking and collapse",
    )

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.advantage in ("grpo", "grpo_without_std", "rloo") and self.answers < 2:
            raise ValueError(
                f"advantage {self.advantage} compares the answers to a prompt: set answers to 2 or more, or advantage to reinforce or remax"
            )
        if self.advantage == "remax" and self.scale_scores:
            raise ValueError("scale_scores knows no scale for remax's greedy answer; leave it off")
        return self


def train_grpo(
    config: GRPOConfig,
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
    learner = make_learner(config, trunk, stopwatch)
    prompts, heldout = shortened(config, trunk, prompts), shortened(config, trunk, heldout)
    sampler = LocalSampler(trunk, POLICY, batch=config.batch, model_name=str(run.path), stopwatch=stopwatch)
    heldout = heldout[: config.evaluate_prompts]
    grpo_loop(config, prompts, heldout, run, sampler, judges, learner, track, state, stopwatch)
    return trunk


def make_learner(config: GRPOConfig, trunk: Trunk, stopwatch: Stopwatch = STILL) -> LocalLearner:
    """The learner, which has no value function, with its optimizer."""
    learner = LocalLearner(
        trunk, rank=config.rank, alpha=config.alpha, temperature=config.temperature, minibatches=config.minibatches,
        micro_tokens=config.micro_tokens, seed=config.seed, entropy_gradient=config.entropy_weight != 0,
        critic="none", reduction=reduction_of(config), max_mean_ratio=config.max_mean_ratio,
        stopwatch=stopwatch,
    )  # fmt: skip
    set_up_optimiser(config, learner)
    return learner


def reduction_of(config: GRPOConfig) -> Callable[[Tensor], Shares]:
    match config.normalise:
        case "tokens":
            return token_mean
        case "sequences":
            return sequence_mean
        case "max_tokens":
            return partial(constant_length, max_tokens=config.max_tokens)


def grpo_loop(
    config: GRPOConfig,
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
    """The cycles of a group method on the three seams. Leaves metrics.jsonl, samples.jsonl, checkpoints/best and checkpoints/final."""

    def advantages(scored: ScoredRollouts, weights: Tensor | None) -> tuple[PolicyBatch, Mapping[str, float]]:
        greedy = greedy_scores(config, scored, sampler, judges) if config.advantage == "remax" else None
        return policy_batch(scored, config, greedy, weights)

    method = Method(advantages, partial(grpo_objective, config=config), lambda _: {})
    run_cycles(config, prompts, heldout, run, sampler, judges, learner, method, track, state, stopwatch)


def greedy_scores(config: GRPOConfig, scored: ScoredRollouts, sampler: Sampler, judges: Judges) -> Tensor:
    """Scores [P] of the policy's likeliest answer to each prompt, paid as the others are: the baseline of ReMax.

    Li et al. 2023 (arXiv 2310.10505).
    """
    prompts = scored.prompts[:: config.answers]
    rollouts = sampler.sample(prompts, max_tokens=config.max_tokens, temperature=0, seed=config.seed)
    scores = ask(judges.reward, rollouts, "the judge of the greedy answers").scores
    return shape_scores(scores, rollouts, Moments(), config)[0]


def policy_batch(
    scored: ScoredRollouts, config: GRPOConfig, greedy: Tensor | None, weights: Tensor | None = None
) -> tuple[PolicyBatch, dict[str, float]]:
    """Advantages, weighted by `weights` [B, T] where there are any; and how many groups had nothing to compare.

    Answers to one prompt stand side by side. `greedy` [P]: scores of the greedy answers, for ReMax.
    """
    found: Tensor
    beside: dict[str, float] = {}
    match config.advantage:
        case "grpo":
            found, beside = of_groups(scored, config.answers, standardised)
        case "grpo_without_std":
            found, beside = of_groups(scored, config.answers, centred)
        case "rloo":
            found, beside = of_groups(scored, config.answers, leave_one_out)
        case "reinforce":
            found = masked_whiten(to_come(scored), scored.response_mask)
        case "remax":
            assert greedy is not None, "the loop asks for it"
            found = to_come(scored) - greedy.to(scored.rewards).repeat_interleave(config.answers)[:, None]
    advantages = torch.where(scored.response_mask, found if weights is None else found * weights, 0)
    batch = PolicyBatch(
        scored.tokens, scored.prompt_lengths, scored.lengths, scored.states, scored.logps, scored.reference_logps, advantages
    )  # fmt: skip
    return batch, beside


def of_groups(scored: ScoredRollouts, answers: int, advantages: GroupAdvantages) -> tuple[Tensor, dict[str, float]]:
    """The advantage of each answer's return, score less shift penalty, at all its tokens [B, T]; and how many groups are equal."""
    returns = scored.rewards.sum(-1).reshape(-1, answers)
    found = advantages(returns).reshape(-1, 1).expand_as(scored.rewards)
    return found, {"equal_groups": float(equal_groups(returns).sum())}


def to_come(scored: ScoredRollouts) -> Tensor:
    """All the reward from each token on [B, T]: what a token cannot have changed is left out."""
    nothing = torch.zeros_like(scored.rewards)
    return gae(scored.rewards, nothing, scored.response_mask, gamma=1, lam=1).returns


def grpo_objective(now: Evaluated, batch: PolicyBatch, *, config: GRPOConfig) -> Objective:
    """policy loss − entropy_weight · entropy + kl_loss_weight · KL loss, per token, unreduced."""
    match config.ratio:
        case "token":
            log_ratio = now.logps - batch.old_logps
        case "sequence":
            log_ratio = mean_log_ratio(now.logps, batch.old_logps, batch.response_mask)
        case "answer":
            log_ratio = whole_log_ratio(now.logps, batch.old_logps, batch.response_mask)
    return policy_objective(now, batch, log_ratio, config)
