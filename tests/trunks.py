"""Tiny trunks beside the plain models they are made of."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tiny import KINDS, shake, tiny_model, tiny_trunk
from torch import Tensor

from manners.models.trunk import TrainLayers, Trunk

LAYERS: tuple[TrainLayers, ...] = ("all", 1, 2)
every_trunk = pytest.mark.parametrize(("kind", "train_layers"), [(kind, layers) for kind in KINDS for layers in LAYERS])


def drawn_tokens(rows: int = 3, width: int = 9, seed: int = 0) -> Tensor:
    return torch.randint(5, 101, (rows, width), generator=torch.Generator().manual_seed(seed))


@functools.cache
def plain(kind: str) -> Any:
    return tiny_model(kind)


@torch.no_grad()
def plain_hidden(kind: str, tokens: Tensor) -> Tensor:
    hidden: Tensor = plain(kind)(tokens, output_hidden_states=True).hidden_states[-1]
    return hidden


def close(got: Tensor, wanted: Tensor, atol: float = 2e-5) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


def with_adapter(kind: str, train_layers: TrainLayers) -> Trunk:
    trunk = tiny_trunk(kind, train_layers)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    return trunk
