"""Best-of-n: of n answers to a prompt the one that a judge finds best. It needs no training, and every method has to beat it.

Nakano et al. 2021 (arXiv 2112.09332). How far it is from the policy it draws from is known exactly: `ops.scaling_law.best_of_n_kl`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.evaluate.policy import EvaluateConfig, Measured, ask_for, compare, described, measure, shift
from manners.ops.scaling_law import best_of_n_kl
from manners.protocols import Scorer
from manners.records import Completion, Prompt
from manners.rewards.opinion import ask
from manners.runs import Track, untracked
from manners.sampling.local import LocalSampler

AT_ONCE = 128  # answers whose states are in memory together
ROUNDS_APART = 1_000_003  # each call has streams of random numbers of its own


class Winner(NamedTuple):
    """The best of n answers to a prompt, and its score."""

    prompt: Prompt
    completion: Completion
    score: float


def best_of_n(
    sampler: LocalSampler,
    judge: Scorer,
    prompts: Sequence[Prompt],
    n: int,
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    track: Track = untracked,
) -> list[Winner]:
    """The best of n answers to each of `prompts`, in their order; of equal scores the first drawn. Raises MannersError for a score that
    is not finite."""
    found = []
    for rollouts, scores in _winners(sampler, judge, prompts, n, max_tokens, temperature, seed, track):
        found += [Winner(*each) for each in zip(rollouts.prompts, rollouts.completions, scores.tolist(), strict=True)]
    return found


def evaluate_best_of_n(
    config: EvaluateConfig,
    n: int,
    sampler: LocalSampler,
    prompts: Sequence[Prompt],
    reward: Scorer,
    second: Scorer | None,
    track: Track = untracked,
) -> dict[str, Any]:
    """What best-of-n by `reward` gains over a plain answer of the same policy; the same layout as `evaluate_policy` gives, with n.

    KL is ln n − (n − 1)/n nats per sequence, an upper bound where an answer was drawn twice, on top of how far the policy has taken the
    winners from the reference. The plain answers are those that `evaluate_policy` gets from the same policy with the same settings.
    """
    asked = ask_for(config, prompts)
    before = measure(config, sampler, asked, reward, second, track)
    return {
        "best_of": n,
        **compare(config, before, measure_best_of_n(config, n, sampler, asked, reward, second, track)),
    }


def measure_best_of_n(
    config: EvaluateConfig,
    n: int,
    sampler: LocalSampler,
    asked: Sequence[Prompt],
    reward: Scorer,
    second: Scorer | None,
    track: Track = untracked,
) -> Measured:
    """The best of n answers to each of `asked` by `reward`, and all that is said of it."""
    settings = (config.max_tokens, config.temperature, config.seed + 1)
    parts = [
        described(best, scores, second.score(best) if second else None, shift(sampler, best, config) + best_of_n_kl(n))
        for best, scores in _winners(sampler, reward, asked, n, *settings, track)
    ]
    return _joined(parts)


def _winners(
    sampler: LocalSampler,
    judge: Scorer,
    prompts: Sequence[Prompt],
    n: int,
    max_tokens: int,
    temperature: float,
    seed: int,
    track: Track,
) -> Iterator[tuple[Rollouts, Tensor]]:
    """The winners [b] with their scores [b] for some prompts after the other, so that memory stays small."""
    each = max(1, AT_ONCE // n)
    for number, start in enumerate(track(range(0, len(prompts), each), f"best of {n}")):
        asked = [prompt for prompt in prompts[start : start + each] for _ in range(n)]
        rollouts = sampler.sample(
            asked, max_tokens=max_tokens, temperature=temperature, seed=seed * ROUNDS_APART + number
        )
        scores = ask(judge, rollouts, "the judge").scores.view(-1, n)
        places = scores.argmax(1) + n * torch.arange(len(scores), device=scores.device)
        yield rollouts.rows(places.to(rollouts.tokens.device)), scores.amax(1)


def _joined(parts: Sequence[Measured]) -> Measured:
    seconds = [part.second for part in parts if part.second is not None]
    return Measured(
        tuple(prompt for part in parts for prompt in part.prompts),
        tuple(completion for part in parts for completion in part.completions),
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.finished for part in parts]),
        torch.cat([part.reward for part in parts]),
        torch.cat(seconds) if seconds else None,
        torch.cat([part.kl for part in parts]),
    )
