"""Low-rank adapters (LoRA) on the linear layers of a frozen decoder, several by name, in peft's file format.

Own code rather than peft, because one trunk plays four roles many times a second: which adapter is on is one attribute, and an
adapter can be merged into its layers while the policy samples and taken out again without a rounding trace.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from manners.errors import MannersError
from manners.runs import read_json, write_json, writing

_PREFIX = "base_model.model."


class LoRALinear(nn.Module):
    """A frozen linear layer plus (alpha/rank)·B·A of the adapter that is `active` (None: the layer as it was).

    A [rank, inputs] is drawn as in peft (Kaiming uniform, a = √5), B [outputs, rank] is 0, so a new adapter changes nothing.
    Hu et al. 2021 (arXiv 2106.09685).
    """

    def __init__(self, base: nn.Linear | Conv1D) -> None:
        super().__init__()
        self.base = base
        self.transposed = isinstance(base, Conv1D)  # GPT-2 stores its weights as [inputs, outputs]
        rows, columns = base.weight.shape
        self.outputs, self.inputs = (columns, rows) if self.transposed else (rows, columns)
        self.a = nn.ParameterDict()
        self.b = nn.ParameterDict()
        self.scale: dict[str, float] = {}
        self.active: str | None = None

    def add(self, name: str, rank: int, alpha: float, generator: torch.Generator) -> None:
        weight = self.base.weight
        bound = 1 / math.sqrt(self.inputs)
        a = torch.empty(rank, self.inputs).uniform_(-bound, bound, generator=generator)
        self.a[name] = nn.Parameter(a.to(weight.device))
        self.b[name] = nn.Parameter(torch.zeros(self.outputs, rank, device=weight.device))
        self.scale[name] = alpha / rank

    def delta(self, name: str) -> Tensor:
        """The adapter's change to the stored weight, in the weight's own layout."""
        change = self.scale[name] * (self.b[name] @ self.a[name])
        return change.T if self.transposed else change

    def forward(self, x: Tensor) -> Tensor:
        name = self.active
        if name is None:
            return self.base(x)
        weight = self.base.weight.T if self.transposed else self.base.weight
        return _LowRank.apply(x, weight, self.base.bias, self.a[name], self.b[name], self.scale[name])


class _LowRank(torch.autograd.Function):
    """x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ, where only x, A and B may have gradients.

    One function, because the low-rank part is then added in place, forward and backward: nothing as wide as the layer is written twice.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float) -> Tensor:
        flat, a, b = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        low = flat @ a.T
        y = nn.functional.linear(flat, weight, bias).addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scale = scale
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight, a, b, low = ctx.saved_tensors
        wide = gradients[0].reshape(-1, weight.shape[0])
        narrow = (wide @ b).mul_(ctx.scale)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (wide @ weight).addmm_(narrow, a).view(*gradients[0].shape[:-1], -1)
        of_a, of_b = narrow.T @ flat, (wide.T @ low).mul_(ctx.scale)
        return of_x, None, None, of_a, of_b, None


class Adapters:
    """All adapters of one trunk. `layers` are its LoRALinear modules by their name in the plain model."""

    def __init__(self, layers: Mapping[str, LoRALinear]) -> None:
        self.layers = dict(layers)
        self.rank: dict[str, int] = {}
        self.alpha: dict[str, float] = {}

    def add(self, name: str, *, rank: int, alpha: float, seed: int) -> None:
        """A new adapter that changes nothing yet. Its parameters are float32 whatever the base is."""
        generator = torch.Generator().manual_seed(seed)
        for layer in self.layers.values():
            layer.add(name, rank, alpha, generator)
        self.rank[name], self.alpha[name] = rank, alpha

    def drop(self, name: str) -> None:
        """Forget the adapter `name`."""
        for layer in self.layers.values():
            for of_name in (layer.a, layer.b, layer.scale):
                del of_name[name]
        del self.rank[name], self.alpha[name]

    def parameters(self, name: str) -> list[nn.Parameter]:
        return [p for layer in self.layers.values() for p in (layer.a[name], layer.b[name])]

    @contextlib.contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Within the block the adapter `name` is on; None is the bare base, that is, the reference."""
        before = [layer.active for layer in self.layers.values()]
        for layer in self.layers.values():
            layer.active = name
        try:
            yield
        finally:
            for layer, old in zip(self.layers.values(), before, strict=True):
                layer.active = old

    @contextlib.contextmanager
    def merged(self, name: str | None) -> Iterator[None]:
        """Within the block the base's weights include the adapter; afterwards the very same tensors are back."""
        kept = {}
        try:
            with torch.no_grad():
                for key, layer in self.layers.items():
                    if name is not None:
                        kept[key] = weight = layer.base.weight
                        layer.base.weight = nn.Parameter(
                            weight + layer.delta(name).to(weight.dtype), requires_grad=False
                        )
            with self.using(None):
                yield
        finally:
            for key, weight in kept.items():
                self.layers[key].base.weight = weight

    def state(self, name: str) -> dict[str, Tensor]:
        """The adapter's tensors under peft's names."""
        state = {}
        for key, layer in self.layers.items():
            state[f"{_PREFIX}{key}.lora_A.weight"] = layer.a[name].detach()
            state[f"{_PREFIX}{key}.lora_B.weight"] = layer.b[name].detach()
        return state

    def load_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Fill the adapter `name` from tensors under peft's names. Raises MannersError if they are of another model."""
        own = self.state(name)
        if own.keys() != state.keys() or any(own[k].shape != state[k].shape for k in own):
            raise MannersError(
                f"the adapter does not fit this model: it holds {len(state)} tensors, the model wants {len(own)}"
                " (another architecture, rank or train_layers)"
            )
        with torch.no_grad():
            for key, tensor in own.items():
                tensor.copy_(state[key])

    def save(self, name: str, folder: Path, base: str) -> None:
        """Write adapter_model.safetensors and adapter_config.json into `folder`, as peft does.

        `base` names the base model; a folder is written relative to `folder`, so that a tree of runs can be moved as a whole.
        """
        if base not in ("starter", "tiny-random") and Path(base).is_dir():
            base = os.path.relpath(Path(base).resolve(), folder.resolve())
        config = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": self.rank[name],
            "lora_alpha": self.alpha[name], "lora_dropout": 0.0, "bias": "none", "inference_mode": True,
            "fan_in_fan_out": any(layer.transposed for layer in self.layers.values()),
            "target_modules": sorted(self.layers),
        }  # fmt: skip
        write_json(folder / "adapter_config.json", config)
        state = {k: v.contiguous().cpu() for k, v in self.state(name).items()}
        with writing(folder / "adapter_model.safetensors") as beside:
            save_file(state, beside, metadata={"format": "pt"})

    def load(self, name: str, folder: Path, *, partly: bool = False) -> None:
        """Add the adapter in `folder` (peft's format) under `name`. Raises MannersError where it does not fit.

        `partly`: it may be one on fewer layers, and changes nothing in the others.
        """
        config = read_adapter_config(folder)
        self.add(name, rank=int(config["r"]), alpha=float(config["lora_alpha"]), seed=0)
        state = read_tensors(folder / "adapter_model.safetensors")
        if partly and state.keys() <= self.state(name).keys():
            state = self.state(name) | state
        self.load_state(name, state)


