"""One trunk: a frozen decoder that is policy, reference, value function and reward model for the price of one.

Only layers from the *branch* up carry adapters. Everything below is the same for every role, so its states are computed once
per text (`states`) and every role, every epoch goes on from there (`hidden`). With `train_layers: all` the branch is 0 and the
states are the embeddings.

Several responses to one prompt can stand in one row (models/packing.py): the prompt is computed once.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from manners.batches import TokenBatch
from manners.errors import MannersError
from manners.models.adapters import Adapters, LoRALinear
from manners.models.lean import Attended, LeanLayer, fits, leave_the_file
from manners.models.packing import Packed, share_prompts
from manners.models.prefixes import Prefixes
from manners.models.quantised import PLAIN, BaseBits, SeparateAdapters, SeparateLoRA, quantise
from manners.models.recompute import recomputed, recomputing
from manners.ops.logprobs import token_logprobs
from manners.ops.memory import trim
from manners.ops.products import Reordered

TrainLayers = int | Literal["all"]


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
    """A Hugging Face causal language model with adapters from its branch up. Its own weights never change.

    `gradient_checkpointing`: the layers from the branch up are computed again in the backward pass (models/recompute.py).
    `base_bits`: 8 or 4 rounds the linear layers of `model` to so many bits a weight, in place (models/quantised.py). `lean`: a
    Llama-like model is computed by models/lean.py where that knows how.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        train_layers: TrainLayers = "all",
        name: str = "",
        *,
        gradient_checkpointing: bool = False,
        base_bits: BaseBits = "full",
        lean: bool = True,
    ) -> None:
        super().__init__()
        if base_bits != "full":
            quantise(model, base_bits)
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
        self.base_bits = base_bits
        wrapped = _wrap(model, self._layers, self.branch)
        plain = all(type(layer.base) in PLAIN for layer in wrapped.values())
        self.adapters = Adapters(wrapped) if plain else SeparateAdapters(wrapped)
        lean = lean and plain and fits(self._decoder, self._layers)
        self._again = gradient_checkpointing
        if lean:
            leave_the_file(model)
        self._lean = [LeanLayer.of(layer, self._decoder.config) for layer in self._layers] if lean else []
        self._merged: list[tuple[Reordered, ...]] = []  # within `merged`: the products of each layer
        self._head: Reordered | None = None  # and that of the head
        self._below = _slice(self._decoder, self._layers, self._norm, 0, self.branch, takes_states=False)
        self._above = _slice(self._decoder, self._layers, self._norm, self.branch, depth, takes_states=True,
                             again=gradient_checkpointing)  # fmt: skip

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
    def states(self, batch: Tensor | TokenBatch | Packed) -> Tensor:
        """States [B, T, H] at the branch for right-padded rows, packed rows, or tokens [B, T]. No gradient, no adapter."""
        ids = batch if isinstance(batch, Tensor) else batch.tokens
        with self.adapters.using(None):
            if self._lean:
                embed = self._decoder.get_input_embeddings()
                if not self.branch:
                    found: Tensor = embed(ids)
                    return found
                distinct = Prefixes.of(batch)
                return self._pass(self._lean[: self.branch], embed(ids.flatten()[distinct.places]), distinct)[
                    distinct.numbers
                ]
            return _run(self._below, batch if isinstance(batch, Packed) else None, input_ids=ids)

    def hidden(self, states: Tensor, packed: Packed | None = None) -> Tensor:
        """Final hidden states [B, T, H] after the norm, from states at the branch, under the adapter that is on.

        Without `packed` the rows are plain right-padded sequences and causal attention needs no mask: no real token is ever
        behind padding.
        """
        if self._lean:
            rows, width = states.shape[:2]
            distinct = Prefixes.apart(rows, width, states.device) if packed is None else Prefixes.of(packed)
            found = self._pass(self._lean[self.branch :], states.flatten(0, 1)[distinct.places], distinct)
            return self._normed(found)[distinct.numbers]
        return _run(self._above, packed, inputs_embeds=states)

    def hidden_at(self, batch: TokenBatch | Packed, states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Final hidden states [N, H] at `rows` and `columns` [N] of `batch` from its branch states [B, T, H], under the adapter that is on.

        What rows have in common is computed once: with lean layers all that they begin with, else prompts that are equal.
        """
        if self._lean:
            distinct = Prefixes.of(batch)
            wanted, place = distinct.numbers[rows, columns].unique(return_inverse=True)
            above = self._lean[self.branch :]
            found = self._pass(above, states.flatten(0, 1)[distinct.places], distinct, wanted)
            return self._normed(found).index_select(0, place)
        if isinstance(batch, Packed):
            return self.hidden(states, batch)[rows, columns]
        shared = share_prompts(batch)
        if shared is None:
            return self.hidden(states)[rows, columns]
        hidden = self.hidden(states[shared.rows, shared.columns], shared.packed)
        return hidden[shared.groups[rows], shared.places[rows, columns]]

    def _pass(
        self, layers: Sequence[LeanLayer], states: Tensor, distinct: Prefixes, wanted: Tensor | None = None
    ) -> Tensor:
        """States behind `layers` from those [N, H] of distinct prefixes before them: all [N, H], or those `wanted` [M, H]."""
        steps = torch.arange(distinct.paths.shape[1], device=states.device)
        seen = self._attended(states, steps[None], None, distinct)
        for layer in layers:
            asked = wanted if layer is layers[-1] else None
            states = (recomputing(layer, layer.adapted) if self._again else layer)(states, seen, asked)
        return states

    def _attended(
        self, states: Tensor, positions: Tensor, attention: Tensor | None, distinct: Prefixes | None
    ) -> Attended:
        cosines, sines = self._decoder.rotary_emb(states, position_ids=positions)
        # as numbers once, and not once per layer
        mask = (
            None
            if attention is None
            else torch.zeros_like(attention, dtype=states.dtype).masked_fill_(~attention, -math.inf)
        )
        paths, seats = (None, None) if distinct is None else (distinct.paths, distinct.seats)
        return Attended(cosines[:, :, None], sines[:, :, None], mask, paths, seats)

    def _normed(self, states: Tensor) -> Tensor:
        found: Tensor = self._decoder.get_submodule(self._norm)(states)
        return found

    def predict(
        self, batch: TokenBatch | Packed, states: Tensor, *, temperature: float = 1.0, entropy_gradient: bool = False
    ) -> Predicted:
        """What the trunk, under the adapter that is on, says of every response token of `batch`, from branch states [B, T, H].

        The state at position t − 1 predicts the token at t: this is the one place of that shift.
        """
        rows, columns = batch.response_mask.nonzero(as_tuple=True)
        before = batch.before[rows, columns] if isinstance(batch, Packed) else columns - 1
        chosen = self.hidden_at(batch, states, rows, before)
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
        for layer in self.model.modules():  # lean layers left views of larger tensors, which no checkpoint holds
            if isinstance(layer, nn.Linear) and layer.weight.untyped_storage().nbytes() > layer.weight.nbytes:
                layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        return self.model

    @contextlib.contextmanager
    def merged(self, name: str | None) -> Iterator[None]:
        """Within the block `forward_cached` computes with the adapter `name` merged into the weights; the base is left as it is.

        On lean layers it holds a copy of all weights, in an order that is fast with few rows.
        """
        if self._lean:
            trim()  # what updates left behind is in pieces that no weight fits into
            with torch.no_grad():
                self._merged = [layer.merged(name) for layer in self._lean]
                self._head = Reordered(self.head_weight.T)
            try:
                yield
            finally:
                self._merged, self._head = [], None
        else:
            with self.adapters.merged(name):
                yield

    def forward_cached(self, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        """Final hidden states and states at the branch, both [B, T, H], of new tokens [B, T] behind those in `cache`, within `merged`.

        attention [B, 1, T, seen] bool; positions [B, T]. Without gradient.
        """
        if self._lean:
            return self._steps(tokens, attention, positions, cache)
        with self.watch_branch() as branch:
            hidden: Tensor = self._decoder(
                input_ids=tokens, attention_mask=attention, position_ids=positions, use_cache=True, **{self._cache_name: cache}
            ).last_hidden_state  # fmt: skip
        return hidden, branch.states

    def _steps(self, tokens: Tensor, attention: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Tensor]:
        shape = tokens.shape
        # prompts are padded on the left, and begin alike
        distinct = None if cache.get_seq_length() else Prefixes.of_left_padded(tokens, shape[1] - 1 - positions[:, -1])
        ids = tokens.flatten() if distinct is None else tokens.flatten()[distinct.places]
        x = at_branch = self._decoder.get_input_embeddings()(ids)
        seen = self._attended(x, positions, attention, distinct)
        for number, (layer, products) in enumerate(zip(self._lean, self._merged, strict=True)):
            if number == self.branch:
                at_branch = x.clone()
            x = layer.step(x, products, seen, cache.layers[number].update)
        back = (lambda t: t.view(*shape, -1)) if distinct is None else (lambda t: t[distinct.numbers])
        return back(self._normed(x)), back(at_branch)

    def logits(self, hidden: Tensor) -> Tensor:
        """[B, V] of final hidden states [B, H], without gradient; fastest within `merged`."""
        return hidden @ self.head_weight.T if self._head is None else self._head(hidden)

    @contextlib.contextmanager
    def watch_branch(self) -> Iterator[BranchWatch]:
        """Within the block, every forward pass of the whole model leaves its states at the branch in `watch.states` [B, T, H]."""
        watch = BranchWatch()
        handle = self._layers[self.branch].register_forward_pre_hook(watch.see, with_kwargs=True)
        try:
            yield watch
        finally:
            handle.remove()


class BranchWatch:
    """The states that entered the branch layer in the latest forward pass."""

    states: Tensor

    def see(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.states = args[0] if args else kwargs["hidden_states"]


def _run(part: Any, packed: Packed | None, **inputs: Tensor) -> Tensor:
    if packed is not None:
        inputs |= {"attention_mask": packed.attention, "position_ids": packed.positions}
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
                lora = LoRALinear(module) if type(module) in PLAIN else SeparateLoRA(module)
                setattr(layer.get_submodule(parent), leaf, lora)
                wrapped[f"{prefix}.{number}.{name}"] = lora
    return wrapped


class _NoPositions(nn.Module):
    """Stands for GPT-2's learned positions above the branch: they were added at the bottom."""

    def forward(self, position_ids: Tensor) -> Tensor:
        return torch.zeros((), device=position_ids.device)


def _slice(
    decoder: Any, layers: nn.ModuleList, norm: str, start: int, stop: int, takes_states: bool, again: bool = False
) -> Any:
    """A shallow copy of the decoder that runs layers start … stop − 1 only, `again` in the backward pass if so; weights are shared."""
    part = copy.copy(decoder)
    part._modules = dict(decoder._modules)
    name = next(key for key, module in decoder._modules.items() if module is layers)
    part._modules[name] = nn.ModuleList(map(recomputed, layers[start:stop]) if again else layers[start:stop])
    if stop < len(layers):
        part._modules[norm] = nn.Identity()
    if takes_states and "wpe" in part._modules:
        part._modules["wpe"] = _NoPositions()
    return part
