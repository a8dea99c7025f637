from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats

from manners.ops.significance import holm, mcnemar, sign_flip, wilson


@pytest.mark.parametrize(("successes", "count"), [(0, 40), (1, 3), (17, 42), (42, 42)])
def test_wilson_is_scipys(successes: int, count: int) -> None:
    expected = stats.binomtest(successes, count).proportion_ci(method="wilson")
    assert wilson(successes, count) == pytest.approx((successes / count, expected.low, expected.high), abs=1e-6)


def test_wilson_says_something_at_the_ends_and_nothing_of_nothing() -> None:
    assert wilson(0, 40).ends == pytest.approx([0, 0.0876], abs=1e-4)
    assert wilson(0, 0).ends == [None, None]


@pytest.mark.parametrize(("gained", "lost", "same"), [(1, 6, 3), (0, 0, 5), (4, 4, 0), (0, 9, 30), (12, 3, 1)])
def test_mcnemar_is_the_binomial_test_of_what_changed(gained: int, lost: int, same: int) -> None:
    before = torch.tensor([0] * gained + [1] * lost + [1] * same)
    after = torch.tensor([1] * gained + [0] * lost + [1] * same)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(before, after) == pytest.approx(expected)
    assert mcnemar(after, before) == pytest.approx(expected)


def test_mcnemar_by_hand() -> None:
    # seven changed, one of them gained: 2 · (1 + 7) / 128
    assert mcnemar(torch.tensor([0, *[1] * 6]), torch.tensor([1, *[0] * 6])) == 0.125


def test_random_signs_go_through_all_signs_of_few() -> None:
    values = [0.5, 1.5, -0.25, 2.0, 0.75]
    reached = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True))) for signs in itertools.product((1, -1), repeat=5)
    ]
    expected = sum(sum_ >= sum(values) - 1e-12 for sum_ in reached) / 32
    assert sign_flip(torch.tensor([*values, 0.0, 0.0])) == pytest.approx(expected)


def test_random_signs_of_many_are_scipys() -> None:
    values = torch.randn(40, generator=torch.Generator().manual_seed(3)) + 0.3
    found = stats.permutation_test(
        (values.numpy(),), lambda x, axis: x.mean(axis), permutation_type="samples", vectorized=True, n_resamples=20_000,
        rng=1,
    )  # fmt: skip
    assert sign_flip(values) == pytest.approx(found.pvalue, abs=0.01)


def test_values_of_one_cluster_keep_their_signs_together() -> None:
    values, clusters = torch.tensor([1.0, 1.0, 1.0, 1.0]), torch.tensor([0, 0, 1, 1])
    assert sign_flip(values, clusters) == 0.5
    assert sign_flip(values) == 0.125
    assert sign_flip(torch.zeros(4), clusters) == 1


def test_a_p_of_many_is_never_zero() -> None:
    assert sign_flip(torch.ones(50), draws=999) == 0.001


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1, 1]
    assert holm([]) == []


def test_holm_holds_the_chance_of_any_false_word() -> None:
    draws = torch.rand(2000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    wrong = sum(min(holm(row)) <= 0.05 for row in draws.tolist()) / 2000
    assert 0.03 < wrong < 0.07
