"""Llama-like layers in few passes over memory: what transformers computes, with less in between.

A small model on a CPU spends most of its time beside the matrix products: on one call after another, each with little to do, and on
tensors that are written to be read once. Here the products of the same input are one; the low-rank part of an adapter, biases and
residuals are added in place; norms, rotation and activation have the gradients that a frozen base leaves, written by hand; norms and
activation are not kept for them but computed again; and of what rows begin with alike there is one copy (models/prefixes.py).

Models that are not Llama-like, other number types and other devices go through transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manners.models.adapters import LoRALinear
from manners.ops.products import Reordered, times

FEW = 16  # queries that read the same keys
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

    def __call__(self, x: Tensor, before: Norm | Gate | None = None, residual: Tensor | None = None) -> Tensor:
        """[N, outputs] of x [N, inputs], or of `before` of x, under the adapter that is on, with `residual` [N, outputs] added."""
        name = self.adapter
        if name is None:
            return _apply(x, residual, self, before, 0.0)
        low = [weight for layer in self.adapted for weight in (layer.a[name], layer.b[name])]
        return _apply(x, residual, self, before, self.adapted[0].scale[name], *low)


class Norm(NamedTuple):
    """x/√(mean x² + ε)·w of x [N, H]; w is frozen. Zhang and Sennrich 2019 (arXiv 1910.07467)."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return (x * self._inverse(x)).mul_(self.weight)

    def back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of x, from that of the result."""
        weighted, inverse = gradient * self.weight, self._inverse(x)
        shared = torch.linalg.vecdot(weighted, x)[:, None].mul_(inverse**3).div_(-x.shape[-1])
        return weighted.mul_(inverse).addcmul_(x, shared)

    def _inverse(self, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return norm.square_().div_(x.shape[-1]).add_(self.epsilon).rsqrt_()


class Gate:
    """silu(g)·u [N, I] of [N, 2I], g and u side by side. Shazeer 2020 (arXiv 2002.05202)."""

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, 1)
        return nn.functional.silu(gate).mul_(up)

    def back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient of x, from that of the result."""
        gate, up = x.chunk(2, 1)
        both = torch.empty_like(x)
        of_gate, of_up = both.chunk(2, 1)
        torch.mul(nn.functional.silu(gate), gradient, out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(gradient * up, gate))
        return both


GATE = Gate()


