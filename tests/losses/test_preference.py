from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from manners.losses.preference import Outcomes, centring_loss, davidson, outcome_loss, pair_loss, rao_kupper


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


def test_a_soft_label_is_the_share_of_people_who_said_so() -> None:
    # seven of ten preferred the first: the mean of ten hard labels
    a, b = rewards()
    ten = (7 * pair_loss(a, b) + 3 * pair_loss(b, a)) / 10
    torch.testing.assert_close(pair_loss(a, b, probability=0.7), ten, rtol=0, atol=1e-12)
    torch.testing.assert_close(pair_loss(a, b, probability=torch.full_like(a, 0.7)), ten, rtol=0, atol=1e-12)
    torch.testing.assert_close(pair_loss(a, b, probability=torch.ones_like(a)), pair_loss(a, b), rtol=0, atol=0)
    torch.testing.assert_close(pair_loss(a, b, probability=0.5), pair_loss(b, a, probability=0.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("probability", "smoothing", "label"), [(0.8, 0.0, 0.8), (1.0, 0.1, 0.9), (0.8, 0.1, 0.74)])
def test_a_soft_label_is_least_at_its_own_log_odds(probability: float, smoothing: float, label: float) -> None:
    # swapped with a chance of 0.1, a label of 0.8 is right with 0.8 · 0.9 + 0.2 · 0.1 = 0.74
    lead = torch.tensor([math.log(label / (1 - label))], dtype=torch.float64, requires_grad=True)
    pair_loss(lead, torch.zeros(1), probability=probability, label_smoothing=smoothing).sum().backward()
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


# --- ties -----------------------------------------------------------------------------------------------------------

LIKELIHOODS = [davidson, rao_kupper]
NEVER = torch.tensor(float("-inf"), dtype=torch.float64)


def probabilities(outcomes: Outcomes) -> tuple[Tensor, Tensor, Tensor]:
    return outcomes.win.exp(), outcomes.loss.exp(), outcomes.tie.exp()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_one_of_three_things_happens(likelihood: Any) -> None:
    a, b = rewards()
    for log_tie in (-5.0, 0.0, 3.0):
        total = sum(probabilities(likelihood(a, b, torch.tensor(log_tie, dtype=torch.float64))))
        torch.testing.assert_close(total, torch.ones_like(a), rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_equal_rewards_and_a_log_tie_of_0_give_a_third_each(likelihood: Any) -> None:
    for part in probabilities(likelihood(torch.tensor([4.0]), torch.tensor([4.0]), torch.tensor(0.0))):
        assert part.item() == pytest.approx(1 / 3)


def test_davidson_by_hand() -> None:
    # worths 9 and 4, ν = 2: 9 : 4 : 2 · √36 = 9 : 4 : 12
    found = davidson(torch.tensor([9.0]).log(), torch.tensor([4.0]).log(), torch.tensor(2.0).log())
    assert [p.item() for p in probabilities(found)] == pytest.approx([9 / 25, 4 / 25, 12 / 25])


def test_rao_and_kupper_by_hand() -> None:
    # worths 9 and 4, θ = 3: 9/(9 + 12), 4/(4 + 27), 8 · 36/(21 · 31)
    found = rao_kupper(torch.tensor([9.0]).log(), torch.tensor([4.0]).log(), torch.tensor(2.0).log())
    assert [p.item() for p in probabilities(found)] == pytest.approx([9 / 21, 4 / 31, 288 / 651])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_without_ties_it_is_bradley_and_terry(likelihood: Any) -> None:
    a, b = rewards()
    nothing = torch.zeros(len(a), dtype=torch.bool)
    for log_tie in (NEVER, NEVER.clamp(min=-40)):
        outcomes = likelihood(a, b, log_tie)
        torch.testing.assert_close(outcome_loss(outcomes, nothing), pair_loss(a, b), rtol=0, atol=1e-12)
        soft = outcome_loss(outcomes, nothing, probability=0.7, label_smoothing=0.1)
        wanted = pair_loss(a, b, probability=0.7, label_smoothing=0.1)
        torch.testing.assert_close(soft, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_two_sides_are_mirror_images_and_only_the_difference_counts(likelihood: Any) -> None:
    a, b = rewards()
    log_tie = torch.tensor(0.3, dtype=torch.float64)
    here, there, moved = likelihood(a, b, log_tie), likelihood(b, a, log_tie), likelihood(a + 9, b + 9, log_tie)
    for mine, mirrored, shifted in zip(here, (there.loss, there.win, there.tie), moved, strict=True):
        torch.testing.assert_close(mine, mirrored, rtol=0, atol=1e-12)
        torch.testing.assert_close(mine, shifted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_tie_says_that_the_two_are_equally_good(likelihood: Any) -> None:
    lead = torch.linspace(-4, 4, 81, dtype=torch.float64)
    tied = torch.ones(81, dtype=torch.bool)
    loss = outcome_loss(likelihood(lead, torch.zeros(81), torch.tensor(-1.0)), tied)
    assert loss.argmin().item() == 40
    assert (loss[1:41] < loss[:40]).all()
    assert (loss[41:] > loss[40:-1]).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_the_share_of_ties_at_equal_rewards_gives_the_parameter_back(likelihood: Any) -> None:
    # 3 ties in 10 comparisons of equal answers: e^t = 2 · 0.3/0.7, where the loss has no slope
    log_tie = torch.tensor(math.log(0.6 / 0.7), dtype=torch.float64, requires_grad=True)
    tied = torch.arange(10) < 3
    equal = torch.zeros(10, dtype=torch.float64)
    outcome_loss(likelihood(equal, equal, log_tie), tied).sum().backward()
    assert log_tie.grad is not None
    assert log_tie.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("extreme", [1e3, -1e3])
def test_ties_at_extremes(likelihood: Any, extreme: float) -> None:
    a = torch.tensor([extreme, -extreme, 0.0, 0.0], requires_grad=True)
    log_tie = torch.tensor([1e-3, -1e-3, extreme, -extreme], requires_grad=True)
    for tied in (False, True):
        outcomes = Outcomes(
            *map(torch.cat, zip(*(likelihood(a[i : i + 1], torch.zeros(1), log_tie[i]) for i in range(4)), strict=True))
        )
        loss = outcome_loss(outcomes, torch.full((4,), tied))
        gradients = torch.autograd.grad(loss.sum(), [a, log_tie])
        assert all(x.isfinite().all() for x in (loss, *gradients))
        assert (loss >= 0).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_gradients_of_ties_are_right(likelihood: Any) -> None:
    a, b = (x[:4].clone().requires_grad_() for x in rewards())
    log_tie = torch.tensor(-0.4, dtype=torch.float64, requires_grad=True)
    tied = torch.tensor([True, False, True, False])

    def loss(j: Tensor, k: Tensor, t: Tensor) -> Tensor:
        return outcome_loss(likelihood(j, k, t), tied, probability=0.8)

    assert torch.autograd.gradcheck(loss, (a, b, log_tie))
