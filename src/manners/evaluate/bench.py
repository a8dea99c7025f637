"""The judges of a card beside the package's own scorers, and how they are asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.evaluate.observation import Answers
from manners.ops.win_rate import both_orders
from manners.protocols import Scorer
from manners.records import Completion, Prompt
from manners.rewards.opinion import ask


@runtime_checkable
class ComparisonJudge(Protocol):
    """A judge that reads two answers at once."""

    def prefers(self, prompt: Prompt, a: Completion, b: Completion) -> float:
        """How likely a, which stands first, is the better one: 0 … 1, ½ for a tie."""
        ...


@dataclass(frozen=True)
class Judge:
    """A judge with the name that the card gives it. `optimised`: the model was trained to please it; `agreement`: with people, if known."""

    name: str
    by: Scorer | ComparisonJudge
    optimised: bool = False
    agreement: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Judges:
    """Who judges beside the scorers of the package."""

    judge: Judge | None = None
    second: Judge | None = None
    harm: Judge | None = None

    @property
    def named(self) -> list[Judge]:
        return [judge for judge in (self.judge, self.second, self.harm) if judge]


def scores_of(judge: Judge, prompts: Sequence[Prompt], answers: Answers) -> Tensor:
    """Scores [P, K] of K answers to each prompt."""
    assert not isinstance(judge.by, ComparisonJudge), "asked one answer at a time"
    asked = [prompt for prompt, own in zip(prompts, answers, strict=True) for _ in own]
    flat = ask(judge.by, texts(asked, [c for own in answers for c in own]), judge.name).scores
    return flat.view(len(prompts), -1).cpu()


def texts(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> Rollouts:
    """Answers as rollouts of no trunk in this process: who scores them reads their texts."""
    count = len(prompts)
    one, none = torch.ones(count, dtype=torch.long), torch.zeros(count, 1)
    finished = torch.tensor([c.finished for c in completions])
    return Rollouts(
        none.long(), one, one, none, finished, torch.zeros(count, 1, 0), tuple(prompts), tuple(completions), None
    )


def compared(judge: ComparisonJudge, prompts: Sequence[Prompt], own: Answers, base: Answers) -> tuple[Tensor, Tensor]:
    """Preferences [P, K] for `own` over `base`, asked in both orders; [P, K] whether the winner changed with the order."""
    found, flipped = [], []
    for prompt, ours, theirs in zip(prompts, own, base, strict=True):
        first = torch.tensor([judge.prefers(prompt, a, b) for a, b in zip(ours, theirs, strict=True)])
        second = torch.tensor([1 - judge.prefers(prompt, b, a) for a, b in zip(ours, theirs, strict=True)])
        found.append(both_orders(first, second))
        flipped.append((first - 0.5) * (second - 0.5) < 0)
    return torch.stack(found), torch.stack(flipped)


def preferences(own: Tensor, base: Tensor) -> Tensor:
    """1 where the score is higher, 0 where it is lower, ½ where both are equal: a judge of single answers knows no order."""
    return ((own > base).double() + (own >= base).double()) / 2
