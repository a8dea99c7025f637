"""Sampling from the trunk itself, with behaviour log-probabilities and branch states kept from the forward passes.

The distribution is the full one at the given temperature: no top-k, no top-p, no penalties, because log-probabilities of a bent
distribution would not be those the update sees. A policy that is more than its own logits brings its `shape`; log-probabilities are
then those of the shaped distribution. Each row draws its own stream of random numbers, so what a prompt gets does not
depend on what stands beside it in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from manners.batches import Rollouts, pad_rows
from manners.models.load import load_trunk
from manners.models.shaping import Shape, plain, shape_of
from manners.models.trunk import TrainLayers, Trunk
from manners.records import Completion, Prompt
from manners.runs import Track, untracked
from manners.stopwatch import STILL, Stopwatch
from manners.text.chat import Chat

GREEDY = 0.0


class _Row(DynamicLayer):
    """One layer's keys and values in a buffer of fixed size: a step writes one column instead of copying everything."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity, self.filled = capacity, 0
        self.is_initialized: bool = False

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            batch, heads, _, width = key_states.shape
            self.keys = key_states.new_empty(batch, heads, self.capacity, width)
            self.values = value_states.new_empty(batch, heads, self.capacity, value_states.shape[-1])
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        new = slice(self.filled, self.filled + key_states.shape[2])
        self.keys[:, :, new], self.values[:, :, new] = key_states, value_states
        self.filled = new.stop
        return self.keys[:, :, : self.filled], self.values[:, :, : self.filled]

    def get_seq_length(self) -> int:
        return self.filled

    def spread(self, rows: Tensor) -> None:
        """Of every row named, as often as it is named, a copy of its own."""
        self.keys, self.values = self.keys[rows], self.values[rows]

    def move(self, rows: Tensor, to: Tensor, count: int) -> None:
        """Put `rows` in the places `to`, and keep the first `count`."""
        for buffer in (self.keys, self.values):
            buffer[to] = buffer[rows]
        self.keys, self.values = self.keys[:count], self.values[:count]


class _Drawn(NamedTuple):
    """A response: its r tokens, their log-probabilities [r], the final states [r, H] they were drawn from, and the branch states
    [prompt + r, H]."""

    tokens: list[int]
    logps: Tensor
    hidden: Tensor
    states: Tensor


