"""The batches: one frozen type for each stage of the flow, so that the type says how far along we are.

Letters: B sequences, T positions, H hidden width. Rows are right-padded. Masks are bool, True = counts, and come from lengths,
never from the value of a token. `x[:, t]` speaks of `tokens[:, t]`: a log-probability at t is that *of* token t.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

if TYPE_CHECKING:
    from manners.records import Completion, Prompt


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with their responses as tokens: tokens [B, T] long; prompt_lengths, lengths [B] long.

    The prompt fills positions 0 … prompt_length − 1, the response prompt_length … length − 1; what follows is padding.
    """

    tokens: Tensor
    prompt_lengths: Tensor
    lengths: Tensor

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def mask(self) -> Tensor:
        """[B, T] bool: real tokens."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device)[None] < self.lengths[:, None]

    @property
    def response_mask(self) -> Tensor:
        """[B, T] bool: tokens of the response, its end-of-turn token included."""
        return self.mask & (
            torch.arange(self.tokens.shape[1], device=self.tokens.device)[None] >= self.prompt_lengths[:, None]
        )

    @property
    def response_lengths(self) -> Tensor:
        return self.lengths - self.prompt_lengths

    def rows(self, index: Tensor) -> Self:
        """The rows named by `index` [b] long, trimmed to the longest of them: every [B, T, …] field loses padding columns."""
        width = int(self.lengths[index].max())
        cut: dict[str, Any] = {}
        for own in fields(self):
            value = getattr(self, own.name)
            if isinstance(value, Tensor):
                cut[own.name] = value[index] if value.dim() == 1 else value[index, :width]
            elif isinstance(value, tuple):
                cut[own.name] = tuple(value[i] for i in index.tolist())
        return replace(self, **cut)

    def micro_batches(self, max_tokens: int) -> Iterator[tuple[Tensor, Self]]:
        """Split into (index, rows) parts of at most `max_tokens` positions with padding; rows of like length go together."""
        for index in split_by_tokens(self.lengths, max_tokens):
            here = index.to(self.tokens.device)
            yield here, self.rows(here)


@dataclass(frozen=True)
class Rollouts(TokenBatch):
    """Phase I: what the policy answered. logps [B, T]: behaviour log-probabilities (nats) at response positions, 0 elsewhere.

    `finished` [B] bool: the response ends with the end-of-turn token. `states` [B, T, H]: states of `trunk` below its branch,
    which generation computes anyway. A sampler without a trunk in this process gives width H = 0 and `trunk` None; whoever
    holds another trunk computes its own. `hidden` [B, T, H], where `trunk` sampled: the final states that each response token was drawn
    from, 0 elsewhere.
    """

    logps: Tensor
    finished: Tensor
    states: Tensor
    prompts: tuple[Prompt, ...]
    completions: tuple[Completion, ...]
    trunk: object | None
    hidden: Tensor | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class ScoredRollouts(Rollouts):
    """Rollouts with their scores [B] (one per sequence), reference log-probabilities [B, T] and per-token rewards [B, T]."""

    scores: Tensor
    reference_logps: Tensor
    rewards: Tensor


@dataclass(frozen=True)
class PolicyBatch(TokenBatch):
    """Phase II: what every update of the policy reads. All [B, T]: old_logps, reference_logps, advantages; states [B, T, H]."""

    states: Tensor
    old_logps: Tensor
    reference_logps: Tensor
    advantages: Tensor


@dataclass(frozen=True)
class PPOBatch(PolicyBatch):
    """And what an update of the value function reads besides. All [B, T], reward units: returns, old_values."""

    returns: Tensor
    old_values: Tensor


def pad_rows(rows: Sequence[Tensor], value: float = 0) -> Tensor:
    """Stack rows of different length into [B, T, …], padded on the right with `value`."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def split_by_tokens(lengths: Tensor, max_tokens: int) -> list[Tensor]:
    """Indices [B] in groups whose rectangle (rows × longest row) holds at most `max_tokens`; a longer single row stands alone.

    Rows are taken from the longest to the shortest, so that memory peaks first and padding stays small.
    """
    order = torch.argsort(lengths, descending=True, stable=True).tolist()
    groups: list[Tensor] = []
    start = 0
    while start < len(order):
        count = max(1, max_tokens // max(1, int(lengths[order[start]])))
        groups.append(torch.tensor(order[start : start + count]))
        start += count
    return groups
