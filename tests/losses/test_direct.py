from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from manners.losses import direct
from manners.losses.direct import (
    apo_down_loss,
    apo_zero_loss,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_odds,
    orpo_loss,
    robust_dpo_loss,
    simpo_loss,
)

PairLoss = Callable[..., Tensor]
PAIRED: dict[str, PairLoss] = {
    "dpo": partial(dpo_loss, beta=0.3),
    "robust": partial(robust_dpo_loss, beta=0.3, label_smoothing=0.2),
    "ipo": partial(ipo_loss, beta=0.3),
    "hinge": partial(hinge_loss, beta=0.3),
    "simpo": partial(simpo_loss, beta=2.0, gamma=0.5),
    "orpo": partial(orpo_loss, beta=0.3),
    "apo_zero": partial(apo_zero_loss, beta=0.3),
    "apo_down": partial(apo_down_loss, beta=0.3),
}
NO_SHIFT = torch.zeros(1, dtype=torch.float64)


def of(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def drawn(count: int = 40) -> tuple[Tensor, Tensor]:
    """Log-probabilities per token: below 0, so that every loss may be given them."""
    a, b = -0.05 - 3 * torch.rand(2, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return a, b


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (partial(dpo_loss, beta=0.1), math.log(2)),
        (partial(dpo_loss, beta=0.1, label_smoothing=0.3), math.log(2)),
        (partial(robust_dpo_loss, beta=0.1, label_smoothing=0.3), math.log(2)),
        (partial(ipo_loss, beta=0.1), 25.0),  # 1/(4·0.01)
        (partial(hinge_loss, beta=0.1), 1.0),
        (partial(apo_zero_loss, beta=0.1), 1.0),
        (partial(apo_down_loss, beta=0.1), 1.0),
    ],
)
def test_where_the_policy_is_the_reference(loss: PairLoss, value: float) -> None:
    assert loss(NO_SHIFT, NO_SHIFT).item() == pytest.approx(value, abs=1e-12)


def test_dpo_by_hand() -> None:
    # β·(chosen − rejected) = ln 3 is a lead that wins three times in four
    chosen, rejected = of(0.5 + 10 * math.log(3), 0.0), of(0.5, 10 * math.log(3))
    assert dpo_loss(chosen, rejected, beta=0.1).tolist() == pytest.approx([-math.log(0.75), -math.log(0.25)])
    # a margin of ln 3 takes the lead away
    assert dpo_loss(chosen, rejected, beta=0.1, margin=math.log(3))[0].item() == pytest.approx(math.log(2))


def test_the_gradient_of_dpo_is_beta_times_the_chance_that_the_pair_is_wrong() -> None:
    a, b = (x.requires_grad_() for x in drawn())
    dpo_loss(a, b, beta=0.3).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    wrong = 1 / (1 + torch.exp(0.3 * (a - b))).detach()  # Rafailov et al., below eq. 7
    torch.testing.assert_close(a.grad, -0.3 * wrong)
    torch.testing.assert_close(b.grad, 0.3 * wrong)


def test_label_smoothing_goes_from_dpo_to_indifference() -> None:
    a, b = drawn()
    torch.testing.assert_close(dpo_loss(a, b, beta=0.3, label_smoothing=0.0), dpo_loss(a, b, beta=0.3))
    # at one half both ways round count alike, and the best difference is 0
    half = partial(dpo_loss, beta=0.3, label_smoothing=0.5)
    torch.testing.assert_close(half(a, b), half(b, a))
    assert (half(a, b) >= half(a, a)).all()
    # with ε the best implicit lead is log((1 − ε)/ε): nothing is learned beyond what the labels are worth
    leads = torch.linspace(-3, 6, 90_001, dtype=torch.float64)
    smoothed = dpo_loss(leads, torch.zeros_like(leads), beta=1.0, label_smoothing=0.1)
    assert leads[smoothed.argmin()].item() == pytest.approx(math.log(9), abs=2e-4)


