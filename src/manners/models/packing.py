"""Several responses to one prompt in one row: they share the prompt's positions and do not see each other.

The prompt is computed once for both answers of a pair, all of a ranking, and all of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manners.batches import TokenBatch, pad_rows


@dataclass(frozen=True)
class Packed:
    """Rows of one prompt and its K responses behind each other: tokens, positions, segments [B, T] long.

    Segment 0 is the prompt, 1 … K are the responses, −1 is padding. Positions go on from the prompt in every response. `ends`
    [B, K] is where each response's last token stands (−1: an empty one, or a row with fewer responses).
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    ends: Tensor

    def to(self, device: torch.device) -> Packed:
        return Packed(self.tokens.to(device), self.positions.to(device), self.segments.to(device), self.ends.to(device))

    @property
    def response_mask(self) -> Tensor:
        """[B, T] bool: tokens of the responses."""
        return self.segments > 0

    @property
    def before(self) -> Tensor:
        """[B, T] long: where the token stands that a response token follows; for the first of a response, the prompt's last."""
        steps = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        prompt_lengths = (self.segments == 0).sum(-1, keepdim=True)
        return torch.where(self.positions == prompt_lengths, prompt_lengths, steps) - 1

    @property
    def attention(self) -> Tensor:
        """[B, 1, T, T] bool: a token sees the prompt and its own response, up to itself; padding sees only itself."""
        segment = self.segments
        steps = torch.arange(segment.shape[1], device=segment.device)
        visible = (segment[:, None, :] == 0) | (segment[:, None, :] == segment[:, :, None])
        seen = visible & (steps[None, None, :] <= steps[None, :, None]) & (segment[:, None, :] >= 0)
        return (seen | torch.eye(len(steps), dtype=torch.bool, device=segment.device)[None])[:, None]


def pack(
    prompt: Sequence[int], responses: Sequence[Sequence[int]]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """tokens, positions, segments and ends of one packed row."""
    tokens, positions, segments, ends = list(prompt), list(range(len(prompt))), [0] * len(prompt), []
    for k, response in enumerate(responses, 1):
        tokens += response
        positions += range(len(prompt), len(prompt) + len(response))
        segments += [k] * len(response)
        ends.append(len(tokens) - 1 if response else -1)
    return tokens, positions, segments, ends


def pack_rows(rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]) -> Packed:
    """Pack rows of (prompt, responses) into one batch, padded on the right."""
    parts = [pack(prompt, responses) for prompt, responses in rows]
    tokens, positions, segments, ends = ([torch.tensor(part[i]) for part in parts] for i in range(4))
    return Packed(pad_rows(tokens), pad_rows(positions), pad_rows(segments, -1), pad_rows(ends, -1))


class Shared(NamedTuple):
    """A batch [B, T] whose equal prompts stand once, in packed rows [G, S]: where each packed token is in the batch, `rows` and `columns`
    [G, S], and where each token of the batch is packed, `groups` [B] and `places` [B, T]."""

    packed: Packed
    rows: Tensor
    columns: Tensor
    groups: Tensor
    places: Tensor


def share_prompts(batch: TokenBatch) -> Shared | None:
    """The batch with equal prompts in one row; None where no two are equal."""
    device, lengths, rows_of = batch.tokens.device, batch.lengths.tolist(), batch.tokens.tolist()
    members: dict[tuple[int, ...], list[int]] = {}
    for row, count in enumerate(batch.prompt_lengths.tolist()):
        members.setdefault(tuple(rows_of[row][:count]), []).append(row)
    if len(members) == len(batch):
        return None
    packed = pack_rows(
        [(prompt, [rows_of[r][len(prompt) : lengths[r]] for r in rows]) for prompt, rows in members.items()]
    )
    rows, columns = torch.zeros_like(packed.tokens), torch.zeros_like(packed.tokens)
    groups, places = torch.zeros(len(batch), dtype=torch.long), torch.zeros(batch.tokens.shape, dtype=torch.long)
    for group, (prompt, found) in enumerate(members.items()):
        start = len(prompt)
        rows[group, :start], columns[group, :start] = found[0], torch.arange(start)
        for row in found:
            stop = start + lengths[row] - len(prompt)
            rows[group, start:stop], columns[group, start:stop] = row, torch.arange(len(prompt), lengths[row])
            groups[row], places[row, : len(prompt)] = group, torch.arange(len(prompt))
            places[row, len(prompt) : lengths[row]] = torch.arange(start, stop)
            start = stop
    return Shared(packed.to(device), *(t.to(device) for t in (rows, columns, groups, places)))