def merge_adapter(model: Any, folder: Path) -> None:
    """Add the adapter in `folder` (peft's format) to the weights of a plain `model`, for good."""
    config = read_adapter_config(folder)
    scale = float(config["lora_alpha"]) / int(config["r"])
    state = read_tensors(folder / "adapter_model.safetensors")
    if strange := [k for k in state if not k.endswith((".lora_A.weight", ".lora_B.weight"))]:
        raise MannersError(f"{folder} is not a plain LoRA adapter: it also holds {strange[0]}")
    for key in [k for k in state if k.endswith(".lora_A.weight")]:
        name = key.removeprefix(_PREFIX).removesuffix(".lora_A.weight")
        try:
            layer = model.get_submodule(name)
            change = scale * (state[f"{_PREFIX}{name}.lora_B.weight"] @ state[key])
            change = change.T if isinstance(layer, Conv1D) else change
            with torch.no_grad():
                layer.weight += change.to(layer.weight)
        except (AttributeError, KeyError, RuntimeError):
            raise MannersError(
                f"the adapter in {folder} does not fit the model: {name} is not there or has another shape"
            ) from None


def compose_adapters(folders: Sequence[Path], target: Path, base: str) -> None:
    """Write one adapter into `target` that equals those in `folders` on top of each other: their ranks add up, exactly.

    s₁B₁A₁ + s₂B₂A₂ = [s₁B₁ s₂B₂]·[A₁; A₂]. Where an adapter leaves a layer out, zeros stand in for it.
    """
    parts = [(read_adapter_config(f), read_tensors(f / "adapter_model.safetensors")) for f in folders]
    names = sorted(
        {k.removesuffix(".lora_A.weight") for _, state in parts for k in state if k.endswith(".lora_A.weight")}
    )
    rank = sum(int(config["r"]) for config, _ in parts)
    combined = {}
    for name in names:
        shapes = next(
            (s[f"{name}.lora_A.weight"], s[f"{name}.lora_B.weight"]) for _, s in parts if f"{name}.lora_A.weight" in s
        )
        a, b = [], []
        for config, state in parts:
            low = int(config["r"])
            a.append(state.get(f"{name}.lora_A.weight", torch.zeros(low, shapes[0].shape[1])))
            up = state.get(f"{name}.lora_B.weight", torch.zeros(shapes[1].shape[0], low))
            b.append(up * (float(config["lora_alpha"]) / low))
        combined[f"{name}.lora_A.weight"], combined[f"{name}.lora_B.weight"] = torch.cat(a), torch.cat(b, 1)
    config = {**parts[-1][0], "r": rank, "lora_alpha": rank, "base_model_name_or_path": base,
              "target_modules": [n.removeprefix(_PREFIX) for n in names]}  # fmt: skip
    write_json(target / "adapter_config.json", config)
    with writing(target / "adapter_model.safetensors") as beside:
        save_file(combined, beside, metadata={"format": "pt"})


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises MannersError for a folder without one, or a kind of adapter other than plain LoRA."""
    path = folder / "adapter_config.json"
    if not path.exists():
        raise MannersError(f"{folder} holds no adapter (no adapter_config.json)")
    config = dict(read_json(path))
    unknown = [
        k for k in ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern") if config.get(k)
    ]
    if config.get("peft_type") != "LORA" or unknown:
        raise MannersError(f"{folder} is not a plain LoRA adapter ({', '.join(unknown) or config.get('peft_type')})")
    return config


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises MannersError for a missing or broken file."""
    try:
        return dict(load_file(path))
    except FileNotFoundError:
        raise MannersError(f"{path} does not exist") from None
    except SafetensorError as error:
        raise MannersError(f"{path} is not a whole safetensors file: {error}") from None
