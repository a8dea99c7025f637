"""The distinct prefixes of a batch: what a causal decoder has to compute, each once.

The state at a token depends on that token and on those before it, and on nothing else. Rows that begin alike, by the system prompt of a
chat template, by the prompt of a pair, a ranking or a group, have the same states up to where they part. Norms and products therefore go
over the distinct prefixes alone, without padding; attention goes along the sequences they make up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manners.batches import TokenBatch, pad_rows
from manners.models.packing import Packed

Places = Sequence[int]


class Prefixes(NamedTuple):
    """N prefixes of a batch [B, T], and the R sequences of at most L tokens that run through them.

    places [N]: where in the flattened batch each prefix ends, the first time. numbers [B, T]: which prefix ends at each token. paths
    [R, L]: the prefixes along each sequence. seats [N]: where in the flattened paths each stands. Where there is no token,
    numbers and paths are 0.
    """

    places: Tensor
    numbers: Tensor
    paths: Tensor
    seats: Tensor

    @classmethod
    def of(cls, batch: Tensor | TokenBatch | Packed) -> Prefixes:
        """Those of right-padded rows, of packed rows, or of rows [B, T] that are tokens throughout."""
        tokens = batch if isinstance(batch, Tensor) else batch.tokens
        return _among(_sequences(batch), tokens, right=True)

    @classmethod
    def of_left_padded(cls, tokens: Tensor, padding: Tensor) -> Prefixes:
        """Those of rows [B, T] that begin behind `padding` [B] places. Paths are as the rows are: padded on the left."""
        rows, width = tokens.shape
        starts = padding.tolist()
        return _among((range(row * width + starts[row], (row + 1) * width) for row in range(rows)), tokens, right=False)

    @classmethod
    def apart(cls, rows: int, width: int, device: torch.device) -> Prefixes:
        """Every token by itself: nothing is known of what rows [B, T] have in common."""
        each = torch.arange(rows * width, device=device)
        return cls(each, each.view(rows, width), each.view(rows, width), each)


def _sequences(batch: Tensor | TokenBatch | Packed) -> Iterable[Places]:
    """Where in the flattened batch the tokens of each sequence stand."""
    if isinstance(batch, Packed):
        return _packed_sequences(batch)
    rows, width = (batch if isinstance(batch, Tensor) else batch.tokens).shape
    lengths = [width] * rows if isinstance(batch, Tensor) else batch.lengths.tolist()
    return (range(row * width, row * width + length) for row, length in enumerate(lengths))


def _packed_sequences(packed: Packed) -> Iterable[Places]:
    width = packed.tokens.shape[1]
    for row, segments in enumerate(packed.segments.tolist()):
        start = row * width
        prompt = segments.count(0)
        ends = [end for end in packed.ends[row].tolist() if end >= prompt]
        for end in ends:
            first = segments.index(segments[end])
            yield [*range(start, start + prompt), *range(start + first, start + end + 1)]
        if not ends:
            yield range(start, start + prompt)


def _among(sequences: Iterable[Places], tokens: Tensor, *, right: bool) -> Prefixes:
    flat = tokens.flatten().tolist()
    known: dict[tuple[int, int], int] = {}
    places: list[int] = []
    found: list[tuple[int, int]] = []  # the sequence that a prefix was first met in, and how far along
    paths: list[list[int]] = []
    numbers = torch.zeros(len(flat), dtype=torch.long)
    for sequence in sequences:
        prefix = -1
        path: list[int] = []
        for place in sequence:
            prefix = known.setdefault((prefix, flat[place]), len(known))
            if prefix == len(places):
                places.append(place)
                found.append((len(paths), len(path)))
            path.append(prefix)
        numbers[torch.tensor(sequence, dtype=torch.long)] = torch.tensor(path, dtype=torch.long)
        paths.append(path)
    width = max(map(len, paths)) if right else tokens.shape[1]
    shift = [0 if right else width - len(path) for path in paths]
    seats = [row * width + shift[row] + step for row, step in found]
    laid = [torch.tensor([0] * before + path) for before, path in zip(shift, paths, strict=True)]
    parts = (torch.tensor(places), numbers.view(tokens.shape), pad_rows(laid), torch.tensor(seats))
    return Prefixes(*(part.to(tokens.device) for part in parts))
