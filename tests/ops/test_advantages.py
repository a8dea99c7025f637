from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manners.ops.advantages import gae


def drawn(lengths: list[int], width: int, starts: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    rewards = torch.randn(len(lengths), width, generator=g, dtype=torch.float64)
    values = torch.randn(len(lengths), width, generator=g, dtype=torch.float64)
    begin = torch.tensor(starts or [0] * len(lengths))[:, None]
    steps = torch.arange(width)[None]
    return rewards, values, (steps >= begin) & (steps < begin + torch.tensor(lengths)[:, None])


def test_hand_numbers() -> None:
    # δ: 1 + ½·4 − 2 = 1,  0 + ½·1 − 4 = −3.5,  2 − 1 = 1;  γλ = ¼
    # A: 1, −3.5 + 1/4 = −3.25, 1 − 3.25/4 = 0.1875
    got = gae(
        torch.tensor([[1.0, 0.0, 2.0]]),
        torch.tensor([[2.0, 4.0, 1.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        gamma=0.5,
        lam=0.5,
    )
    assert got.advantages.tolist() == [[0.1875, -3.25, 1.0]]
    assert got.returns.tolist() == [[2.1875, 0.75, 2.0]]


def test_lambda_1_is_the_sum_of_rewards_to_come_less_the_value() -> None:
    rewards, values, mask = drawn([5, 3, 1], 6)
    got = gae(rewards, values, mask, gamma=1, lam=1)
    for row, length in enumerate([5, 3, 1]):
        for t in range(length):
            to_come = sum(rewards[row, t:length].tolist())
            assert got.returns[row, t].item() == pytest.approx(to_come, abs=1e-12)
            assert got.advantages[row, t].item() == pytest.approx(to_come - values[row, t].item(), abs=1e-12)


def test_lambda_0_is_one_step_ahead() -> None:
    rewards, values, mask = drawn([5, 3, 1], 6)
    got = gae(rewards, values, mask, gamma=0.9, lam=0)
    for row, length in enumerate([5, 3, 1]):
        for t in range(length):
            ahead = values[row, t + 1].item() if t + 1 < length else 0.0
            wanted = rewards[row, t].item() + 0.9 * ahead - values[row, t].item()
            assert got.advantages[row, t].item() == pytest.approx(wanted, abs=1e-12)


def test_equals_the_weighted_mean_of_k_step_advantages() -> None:
    # Schulman et al. 2015, eq. 16: A = (1 − λ) Σ_k λ^(k−1) A^(k); here past the end every A^(k) is the last one
    rewards, values, mask = drawn([5], 5)
    gamma, lam, length = 0.9, 0.8, 5
    got = gae(rewards, values, mask, gamma=gamma, lam=lam).advantages[0]
    r, v = rewards[0].tolist(), [*values[0].tolist(), 0.0]
    for t in range(length):

        def ahead(k: int, t: int = t) -> float:
            k = min(k, length - t)
            return sum(gamma**i * r[t + i] for i in range(k)) + gamma**k * v[t + k] - v[t]

        wanted = (1 - lam) * sum(lam ** (k - 1) * ahead(k) for k in range(1, 400))
        assert got[t].item() == pytest.approx(wanted, abs=1e-9)


def test_what_stands_outside_the_mask_changes_nothing() -> None:
    rewards, values, mask = drawn([4, 2], 9, starts=[2, 3])
    clean = gae(rewards, values, mask, gamma=0.95, lam=0.9)
    spoilt = gae(
        rewards.masked_fill(~mask, float("nan")), values.masked_fill(~mask, float("inf")), mask, gamma=0.95, lam=0.9
    )
    torch.testing.assert_close(spoilt, clean, rtol=0, atol=0)
    assert not clean.advantages[~mask].any()
    assert not clean.returns[~mask].any()


def test_rows_apart_equal_rows_together_and_padding_adds_nothing() -> None:
    rewards, values, mask = drawn([5, 3, 1], 8, starts=[1, 0, 4])
    together = gae(rewards, values, mask, gamma=0.95, lam=0.9)
    for row in range(3):
        own = mask[row]
        alone = gae(
            rewards[row : row + 1, own], values[row : row + 1, own], mask[row : row + 1, own], gamma=0.95, lam=0.9
        )
        torch.testing.assert_close(together.advantages[row, own], alone.advantages[0], rtol=0, atol=1e-12)
        torch.testing.assert_close(together.returns[row, own], alone.returns[0], rtol=0, atol=1e-12)


def test_a_row_without_a_response_gets_nothing() -> None:
    rewards, values, mask = drawn([0, 3], 4)
    got = gae(rewards, values, mask, gamma=1, lam=0.95)
    assert not got.advantages[0].any()
    assert not got.returns[0].any()


def test_a_perfect_critic_leaves_no_advantage() -> None:
    rewards, _, mask = drawn([6], 6)
    to_come = rewards.flip(1).cumsum(1).flip(1)
    got = gae(rewards, to_come, mask, gamma=1, lam=0.7)
    torch.testing.assert_close(got.advantages, torch.zeros_like(rewards), rtol=0, atol=1e-12)


def test_inputs_are_left_as_they_were() -> None:
    rewards, values, mask = drawn([2], 4)
    before = rewards.clone(), values.clone()
    gae(rewards, values, mask, gamma=1, lam=1)
    assert torch.equal(rewards, before[0])
    assert torch.equal(values, before[1])