def test_the_robust_loss_is_unbiased_under_swapped_labels() -> None:
    a, b = drawn()
    clean = dpo_loss(a, b, beta=0.3)
    for share in (0.1, 0.4):
        loss = partial(robust_dpo_loss, beta=0.3, label_smoothing=share)
        torch.testing.assert_close((1 - share) * loss(a, b) + share * loss(b, a), clean)
    torch.testing.assert_close(robust_dpo_loss(a, b, beta=0.3, label_smoothing=0.0), clean)


@pytest.mark.parametrize("probability", [1.0, 0.8, 0.5])
def test_ipo_is_least_at_a_bounded_difference(probability: float) -> None:
    differences = torch.linspace(-8, 8, 160_001, dtype=torch.float64)
    losses = ipo_loss(differences, torch.zeros_like(differences), beta=0.1, probability=probability)
    assert differences[losses.argmin()].item() == pytest.approx((2 * probability - 1) * 5, abs=1e-3)


def test_the_hinge_holds_up_to_its_margin_and_then_lets_go() -> None:
    leads = of(-1, 0, 0.5, 1, 1.5, 2, 9)
    zero = torch.zeros_like(leads)
    assert hinge_loss(leads, zero, beta=1.0).tolist() == [2, 1, 0.5, 0, 0, 0, 0]
    assert hinge_loss(leads, zero, beta=1.0, margin=1.0).tolist() == [3, 2, 1.5, 1, 0.5, 0, 0]


def test_simpo_by_hand() -> None:
    # β·(−1 + 2) − γ = 2 − 2 = 0, then ln 3
    chosen, rejected = of(-1.0, -1.0), of(-2.0, -2.0 - math.log(3) / 2)
    assert simpo_loss(chosen, rejected, beta=2.0, gamma=2.0).tolist() == pytest.approx([math.log(2), -math.log(0.75)])


def test_orpo_by_hand() -> None:
    # p = 3/4 and 1/4: odds 3 and 1/3, whose ratio 9 is preferred nine times in ten
    chosen, rejected = of(math.log(0.75)), of(math.log(0.25))
    assert orpo_loss(chosen, rejected, beta=0.5).item() == pytest.approx(-math.log(0.75) - 0.5 * math.log(0.9))


def test_log_odds_are_right_from_one_end_to_the_other() -> None:
    shares = of(1e-12, 1e-3, 0.25, 0.5, 0.75, 1 - 1e-9)
    torch.testing.assert_close(log_odds(shares.log()), torch.logit(shares), rtol=1e-6, atol=1e-9)
    extremes = torch.tensor([-1000.0, -1e-9, 0.0], requires_grad=True)
    found = log_odds(extremes)
    found.sum().backward()
    assert found.isfinite().all()
    assert extremes.grad is not None
    assert extremes.grad.isfinite().all()


def test_apo_by_hand() -> None:
    # σ(ln 3) = 3/4; chosen ln 3 up, rejected ln 3 down
    up, down = of(math.log(3)), of(-math.log(3))
    assert apo_zero_loss(up, down, beta=1.0).item() == pytest.approx(0.25 + 0.25)
    assert apo_zero_loss(down, up, beta=1.0).item() == pytest.approx(0.75 + 0.75)
    # σ(ln 9) = 0.9
    assert apo_down_loss(up, down, beta=1.0).item() == pytest.approx(0.75 + 0.1)
    assert apo_down_loss(down, up, beta=1.0).item() == pytest.approx(0.25 + 0.9)


