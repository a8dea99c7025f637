"""The three seams of a training loop: who samples, who scores, who learns. The same loop runs on a laptop and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from manners.batches import PPOBatch, Rollouts
from manners.records import Prompt


class Sampler(Protocol):
    """Prompts in, rollouts with behaviour log-probabilities out."""

    def sample(self, prompts: Sequence[Prompt], *, max_tokens: int, temperature: float, seed: int) -> Rollouts:
        """One response of at most `max_tokens` tokens for each prompt, from the full distribution at `temperature`."""
        ...


class Scorer(Protocol):
    """Rollouts in, one reward per sequence out: a reward model, a classifier's logit, a function of the texts."""

    def score(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B], float32, higher is better."""
        ...


class Evaluated(NamedTuple):
    """What a forward pass of the learner gives, all [B, T] at response positions, 0 elsewhere: nats, nats, reward units."""

    logps: Tensor
    entropies: Tensor
    values: Tensor


class Objective(NamedTuple):
    """Per-token losses [B, T], their weighted sum in `total`, and per-token statistics worth logging; nothing is reduced yet."""

    total: Tensor
    parts: Mapping[str, Tensor]
    statistics: Mapping[str, Tensor]


class Learner(Protocol):
    """Holds the weights that change. Log-probabilities are in nats, [B, T] at response positions, 0 elsewhere."""

    def logprobs(self, rollouts: Rollouts, who: Literal["policy", "reference"]) -> Tensor: ...

    def values(self, rollouts: Rollouts) -> Tensor: ...

    def step(self, batch: PPOBatch, objective: Callable[[Evaluated, PPOBatch], Objective]) -> dict[str, float]:
        """One epoch over `batch` in minibatches; gives the means of the objective's parts and statistics over all its tokens."""
        ...

    def save(self, path: Path) -> None: ...

    def load(self, path: Path) -> None: ...
