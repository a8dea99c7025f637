"""The three seams of a training loop: who samples, who scores, who learns. The same loop runs on a laptop and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from manners.batches import PolicyBatch, Rollouts
from manners.records import Prompt

BatchT = TypeVar("BatchT", bound=PolicyBatch)


class Sampler(Protocol):
    """Prompts in, rollouts with behaviour log-probabilities out."""

    def sample(self, prompts: Sequence[Prompt], *, max_tokens: int, temperature: float, seed: int) -> Rollouts:
        """One response of at most `max_tokens` tokens for each prompt, from the full distribution at `temperature`."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        ...


class Scorer(Protocol):
    """Rollouts in, one reward per sequence out: a reward model, a classifier's logit, a function of the texts."""

    def score(self, rollouts: Rollouts) -> Tensor:
        """Rewards [B], float32, higher is better."""
        ...


@runtime_checkable
class Committee(Scorer, Protocol):
    """A judge of several members. Its score is `combine(opinions(rollouts))`."""

    def opinions(self, rollouts: Rollouts) -> Tensor:
        """Scores [B, M] by each of the M members."""
        ...

    def combine(self, opinions: Tensor) -> Tensor:
        """Rewards [B] from the members' scores [B, M]."""
        ...


class Evaluated(NamedTuple):
    """What a forward pass of the learner gives, all [B, T] at response positions, 0 elsewhere: nats, nats, reward units.

    A learner without a value function gives values [B, 0].
    """

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

    def values(self, rollouts: Rollouts) -> Tensor:
        """Only a method with a value function asks for them."""
        ...

    def step(
        self, batch: BatchT, objective: Callable[[Evaluated, BatchT], Objective], *, only_critic: bool = False
    ) -> dict[str, float]:
        """One epoch over `batch` in minibatches; gives the means of the objective's parts and statistics over all its tokens, of
        the statistics in the first minibatch too ("first_…"), and how many minibatches were "skipped"."""
        ...

    def save(self, path: Path) -> None:
        """Write what the weights are into the folder `path`, all or nothing."""
        ...

    def roll_back(self, path: Path) -> None:
        """Take up the weights that `save` wrote, and forget the optimizer's moments."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write everything that `load_state` needs to go on to the bit into the folder that is there."""
        ...

    def load_state(self, folder: Path) -> None: ...
