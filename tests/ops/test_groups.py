from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manners.ops.groups import centred, equal_groups, leave_one_out, standardised

Advantages = Callable[[Tensor], Tensor]
ALL: list[Advantages] = [centred, standardised, leave_one_out]


def drawn(groups: int = 5, answers: int = 4) -> Tensor:
    return torch.randn(groups, answers, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_hand_numbers() -> None:
    returns = torch.tensor([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]])
    assert centred(returns).tolist() == [[-2, -1, 3], [-1, -1, 2]]
    assert leave_one_out(returns).tolist() == [[-3, -1.5, 4.5], [-1.5, -1.5, 3]]  # 1 − (2 + 6)/2, …
    deviations = [statistics.stdev(row) + 1e-4 for row in returns.tolist()]
    expected = [[x / deviations[0] for x in (-2, -1, 3)], [x / deviations[1] for x in (-1, -1, 2)]]
    for row, wanted in zip(standardised(returns).tolist(), expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-6)


def test_of_two_answers_only_the_difference_is_known() -> None:
    returns = torch.tensor([[5.0, 2.0], [-1.0, 7.0]], dtype=torch.float64)
    assert leave_one_out(returns).tolist() == [[3, -3], [-8, 8]]
    assert centred(returns).tolist() == [[1.5, -1.5], [-4, 4]]
    # with one degree of freedom the standard deviation of two is |R₁ − R₂|/√2
    half = math.sqrt(0.5)
    found = standardised(returns, eps=0.0)
    assert found[0].tolist() == pytest.approx([half, -half], rel=1e-12)
    assert found[1].tolist() == pytest.approx([-half, half], rel=1e-12)


@pytest.mark.parametrize("advantages", ALL)
def test_every_group_adds_up_to_nothing_and_knows_nothing_of_the_others(advantages: Advantages) -> None:
    returns = drawn()
    found = advantages(returns)
    torch.testing.assert_close(found.sum(-1), torch.zeros(5).double(), rtol=0, atol=1e-12)
    for row in range(5):
        torch.testing.assert_close(advantages(returns[row : row + 1])[0], found[row], rtol=1e-12, atol=0)


@pytest.mark.parametrize("advantages", ALL)
def test_what_is_added_to_all_answers_of_a_prompt_changes_nothing(advantages: Advantages) -> None:
    returns, prompts = drawn(), torch.linspace(-100, 100, 5).double()[:, None]
    torch.testing.assert_close(advantages(returns + prompts), advantages(returns), rtol=0, atol=1e-11)


def test_only_the_standard_deviation_makes_the_scale_of_the_rewards_disappear() -> None:
    returns = drawn()
    torch.testing.assert_close(standardised(1e6 * returns), standardised(returns, eps=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(leave_one_out(7 * returns), 7 * leave_one_out(returns))
    torch.testing.assert_close(leave_one_out(returns), 4 / 3 * centred(returns))


@pytest.mark.parametrize("advantages", ALL)
@pytest.mark.parametrize("count", [2, 3, 7, 8])
@pytest.mark.parametrize("value", [0.1, -3.3, 1e3, -1e-20])
def test_equal_returns_give_exactly_nothing(advantages: Advantages, count: int, value: float) -> None:
    # the mean of three times 0.1 is not 0.1 to a computer
    returns = torch.full((2, count), value)
    returns[1, 0] += 1
    found = advantages(returns)
    assert not found[0].any()
    assert found[1].all()
    assert equal_groups(returns).tolist() == [True, False]


@pytest.mark.parametrize("advantages", ALL)
def test_extremes_stay_finite(advantages: Advantages) -> None:
    assert advantages(torch.tensor([[1e3, -1e3, 1e3], [1e-9, 2e-9, 3e-9]])).isfinite().all()


@pytest.mark.parametrize("advantages", ALL)
def test_one_answer_is_no_group(advantages: Advantages) -> None:
    with pytest.raises(ValueError, match="at least two answers to the same prompt"):
        advantages(torch.ones(3, 1))


# --- the gradient, by summing over everything that can be sampled ---------------------------------------------------

LOGITS = torch.tensor([0.3, -0.8, 0.9], dtype=torch.float64)


def exact_gradient(rewards: Tensor) -> Tensor:
    logits = LOGITS.clone().requires_grad_()
    (torch.softmax(logits, -1) @ rewards).backward()
    assert logits.grad is not None
    return logits.grad


def expected_gradient(advantages: Advantages, rewards: Tensor, answers: int) -> Tensor:
    """Σ over all groups of their probability times the mean of A_i ∇ log π(y_i)."""
    logits = LOGITS.clone().requires_grad_()
    logps = torch.log_softmax(logits, -1)
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(range(3), repeat=answers):
        chosen = logps[list(group)]
        total = total + chosen.detach().sum().exp() * (advantages(rewards[list(group)][None])[0] * chosen).mean()
    total.backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("answers", [2, 3, 5])
def test_leave_one_out_has_the_policy_gradient_and_the_plain_mean_a_smaller_one(answers: int) -> None:
    rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    exact = exact_gradient(rewards)
    torch.testing.assert_close(expected_gradient(leave_one_out, rewards, answers), exact, rtol=0, atol=1e-12)
    shrunk = (answers - 1) / answers * exact
    torch.testing.assert_close(expected_gradient(centred, rewards, answers), shrunk, rtol=0, atol=1e-12)


def test_with_the_standard_deviation_it_goes_the_same_way_and_another_distance() -> None:
    right_or_wrong = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    found, exact = expected_gradient(standardised, right_or_wrong, 4), exact_gradient(right_or_wrong)
    assert torch.cosine_similarity(found, exact, 0).item() == pytest.approx(1, abs=1e-12)
    assert float(found.norm() / exact.norm()) > 1.2
    # of more than two rewards the way itself bends, but it still leads upwards
    rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    cosine = torch.cosine_similarity(expected_gradient(standardised, rewards, 4), exact_gradient(rewards), 0).item()
    assert cosine == pytest.approx(0.7356, abs=1e-3)
