"""Gradient checkpointing: a layer keeps what it was given for the backward pass, and computes the rest there a second time.

Of a layer of width H, states of some 15·H numbers per token are then held one layer at a time instead of for all layers; the price is
a second forward pass through the layers that learn. Chen et al. 2016 (arXiv 1604.06174).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from manners.models.adapters import LoRALinear

GradientCheckpointing = Annotated[
    bool, Field(description="compute the layers that learn again in the backward pass: slower, for less memory")
]


def recomputed(layer: nn.Module, *, random: bool = False) -> nn.Module:
    """A copy of `layer` with the very same weights that computes itself again where a gradient is taken; where it is `random`, what is
    drawn in it, say dropout, is the same the second time."""
    twin = copy.copy(layer)
    vars(twin)["forward"] = recomputing(layer, [m for m in layer.modules() if isinstance(m, LoRALinear)], random=random)
    return twin


def recomputing(
    layer: Callable[..., Any], adapted: Sequence[LoRALinear], *, random: bool = False
) -> Callable[..., Any]:
    """`layer`, computed again where a gradient is taken. The second time its adapters on `adapted` are those of the first time, whatever
    is on by then."""

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return layer(*args, **kwargs)
        active = [module.active for module in adapted]
        return checkpoint(
            layer,
            *args,
            use_reentrant=False,
            preserve_rng_state=random,
            context_fn=lambda: (contextlib.nullcontext(), _with(adapted, active)),
            **kwargs,
        )

    return forward


@contextlib.contextmanager
def _with(adapted: Sequence[LoRALinear], active: Sequence[str | None]) -> Iterator[None]:
    """Within the block each layer has its adapter of `active` on."""
    before = [module.active for module in adapted]
    for module, name in zip(adapted, active, strict=True):
        module.active = name
    try:
        yield
    finally:
        for module, name in zip(adapted, before, strict=True):
            module.active = name
