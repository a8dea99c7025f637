from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from manners.losses.policy import clipped_policy_loss, mean_log_ratio, whole_log_ratio


def at_ratio(ratio: float, advantage: float, low: float = 0.2, high: float = 0.2) -> tuple[float, float, bool, float]:
    """Loss, ratio, clipped and gradient with respect to the log-probability, for one token."""
    logps = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    got = clipped_policy_loss(
        logps,
        torch.tensor([[advantage]], dtype=torch.float64),
        clip_low=low,
        clip_high=high,
    )
    got.loss.sum().backward()
    assert logps.grad is not None
    return got.loss.item(), got.ratio.item(), bool(got.clipped.item()), logps.grad.item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (1.1, 2.0, -2.2, False, -2.2),  # inside: −Aρ, gradient −Aρ
        (1.5, 2.0, -2.4, True, 0.0),  # a good token has become likely enough
        (0.5, 2.0, -1.0, False, -1.0),  # a good token became unlikely: pull it back without a limit
        (0.5, -2.0, 1.6, True, 0.0),  # a bad token has become unlikely enough
        (1.5, -2.0, 3.0, False, 3.0),  # a bad token became likely
        (0.9, -2.0, 1.8, False, 1.8),
    ],
)
def test_hand_numbers(ratio: float, advantage: float, loss: float, clipped: bool, gradient: float) -> None:
    got = at_ratio(ratio, advantage)
    assert got[0] == pytest.approx(loss, abs=1e-9)
    assert got[1] == pytest.approx(ratio, abs=1e-9)
    assert got[2] is clipped
    assert got[3] == pytest.approx(gradient, abs=1e-9)


def test_the_two_sides_have_their_own_width() -> None:
    assert at_ratio(1.25, 1.0, low=0.1, high=0.3)[0] == pytest.approx(-1.25)
    assert at_ratio(1.5, 1.0, low=0.1, high=0.3)[0] == pytest.approx(-1.3)
    assert at_ratio(0.85, -1.0, low=0.1, high=0.3)[0] == pytest.approx(0.9)
    assert at_ratio(0.95, -1.0, low=0.1, high=0.3)[0] == pytest.approx(0.95)


def test_before_the_first_update_the_loss_is_minus_the_advantage_and_the_gradient_that_of_reinforce() -> None:
    g = torch.Generator().manual_seed(0)
    logps = torch.randn(3, 4, generator=g).requires_grad_()
    advantages = torch.randn(3, 4, generator=g)
    got = clipped_policy_loss(logps - logps.detach(), advantages, clip_low=0.2, clip_high=0.2)
    assert torch.equal(got.loss, -advantages)
    assert torch.equal(got.ratio, torch.ones(3, 4))
    assert not got.clipped.any()
    (gradient,) = torch.autograd.grad(got.loss.sum(), logps)
    torch.testing.assert_close(gradient, -advantages)


def test_never_below_the_unclipped_loss_and_equal_to_it_where_not_clipped() -> None:
    g = torch.Generator().manual_seed(0)
    logps, old, advantages = torch.randn(3, 50, 40, generator=g, dtype=torch.float64)
    got = clipped_policy_loss(logps - old, advantages, clip_low=0.2, clip_high=0.3)
    plain = -advantages * (logps - old).exp()
    assert (got.loss >= plain - 1e-12).all()
    torch.testing.assert_close(got.loss[~got.clipped], plain[~got.clipped], rtol=1e-12, atol=0)
    assert 0.2 < got.clipped.double().mean().item() < 0.8


def test_only_the_new_log_probabilities_carry_a_gradient_and_losses_stay_apart() -> None:
    logps, old, advantages = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logps = (0.1 * logps).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return clipped_policy_loss(x - 0.1 * old, advantages, clip_low=0.2, clip_high=0.2).loss

    assert loss(logps).shape == (2, 5)
    assert torch.autograd.gradcheck(loss, logps)
    jacobian = torch.autograd.functional.jacobian(loss, logps).reshape(10, 10)
    assert not (jacobian - jacobian.diag().diag()).any()


