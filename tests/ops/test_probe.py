"""The linear probe against scikit-learn, and its choice of strength."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from manners.ops.probe import choose_strength, fit_probe


def _differences(count: int, noise: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator) * torch.tensor([1.0, 5.0, 0.2, 1.0, 1.0, 3.0])
    score = x[:, 0] - 0.3 * x[:, 1] + noise * torch.randn(count, generator=generator)
    return torch.where(score[:, None] > 0, x, -x)


@pytest.mark.parametrize("strength", [1.0, 0.05])
def test_is_the_logistic_regression_of_scikit_learn_without_an_intercept(strength: float) -> None:
    x = _differences(200, noise=1.0)
    scale = x.double().square().mean(0).sqrt().numpy()
    both = np.concatenate([x.numpy() / scale, -x.numpy() / scale])  # scikit-learn wants both classes
    labels = np.repeat([1, 0], len(x))
    judge = LogisticRegression(C=1 / (strength * len(both)), fit_intercept=False, tol=1e-10, max_iter=10_000).fit(
        both, labels
    )
    ours = fit_probe(x, torch.ones(len(x)), strength).numpy() * scale
    np.testing.assert_allclose(ours, judge.coef_[0], atol=1e-4)


def test_a_weight_of_two_is_the_row_twice() -> None:
    x = _differences(50, noise=1.0)
    weights = torch.ones(50)
    weights[:10] = 2
    # the same scale in both, so that the penalty is the same
    x = x / x.square().mean(0).sqrt()
    twice = torch.cat([x, x[:10]])
    found, wanted = fit_probe(x, weights, 1e-3), fit_probe(twice, torch.ones(60), 1e-3)
    torch.testing.assert_close(found, wanted, atol=0.05, rtol=0.05)


def test_a_huge_strength_gives_no_preference() -> None:
    assert fit_probe(_differences(50, noise=0.0), torch.ones(50), 1e9).abs().max() < 1e-6


def test_noise_asks_for_more_strength_than_signal() -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(60, 6, generator=generator)
    clusters = torch.arange(60)
    assert choose_strength(noise, torch.ones(60), clusters) > choose_strength(
        _differences(60, noise=0.0), torch.ones(60), clusters
    )


def test_rows_of_one_cluster_are_never_on_both_sides() -> None:
    # every row stands twice: with folds by row the copy would give the answer away and the weakest strength would win
    generator = torch.Generator().manual_seed(2)
    once = torch.randn(40, 30, generator=generator)
    twice = once.repeat_interleave(2, 0)
    by_prompt = torch.arange(40).repeat_interleave(2)
    leaky = choose_strength(twice, torch.ones(80), torch.arange(80))
    assert choose_strength(twice, torch.ones(80), by_prompt) > leaky
