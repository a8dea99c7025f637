"""Llama-like layers in few passes over memory: what transformers computes, with less in between.

A small model on a CPU spends most of its time beside the matrix products: on one call after another, each with little to do, and on
tensors that are written to be read once. Here the products of the same input are one; the
low-rank part of an adapter, biases and residuals are added in place; and norms, rotation and activation have the gradients that a frozen
base leaves, written by hand. Models that are not Llama-like, other number types and other devices go through transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manners.models.adapters import LoRALinear
from manners.ops.products import Reordered, times

ATTENTION, INNER = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


class Product:
    """Linear layers that read the same input, as one product [N, inputs]·[inputs, outputs] with the outputs side by side.

    `weight` [outputs, inputs] holds theirs one below the other; the layers' own weights become views of it.
    """

    def __init__(self, layers: Sequence[LoRALinear | nn.Linear]) -> None:
        self.adapted = [layer for layer in layers if isinstance(layer, LoRALinear)]  # all of them or none
        bases = [layer.base if isinstance(layer, LoRALinear) else layer for layer in layers]
        self.weight = torch.cat([base.weight.detach() for base in bases])
        self.bias = None if bases[0].bias is None else torch.cat([base.bias.detach() for base in bases])
        ends = torch.tensor([len(base.weight) for base in bases]).cumsum(0).tolist()
        self.columns = [slice(end - len(base.weight), end) for end, base in zip(ends, bases, strict=True)]
        for base, part in zip(bases, self.columns, strict=True):
            base.weight = nn.Parameter(self.weight[part], requires_grad=False)

    @property
    def adapter(self) -> str | None:
        """The adapter that is on."""
        return self.adapted[0].active if self.adapted else None

    def merged(self, adapter: str | None) -> Tensor:
        """The weight [outputs, inputs] with the adapter added; itself where there is none."""
        if adapter is None or not self.adapted:
            return self.weight
        weight = self.weight.clone()
        for layer, part in zip(self.adapted, self.columns, strict=True):
            weight[part].addmm_(layer.b[adapter], layer.a[adapter], alpha=layer.scale[adapter])
        return weight

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """[N, outputs] of x [N, inputs] under the adapter that is on, with `residual` [N, outputs] added."""
        name = self.adapter
        if name is None:
            return _apply(x, residual, self, 0.0)
        low = [weight for layer in self.adapted for weight in (layer.a[name], layer.b[name])]
        return _apply(x, residual, self, self.adapted[0].scale[name], *low)


class _Product(torch.autograd.Function):
    """x·W + bias + residual + scale·(x·Aᵢᵀ)·Bᵢᵀ in the columns of each layer i; x, the residual, A and B may have gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, product: Product, scale: float, *adapter: Tensor
    ) -> Tensor:
        y = times(x, product.weight.T)
        for more in (product.bias, residual):
            y = y if more is None else y.add_(more)
        ctx.product, ctx.scale, ctx.adapted, ctx.residual = product, scale, bool(adapter), residual is not None
        if adapter:
            a, b = torch.cat(adapter[::2]), adapter[1::2]
            low = x @ a.T
            rank = len(a) // len(b)
            for i, (part, up) in enumerate(zip(product.columns, b, strict=True)):
                y[:, part].addmm_(low[:, i * rank : (i + 1) * rank], up.T, alpha=scale)
            ctx.save_for_backward(x, low, a, *b)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (wide,) = gradients
        product = ctx.product
        of_residual = wide if ctx.residual else None
        if not ctx.adapted:
            of_x = times(wide, product.weight) if ctx.needs_input_grad[0] else None
            return of_x, of_residual, None, None
        x, low, a, *b = ctx.saved_tensors
        rank = len(a) // len(b)
        narrow = torch.cat([wide[:, part] @ up for part, up in zip(product.columns, b, strict=True)], 1)
        narrow *= ctx.scale
        of_x = times(wide, product.weight).addmm_(narrow, a) if ctx.needs_input_grad[0] else None
        of_a = (narrow.T @ x).split(rank)
        of_b = [
            (wide[:, part].T @ part_low).mul_(ctx.scale)
            for part, part_low in zip(product.columns, low.split(rank, 1), strict=True)
        ]
        return of_x, of_residual, None, None, *(gradient for both in zip(of_a, of_b, strict=True) for gradient in both)