@pytest.mark.parametrize(
    ("gap", "advantage", "loss"), [(1e3, 1.0, -1.2), (-1e3, -1.0, 0.8), (-1e3, 1.0, 0.0), (1e3, 0.0, 0.0)]
)
def test_extreme_ratios_are_clipped_without_a_trace(gap: float, advantage: float, loss: float) -> None:
    logps = torch.tensor([gap], requires_grad=True)
    got = clipped_policy_loss(logps, torch.tensor([advantage]), clip_low=0.2, clip_high=0.2)
    assert got.loss.item() == pytest.approx(loss, abs=1e-6)
    got.loss.sum().backward()
    assert logps.grad is not None
    assert logps.grad.item() == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped", "gradient"),
    [
        (2.0, -1.5, 3.0, False, 3.0),  # below the bound: −Aρ
        (5.0, -1.5, 4.5, True, 0.0),  # beyond it: −cA = 3 · 1.5, and no pull
        (0.5, -1.5, 1.2, True, 0.0),  # the usual clip is untouched
        (5.0, 1.5, -1.8, True, 0.0),  # good tokens know no second bound
        (0.1, 1.5, -0.15, False, -0.15),
    ],
)
def test_a_dual_clip_bounds_what_a_bad_token_can_cost(
    ratio: float, advantage: float, loss: float, clipped: bool, gradient: float
) -> None:
    logps = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    got = clipped_policy_loss(logps, torch.tensor([advantage]).double(), clip_low=0.2, clip_high=0.2, dual_clip=3.0)
    got.loss.sum().backward()
    assert got.loss.item() == pytest.approx(loss, abs=1e-9)
    assert bool(got.clipped) is clipped
    assert logps.grad is not None
    assert logps.grad.item() == pytest.approx(gradient, abs=1e-9)


def test_without_a_dual_clip_a_bad_token_can_cost_anything() -> None:
    got = clipped_policy_loss(torch.tensor([3.0]), torch.tensor([-1.0]), clip_low=0.2, clip_high=0.2)
    assert got.loss.item() == pytest.approx(math.exp(3))
    assert not got.clipped.any()


MASK = torch.tensor([[0, 1, 1, 1, 0], [0, 0, 1, 0, 0]]).bool()
OLD = torch.tensor([[9.0, -1.0, -2.0, -3.0, 9.0], [9.0, 9.0, -4.0, 9.0, 9.0]], dtype=torch.float64)


def test_the_ratio_of_a_sequence_by_hand() -> None:
    # three tokens twice, half and four times as likely: log ratios add up to 2 log 2; the other answer's one token: 3 times
    gap = torch.tensor([[0, math.log(2), -math.log(2), math.log(4), 0], [0, 0, math.log(3), 0, 0]], dtype=torch.float64)
    mean, whole = mean_log_ratio(OLD + gap, OLD, MASK), whole_log_ratio(OLD + gap, OLD, MASK)
    assert mean.exp()[MASK].tolist() == pytest.approx([4 ** (1 / 3)] * 3 + [3.0])
    assert whole.exp()[MASK].tolist() == pytest.approx([4.0] * 3 + [3.0])
    for found in (mean, whole):
        assert not found[~MASK].any()


@pytest.mark.parametrize("log_ratio", [mean_log_ratio, whole_log_ratio])
def test_what_stands_outside_the_answer_is_in_no_ratio_of_a_sequence(log_ratio: Callable[..., Tensor]) -> None:
    spoilt = torch.where(MASK, OLD - 0.5, torch.nan)
    assert torch.equal(log_ratio(spoilt, OLD, MASK), log_ratio(OLD - 0.5, OLD, MASK))
    assert not log_ratio(OLD, OLD, torch.zeros(2, 5).bool()).any()  # nor is anything divided by no tokens


def test_with_the_ratio_of_a_sequence_every_token_is_pulled_alike_or_none_is() -> None:
    advantages = torch.tensor([[1.0], [-1.0]], dtype=torch.float64) * MASK
    gap = torch.tensor([[0, 0.5, -0.4, 0.05, 0], [0, 0, 0.01, 0, 0]], dtype=torch.float64)  # means 0.05 and 0.01
    for clip_high, pulled in ((0.1, True), (0.04, False)):
        logps = (OLD + gap).requires_grad_()
        found = clipped_policy_loss(mean_log_ratio(logps, OLD, MASK), advantages, clip_low=0.04, clip_high=clip_high)
        found.loss[0].sum().backward()
        assert logps.grad is not None
        expected = -math.exp(0.05) if pulled else 0.0  # the mean of three equal losses, once per token
        assert logps.grad[0, 1:4].tolist() == pytest.approx([expected] * 3)
        assert found.clipped[0, 1:4].tolist() == [not pulled] * 3
        assert found.loss[1, 2].item() == pytest.approx(math.exp(0.01))
