"""One trunk: a frozen decoder that is policy, reference, value function and reward model for the price of one.

Only layers from the *branch* up carry adapters. Everything below is the same for every role, so its states are computed once
per text (`states`) and every role, every epoch goes on from there (`hidden`). With `train_layers: all` the branch is 0 and the
states are the embeddings.

Several responses to one prompt can stand in one row (`Packed`): they share the prompt's positions and do not see each other.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from manners.batches import TokenBatch, pad_rows
from manners.errors import MannersError
from manners.models.adapters import Adapters, LoRALinear
from manners.ops.logprobs import token_logprobs

TrainLayers = int | Literal["all"]


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


class Predicted(NamedTuple):
    """For every response token of a batch, N in all: its row and column [N], the hidden state [N, H] that predicts it, its
    log-probability [N] and the entropy [N] there, in nats."""

    rows: Tensor
    columns: Tensor
    hidden: Tensor
    logps: Tensor
    entropies: Tensor

    def spread(self, values: Tensor, like: Tensor) -> Tensor:
        """`values` [N] put in their places of a [B, T] tensor of zeros as wide as `like`."""
        return torch.zeros(like.shape, device=values.device, dtype=values.dtype).index_put(
            (self.rows, self.columns), values
        )


class Trunk(nn.Module):
    """A Hugging Face causal language model with adapters from its branch up. Its own weights never change."""

    def __init__(self, model: Any, tokenizer: Any, train_layers: TrainLayers = "all", name: str = "") -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()  # eval: no dropout anywhere, in sampling and updates alike
        self.tokenizer = tokenizer
        self.name = name
        self._decoder, self._layers, self._norm = _anatomy(model)
        # transformers 5.24 gave the keyword a new name
        named = inspect.signature(self._decoder.forward).parameters
        self._cache_name = "cache" if "cache" in named else "past_key_values"
        depth = len(self._layers)
        if train_layers != "all" and not 1 <= train_layers <= depth:
            raise MannersError(
                f"train_layers must be 'all' or between 1 and {depth} for this model, not {train_layers}"
            )
        self.layers = tuple(self._layers)
        self.train_layers = train_layers
        self.branch = 0 if train_layers == "all" else depth - train_layers
        self.adapters = Adapters(_wrap(model, self._layers, self.branch))
        self._below = _slice(self._decoder, self._layers, self._norm, 0, self.branch, takes_states=False)
        self._above = _slice(self._decoder, self._layers, self._norm, self.branch, depth, takes_states=True)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any frozen weight: a SHA-256 of their names and bytes."""
        adapters = {id(p) for name in self.adapters.rank for p in self.adapters.parameters(name)}
        digest = hashlib.sha256()
        for name, tensor in self.model.state_dict(keep_vars=True).items():
            if id(tensor) not in adapters:
                digest.update(f"{name.replace('.base.', '.')} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @property
    def head_weight(self) -> Tensor:
        """[V, H]: the frozen output embedding."""
        weight: Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def width(self) -> int:
        return int(self.head_weight.shape[1])

    @property
    def context(self) -> int:
        """The longest sequence the model was built for, in tokens; within a sliding window, where it has one: attention here is
        full attention."""
        window = self.model.config.to_dict().get("sliding_window") or self.model.config.max_position_embeddings
        return int(min(window, self.model.config.max_position_embeddings))

    @property
    def device(self) -> torch.device:
        return self.head_weight.device

    @torch.no_grad()
    def states(self, tokens: Tensor | Packed) -> Tensor:
        """States [B, T, H] at the branch for tokens [B, T] (right-padded) or for packed rows. No gradient, no adapter."""
        ids = tokens.tokens if isinstance(tokens, Packed) else tokens
        with self.adapters.using(None):
            return _run(self._below, tokens, input_ids=ids)

    def hidden(self, states: Tensor, packed: Packed | None = None) -> Tensor:
        """Final hidden states [B, T, H] after the norm, from states at the branch, under the adapter that is on.

        Without `packed` the rows are plain right-padded sequences and causal attention needs no mask: no real token is ever
        behind padding.
        """
        return _run(self._above, packed, inputs_embeds=states)

    def predict(
        self, batch: TokenBatch | Packed, states: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
    ) -> Predicted:
        """What the trunk, under the adapter that is on, says of every response token of `batch`, from branch states [B, T, H].

        The state at position t − 1 predicts the token at t: this is the one place of that shift.
        """
        packed = batch if isinstance(batch, Packed) else None
        hidden = self.hidden(states, packed)
        rows, columns = batch.response_mask.nonzero(as_tuple=True)
        chosen = hidden[rows, columns - 1 if packed is None else packed.before[rows, columns]]
        found = token_logprobs(
            chosen,
            self.head_weight,
            batch.tokens[rows, columns],
            temperature=temperature,
            entropy_gradient=entropy_gradient,
        )
        return Predicted(rows, columns, chosen, *found)

    def unwrap(self) -> Any:
        """The plain model with its own linear layers back in place; the trunk is of no use afterwards."""
        for name, layer in self.adapters.layers.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, layer.base)
        return self.model

    @contextlib.contextmanager
    def watch_branch(self) -> Iterator[BranchWatch]:
        """Within the block, every forward pass of the whole model leaves its states at the branch in `watch.states` [B, T, H]."""
        watch = BranchWatch()
        handle = self._layers[self.branch].register_forward_pre_hook(watch.see, with_kwargs=True)
        try:
            yield watch
        finally:
            handle.remove()

    def forward_cached(self, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Final hidden states [B, T, H] of new tokens [B, T] behind those in `cache`, under the adapter that is on or merged.

        attention [B, 1, T, seen] bool; positions [B, T].
        """
        hidden: Tensor = self._decoder(
            input_ids=tokens,
            attention_mask=attention,
            position_ids=positions,
            use_cache=True,
            **{self._cache_name: cache},
        ).last_hidden_state
        return hidden


class BranchWatch:
    """The states that entered the branch layer in the latest forward pass."""

    states: Tensor

    def see(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.states = args[0] if args else kwargs["hidden_states"]


def _run(part: Any, tokens: Tensor | Packed | None, **inputs: Tensor) -> Tensor:
    if isinstance(tokens, Packed):
        inputs |= {"attention_mask": tokens.attention, "position_ids": tokens.positions}
    hidden: Tensor = part(**inputs, use_cache=False).last_hidden_state
    return hidden


def _anatomy(model: Any) -> tuple[Any, nn.ModuleList, str]:
    """The decoder inside a causal language model, its layers, and the name of its last norm."""
    decoder = model.base_model
    _refuse_what_is_not_plain(model.config)
    match model.config.model_type:
        case "gpt2":
            return decoder, decoder.h, "ln_f"
        case "gpt_neox":
            return decoder, decoder.layers, "final_layer_norm"
        case _ if isinstance(decoder._modules.get("layers"), nn.ModuleList) and "norm" in decoder._modules:
            return decoder, decoder.layers, "norm"
        case other:
            raise MannersError(
                f"models of type {other!r} cannot be split into layers here; use a Llama-like, GPT-2 or NeoX decoder"
            )


def _refuse_what_is_not_plain(config: Any) -> None:
    """Raise MannersError for families whose logits or layers are more than this trunk computes: it would be silently wrong."""
    values = config.to_dict()
    scaled = [k for k in ("final_logit_softcapping", "attn_logit_softcapping") if values.get(k)]
    scaled += [k for k in ("logits_scaling", "logit_scale", "embedding_multiplier") if values.get(k, 1.0) != 1.0]
    if len(set(values.get("layer_types") or [])) > 1:
        scaled.append("layer_types")
    if scaled:
        raise MannersError(
            f"models of type {config.model_type!r} are not supported yet ({', '.join(scaled)}); use a Llama-like decoder"
        )


def _wrap(model: Any, layers: nn.ModuleList, branch: int) -> dict[str, LoRALinear]:
    """Replace every linear layer from the branch up by a LoRALinear; gives them by their name in the plain model."""
    prefix = next(name for name, module in model.named_modules() if module is layers)
    wrapped = {}
    for number, layer in enumerate(layers):
        if number < branch:
            continue
        for name, module in list(layer.named_modules()):
            if isinstance(module, nn.Linear | Conv1D):
                parent, _, leaf = name.rpartition(".")
                lora = LoRALinear(module)
                setattr(layer.get_submodule(parent), leaf, lora)
                wrapped[f"{prefix}.{number}.{name}"] = lora
    return wrapped


class _NoPositions(nn.Module):
    """Stands for GPT-2's learned positions above the branch: they were added at the bottom."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def _slice(decoder: Any, layers: nn.ModuleList, norm: str, start: int, stop: int, takes_states: bool) -> Any:
    """A shallow copy of the decoder that runs layers start … stop − 1 only; the weights are shared."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    name = next(key for key, module in decoder._modules.items() if module is layers)
    part._modules[name] = nn.ModuleList(layers[start:stop])
    if stop < len(layers):
        part._modules[norm] = nn.Identity()
    if takes_states and "wpe" in part._modules:
        part._modules["wpe"] = _NoPositions()
    return part
