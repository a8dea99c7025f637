from __future__ import annotations

import math

import pytest
import torch

from manners.evaluate.readings import CalibrationError, LengthControlled, Mean


def test_a_share_has_wilsons_interval_and_a_mean_the_bootstraps() -> None:
    share = Mean.of([0.0] * 40, flags=True).span()
    assert (share.mean, share.low, share.high) == pytest.approx((0, 0, 0.0876), abs=1e-4)
    assert Mean.of([0.0] * 40).span().high == 0
    mean = Mean.of([float(i % 2) * 3 for i in range(400)]).span()
    assert mean.mean == 1.5
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * 1.5 / 20, rel=0.1)


def test_answers_to_one_prompt_count_as_one_item() -> None:
    alone = Mean.of([float(i % 2) for i in range(40)])
    tenfold = Mean.grouped([[float(i % 2)] * 10 for i in range(40)])
    assert tenfold.items == alone.items == 40
    assert tenfold.span().low == pytest.approx(alone.span().low, abs=1e-9)
    constant = Mean.grouped([[1.0] * 10 for _ in range(40)], flags=True)
    assert constant.span().low == pytest.approx(1 - 0.0876, abs=1e-4)


def test_flags_of_two_models_are_compared_by_mcnemar() -> None:
    before, after = Mean.of([1] * 6 + [0] + [1] * 3, flags=True), Mean.of([0] * 6 + [1] + [1] * 3, flags=True)
    found = after.beside(before)
    assert found is not None
    assert (found.p, found.test) == (0.125, "McNemar exact")
    assert found.span.mean == pytest.approx(-0.5)
    assert found.span.low < found.span.mean < found.span.high


def test_numbers_of_two_models_are_paired_by_item() -> None:
    noise = torch.randn(50, generator=torch.Generator().manual_seed(0)).mul(100).tolist()
    found = Mean.of([x + 1 for x in noise]).beside(Mean.of(noise))
    assert found is not None
    assert found.span.low == pytest.approx(1)
    assert found.p < 0.001
    assert Mean.of([1.0, 2.0]).beside(Mean.of([1.0, 2.0, 3.0])) is None
    assert Mean.of([1.0]).beside(None) is None


def test_a_level_stands_in_for_a_base() -> None:
    found = Mean(torch.tensor([1.0] * 9 + [0.5]), torch.arange(10), level=0.5).beside(None)
    assert found is not None
    assert found.span.mean == pytest.approx(0.45)
    assert found.p == 2 / 2**9


def test_an_exponential_mean_is_a_perplexity() -> None:
    values, owners = torch.tensor([math.log(2)] * 3 + [math.log(8)]), torch.tensor([0, 0, 0, 1])
    reading = Mean(values, owners, exponential=True)
    assert reading.span().mean == pytest.approx(2 ** (6 / 4))
    assert reading.span().low == pytest.approx(2)
    assert reading.span().high == pytest.approx(8)
    change = Mean(values + math.log(2), owners, exponential=True).beside(reading)
    assert change is not None
    assert change.span.mean == pytest.approx(2 ** (6 / 4))
    assert (change.span.low, change.span.high) == pytest.approx((2, 8))


def test_calibration_error_by_hand() -> None:
    # bins 0.2-0.3 and 0.9-1: |0.5 − 0.25| · 2/4 + |1 − 0.95| · 2/4
    reading = CalibrationError(torch.tensor([0.25, 0.25, 0.95, 0.95]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert reading.span().mean == pytest.approx(0.15)


def test_calibration_error_knows_a_calibrated_model() -> None:
    draws = torch.Generator().manual_seed(0)
    sure = torch.rand(2000, generator=draws)
    right = (torch.rand(2000, generator=draws) < sure).double()
    calibrated, boastful = CalibrationError(sure, right), CalibrationError((sure + 0.3).clamp(max=1), right)
    assert calibrated.span().low < 0.02
    assert calibrated.span().high < 0.06
    assert boastful.span().low > 0.2
    found = boastful.beside(calibrated)
    assert found is not None
    assert found.span.low > 0.15
    assert found.p < 0.01


def test_at_equal_length_the_interval_is_over_prompts() -> None:
    draws = torch.Generator().manual_seed(0)
    wins = (torch.rand(60, generator=draws) < 0.5).double()
    lengths = torch.randn(60, generator=draws)
    single = LengthControlled(wins, lengths, torch.arange(60))
    copied = LengthControlled(
        wins.repeat_interleave(5), lengths.repeat_interleave(5), torch.arange(60).repeat_interleave(5)
    )
    assert copied.items == 60
    assert copied.span().low == pytest.approx(single.span().low, abs=0.01)
    assert single.beside().p > 0.05