def test_apo_anchors_each_answer_on_its_own_side() -> None:
    for loss, signs in ((apo_zero_loss, (-1, 1)), (apo_down_loss, (-1, 1))):
        a, b = of(-2.0).requires_grad_(), of(-2.0).requires_grad_()
        loss(a, b, beta=0.3).backward()
        assert (a.grad is not None, b.grad is not None) == (True, True)
        assert tuple(int(torch.sign(x.grad).item()) for x in (a, b) if x.grad is not None) == signs
    # far ahead, apo_down pulls the chosen answer down as well, which dpo never does
    chosen = of(0.0).requires_grad_()
    apo_down_loss(chosen, of(-30.0), beta=0.3).backward()
    assert chosen.grad is not None
    assert chosen.grad.item() > 0


@pytest.mark.parametrize("name", PAIRED)
def test_a_soft_label_is_the_mean_over_both_ways_round(name: str) -> None:
    a, b = drawn()
    loss = partial(simpo_loss, beta=2.0, gamma=0.0) if name == "simpo" else PAIRED[name]
    plain, turned = loss(a, b), loss(b, a)
    torch.testing.assert_close(loss(a, b, probability=0.7), 0.7 * plain + 0.3 * turned)
    each = torch.linspace(0.5, 1, len(a), dtype=torch.float64)
    torch.testing.assert_close(loss(a, b, probability=each), each * plain + (1 - each) * turned)


@pytest.mark.parametrize("name", PAIRED)
def test_gradients_of_every_pair_loss(name: str) -> None:
    a, b = (x[:6].requires_grad_() for x in drawn())
    torch.autograd.gradcheck(partial(PAIRED[name], probability=0.8), (a, b))


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("size", [1e3, -1e3])
def test_extremes_stay_finite(name: str, size: float) -> None:
    a, b = torch.tensor([min(0.0, size)], requires_grad=True), torch.tensor([min(0.0, -size)], requires_grad=True)
    loss = PAIRED[name](a, b)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in (a, b))


def kto(shifts: Tensor, desirable: Tensor, point: float, **weights: Any) -> Tensor:
    weights = {"desirable_weight": 1.0, "undesirable_weight": 1.0} | weights
    return kto_loss(shifts, desirable, torch.tensor(point, dtype=torch.float64), beta=0.5, **weights)


def test_kto_by_hand() -> None:
    # β·(shift − z₀) = ln 3 for the first two, −ln 3 for the others: σ is 3/4 and 1/4
    shifts = of(1 + 2 * math.log(3), 1 + 2 * math.log(3), 1 - 2 * math.log(3), 1 - 2 * math.log(3))
    good = of(1, 0, 1, 0)
    assert kto(shifts, good, 1.0).tolist() == pytest.approx([0.25, 0.75, 0.75, 0.25])
    weighted = kto(shifts, good, 1.0, desirable_weight=2.0, undesirable_weight=0.5)
    assert weighted.tolist() == pytest.approx([0.5, 0.375, 1.5, 0.125])
    assert kto(of(0.0), of(0.75), 0.0).tolist() == pytest.approx([0.5])


def test_the_reference_point_of_kto_is_a_mean_and_never_negative_and_learns_nothing() -> None:
    assert kto_reference_point(of(1.0, 2.0, 6.0)).item() == 3
    assert kto_reference_point(of(1.0, -5.0)).item() == 0
    assert kto_reference_point(of()).item() == 0
    shifts = of(1.0, 2.0).requires_grad_()
    point = kto_reference_point(shifts)
    assert not point.requires_grad
    loss = kto_loss(
        shifts, of(1, 1), shifts.mean(), beta=0.5, desirable_weight=1.0, undesirable_weight=1.0
    )  # even where the caller forgot to
    loss.sum().backward()
    assert shifts.grad is not None
    slope = 0.5 * torch.sigmoid(of(0.25)) * torch.sigmoid(of(-0.25))
    torch.testing.assert_close(shifts.grad, torch.cat([-slope, -slope]))


def test_every_public_loss_is_tested_here() -> None:
    public = {name for name in vars(direct) if name.endswith("_loss") and name != "pair_loss"}
    assert public == {f"{name}_loss" for name in (*PAIRED, "kto")} - {"robust_loss"} | {"robust_dpo_loss"}
