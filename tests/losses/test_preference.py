from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manners.losses.preference import centring_loss, pair_loss


def rewards(count: int = 50) -> tuple[Tensor, Tensor]:
    a, b = 2 * torch.randn(2, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a, b


def test_equal_rewards_give_log_2() -> None:
    assert pair_loss(torch.tensor([0.7, -3.0]), torch.tensor([0.7, -3.0])).tolist() == pytest.approx([math.log(2)] * 2)


def test_hand_numbers() -> None:
    # a lead of ln 3 is preferred with probability 3/4
    lead = torch.tensor([math.log(3), -math.log(3)], dtype=torch.float64)
    assert pair_loss(lead, torch.zeros(2)).tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)])


def test_the_two_directions_are_the_two_sides_of_one_bet() -> None:
    a, b = rewards()
    won, lost = (-pair_loss(a, b)).exp(), (-pair_loss(b, a)).exp()
    torch.testing.assert_close(won + lost, torch.ones_like(won), rtol=0, atol=1e-12)
    # −log σ(d) + log σ(−d) = −d
    torch.testing.assert_close(pair_loss(a, b) - pair_loss(b, a), b - a, rtol=0, atol=1e-12)


def test_only_the_difference_counts() -> None:
    a, b = rewards()
    torch.testing.assert_close(pair_loss(a + 17, b + 17), pair_loss(a, b), rtol=0, atol=1e-12)


def test_margin_is_what_the_lead_must_exceed() -> None:
    assert pair_loss(torch.tensor([1.5]), torch.tensor([0.5]), margin=1.0).item() == pytest.approx(math.log(2))
    a, b = rewards()
    torch.testing.assert_close(pair_loss(a, b, margin=0.5), pair_loss(a - 0.5, b), rtol=0, atol=1e-12)
    assert (pair_loss(a, b, margin=0.5) > pair_loss(a, b)).all()


def test_every_pair_can_have_its_own_margin() -> None:
    a, b = rewards(3)
    margins = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    one_by_one = [pair_loss(a[i], b[i], margin=margins[i].item()).item() for i in range(3)]
    assert pair_loss(a, b, margin=margins).tolist() == pytest.approx(one_by_one, abs=1e-12)


def test_label_smoothing_is_cross_entropy_with_a_soft_label() -> None:
    a, b = rewards()
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(a - b, torch.full_like(a, 0.9), reduction="none")
    torch.testing.assert_close(pair_loss(a, b, label_smoothing=0.1), wanted, rtol=0, atol=1e-12)
    swapped = 0.9 * pair_loss(a, b) + 0.1 * pair_loss(b, a)
    torch.testing.assert_close(pair_loss(a, b, label_smoothing=0.1), swapped, rtol=0, atol=1e-12)
    torch.testing.assert_close(pair_loss(a, b, label_smoothing=0.5), pair_loss(b, a, label_smoothing=0.5))


def test_label_smoothing_is_least_at_the_smoothed_log_odds() -> None:
    lead = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    pair_loss(lead, torch.zeros(1), label_smoothing=0.1).sum().backward()
    assert lead.grad is not None
    assert lead.grad.item() == pytest.approx(0, abs=1e-12)


def test_gradient_is_minus_the_probability_of_being_wrong() -> None:
    a, b = (x.requires_grad_() for x in rewards())
    pair_loss(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    torch.testing.assert_close(a.grad, -torch.sigmoid(b - a), rtol=0, atol=1e-12)
    torch.testing.assert_close(b.grad, -a.grad, rtol=0, atol=0)


def test_extremes() -> None:
    a = torch.tensor([1e3, -1e3], requires_grad=True)
    loss = pair_loss(a, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [0, 1e3]
    assert a.grad is not None
    assert a.grad.tolist() == [0, -1]


def test_centring_hand_numbers_and_optimum() -> None:
    assert centring_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 2.0, -1.0])).tolist() == [0, 16, 4]
    a, b = rewards()
    assert torch.equal(centring_loss(a, b), centring_loss(b, a))
    # a shift of both by the same constant moves the loss, unlike the pair loss
    assert centring_loss(a + 5, b + 5).mean() > centring_loss(a, b).mean() + 50
