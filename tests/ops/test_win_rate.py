from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from manners.ops.win_rate import both_orders, length_controlled


def test_a_winner_that_changes_with_the_order_is_a_tie() -> None:
    first = torch.tensor([0.9, 0.9, 0.2, 0.5, 1.0])
    second = torch.tensor([0.7, 0.1, 0.4, 0.9, 1.0])
    assert both_orders(first, second).tolist() == pytest.approx([0.8, 0.5, 0.3, 0.7, 1.0])


def test_equal_lengths_give_the_plain_win_rate() -> None:
    wins = torch.tensor([1.0, 1.0, 1.0, 0.0]).repeat(50)
    assert length_controlled(wins, torch.zeros(200)).item() == pytest.approx(0.75, abs=2e-4)
    assert length_controlled(wins, torch.full((200,), 9.0)).item() == pytest.approx(0.75, abs=2e-4)


def test_the_fit_is_that_of_scipy() -> None:
    draws = torch.Generator().manual_seed(0)
    lengths = 30 * torch.randn(200, generator=draws)
    wins = (torch.rand(200, generator=draws) < torch.sigmoid(0.4 + 1.5 * torch.tanh(lengths / 30))).double()
    x = np.tanh(lengths.numpy() / lengths.double().std(correction=0).item())

    def loss(w: np.ndarray) -> float:
        z = w[0] + w[1] * x
        return float((np.logaddexp(0, z) - wins.numpy() * z).sum() + 0.005 * (w**2).sum())

    best = minimize(loss, np.zeros(2), tol=1e-10).x
    assert length_controlled(wins, lengths).item() == pytest.approx(1 / (1 + np.exp(-best[0])), abs=1e-5)


def test_a_model_that_wins_by_length_alone_wins_nothing_at_equal_length() -> None:
    draws = torch.Generator().manual_seed(1)
    lengths = 20 * torch.randn(4000, generator=draws) + 15
    wins = (torch.rand(4000, generator=draws) < torch.sigmoid(2 * torch.tanh(lengths / lengths.std()))).double()
    assert wins.mean() > 0.65
    assert length_controlled(wins, lengths).item() == pytest.approx(0.5, abs=0.03)


def test_always_winning_stays_finite() -> None:
    found = length_controlled(torch.ones(30), torch.arange(30))
    assert 0.97 < found.item() < 1


def test_a_weight_is_a_repetition() -> None:
    wins, lengths = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([2.0, -1.0, -3.0, 2.0])
    twice = length_controlled(wins, lengths, torch.tensor([[2.0, 2.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
    assert twice[0].item() == pytest.approx(length_controlled(wins.repeat(2), lengths.repeat(2)).item())
    assert twice[1].item() == pytest.approx(length_controlled(wins, lengths).item())
