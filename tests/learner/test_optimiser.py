from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from manners.errors import MannersError
from manners.learner.optimiser import Optimiser


def numbers(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def descend(optimiser: Optimiser, parameter: nn.Parameter, *gradient: float) -> float:
    """One step along a loss whose gradient is `gradient`."""
    optimiser.backward((parameter * torch.tensor(gradient)).sum())
    return optimiser.step()


def factors(count: int, **fields: Any) -> list[float]:
    parameter = numbers(0.0)
    optimiser = Optimiser([([parameter], 0.01)], **fields)
    found = []
    for _ in range(count):
        found.append(optimiser.factor)
        assert optimiser.adam.param_groups[0]["lr"] == pytest.approx(0.01 * optimiser.factor)
        descend(optimiser, parameter, 1.0)
    return found


# --- schedule -------------------------------------------------------------------------------------------------------


def test_the_rate_falls_in_a_line_to_zero_and_stays_there() -> None:
    assert factors(7, steps=5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0])


def test_the_rate_rises_before_it_falls() -> None:
    assert factors(6, steps=6, warmup_steps=2) == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25])


def test_the_rate_falls_to_its_final_share() -> None:
    assert factors(6, steps=4, final=0.1) == pytest.approx([1.0, 0.775, 0.55, 0.325, 0.1, 0.1])
    assert factors(3, steps=3, final=1.0) == pytest.approx([1.0, 1.0, 1.0])


def test_a_run_of_warm_up_alone_still_moves() -> None:
    assert factors(2, steps=2, warmup_steps=2) == pytest.approx([1 / 3, 2 / 3])
    assert factors(1, steps=1) == [1.0]


def test_every_group_has_its_own_rate() -> None:
    slow, fast = numbers(0.0), numbers(0.0)
    optimiser = Optimiser([([slow], 0.01), ([fast], 0.1)], steps=2, eps=1e-12)
    for _ in range(2):  # Adam's step is lr · sign(g) while the gradient stays the same: at shares 1 and ½
        optimiser.backward((slow + fast).sum())
        optimiser.step()
    assert slow.item() == pytest.approx(-0.015, rel=1e-5)
    assert fast.item() == pytest.approx(-0.15, rel=1e-5)


def test_a_cosine_falls_slowly_then_fast_then_slowly() -> None:
    # ½(1 + cos πx) at x = 0, ¼, ½, ¾, 1
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert factors(6, steps=4, schedule="cosine") == pytest.approx(expected, abs=1e-12)
    assert factors(6, steps=6, warmup_steps=2, schedule="cosine") == pytest.approx(
        [1 / 3, 2 / 3, *expected[:4]], abs=1e-12
    )
    assert factors(5, steps=4, schedule="cosine", final=0.2)[4] == pytest.approx(0.2)


def test_a_constant_rate_stays_after_its_rise() -> None:
    assert factors(5, steps=3, warmup_steps=1, schedule="constant") == pytest.approx([0.5, 1, 1, 1, 1])


# --- AdamW by hand --------------------------------------------------------------------------------------------------


def test_two_steps_of_adam_are_those_of_a_pocket_calculator() -> None:
    parameter = numbers(1.0)
    optimiser = Optimiser([([parameter], 0.1)], steps=2, eps=1e-5)
    # m̂ = 0.5, v̂ = 0.25: 1 − 0.1 · 0.5/(0.5 + 1e−5)
    descend(optimiser, parameter, 0.5)
    assert parameter.item() == pytest.approx(0.9000019999600008, abs=1e-7)
    # m = 0.9 · 0.05 − 0.1 · 0.25 = 0.02, m̂ = 0.02/0.19 = 0.10526316
    # v = 0.999 · 0.00025 + 0.001 · 0.0625 = 0.00031225, v̂ = 0.00031225/0.001999 = 0.15620310, √v̂ = 0.39522539
    # 0.900002 − 0.05 · 0.10526316/0.39523539 = 0.900002 − 0.01331652
    descend(optimiser, parameter, -0.25)
    assert parameter.item() == pytest.approx(0.88668548, abs=1e-6)


def test_weight_decay_shrinks_the_weight_apart_from_the_gradient() -> None:
    parameter = numbers(2.0)
    optimiser = Optimiser([([parameter], 0.1)], steps=1, weight_decay=0.5, eps=1e-12)
    descend(optimiser, parameter, 3.0)
    assert parameter.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5) - 0.1, abs=1e-6)
    still = numbers(2.0)
    descend(Optimiser([([still], 0.1)], steps=1, weight_decay=0.5), still, 0.0)
    assert still.item() == pytest.approx(1.9)


