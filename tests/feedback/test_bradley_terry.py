"""Scores against closed forms, against a general minimiser, and in worlds whose truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t

from manners.feedback.bradley_terry import Comparison, UndefinedError, fit, sigmoid, t_quantile


def votes(*outcomes: tuple[int, int, float, int]) -> list[Comparison]:
    """(first, second, won, how often), each on a prompt of its own."""
    return [
        Comparison(first, second, won, f"{first}{second}{won}{k}")
        for first, second, won, often in outcomes
        for k in range(often)
    ]


def test_two_models_are_apart_by_the_log_odds_of_their_wins_with_ties_as_halves() -> None:
    found = fit(votes((0, 1, 1, 30), (0, 1, 0, 14), (0, 1, 0.5, 12)), 2)
    value, low, high = found.difference(0, 1)
    assert value == pytest.approx(math.log((30 + 6) / (14 + 6)))
    assert found.ability(0)[0] == -found.ability(1)[0] == pytest.approx(value / 2)
    # The delta method by hand: the variance of the mean outcome, over the square of the logistic slope.
    won = np.array([1.0] * 30 + [0.0] * 14 + [0.5] * 12)
    share = won.mean()
    half = t.ppf(0.975, 55) * won.std(ddof=1) / math.sqrt(56) / (share * (1 - share))
    assert (low, high) == pytest.approx((value - half, value + half), rel=1e-6)


def test_a_chain_of_models_has_its_closed_form() -> None:
    """Without a cycle every link is fitted exactly: 0 beats 1 by 3 to 1, 1 beats 2 by 2 to 1."""
    found = fit(votes((0, 1, 1, 3), (1, 0, 1, 1), (2, 1, 0, 2), (1, 2, 0, 1)), 3)
    assert found.difference(0, 1)[0] == pytest.approx(math.log(3))
    assert found.difference(1, 2)[0] == pytest.approx(math.log(2))
    assert found.difference(0, 2)[0] == pytest.approx(math.log(6))
    assert sum(found.ability(k)[0] for k in range(3)) == pytest.approx(0)


def world(
    players: int, prompts: int, each: int, seed: int, slope: float = 0.0, spread: float = 0.0
) -> list[Comparison]:
    """Comparisons between models of ability 0, 0.4, 0.8 …, with prompts that lean to one side, and lengths that matter."""
    draws = random.Random(seed)
    made = []
    for prompt in range(prompts):
        lean = draws.gauss(0, spread)
        for _ in range(each):
            first, second = draws.sample(range(players), 2)
            length = draws.gauss(0.5 * (first - second), 1)
            logit = 0.4 * (first - second) + slope * length + (lean if first > second else -lean)
            won = 1.0 if draws.random() < sigmoid(logit) else 0.0
            if draws.random() < 0.15:
                won = 0.5
            made.append(Comparison(first, second, won, str(prompt), length))
    return made


def by_scipy(comparisons: Sequence[Comparison], players: int, covariate: bool) -> tuple[Any, Any]:
    """The same by a general minimiser, and the sandwich from the rows of a dense design."""
    X = np.zeros((len(comparisons), players - 1 + covariate))
    for row, c in zip(X, comparisons, strict=True):
        for player, sign in ((c.first, 1), (c.second, -1)):
            if player:
                row[player - 1] += sign
        if covariate:
            row[-1] = c.covariate
    y = np.array([c.won for c in comparisons])

    def loss(beta: Any) -> Any:
        return (np.logaddexp(0, X @ beta) - y * (X @ beta)).sum()

    beta = minimize(loss, np.zeros(X.shape[1]), method="BFGS", options={"gtol": 1e-9}).x
    p = 1 / (1 + np.exp(-X @ beta))
    H = X.T @ (X * (p * (1 - p))[:, None])
    names = sorted({c.cluster for c in comparisons})
    U = np.zeros((len(names), X.shape[1]))
    for c, row in zip(comparisons, X * (y - p)[:, None], strict=True):
        U[names.index(c.cluster)] += row
    V = np.linalg.inv(H) @ (U.T @ U) @ np.linalg.inv(H) * len(names) / (len(names) - 1)
    return beta, V


@pytest.mark.filterwarnings("ignore:Desired error not necessarily achieved")
@pytest.mark.parametrize("covariate", [False, True])
@pytest.mark.parametrize("players", [2, 5])
def test_scores_and_intervals_are_those_of_a_general_minimiser(players: int, covariate: bool) -> None:
    comparisons = world(players, 40, 5, players, slope=0.5)
    beta, V = by_scipy(comparisons, players, covariate)
    found = fit(comparisons, players, covariate)
    assert found.parameters == pytest.approx(list(beta), abs=1e-5)
    quantile = t.ppf(0.975, 39)
    for one in range(players):
        for other in range(one):
            contrast = np.zeros(len(beta))
            for player, sign in ((one, 1), (other, -1)):
                if player:
                    contrast[player - 1] += sign
            value, low, high = found.difference(one, other)
            assert (high - low) / 2 == pytest.approx(quantile * math.sqrt(contrast @ V @ contrast), rel=1e-4)
            assert (low + high) / 2 == pytest.approx(value)
    centred = np.eye(players)[:, 1:] - 1 / players
    for player in range(players):
        value, low, _ = found.ability(player)
        assert value == pytest.approx(centred[player] @ beta[: players - 1], abs=1e-5)
        wanted = quantile * math.sqrt(centred[player] @ V[: players - 1, : players - 1] @ centred[player])
        assert value - low == pytest.approx(wanted, rel=1e-4)


def test_which_side_an_answer_stands_on_changes_nothing() -> None:
    comparisons = world(3, 20, 4, 1, slope=0.5)
    turned = [
        Comparison(c.second, c.first, 1 - c.won, c.cluster, -c.covariate) if k % 2 else c
        for k, c in enumerate(comparisons)
    ]
    one, other = fit(comparisons, 3, True), fit(turned, 3, True)
    assert one.parameters == pytest.approx(other.parameters)
    assert one.slope() == pytest.approx(other.slope())


def test_asking_the_same_prompts_again_does_not_pretend_to_know_more() -> None:
    comparisons = world(3, 30, 3, 2)
    one, ten = fit(comparisons, 3), fit(comparisons * 10, 3)
    assert one.difference(0, 2) == pytest.approx(ten.difference(0, 2))


@pytest.mark.parametrize(
    ("outcomes", "reason"),
    [
        ((), "no votes"),
        (((0, 1, 1, 9),), "one side won every vote"),
        (((0, 1, 1, 9), (1, 2, 1, 3), (1, 2, 0, 3)), "one side won every vote"),
        (((0, 1, 1, 9), (0, 1, 0, 9)), "never compared"),
        (((0, 1, 0.5, 9), (1, 2, 0.5, 3)), "came out alike on every prompt"),
    ],
)
def test_where_there_are_no_scores_it_says_why(outcomes: Any, reason: str) -> None:
    with pytest.raises(UndefinedError, match=reason):
        fit(votes(*outcomes), 3 if len(outcomes) != 1 else 2)


def test_one_prompt_tells_nothing_of_others() -> None:
    comparisons = [Comparison(0, 1, float(k % 2), "the only one") for k in range(10)]
    with pytest.raises(UndefinedError, match="on one prompt"):
        fit(comparisons, 2)


def test_a_covariate_that_tells_everything_or_nothing_new() -> None:
    lengths = [-1.0, -0.5, 0.7, 1.2]
    # Both models win, and always the longer answer.
    told = [Comparison(0, 1, float(length > 0), str(k), length) for k, length in enumerate(lengths)]
    assert fit(told, 2).difference(0, 1)[0] == pytest.approx(0)
    with pytest.raises(UndefinedError, match="together tell every vote"):
        fit(told, 2, True)
    same = [Comparison(0, 1, float(k % 2), str(k), 1.5) for k in range(8)]
    with pytest.raises(UndefinedError, match="cannot be told from the models"):
        fit(same, 2, True)


@pytest.mark.parametrize("lean", [0.0, 1.0])
def test_intervals_cover_the_truth_as_often_as_they_say(lean: float) -> None:
    """Three votes on each of 40 prompts, which may have a side of their own: 95 % intervals miss in about one world of twenty."""
    worlds, hit = 120, 0
    # The share of wins, averaged over the prompts' leanings by Gauss-Hermite quadrature, with 15 % ties.
    points, weights = np.polynomial.hermite_e.hermegauss(40)
    share = (weights / weights.sum()) @ (1 / (1 + np.exp(-0.4 - lean * points)))
    share = 0.15 * 0.5 + 0.85 * share
    truth = math.log(share / (1 - share))
    for seed in range(worlds):
        _, low, high = fit(world(2, 40, 3, seed, spread=lean), 2).difference(1, 0)
        hit += low < truth < high
    # 120 worlds: three standard errors are six points.
    assert hit / worlds > 0.89


def test_length_control_takes_out_a_planted_preference_for_length() -> None:
    """Model 1 is no better, only longer, and judges like length."""
    draws = random.Random(0)
    comparisons = []
    for prompt in range(800):
        length = draws.gauss(0.8, 1)
        won = float(draws.random() < sigmoid(1.1 * length))
        comparisons.append(Comparison(1, 0, won, str(prompt), length))
    _, low, _ = fit(comparisons, 2).difference(1, 0)
    assert low > 0.3
    controlled = fit(comparisons, 2, True)
    value, low, high = controlled.difference(1, 0)
    assert low < 0 < high
    assert abs(value) < 0.25
    slope, low, high = controlled.slope()
    assert low < 1.1 < high
    assert slope == pytest.approx(1.1, abs=0.25)


@pytest.mark.parametrize("freedom", [2, 3, 5, 10, 59, 1000])
def test_the_quantile_is_students(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=0.01)


def test_far_apart_is_no_overflow() -> None:
    assert [sigmoid(x) for x in (-1000.0, 0.0, 1000.0)] == [0.0, 0.5, 1.0]
    found = fit(votes((0, 1, 1, 4000), (0, 1, 0, 1)), 2)
    assert found.difference(0, 1)[0] == pytest.approx(math.log(4000))
