from __future__ import annotations

import math

import pytest
import torch

from manners.models.heads import ScalarHead


def test_a_value_head_starts_at_zero_everywhere() -> None:
    hidden = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    assert not ScalarHead.for_value(16)(hidden).any()


def test_a_reward_head_gives_unit_variance_on_states_of_unit_variance() -> None:
    # w ~ N(0, 1/(H + 1)), h ~ N(0, 1): w·h has variance H/(H + 1); over 400 heads the estimate is good to about 7 %
    hidden = torch.randn(400, 255, generator=torch.Generator().manual_seed(1_000))
    outputs = torch.stack([ScalarHead.for_reward(255, seed)(hidden[seed]) for seed in range(400)])
    assert outputs.var().item() == pytest.approx(1, abs=0.2)
    weights = ScalarHead.for_reward(4095, seed=0).linear.weight
    assert weights.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert math.isclose(weights.mean().item(), 0, abs_tol=0.001)
    assert ScalarHead.for_reward(16, seed=0).linear.bias.item() == 0


def test_the_seed_decides() -> None:
    assert torch.equal(ScalarHead.for_reward(16, 1).linear.weight, ScalarHead.for_reward(16, 1).linear.weight)
    assert not torch.equal(ScalarHead.for_reward(16, 1).linear.weight, ScalarHead.for_reward(16, 2).linear.weight)


def test_one_number_from_each_state_in_float32() -> None:
    head = ScalarHead.for_value(3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        head.linear.bias.fill_(0.5)
    got = head(torch.tensor([[[1, 2, 3], [0, 0, 1]]], dtype=torch.bfloat16))
    assert got.tolist() == [[321.5, 100.5]]
    assert got.dtype == torch.float32
