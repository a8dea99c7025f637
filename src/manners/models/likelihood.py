"""How likely the trunk finds given continuations: what direct methods, multiple choice and a judge's verdict are read from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manners.batches import split_by_tokens
from manners.models.packing import Packed, pack_rows
from manners.models.trunk import Trunk
from manners.runs import Track, untracked


def packed_logps(
    trunk: Trunk, adapter: str | None, packed: Packed, states: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities [B, K] of whole answers, nats, under `adapter` (None: the reference), with gradient; 0 where there is none."""
    with trunk.adapters.using(adapter):
        found = trunk.predict(packed, states, temperature=temperature)
    width = packed.ends.shape[1]
    place = found.rows * width + packed.segments[found.rows, found.columns] - 1
    flat = torch.zeros(len(packed.tokens) * width, device=found.logps.device, dtype=found.logps.dtype)
    return flat.index_add(0, place, found.logps).view(-1, width)


@torch.no_grad()
def continuation_logprobs(
    trunk: Trunk,
    adapter: str | None,
    rows: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]],
    *,
    temperature: float = 1.0,
    max_tokens: int = 12_288,
    track: Track = untracked,
    what: str = "asking the model",
) -> list[Tensor]:
    """Log-probabilities [K] of each row's K continuations, nats, float32 on the CPU, under `adapter` (None: the reference).

    A row is the tokens of a context and of its continuations, all packed behind it, so that the context is computed once. One pass
    takes at most `max_tokens` positions with padding. A row must fit the model's context: its longest continuation behind it.
    """
    found: dict[int, Tensor] = {}
    lengths = torch.tensor([len(context) + sum(map(len, continuations)) for context, continuations in rows])
    for part in track(split_by_tokens(lengths, max_tokens) if rows else [], what):
        packed = pack_rows([rows[i] for i in part.tolist()]).to(trunk.device)
        logps = packed_logps(trunk, adapter, packed, trunk.states(packed), temperature=temperature)
        for i, row in zip(part.tolist(), logps, strict=True):
            found[i] = row[: len(rows[i][1])].float().cpu()
    return [found[i] for i in range(len(rows))]
