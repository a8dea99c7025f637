from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manners.ops.masks import masked_mean, masked_variance, masked_whiten


def ragged() -> tuple[Tensor, Tensor]:
    """Values [3, 6] with NaN wherever the mask is False."""
    values = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 1
    mask = torch.arange(6)[None] < torch.tensor([2, 6, 0])[:, None]
    return values.masked_fill(~mask, float("nan")), mask


def test_a_mask_equals_a_slice() -> None:
    values, mask = ragged()
    kept = values[mask]
    assert masked_mean(values, mask).item() == pytest.approx(kept.mean().item(), abs=1e-12)
    assert masked_variance(values, mask).item() == pytest.approx(kept.var(correction=0).item(), abs=1e-12)
    for shift in (True, False):
        whole = masked_whiten(kept, torch.ones_like(kept, dtype=torch.bool), shift_mean=shift)
        torch.testing.assert_close(masked_whiten(values, mask, shift_mean=shift)[mask], whole, rtol=0, atol=1e-12)


def test_hand_numbers() -> None:
    values, mask = torch.tensor([[1.0, 3.0, 100.0], [5.0, 100.0, 100.0]]), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    assert masked_mean(values, mask).item() == 3
    assert masked_variance(values, mask).item() == pytest.approx(8 / 3)
    unit = 2 / math.sqrt(8 / 3)
    assert masked_whiten(values, mask).tolist() == [
        pytest.approx([-unit, 0, 0], abs=1e-6),
        pytest.approx([unit, 0, 0], abs=1e-6),
    ]
    assert masked_whiten(values, mask, shift_mean=False).tolist() == [
        pytest.approx([3 - unit, 3, 0], abs=1e-6),
        pytest.approx([3 + unit, 0, 0], abs=1e-6),
    ]


def test_whitened_values_have_mean_0_or_the_old_mean_and_variance_1() -> None:
    values, mask = ragged()
    for shift, mean in ((True, 0.0), (False, values[mask].mean().item())):
        white = masked_whiten(values, mask, shift_mean=shift)
        assert white[mask].mean().item() == pytest.approx(mean, abs=1e-9)
        assert white[mask].var(correction=0).item() == pytest.approx(1, abs=1e-6)
        assert not white[~mask].any()


def test_whitening_ignores_shift_and_scale() -> None:
    values, mask = ragged()
    torch.testing.assert_close(masked_whiten(5 * values + 7, mask), masked_whiten(values, mask), rtol=0, atol=1e-7)


def test_constant_values_and_empty_masks_give_zero() -> None:
    values = torch.full((2, 3), 4.0)
    assert not masked_whiten(values, torch.ones(2, 3, dtype=torch.bool)).any()
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    assert masked_mean(values, nothing).item() == 0
    assert not masked_whiten(values, nothing).any()