class _Product(torch.autograd.Function):
    """z·W + bias + residual + scale·(z·Aᵢᵀ)·Bᵢᵀ in the columns of each layer i, where z is x or what stands before the product of x; x, the
    residual, A and B may have gradients. Kept for them is x alone: z is cheap, and computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor | None,
        product: Product,
        before: Norm | Gate | None,
        scale: float,
        *adapter: Tensor,
    ) -> Tensor:
        z = x if before is None else before(x)
        y = times(z, product.weight.T)
        for more in (product.bias, residual):
            y = y if more is None else y.add_(more)
        ctx.product, ctx.before, ctx.scale, ctx.residual = product, before, scale, residual is not None
        low: tuple[Tensor, ...] = ()
        if adapter:
            a, b = torch.cat(adapter[::2]), adapter[1::2]
            low = (z @ a.T, a, *b)
            rank = len(a) // len(b)
            for i, (part, up) in enumerate(zip(product.columns, b, strict=True)):
                y[:, part].addmm_(low[0][:, i * rank : (i + 1) * rank], up.T, alpha=scale)
        ctx.save_for_backward(x, *low)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (wide,) = gradients
        product, before = ctx.product, ctx.before
        x, *saved = ctx.saved_tensors
        of_adapter: list[Tensor] = []
        of_z = times(wide, product.weight) if ctx.needs_input_grad[0] else None
        if saved:
            low, a, *b = saved
            rank = len(a) // len(b)
            narrow = torch.cat([wide[:, part] @ up for part, up in zip(product.columns, b, strict=True)], 1)
            narrow *= ctx.scale
            of_a = (narrow.T @ (x if before is None else before(x))).split(rank)
            of_b = [
                (wide[:, part].T @ part_low).mul_(ctx.scale)
                for part, part_low in zip(product.columns, low.split(rank, 1), strict=True)
            ]
            of_adapter = [gradient for both in zip(of_a, of_b, strict=True) for gradient in both]
            of_z = None if of_z is None else of_z.addmm_(narrow, a)
        of_x = of_z if before is None or of_z is None else before.back(x, of_z)
        return of_x, wide if ctx.residual else None, None, None, None, *of_adapter


def _apply(
    x: Tensor, residual: Tensor | None, product: Product, before: Norm | Gate | None, scale: float, *adapter: Tensor
) -> Tensor:
    found: Tensor = _Product.apply(x, residual, product, before, scale, *adapter)
    return found


class _Rotate(torch.autograd.Function):
    """Queries [R, L, h, D], keys and values [R, L, k, D] along `paths` [R, L] out of the product [N, (h + 2k)·D], queries and keys rotated
    by their positions.

    Su et al. 2021 (arXiv 2104.09864), in halves as transformers has them. The gradient is the rotation back, added up where paths meet.
    """

    @staticmethod
    def forward(
        ctx: Any, product: Tensor, cosines: Tensor, sines: Tensor, paths: Tensor, heads: int, groups: int
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cosines, sines, paths)
        ctx.sizes, ctx.shape = (heads, groups, groups), product.shape
        q, k, v = along(product, paths, cosines.shape[-1]).split(ctx.sizes, 2)
        return rotated(q, cosines, sines), rotated(k, cosines, sines), v.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        cosines, sines, paths = ctx.saved_tensors
        q, k, v = gradients
        whole = q.new_empty(*q.shape[:2], sum(ctx.sizes), q.shape[-1])
        for part, gradient in zip(whole.split(ctx.sizes, 2)[:2], (q, k), strict=True):
            _rotate_into(part, gradient, cosines, -sines)
        whole.split(ctx.sizes, 2)[2].copy_(v)
        summed = q.new_zeros(ctx.shape).index_add_(0, paths.flatten(), whole.view(-1, ctx.shape[1]))
        return summed, None, None, None, None, None


def along(product: Tensor, paths: Tensor, width: int) -> Tensor:
    """What stands along the paths [R, L] of a product [N, heads · width]: [R, L, heads, width]."""
    return product.index_select(0, paths.flatten()).view(*paths.shape, -1, width)


def rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """x [B, T, h, D] turned by the angles whose cosines and sines [B, T, 1, D] are given, the halves of D in pairs."""
    return _rotate_into(torch.empty(x.shape, dtype=x.dtype), x, cosines, sines)


def _rotate_into(out: Tensor, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    torch.mul(x, cosines, out=out) if out.is_contiguous() else out.copy_(x * cosines)
    out[..., :half].addcmul_(x[..., half:], sines[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sines[..., half:])
    return out


class Attended(NamedTuple):
    """What attention goes by: cosines and sines of the positions [R, L, 1, D], or [1, L, 1, D] where they are the same in every row; which
    tokens are seen, as numbers that are added to the logits [R, 1, L, S] (None: all up to the token itself); and, where states are of
    distinct prefixes, the paths [R, L] along them and the seat of each [N] (models/prefixes.py)."""

    cosines: Tensor
    sines: Tensor
    mask: Tensor | None
    paths: Tensor | None
    seats: Tensor | None


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer: its products and norms."""

    qkv: Product
    out: Product
    inner: Product
    down: Product
    norms: tuple[Norm, Norm]
    heads: int
    groups: int

    @classmethod
    def of(cls, layer: Any, config: Any) -> LeanLayer:
        """The layer of transformers, whose weights become views of this one's."""
        attention, mlp = layer.self_attn, layer.mlp
        first, second = (
            Norm(n.weight.detach(), n.variance_epsilon) for n in (layer.input_layernorm, layer.post_attention_layernorm)
        )
        return cls(
            Product([attention.get_submodule(name) for name in ATTENTION]), Product([attention.o_proj]),
            Product([mlp.get_submodule(name) for name in INNER]), Product([mlp.down_proj]),
            (first, second), config.num_attention_heads, config.num_key_value_heads,
        )  # fmt: skip

    @property
    def adapted(self) -> list[LoRALinear]:
        """The linear layers that carry adapters."""
        return [layer for product in (self.qkv, self.out, self.inner, self.down) for layer in product.adapted]

    def __call__(self, x: Tensor, seen: Attended, wanted: Tensor | None = None) -> Tensor:
        """States [N, H] behind the layer from states [N, H] before it, with gradients; the adapter is the one that is on.

        `wanted` [M]: only those states are asked for, so that of the others no more than keys and values is computed.
        """
        q, k, v = _Rotate.apply(
            self.qkv(x, self.norms[0]), seen.cosines, seen.sines, seen.paths, self.heads, self.groups
        )
        k, v = (t[:, :, :, None].expand(-1, -1, -1, self.heads // self.groups, -1).flatten(2, 3) for t in (k, v))
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        attended = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)
        assert seen.seats is not None
        seats = seen.seats
        if wanted is not None:
            seats, x = seats[wanted], x.index_select(0, wanted)
        x = self.out(attended.flatten(2).flatten(0, 1).index_select(0, seats), residual=x)
        return self.down(self.inner(x, self.norms[1]), GATE, residual=x)

    def merged(self, adapter: str | None) -> tuple[Reordered, ...]:
        """The four products with the adapter added to the weights."""
        return tuple(Reordered(product.merged(adapter).T) for product in (self.qkv, self.out, self.inner, self.down))

    def step(self, x: Tensor, products: tuple[Reordered, ...], seen: Attended, remember: Callable[..., Any]) -> Tensor:
        """As calling it, without gradient, with `products` that `merged` gave; `remember` takes keys and values [B, k, T, D] of the new
        tokens and gives those of all, as a cache does."""
        qkv, out, inner, down = products
        product = _plus(qkv(self.norms[0](x)), self.qkv.bias)
        (batch, length), width = seen.cosines.shape[:2], seen.cosines.shape[-1]
        group = self.heads // self.groups
        product = product.view(batch, length, -1, width) if seen.paths is None else along(product, seen.paths, width)
        turned = rotated(product[:, :, : self.heads + self.groups], seen.cosines, seen.sines)
        keys, values = remember(
            turned[:, :, self.heads :].transpose(1, 2), product[:, :, -self.groups :].transpose(1, 2)
        )
        # the queries that read the same keys stand as one: [B, k, group · T, D]
        queries = turned[:, :, : self.heads].view(batch, length, self.groups, group, width).permute(0, 2, 3, 1, 4)
        mask = seen.mask if seen.mask is None or length == 1 else seen.mask.repeat(1, 1, group, 1)
        attended = _attended(queries.flatten(2, 3), keys, values, mask)
        attended = attended.view(batch, self.groups, group, length, width).permute(0, 3, 1, 2, 4)
        attended = attended.reshape(batch * length, -1)
        x = _plus(out(attended if seen.seats is None else attended[seen.seats], x), self.out.bias)
        return _plus(down(GATE(_plus(inner(self.norms[1](x)), self.inner.bias)), x), self.down.bias)


def _attended(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q·Kᵀ/√D + mask)·V [B, k, Q, D] for queries [B, k, Q, D], keys and values [B, k, S, D]. Few queries, as in a step, are done
    with by plain products sooner than torch's kernel sets out."""
    if queries.shape[2] > FEW:
        return nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    shape = queries.shape
    logits = torch.bmm(queries.flatten(0, 1), keys.flatten(0, 1).transpose(1, 2)).mul_(shape[-1] ** -0.5)
    logits = logits.view(*shape[:3], -1)
    if mask is not None:
        logits += mask
    return torch.bmm(logits.softmax(-1).flatten(0, 1), values.flatten(0, 1)).view(shape)


def _plus(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x.add_(bias)


def leave_the_file(model: nn.Module) -> None:
    """Copy what no product takes over: embeddings, norms and biases. A checkpoint's file is mapped into memory as a whole for as long
    as one tensor of it is in use."""
    embedding: Any = model.get_output_embeddings()  # type: ignore[operator]
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if type(module) is not nn.Linear or module is embedding or name != "weight":
                parameter.data = parameter.data.clone()


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