def test_gradients_of_several_backward_passes_add_up_and_are_gone_after_the_step() -> None:
    parameter = numbers(0.0)
    optimiser = Optimiser([([parameter], 1.0)], steps=10, eps=1.0, max_grad_norm=100)
    optimiser.backward(parameter.sum())
    optimiser.backward(2 * parameter.sum())
    assert optimiser.step() == pytest.approx(3.0)
    assert parameter.item() == pytest.approx(-3 / 4)  # ε = 1 makes the first step g/(|g| + 1)
    assert parameter.grad is None


def scalar_adam(gradients: list[float], rate: float, eps: float, tensorflow: bool) -> float:
    """Where a weight that starts at 0 ends, with plain numbers. TensorFlow: lr_t = lr·√(1 − β₂ᵗ)/(1 − β₁ᵗ), Δ = lr_t·m/(√v + ε)."""
    weight = m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        if tensorflow:
            weight -= rate * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (math.sqrt(v) + eps)
        else:
            weight -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + eps)
    return weight


@pytest.mark.parametrize("placement", ["torch", "tensorflow"])
@pytest.mark.parametrize("eps", [1e-5, 0.1])
def test_adams_epsilon_stands_where_it_is_said_to_stand(placement: Any, eps: float) -> None:
    gradients = [3e-4, -1e-4, 2e-4, 5e-5, 3e-4]  # no larger than ε acts: there it matters
    parameter = numbers(0.0)
    optimiser = Optimiser([([parameter], 0.01)], steps=5, final=1.0, eps=eps, eps_placement=placement)
    for gradient in gradients:
        descend(optimiser, parameter, gradient)
    expected = scalar_adam(gradients, 0.01, eps, placement == "tensorflow")
    assert parameter.item() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(scalar_adam(gradients, 0.01, eps, placement != "tensorflow"), rel=0.05)


def first_step(gradient: float, eps: float, placement: Any) -> float:
    parameter = numbers(0.0)
    descend(Optimiser([([parameter], 1.0)], steps=1, eps=eps, eps_placement=placement), parameter, gradient)
    return -parameter.item()


def test_at_the_first_step_tensorflows_epsilon_counts_31_6_times() -> None:
    # Δ = g/(g + ε) with PyTorch's ε, g/(g + 31.6 ε) with TensorFlow's: 1/√(1 − 0.999) = 31.62
    assert first_step(1e-5, 1e-5, "torch") == pytest.approx(1 / 2, rel=1e-4)
    assert first_step(1e-5, 1e-5, "tensorflow") == pytest.approx(1 / (1 + 31.6227766), rel=1e-3)
    assert first_step(1e-5, 1e-5, "tensorflow") == pytest.approx(first_step(1e-5, 31.6227766e-5, "torch"), rel=1e-3)


@pytest.mark.parametrize("placement", ["torch", "tensorflow"])
def test_after_forgetting_the_next_step_is_a_first_one(placement: Any) -> None:
    parameter = numbers(0.0)
    optimiser = Optimiser([([parameter], 1.0)], steps=9, final=1.0, eps=1e-5, eps_placement=placement)
    for gradient in (1e-3, -2e-3, 1e-5):
        descend(optimiser, parameter, gradient)
    optimiser.forget()
    before = parameter.item()
    descend(optimiser, parameter, 1e-5)
    assert before - parameter.item() == pytest.approx(first_step(1e-5, 1e-5, placement), rel=1e-2)
    assert (optimiser.done, optimiser.updates) == (4, 4)


def test_the_epsilon_of_a_group_that_was_left_out_begins_when_it_begins() -> None:
    policy, critic = numbers(0.0), numbers(0.0)
    optimiser = Optimiser([([policy], 1.0), ([critic], 1.0)], steps=9, final=1.0, eps=1e-5, eps_placement="tensorflow")
    for _ in range(3):  # as while the critic warms up
        optimiser.backward((1e-5 * critic).sum())
        optimiser.step()
    assert policy.item() == 0
    optimiser.backward((1e-5 * (policy + critic)).sum())
    optimiser.step()
    assert -policy.item() == pytest.approx(first_step(1e-5, 1e-5, "tensorflow"), rel=1e-3)
    assert critic.item() == pytest.approx(scalar_adam([1e-5] * 4, 1.0, 1e-5, tensorflow=True), rel=1e-3)