def _apply(x: Tensor, residual: Tensor | None, product: Product, scale: float, *adapter: Tensor) -> Tensor:
    found: Tensor = _Product.apply(x, residual, product, scale, *adapter)
    return found


class _Norm(torch.autograd.Function):
    """x/√(mean x² + ε)·w of x [N, H]; w is frozen. Zhang and Sennrich 2019 (arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, inverse, weight)
        return (x * inverse).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, inverse, weight = ctx.saved_tensors
        weighted = gradients[0] * weight
        shared = torch.linalg.vecdot(weighted, x)[:, None].mul_(inverse**3).div_(-x.shape[-1])
        return weighted.mul_(inverse).addcmul_(x, shared), None, None


class _Rotate(torch.autograd.Function):
    """Queries [B, T, h, D], keys and values [B, T, k, D] out of the product [N, (h + 2k)·D], queries and keys rotated by their positions.

    Su et al. 2021 (arXiv 2104.09864), in halves as transformers has them. The gradient is the rotation back.
    """

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, cosines: Tensor, sines: Tensor, heads: int, groups: int
    ) -> tuple[Tensor, ...]:
        shape = (*cosines.shape[:2], heads + 2 * groups, cosines.shape[-1])
        ctx.save_for_backward(cosines, sines)
        ctx.sizes = (heads, groups, groups)
        q, k, v = product.view(shape).split(ctx.sizes, 2)
        return rotated(q, cosines, sines), rotated(k, cosines, sines), v.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        cosines, sines = ctx.saved_tensors
        q, k, v = gradients
        whole = q.new_empty(*q.shape[:2], sum(ctx.sizes), q.shape[-1])
        for part, gradient in zip(whole.split(ctx.sizes, 2)[:2], (q, k), strict=True):
            _rotate_into(part, gradient, cosines, -sines)
        whole.split(ctx.sizes, 2)[2].copy_(v)
        return whole.view(-1, whole.shape[-2] * whole.shape[-1]), None, None, None, None


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x [B, T, h, D] turned by the angles whose cosines and sines [B, T, 1, D] are given, the halves of D in pairs."""
    return _rotate_into(torch.empty(x.shape, dtype=x.dtype), x, cosines, sines)