class LocalSampler:
    """Samples from `trunk` with the adapter named `adapter` (None: the bare base). Prompts of like length go together.

    `shape` makes the logits that are sampled from out of the last hidden states and the logits; the temperature divides what it gives.
    `stopwatch` is told when it prefills and when it decodes.
    """

    def __init__(
        self,
        trunk: Trunk,
        adapter: str | None,
        *,
        batch: int = 64,
        model_name: str = "",
        shape: Shape = plain,
        stopwatch: Stopwatch = STILL,
    ) -> None:
        self.trunk = trunk
        self.adapter = adapter
        self.shape = shape
        self.batch = batch
        self.model_name = model_name or trunk.name
        self.stopwatch = stopwatch
        self.chat = Chat(trunk.tokenizer, trunk.context)

    @classmethod
    def of(
        cls,
        model: str,
        train_layers: TrainLayers = "all",
        *,
        batch: int = 64,
        say: Callable[[str], None] = lambda _: None,
    ) -> LocalSampler:
        """A sampler of whatever `load_trunk` loads, from the distribution that its checkpoint asks for."""
        trunk = load_trunk(model, train_layers, say=say)
        return cls(trunk, None, batch=batch, model_name=model, shape=shape_of(model, trunk))

    @torch.inference_mode()
    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        track: Track = untracked,
    ) -> Rollouts:
        """One response to each prompt, at most `max_tokens` tokens, end-of-turn token included. Temperature 0 is greedy.

        Row i of the result belongs to prompts[i] whatever the order of work. logps are at `temperature` (greedy: at 1).
        """
        encoded = [self.chat.prompt(p, room=max_tokens) for p in prompts]
        order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]), reverse=True)
        rows: list[_Drawn] = [_Drawn([], torch.empty(0), torch.empty(0), torch.empty(0))] * len(prompts)
        with self.trunk.merged(self.adapter):
            for start in track(range(0, len(order), self.batch), "sampling"):
                part = order[start : start + self.batch]
                streams = [torch.Generator().manual_seed(seed * 1_000_003 + i) for i in part]
                with self.stopwatch.part("decode"):
                    found = self._decode([encoded[i] for i in part], max_tokens, temperature, streams)
                for i, row in zip(part, found, strict=True):
                    rows[i] = row
        return self._rollouts(prompts, encoded, rows, {"max_tokens": max_tokens, "temperature": temperature}, seed)

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        return self.chat.pieces(tokens)

    def _decode(
        self, prompts: list[list[int]], max_tokens: int, temperature: float, streams: list[torch.Generator]
    ) -> list[_Drawn]:
        """What was drawn for each prompt."""
        trunk, device = self.trunk, self.trunk.device
        places: dict[tuple[int, ...], int] = {}  # equal prompts are computed once
        of_prompt = torch.tensor([places.setdefault(tuple(p), len(places)) for p in prompts], device=device)
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[self.chat.pad] * (width - len(p)) + list(p) for p in places], device=device)
        padding = torch.tensor([width - len(p) for p in places], device=device)
        noise = torch.stack([torch.rand(max_tokens, generator=g) for g in streams]).to(device)
        cache = Cache(layers=[_Row(width + max_tokens) for _ in trunk.layers])
        steps = torch.arange(width + max_tokens, device=device)
        causal = (steps[None, None, :width] <= steps[None, :width, None]) & (
            steps[None, None, :width] >= padding[:, None, None]
        )
        causal |= torch.eye(width, dtype=torch.bool, device=device)[None]
        positions = (steps[None, :width] - padding[:, None]).clamp(min=0)

        alive = torch.arange(len(prompts), device=device)
        responses: list[list[int]] = [[] for _ in prompts]
        logps: list[list[Tensor]] = [[] for _ in prompts]
        drawn_from: list[list[Tensor]] = [[] for _ in prompts]
        with self.stopwatch.part("prefill"):
            hidden, branch = trunk.forward_cached(ids, causal[:, None], positions, cache)
        states = [[branch[i, padding[i] :]] for i in of_prompt.tolist()]
        hidden, padding = hidden[of_prompt, -1], padding[of_prompt]
        if len(places) < len(prompts):
            for layer in cache.layers:
                layer.spread(of_prompt)
        for step in range(max_tokens):
            tokens, chosen = _draw(self.shape(hidden, trunk.logits(hidden)), temperature, noise[alive, step])
            for row, token, logp, state in zip(alive.tolist(), tokens.tolist(), chosen, hidden, strict=True):
                responses[row].append(token)
                logps[row].append(logp)
                drawn_from[row].append(state)
            # every token is fed back, the last one too: a reward model reads its state
            seen = steps[None, : width + step + 1] >= padding[alive, None]
            position = (width + step - padding[alive])[:, None]
            hidden, branch = trunk.forward_cached(tokens[:, None], seen[:, None, None], position, cache)
            hidden = hidden[:, -1]
            for place, row in enumerate(alive.tolist()):
                states[row].append(branch[place])
            going = (tokens != self.chat.end).nonzero()[:, 0]
            if not len(going):
                break
            if len(going) < len(alive):
                # those at the end take the places that became free, so that no more than these are copied
                last = going[going >= len(going)]
                kept = torch.arange(len(going), device=device)
                free = kept[~torch.isin(kept, going)]
                order = kept.index_copy(0, free, last)
                alive, hidden = alive[order], hidden[order]
                for layer in cache.layers:
                    layer.move(last, free, len(going))
        return [
            _Drawn(r, torch.stack(p), torch.stack(h), torch.cat(s))
            for r, p, h, s in zip(responses, logps, drawn_from, states, strict=True)
        ]

    def _rollouts(
        self,
        prompts: Sequence[Prompt],
        encoded: Sequence[list[int]],
        rows: Sequence[_Drawn],
        settings: dict[str, float],
        seed: int,
    ) -> Rollouts:
        device = self.trunk.device
        finished = [row.tokens[-1] == self.chat.end for row in rows]
        completions = tuple(
            Completion(p.id, self.chat.text(row.tokens), done, self.model_name, settings, seed)
            for p, row, done in zip(prompts, rows, finished, strict=True)
        )
        whole = [torch.tensor(p + row.tokens) for p, row in zip(encoded, rows, strict=True)]
        prompt_lengths = torch.tensor([len(p) for p in encoded], device=device)
        lengths = torch.tensor([len(tokens) for tokens in whole], device=device)
        tokens = pad_rows(whole, self.chat.pad).to(device)
        logps, hidden = (
            pad_rows([torch.cat([part.new_zeros(len(p), *part.shape[1:]), part]) for p, part in zip(encoded, parts, strict=True)])
            for parts in ([row.logps for row in rows], [row.hidden for row in rows])
        )  # fmt: skip
        states = pad_rows([row.states for row in rows])
        done = torch.tensor(finished, device=device)
        return Rollouts(
            tokens, prompt_lengths, lengths, logps, done, states, tuple(prompts), completions, self.trunk, hidden=hidden
        )


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] by inverse cumulative distribution from uniform [B] numbers, and their log-probabilities [B] in nats.

    The distribution is added up by blocks of the vocabulary first, then within the block that the number falls into: the same token
    for a fraction of the work.
    """
    logits = logits.float() if temperature in (GREEDY, 1.0) else logits.float() / temperature
    highest = logits.amax(-1, keepdim=True)
    weights = (logits - highest).exp_()
    blocks = weights.view(len(weights), -1, _block(weights.shape[-1]))
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    cumulative = blocks.sum(-1).to(wide).cumsum(-1)
    total = cumulative[:, -1:]
    if temperature == GREEDY:
        tokens = logits.argmax(-1)
    else:
        aim = uniform[:, None].to(wide) * total
        block = torch.searchsorted(cumulative, aim, right=True).clamp(max=cumulative.shape[-1] - 1)
        before = torch.where(block > 0, cumulative.gather(-1, (block - 1).clamp(min=0)), 0)
        within = blocks[torch.arange(len(blocks), device=blocks.device), block[:, 0]].to(wide).cumsum(-1)
        place = torch.searchsorted(within, aim - before, right=True).clamp(max=within.shape[-1] - 1)
        tokens = (block * blocks.shape[-1] + place)[:, 0]
    return tokens, logits.gather(-1, tokens[:, None])[:, 0] - highest[:, 0] - total[:, 0].log().float()


def _block(count: int) -> int:
    """The divisor of `count` that is nearest below 512: so many tokens make a block."""
    return next(size for size in range(min(512, count), 0, -1) if count % size == 0)