def test_a_saved_optimizer_goes_on_to_the_bit() -> None:
    def made() -> tuple[nn.Parameter, nn.Parameter, Optimiser]:
        first, second = numbers(1.0, 2.0), numbers(3.0)
        return first, second, Optimiser(
            [([first], 0.1), ([second], 0.2)], steps=9, warmup_steps=2, eps_placement="tensorflow", eps=1e-3
        )  # fmt: skip

    def walk(parts: tuple[nn.Parameter, nn.Parameter, Optimiser], gradients: list[float]) -> None:
        first, second, optimiser = parts
        for gradient in gradients:
            optimiser.backward(gradient * (first.sum() + 0.1 * second.sum()))
            optimiser.step()

    straight, cut, again = made(), made(), made()
    walk(straight, [0.5, math.nan, -0.3, math.nan, math.nan])
    walk(cut, [0.5, math.nan, -0.3, math.nan])
    with torch.no_grad():
        for old, new in zip(cut[:2], again[:2], strict=True):
            new.copy_(old)
    again[2].load_state(*cut[2].state())
    walk(again, [math.nan])
    assert again[2].factor == straight[2].factor
    for parts in (straight, again):
        with pytest.raises(MannersError, match="three times in a row"):
            walk(parts, [math.nan])  # those before the cut count
        walk(parts, [0.7, 0.2])
    for a, b in zip(straight[:2], again[:2], strict=True):
        assert torch.equal(a, b)


# --- clipping -------------------------------------------------------------------------------------------------------


def test_the_gradient_is_clipped_as_one_vector_over_all_groups() -> None:
    # Norm 5 becomes 1: gradients 0.6 and 0.8, and ε = 1 makes the first step g/(|g| + 1).
    first, second = numbers(0.0), numbers(0.0)
    optimiser = Optimiser([([first], 1.0), ([second], 1.0)], steps=1, max_grad_norm=1.0, eps=1.0)
    optimiser.backward(3 * first.sum() + 4 * second.sum())
    assert optimiser.step() == pytest.approx(5.0)  # the norm before clipping
    assert first.item() == pytest.approx(-0.6 / 1.6, abs=1e-5)
    assert second.item() == pytest.approx(-0.8 / 1.8, abs=1e-5)


def test_a_small_gradient_is_not_touched() -> None:
    parameter = numbers(0.0, 0.0)
    optimiser = Optimiser([([parameter], 1.0)], steps=1, max_grad_norm=1.0, eps=1.0)
    assert descend(optimiser, parameter, 0.3, -0.4) == pytest.approx(0.5)
    assert parameter.tolist() == pytest.approx([-0.3 / 1.3, 0.4 / 1.4])


# --- gradients that are no numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_no_number_reaches_neither_weights_nor_momentum(bad: float) -> None:
    parameter = numbers(1.0, 2.0)
    optimiser = Optimiser([([parameter], 0.1)], steps=10)
    descend(optimiser, parameter, 0.5, -0.5)
    before = parameter.detach().clone()
    moments = {k: v.clone() for k, v in optimiser.adam.state[parameter].items()}
    assert not math.isfinite(descend(optimiser, parameter, bad, 0.5))
    assert torch.equal(parameter, before)
    assert all(torch.equal(moments[k], v) for k, v in optimiser.adam.state[parameter].items())
    assert optimiser.skipped == 1
    assert parameter.grad is None

    descend(optimiser, parameter, 0.5, -0.5)
    assert parameter[0] < before[0] < before[1] < parameter[1]


def test_the_third_in_a_row_ends_the_run_with_the_weights_still_whole() -> None:
    parameter = numbers(1.0)
    optimiser = Optimiser([([parameter], 0.1)], steps=10)
    descend(optimiser, parameter, math.nan)
    descend(optimiser, parameter, math.nan)
    with pytest.raises(MannersError, match="not a usable number three times in a row; lower the learning rate"):
        descend(optimiser, parameter, math.nan)
    assert parameter.item() == 1.0
    assert optimiser.skipped == 3


def test_a_good_step_between_starts_the_count_anew() -> None:
    parameter = numbers(1.0)
    optimiser = Optimiser([([parameter], 0.1)], steps=20)
    for gradient in [math.nan, math.nan, 1.0] * 3:
        descend(optimiser, parameter, gradient)
    assert optimiser.skipped == 6
    assert math.isfinite(parameter.item())