def _rotate_into(out: Tensor, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    torch.mul(x, cosines, out=out) if out.is_contiguous() else out.copy_(x * cosines)
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return out


class _Gate(torch.autograd.Function):
    """silu(g)·u [N, I] of the product [N, 2I], g and u side by side. Shazeer 2020 (arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, product: Tensor) -> Tensor:
        ctx.save_for_backward(product)
        gate, up = product.chunk(2, 1)
        return nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor]:
        (product,) = ctx.saved_tensors
        gate, up = product.chunk(2, 1)
        both = torch.empty_like(product)
        of_gate, of_up = both.chunk(2, 1)
        torch.mul(nn.functional.silu(gate), gradients[0], out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(gradients[0] * up, gate))
        return (both,)


class Attended(NamedTuple):
    """What attention goes by: cosines and sines of the positions [B, T, 1, D]; which tokens are seen, as numbers that are added to
    the logits [B, 1, T, S] (None: all up to the token itself)."""

    cosines: Tensor
    sines: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer: its products and norms."""

    qkv: Product
    out: Product
    inner: Product
    down: Product
    norms: tuple[tuple[Tensor, float], tuple[Tensor, float]]
    heads: int
    groups: int

    @classmethod
    def of(cls, layer: Any, config: Any) -> LeanLayer:
        """The layer of transformers, whose weights become views of this one's."""
        attention, mlp = layer.self_attn, layer.mlp
        norms = [
            (n.weight.detach(), n.variance_epsilon) for n in (layer.input_layernorm, layer.post_attention_layernorm)
        ]
        return cls(
            Product([attention.get_submodule(name) for name in ATTENTION]), Product([attention.o_proj]),
            Product([mlp.get_submodule(name) for name in INNER]), Product([mlp.down_proj]),
            (norms[0], norms[1]), config.num_attention_heads, config.num_key_value_heads,
        )  # fmt: skip

    @property
    def adapted(self) -> list[LoRALinear]:
        """The linear layers that carry adapters."""
        return [layer for product in (self.qkv, self.out, self.inner, self.down) for layer in product.adapted]

    def __call__(self, x: Tensor, seen: Attended) -> Tensor:
        """States [N, H] behind the layer from states [N, H] before it, N = B·T, with gradients; the adapter is the one that is on."""
        q, k, v = _Rotate.apply(
            self.qkv(_Norm.apply(x, *self.norms[0])), seen.cosines, seen.sines, self.heads, self.groups
        )
        k, v = (t[:, :, :, None].expand(-1, -1, -1, self.heads // self.groups, -1).flatten(2, 3) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen.mask, is_causal=seen.mask is None)
        x = self.out(attended.transpose(1, 2).reshape(len(x), -1), x)
        return self.down(_Gate.apply(self.inner(_Norm.apply(x, *self.norms[1]))), x)

    def merged(self, adapter: str | None) -> tuple[Reordered, ...]:
        """The four products with the adapter added to the weights."""
        return tuple(Reordered(product.merged(adapter).T) for product in (self.qkv, self.out, self.inner, self.down))

    def step(self, x: Tensor, products: tuple[Reordered, ...], seen: Attended, remember: Callable[..., Any]) -> Tensor:
        """As calling it, without gradient, with `products` that `merged` gave; `remember` takes keys and values [B, k, T, D] of the new
        tokens and gives those of all, as a cache does."""
        qkv, out, inner, down = products
        batch, length = seen.cosines.shape[:2]
        width, group = seen.cosines.shape[-1], self.heads // self.groups
        product = _plus(qkv(_normed(x, *self.norms[0])), self.qkv.bias).view(batch, length, -1, width)
        turned = rotated(product[:, :, : self.heads + self.groups], seen.cosines, seen.sines)
        keys, values = remember(
            turned[:, :, self.heads :].transpose(1, 2), product[:, :, -self.groups :].transpose(1, 2)
        )
        # the queries that read the same keys stand as one: [B, k, group · T, D]
        queries = turned[:, :, : self.heads].view(batch, length, self.groups, group, width).permute(0, 2, 3, 1, 4)
        mask = seen.mask if seen.mask is None or length == 1 else seen.mask.repeat(1, 1, group, 1)
        attended = nn.functional.scaled_dot_product_attention(queries.flatten(2, 3), keys, values, attn_mask=mask)
        attended = attended.view(batch, self.groups, group, length, width).permute(0, 3, 1, 2, 4).reshape(len(x), -1)
        x = _plus(out(attended, x), self.out.bias)
        gate, up = _plus(inner(_normed(x, *self.norms[1])), self.inner.bias).chunk(2, 1)
        return _plus(down(nn.functional.silu(gate).mul_(up), x), self.down.bias)


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return nn.functional.rms_norm(x, (x.shape[-1],), weight, epsilon)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x.add_(bias)


def fits(decoder: Any, layers: nn.ModuleList) -> bool:
    """Whether `decoder` is one that is computed here: Llama, Mistral or Qwen 2, float32 on the CPU, with plain linear layers."""
    config, weight = decoder.config, next(decoder.parameters())
    return (
        config.model_type in ("llama", "mistral", "qwen2")
        and config.hidden_act == "silu"
        and (weight.device.type, weight.dtype) == ("cpu", torch.float32)
        and all(
            type(m) in (nn.Linear, LoRALinear)
            for layer in layers
            for n, m in layer.named_modules()
            if n.endswith("_proj")
        )
    )
