"""Answers to be judged: K to each prompt, by any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manners.records import Completion, Prompt
from manners.runs import Track, untracked
from manners.sampling.local import LocalSampler


def answers_to(
    prompts: Sequence[Prompt], model: str, *, k: int, max_tokens: int, temperature: float, seed: int, batch: int = 64,
    say: Callable[[str], None] = lambda _: None, track: Track = untracked,
) -> list[tuple[Prompt, tuple[Completion, ...]]]:  # fmt: skip
    """Each prompt with `k` answers by `model` (whatever `models.load` takes; code that comes with a model is not run).

    `batch` answers are written at a time, and `track` goes through these batches. Raises MannersError for a model that cannot be
    loaded and for a prompt that is too long.
    """
    sampler = LocalSampler.of(model, batch=batch, say=say)
    repeated = [prompt for prompt in prompts for _ in range(k)]
    rollouts = sampler.sample(repeated, max_tokens=max_tokens, temperature=temperature, seed=seed, track=track)
    return [(prompt, rollouts.completions[i * k : (i + 1) * k]) for i, prompt in enumerate(prompts)]
