from __future__ import annotations

import pytest
import torch

from manners.losses.value import clipped_value_loss


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "clipped", "gradient"),
    [
        (1.0, 1.0, 1.0, 0.0, False, 0.0),
        (1.1, 1.0, 2.0, 0.405, False, -0.9),  # inside the clip: ½·0.9²
        (1.5, 1.0, 2.0, 0.32, True, 0.0),  # moved too far towards the return: held at 1.2, ½·0.8²
        (0.5, 1.0, 2.0, 1.125, False, -1.5),  # moved away from the return: ½·1.5² counts in full
        (0.5, 1.0, 0.0, 0.32, True, 0.0),  # too far down towards the return: held at 0.8
        (4.0, 1.0, 2.0, 2.0, False, 2.0),  # overshot: ½·2² is larger than ½·0.8²
    ],
)
def test_hand_numbers(value: float, old: float, target: float, loss: float, clipped: bool, gradient: float) -> None:
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    old_values, returns = (torch.tensor([[x]], dtype=torch.float64) for x in (old, target))
    got = clipped_value_loss(values, old_values, returns, clip=0.2)
    got.loss.sum().backward()
    assert values.grad is not None
    assert got.loss.item() == pytest.approx(loss)
    assert bool(got.clipped.item()) is clipped
    assert values.grad.item() == pytest.approx(gradient)


def test_a_wide_clip_is_half_the_squared_error() -> None:
    values, old, returns = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = 0.5 * torch.nn.functional.mse_loss(values, returns, reduction="none")
    torch.testing.assert_close(clipped_value_loss(values, old, returns, clip=1e6).loss, wanted)


def test_a_value_inside_the_clip_is_never_called_clipped() -> None:
    # old + (value − old) is not the value to the last bit; the share of clipped values must not count that
    values, old, returns = torch.randn(3, 40, 60, generator=torch.Generator().manual_seed(0))
    got = clipped_value_loss(values, old, returns, clip=1e6)
    assert got.clipped.sum().item() == 0
    near = old + 0.1 * (values - old).clamp(-1, 1)
    assert clipped_value_loss(near, old, returns, clip=0.2).clipped.sum().item() == 0


def test_at_the_old_value_nothing_is_clipped() -> None:
    old, returns = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    got = clipped_value_loss(old, old, returns, clip=0.0)
    torch.testing.assert_close(got.loss, 0.5 * (old - returns) ** 2)
    assert not got.clipped.any()


def test_large_values_stay_finite() -> None:
    values = torch.tensor([1e3, -1e3], requires_grad=True)
    got = clipped_value_loss(values, torch.zeros(2), torch.zeros(2), clip=0.2)
    got.loss.sum().backward()
    assert got.loss.tolist() == [5e5, 5e5]
    assert values.grad is not None
    assert values.grad.tolist() == [1e3, -1e3]
