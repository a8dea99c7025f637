"""The counted floor against torch's own count of operations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tiny import tiny_model
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def floor() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "speed" / "floor.py"
    spec = importlib.util.spec_from_file_location("floor", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["floor"] = module
    spec.loader.exec_module(module)
    return module


def test_a_forward_pass_has_as_many_operations_as_torch_counts(floor: ModuleType) -> None:
    model = tiny_model("llama")
    model.set_attn_implementation("eager")  # torch does not count the fused one
    length = 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(length)[None] % 20)
    # torch counts all length² products of attention, of which the causal half must be done: at a context of 2 · length both agree
    shape = floor.Shape.of(model.config.to_dict(), context=2 * length)
    counted = length * (shape.layers * shape.layer + shape.head)
    assert counted == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_passes_add_up(floor: ModuleType) -> None:
    shape = floor.Shape(layers=10, layer=3.0, keys=1.0, head=7.0)
    # six tokens through four layers, of which two are read: the last layer does 1 instead of 3 for the other four
    assert shape.through(4, 6, 2) == 4 * 6 * 3 - 4 * 2 == 64
    # prompt 4, response 2; the last token that is drawn is read by the reward model, so it goes through the layers as well
    assert floor.generation(shape, 4, 2) == (6 * 30 - 4 * 2) + 2 * 7
    # two epochs, forward and back
    assert floor.update(shape, 4, 6, 2, 2) == 4 * (64 + 14)
    alone = floor.on_policy(shape, 4, 4, 2, 2, judge=False)
    assert alone == (172 + 14) + (64 + 14) + 4 * (64 + 14)
    assert floor.on_policy(shape, 4, 4, 2, 2, judge=True) - alone == 72 - 5 * 2
    # a pair of 4 prompt and 6 answer tokens: six layers once, four layers forward and back in each epoch
    assert shape.through(4, 10, 6) == 112
    assert floor.reward(shape, 4, 4, 6, 1) == 10 * 18 + 2 * 112
    assert floor.reward(shape, 4, 4, 6, 3) - floor.reward(shape, 4, 4, 6, 1) == 2 * 2 * 112
    assert floor.direct(shape, 4, 4, 6) == floor.reward(shape, 4, 4, 6, 1) + 2 * 6 * 7 + (112 + 6 * 7)


def test_all_layers_cost_more_than_some(floor: ModuleType) -> None:
    shape = floor.Shape(layers=30, layer=7.1e6, keys=0.9e6, head=57e6)
    dear, cheap = (floor.on_policy(shape, layers, 45, 32, 4, judge=True) for layers in (30, 8))
    assert 1.5 < dear / cheap < 4
