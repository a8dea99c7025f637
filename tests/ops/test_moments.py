from __future__ import annotations

import numpy as np
import pytest
import torch

from manners.ops.moments import Moments


@pytest.mark.parametrize("sizes", [[100], [1, 99], [99, 1], [1] * 100, [7, 30, 13, 50]])
def test_batches_of_any_size_add_up_to_the_moments_of_the_whole(sizes: list[int]) -> None:
    values = np.random.default_rng(0).normal(5.0, 3.0, 100)
    moments, start = Moments(), 0
    for size in sizes:
        moments = moments.with_batch(torch.tensor(values[start : start + size]))
        start += size
    assert moments.count == 100
    assert moments.mean == pytest.approx(values.mean(), rel=1e-12)
    assert moments.std == pytest.approx(values.std(ddof=1), rel=1e-12)


def test_a_large_constant_does_not_drown_the_spread() -> None:
    values = np.random.default_rng(0).normal(0.0, 1.0, 64)
    moments = Moments()
    for part in np.split(values + 1e9, 8):
        moments = moments.with_batch(torch.tensor(part))
    assert moments.std == pytest.approx(values.std(ddof=1), rel=1e-4)


def test_float32_scores_are_summed_in_float64() -> None:
    moments = Moments()
    for _ in range(50):
        moments = moments.with_batch(torch.tensor([0.1, 0.3] * 50, dtype=torch.float32))
    assert moments.mean == pytest.approx(
        float(np.array([0.1, 0.3], dtype=np.float32).astype(np.float64).mean()), rel=1e-12
    )


def test_by_hand() -> None:
    moments = Moments().with_batch(torch.tensor([1.0, 3.0])).with_batch(torch.tensor([8.0]))
    assert (moments.count, moments.mean, moments.squares) == pytest.approx((3, 4.0, 26.0))  # 9 + 1 + 16
    assert moments.std == pytest.approx(13**0.5)


def test_without_a_spread_the_unit_is_1() -> None:
    assert Moments().std == 1
    assert Moments().with_batch(torch.tensor([7.0])).std == 1
    assert Moments().with_batch(torch.tensor([7.0, 7.0, 7.0])).std == 1


def test_a_batch_makes_new_moments_and_leaves_the_old_ones() -> None:
    first = Moments().with_batch(torch.tensor([1.0, 2.0]))
    first.with_batch(torch.tensor([100.0]))
    assert (first.count, first.mean) == (2, 1.5)
