"""What a step of an on-policy method leaves to be looked at: a row of metrics, and some rollouts token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.ops.diversity import distinct_n, repetition
from manners.ops.kl import k1, k3
from manners.ops.masks import masked_mean, masked_variance
from manners.protocols import Learner, Sampler
from manners.rewards.opinion import Opinion
from manners.stopwatch import STILL, RunningStopwatch, Stopwatch


def judged(opinion: Opinion, second: Opinion | None) -> dict[str, float]:
    """What the judges said of the batch, on average. `reward` is as the judge gave it, before clipping and penalties."""
    row = {"reward": float(opinion.scores.mean()), "reward_std": float(opinion.scores.std())}
    if opinion.disagreement is not None:
        row["disagreement"] = float(opinion.disagreement.mean())
    if second is not None:
        row |= {"second_judge": float(second.scores.mean()), "second_judge_std": float(second.scores.std())}
    return row


def describe(scored: ScoredRollouts, epochs: list[dict[str, float]], beta: float) -> dict[str, Any]:
    """One row of metrics. `score` is the reward as the policy is paid it. KL is in nats per sequence; entropy, losses,
    log-probabilities and fractions are means per response token."""
    mask = scored.response_mask
    penalty = torch.where(mask, k1(scored.logps, scored.reference_logps), 0).sum(-1)
    low_noise = torch.where(mask, k3(scored.logps, scored.reference_logps), 0).sum(-1)
    first, last = epochs[0], epochs[-1]
    texts = [c.text for c in scored.completions]
    names = (
        "policy_loss",
        "value_loss",
        "kl_loss",
        "clip_fraction",
        "value_clip_fraction",
        "approx_kl",
        "gradient_norm",
    )
    return {
        "score": float(scored.scores.mean()),
        "score_std": float(scored.scores.std()),
        "kl": float(penalty.mean()),
        "kl_k3": float(low_noise.mean()),
        "beta": beta,
        "shift_penalty": float(beta * penalty.mean()),
        "logp": float(masked_mean(scored.logps, mask)),
        "reference_logp": float(masked_mean(scored.reference_logps, mask)),
        "entropy": first.get("entropy"),
        **{name: first[name] for name in ("first_ratio", "first_approx_kl")},
        **{name: last[name] for name in names if name in last},
        "epochs": len(epochs),
        "length": float(scored.response_lengths.float().mean()),
        "finished": float(scored.finished.float().mean()),
        "distinct_2": distinct_n(texts, 2),
        "repetition": repetition(texts),
    }


def describe_critic(batch: PPOBatch) -> dict[str, float]:
    """How well the value function foresaw the returns: the share of their variance that it explains; and its mean."""
    mask = batch.response_mask
    unexplained = masked_variance(batch.returns - batch.old_values, mask) / masked_variance(batch.returns, mask).clamp(
        min=1e-8
    )
    return {
        "explained_variance": float(1 - unexplained),
        "value": float(masked_mean(batch.old_values, mask)),
    }


def sampler_kl(drawn: Rollouts, own: Rollouts) -> float:
    """How far the engine that sampled is from the learner with the same weights, nats per token: the mean of k3."""
    return float(masked_mean(k3(drawn.logps, own.logps), own.response_mask))


def microscope(
    scored: ScoredRollouts,
    learned: Mapping[str, Tensor],
    opinion: Opinion,
    second: Opinion | None,
    learner: Learner,
    sampler: Sampler,
    beta: float,
    count: int,
) -> Iterator[dict[str, Any]]:
    """`count` answers of the step token by token: those with the highest reward, the largest KL and the widest disagreement,
    then the first. `learned` [B, T]: what the update was told of each token. `penalty` is a token's share of the shift penalty, reward
    units; `ratio` is of the policy after the last epoch to the one that sampled."""
    kl = torch.where(scored.response_mask, k1(scored.logps, scored.reference_logps), 0)
    telling = [opinion.scores, kl.sum(-1)] + ([] if opinion.disagreement is None else [opinion.disagreement])
    chosen = list(dict.fromkeys([*(int(x.argmax()) for x in telling), *range(len(scored))]))[:count]
    if not chosen:
        return
    after = learner.logprobs(scored.rows(torch.tensor(chosen, device=scored.tokens.device)), "policy")
    columns = {"logp": scored.logps, "reference_logp": scored.reference_logps, "penalty": -beta * kl, **learned}
    judged = {"reward": opinion.scores, "score": scored.scores, "kl": kl.sum(-1)}
    judged |= {} if second is None else {"second_judge": second.scores}
    judged |= {} if opinion.disagreement is None else {"disagreement": opinion.disagreement}
    for place, i in enumerate(chosen):
        span = slice(int(scored.prompt_lengths[i]), int(scored.lengths[i]))
        trace = {name: values[i, span] for name, values in columns.items()}
        trace["ratio"] = (after[place, span] - scored.logps[i, span]).exp()
        yield {
            "prompt": scored.prompts[i].text,
            "completion": scored.completions[i].text,
            **{name: float(values[i]) for name, values in judged.items()},
            "tokens": sampler.pieces(scored.tokens[i, span].tolist()),
            "trace": {name: [float(f"{x:.4g}") for x in values.tolist()] for name, values in trace.items()},
        }


def stopwatch_for(profile: bool, device: torch.device) -> Stopwatch:
    """What sampler, loop and learner share to time their parts: one that waits for `device` at each end of a part, or, without
    `profile`, the one that stands still."""
    if not profile:
        return STILL
    match device.type:
        case "cuda":
            return RunningStopwatch(partial(torch.cuda.synchronize, device))
        case "mps":
            return RunningStopwatch(torch.mps.synchronize)
        case _:
            return RunningStopwatch()


class Clock:
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
