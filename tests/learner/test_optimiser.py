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
    with pytest.raises(MannersError, match="not a finite number three times in a row; lower the learning rate"):
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
