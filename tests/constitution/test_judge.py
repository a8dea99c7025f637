"""Labels and scores by hand."""

from __future__ import annotations

import math

import pytest

from manners.constitution.judge import (
    Verdict,
    both_orders,
    clamped,
    entropy,
    expected_score,
    flipped,
    soft_label,
)


def test_a_soft_label_by_hand() -> None:
    # e⁻¹ / (e⁻¹ + e⁻²) = 1 / (1 + e⁻¹)
    assert soft_label((-1.0, -2.0)) == pytest.approx(0.7310585786)
    assert soft_label((math.log(0.06), math.log(0.02))) == pytest.approx(0.75)
    assert soft_label((-3.0, -3.0)) == 0.5


def test_a_soft_label_is_a_probability_however_far_apart_the_options_are() -> None:
    assert soft_label((-1e3, 0.0)) == 0.0
    assert soft_label((0.0, -1e3)) == 1.0
    assert soft_label((-2.0, -5.0)) + soft_label((-5.0, -2.0)) == pytest.approx(1.0)


def test_both_orders_are_averaged_as_probabilities() -> None:
    # The first answer has 0.8 in its own place and 1 − 0.4 in the other: (0.8 + 0.6) / 2.
    assert both_orders(0.8, 0.4) == pytest.approx(0.7)


@pytest.mark.parametrize("bias", [0.0, 0.3, 0.5, 1.0])
def test_a_judge_that_looks_at_the_place_alone_says_nothing(bias: float) -> None:
    assert both_orders(bias, bias) == 0.5


@pytest.mark.parametrize("bias", [-6.0, -1.0, 0.0, 2.0, 6.0])
@pytest.mark.parametrize("worth", [-2.0, -0.1, 0.1, 2.0])
def test_a_pull_of_the_first_place_never_turns_the_winner_over(bias: float, worth: float) -> None:
    shown, swapped = soft_label((worth + bias, 0.0)), soft_label((bias, worth))
    assert (both_orders(shown, swapped) > 0.5) == (worth > 0)
    assert flipped(shown, swapped) == (abs(bias) > abs(worth))


def test_a_flip_needs_two_winners() -> None:
    assert flipped(0.6, 0.7)
    assert not flipped(0.6, 0.4)
    assert not flipped(0.5, 0.9)
    assert not flipped(0.9, 0.5)


@pytest.mark.parametrize(("label", "kept"), [(0.99, 0.60), (0.0, 0.40), (0.45, 0.45), (0.60, 0.60), (0.61, 0.60)])
def test_a_label_after_thinking_is_clamped(label: float, kept: float) -> None:
    assert clamped(label) == kept


def test_the_expected_score_by_hand() -> None:
    def of(weights: dict[int, float]) -> float:
        return expected_score([math.log(weights[i]) if i in weights else -math.inf for i in range(1, 11)])

    assert of({10: 1.0}) == 1.0
    assert of({1: 1.0}) == -1.0
    assert of(dict.fromkeys(range(1, 11), 0.1)) == pytest.approx(0.0)
    # 0.75 · 8 + 0.25 · 4 = 7, and (7 − 5.5) / 4.5 = 1/3
    assert of({8: 0.75, 4: 0.25}) == pytest.approx(1 / 3)
    # the same odds with most mass on other tokens
    assert of({8: 0.0003, 4: 0.0001}) == pytest.approx(1 / 3)


def test_doubt_in_nats() -> None:
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(0.25) == pytest.approx(0.5623351446)
    assert entropy(0.0) == entropy(1.0) == 0.0


def test_a_verdict_comes_back_from_json() -> None:
    for verdict in (Verdict.of((-1.5, -0.5), "because"), Verdict(1.0)):
        assert Verdict.from_json(verdict.to_json()) == verdict
