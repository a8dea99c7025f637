"""Who writes answers, critiques and revisions: a model in this process, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from manners.records import Completion, Prompt, content_hash
from manners.sampling.local import LocalSampler


class Writer(Protocol):
    """Conversations in, the assistant's next turn of each out, in the same order."""

    def complete(
        self, conversations: Sequence[Prompt], max_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Completion]: ...


class LocalWriter:
    """Writes with a sampler in this process. The same call with the same seeds gives the same texts."""

    def __init__(self, sampler: LocalSampler) -> None:
        self.sampler = sampler

    def complete(
        self, conversations: Sequence[Prompt], max_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Completion]:
        together = drawn("writing", list(seeds))
        rollouts = self.sampler.sample(
            conversations, max_tokens=max_tokens, temperature=temperature, seed=together % 2**31
        )
        return [replace(c, seed=seed) for c, seed in zip(rollouts.completions, seeds, strict=True)]


def drawn(*parts: object) -> int:
    """A number that is drawn by what it is drawn for, from 0 to 2⁶⁴ − 1: the same parts always give the same."""
    return int(content_hash(*parts), 16)
