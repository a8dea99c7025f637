"""The frozen base in 8 or 4 bits a weight: whole numbers and a scale, made into weights again where a product needs them.

Only the linear layers inside the decoder's layers are rounded; embeddings, norms and head stay as they are. A weight w becomes
round(w / scale) with scale = max |w| / 127 over all inputs of an output (8 bits), or max |w| / 7 over 64 inputs of an output (4 bits), so
that it is never off by more than half a scale. Left out: rounding that looks at data (GPTQ, AWQ), and products on the whole numbers
themselves, for which most CPUs have no fast kernel in torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from manners.models.adapters import Adapters, LoRALinear

Bits = Literal[8, 4]
BaseBits = Annotated[
    Literal["full"] | Bits,
    Field(
        description="bits of a frozen weight: 'full', as the hardware computes, or 8 or 4: less memory, rounded weights"
    ),
]
GROUP = 64  # inputs that share a scale, at 4 bits
PLAIN = (nn.Linear, Conv1D)


class Codes(nn.Module):
    """A matrix [outputs, inputs] in 8 or 4 bits a number."""

    codes: Tensor
    scales: Tensor

    def __init__(self, matrix: Tensor, bits: Bits) -> None:
        super().__init__()
        self.inputs = matrix.shape[1]
        group, most = (self.inputs, 127) if bits == 8 else (GROUP, 7)
        groups = functional.pad(matrix.detach(), (0, -self.inputs % group)).unflatten(1, (-1, group))
        scales = groups.abs().amax(-1, keepdim=True) / most
        codes = (groups / torch.where(scales == 0, 1, scales)).round_().to(torch.int8)
        self.register_buffer("codes", codes if bits == 8 else _packed(codes))
        self.register_buffer("scales", scales)

    @property
    def matrix(self) -> Tensor:
        """[outputs, inputs]: the numbers that are computed with, made anew at every call."""
        codes = self.codes if self.codes.dtype == torch.int8 else _unpacked(self.codes)
        return (codes * self.scales).flatten(1)[:, : self.inputs]


def _packed(codes: Tensor) -> Tensor:
    """Codes [..., 64] from −7 to 7 as bytes [..., 32]: the first half in the low four bits, the second in the high four."""
    low, high = (codes + 8).to(torch.uint8).chunk(2, -1)
    return low | (high << 4)


def _unpacked(packed: Tensor) -> Tensor:
    return torch.cat([packed & 15, packed >> 4], -1).to(torch.int8) - 8


class _Product(torch.autograd.Function):
    """x · Wᵀ + bias of a frozen W. Nothing is kept for the backward pass, which makes W again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Codes, bias: Tensor | None) -> Tensor:
        ctx.codes = codes
        return functional.linear(x, codes.matrix.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        return gradient @ ctx.codes.matrix.to(gradient.dtype), None, None


class QuantisedLinear(nn.Linear):
    """A frozen linear layer in 8 or 4 bits a weight."""

    def __init__(self, plain: nn.Linear, bits: Bits) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.codes = Codes(plain.weight, bits)
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[outputs, inputs], made anew at every call."""
        return self.codes.matrix

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.codes, self.bias)
        return product


class QuantisedConv1D(Conv1D):
    """GPT-2's layer, whose weight is [inputs, outputs], in 8 or 4 bits a weight."""

    def __init__(self, plain: Any, bits: Bits) -> None:
        nn.Module.__init__(self)
        self.nf, self.nx = plain.nf, plain.nx
        self.codes = Codes(plain.weight.T, bits)
        self.bias = plain.bias

    @property
    def weight(self) -> Tensor:
        """[inputs, outputs], made anew at every call."""
        return self.codes.matrix.T

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = _Product.apply(x, self.codes, self.bias)
        return product


def quantise(model: Any, bits: Bits) -> None:
    """Put every plain linear layer of `model` but its head into `bits` bits a weight, one by one, in place."""
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if module is head or type(module) not in PLAIN:
            continue
        kind = QuantisedConv1D if isinstance(module, Conv1D) else QuantisedLinear
        model.set_submodule(name, kind(module, bits))


class SeparateLoRA(LoRALinear):
    """An adapter beside a layer that alone knows how to multiply by its weight: quantised here, or by another library."""

    def __init__(self, base: nn.Linear | Conv1D) -> None:
        super().__init__(base)
        if isinstance(base, nn.Linear):  # the weight may be stored in another shape
            self.outputs, self.inputs = base.out_features, base.in_features

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        if self.active is None:
            return y
        a, b = self.a[self.active].to(x.dtype), self.b[self.active].to(x.dtype)
        return y + functional.linear(functional.linear(x, a), b) * self.scale[self.active]


class SeparateAdapters(Adapters):
    """Adapters on weights that nothing can be added to: they are on where those of a plain base are merged."""

    @contextlib.contextmanager
    def merged(self, name: str | None) -> Iterator[None]:
        """Within the block the adapter `name` is on."""
        with self.using(name):
            yield
