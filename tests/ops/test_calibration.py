from __future__ import annotations

import pytest
import torch

from manners.ops.calibration import calibration


def test_hand_numbers() -> None:
    # sides taken together: confidences 0.55, 0.58 | 0.72 | 0.95, 0.98, 0.93; the second and the last are wrong
    got = calibration(torch.tensor([0.55, 0.42, 0.72, 0.95, 0.98, 0.07], dtype=torch.float64))
    low, middle, high = got["calibration"]
    assert (low["low"], low["high"], low["n"], low["accuracy"]) == pytest.approx((0.5, 0.6, 2, 0.5))
    assert low["confidence"] == pytest.approx(0.565)
    assert (middle["low"], middle["high"], middle["n"], middle["accuracy"]) == pytest.approx((0.7, 0.8, 1, 1))
    assert (high["low"], high["high"], high["n"], high["accuracy"]) == pytest.approx((0.9, 1.0, 3, 2 / 3))
    assert high["confidence"] == pytest.approx((0.95 + 0.98 + 0.93) / 3)
    # (2·0.065 + 1·0.28 + 3·0.28667)/6
    assert got["ece"] == pytest.approx((0.13 + 0.28 + 0.86) / 6)


def test_a_sure_and_right_model_has_no_error() -> None:
    got = calibration(torch.ones(4))
    assert got["ece"] == 0
    assert got["calibration"] == [{"low": 0.9, "high": 1.0, "confidence": 1.0, "accuracy": 1.0, "n": 4}]


def test_a_sure_and_wrong_model_has_error_1() -> None:
    assert calibration(torch.zeros(4))["ece"] == 1


def test_a_tie_is_not_a_right_answer() -> None:
    got = calibration(torch.full((10,), 0.5))
    assert got["calibration"][0]["accuracy"] == 0
    assert got["calibration"][0]["n"] == 10
    assert got["ece"] == pytest.approx(0.5)


def test_probabilities_that_come_true_as_often_as_they_say_have_little_error() -> None:
    g = torch.Generator().manual_seed(0)
    says = 0.5 + 0.5 * torch.rand(20_000, generator=g, dtype=torch.float64)
    right = torch.rand(20_000, generator=g, dtype=torch.float64) < says
    honest = torch.where(right, says, 1 - says)
    assert calibration(honest, bins=10)["ece"] < 0.02
    # twice as sure in log-odds: the error is that of the distortion, not of the sample
    sure = torch.sigmoid(2 * torch.logit(honest))
    assert calibration(sure, bins=10)["ece"] > 0.05


def test_every_pair_is_in_one_bin() -> None:
    preferred = torch.rand(500, generator=torch.Generator().manual_seed(0))
    for bins in (1, 3, 5, 10):
        rows = calibration(preferred, bins=bins)["calibration"]
        assert sum(row["n"] for row in rows) == 500
        assert all(row["low"] - 1e-6 <= row["confidence"] <= row["high"] + 1e-6 for row in rows)
        right = (preferred > 0.5).sum().item()
        assert sum(row["n"] * row["accuracy"] for row in rows) == pytest.approx(right)


def test_no_pairs() -> None:
    assert calibration(torch.tensor([])) == {"ece": 0, "calibration": []}
