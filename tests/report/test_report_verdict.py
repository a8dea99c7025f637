from __future__ import annotations

import math
from typing import Any

import pytest

from manners.report.verdict import (
    best_of_kl,
    classifier_verdict,
    judge_verdict,
    loss_verdict,
    move,
    policy_verdict,
    reading,
    signs,
    unfinished_verdict,
)

UP, FLAT, DOWN = [0.1, 0.3], [-0.1, 0.3], [-0.3, -0.1]


def evaluation(reward: list[float] | None, second: list[float] | None, **after: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [{"name": "reward", "gain": 0.2, "ci": reward}]
    rows += [{"name": "second_judge", "gain": 0.2, "ci": second}] if second else []
    rows += [{"name": name, "before": 0, "after": value} for name, value in after.items()]
    return {"rows": rows}


@pytest.mark.parametrize(
    ("reward", "second", "tone"),
    [
        (UP, UP, "better"), (UP, FLAT, "hacking"), (UP, DOWN, "hacking"), (UP, None, "unknown"),
        (FLAT, UP, "mixed"), (FLAT, FLAT, "same"), (FLAT, DOWN, "worse"), (FLAT, None, "same"),
        (DOWN, UP, "mixed"), (DOWN, FLAT, "worse"), (DOWN, DOWN, "worse"), (DOWN, None, "worse"),
        (None, UP, "unknown"), (None, FLAT, "unknown"), (None, DOWN, "unknown"), (None, None, "unknown"),
    ],
)  # fmt: skip
def test_the_verdict_follows_both_judges(reward: list[float] | None, second: list[float] | None, tone: str) -> None:
    verdict = policy_verdict(evaluation(reward, second))
    assert verdict.tone == tone
    assert verdict.reasons
    assert ("reward hacking" in verdict.headline.lower()) == (tone == "hacking")


def test_only_both_judges_together_make_it_really_better() -> None:
    headlines = {policy_verdict(evaluation(r, s)).headline for r in (UP, FLAT, DOWN, None) for s in (FLAT, DOWN, None)}
    assert policy_verdict(evaluation(UP, UP)).headline == "It really got better."
    assert "It really got better." not in headlines


def test_a_second_judge_without_clear_difference_says_how_large_a_gain_it_leaves_open() -> None:
    assert any("a gain of up to +0.30 cannot be ruled out" in r for r in policy_verdict(evaluation(UP, FLAT)).reasons)


@pytest.mark.parametrize(
    ("spent", "target", "words"),
    [
        (8.0, 10.0, "stayed within its KL budget: 8.0 of 10.0 nats per sequence"),
        (10.9, 10.0, "stayed within"),
        (11.1, 10.0, "moved further than its KL budget allows: 11.1 of 10.0"),
        (8.0, None, "moved 8.00 nats per sequence"),
    ],
)
def test_kl_is_held_against_its_budget(spent: float, target: float | None, words: str) -> None:
    assert words in policy_verdict(evaluation(UP, UP, kl=spent), target).reasons[-1]


def test_best_of_n_divergence_matches_exact_enumeration() -> None:
    # The best of n draws from m equally likely answers without ties in score: p(i) = (i^n - (i-1)^n) / m^n.
    n, m = 4, 200_000
    exact = sum(p * math.log(p * m) for i in range(1, m + 1) if (p := (i**n - (i - 1) ** n) / m**n))
    assert best_of_kl(n) == pytest.approx(exact, abs=1e-4)
    assert best_of_kl(1) == 0


@pytest.mark.parametrize(
    ("ci", "expected"),
    [([0.0, 1.0], "flat"), ([-1.0, 0.0], "flat"), ([1e-9, 1.0], "up"), ([-1.0, -1e-9], "down"), (None, "unknown"),
     ([float("nan"), 1.0], "unknown")],
)  # fmt: skip
def test_a_gain_counts_only_when_its_interval_leaves_out_zero(ci: list[float] | None, expected: str) -> None:
    assert move({"ci": ci}) == expected


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"better": "higher", "ci": UP}, "better"),
        ({"better": "higher", "ci": DOWN}, "worse"),
        ({"better": "lower", "ci": UP}, "worse"),
        ({"better": "lower", "ci": DOWN}, "better"),
        ({"better": "neither", "ci": UP}, "higher"),
        ({"better": "neither", "ci": DOWN}, "lower"),
        ({"name": "reward", "ci": UP}, "better"),
        ({"name": "length", "ci": UP}, "higher"),
        ({"better": "higher", "ci": FLAT}, "no clear change"),
        ({"better": "higher"}, "not tested"),
    ],
)
def test_a_row_is_read_by_its_direction(row: dict[str, Any], words: str) -> None:
    assert reading(row) == words


def test_without_evaluation_the_curves_are_told_and_called_no_proof() -> None:
    verdict = unfinished_verdict([(1, {"reward": -0.5}), (2, {}), (7, {"reward": 0.25})])
    assert verdict.tone == "unknown"
    assert "prove nothing" in verdict.reasons[0]
    assert verdict.reasons[1] == "Reward went from −0.50 at step 1 to 0.25 at step 7."
    assert unfinished_verdict([]).headline == "Nothing was recorded."


@pytest.mark.parametrize(
    ("found", "tone"),
    [
        ({"accuracy": 0.7, "ci": [0.66, 0.74], "length_baseline": 0.57}, "better"),
        ({"accuracy": 0.7, "ci": [0.66, 0.74]}, "better"),
        ({"accuracy": 0.6, "ci": [0.55, 0.65], "length_baseline": 0.57}, "mixed"),
        ({"accuracy": 0.52, "ci": [0.48, 0.56]}, "same"),
        ({"accuracy": 0.4, "ci": [0.36, 0.44]}, "worse"),
        ({"accuracy": 0.7}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_a_judge_is_held_against_a_coin_and_against_length(found: dict[str, Any], tone: str) -> None:
    assert judge_verdict(found).tone == tone


def test_a_judge_that_leans_on_length_is_told_so() -> None:
    found = {"accuracy": 0.7, "ci": [0.6, 0.8], "length_correlation": -0.6}
    assert any("will write shorter answers" in reason for reason in judge_verdict(found).reasons)
    assert not any("length" in reason for reason in judge_verdict(found | {"length_correlation": 0.2}).reasons)


@pytest.mark.parametrize(
    ("span", "tone"), [([0.7, 0.8], "better"), ([0.6, 0.8], "same"), ([0.5, 0.6], "worse"), (None, "unknown")]
)
def test_a_classifier_is_held_against_the_commonest_class(span: list[float] | None, tone: str) -> None:
    assert classifier_verdict({"accuracy": 0.7, "accuracy_95": span, "commonest_class": 0.65}).tone == tone


@pytest.mark.parametrize(
    ("losses", "tone"),
    [([3.0, 2.5, 2.4], "better"), ([3.0, 2.4, 2.44], "better"), ([3.0, 2.4, 2.6], "mixed"), ([3.0, 2.9, 3.1], "worse")],
)
def test_held_out_loss_tells_learning_from_memorising(losses: list[float], tone: str) -> None:
    assert loss_verdict({}, [(i, {"heldout_loss": loss}) for i, loss in enumerate(losses)]).tone == tone


def test_held_out_loss_before_and_after_is_enough() -> None:
    steps = [(0.0, {"loss": 3.0}), (9.0, {"loss": 2.0})]
    assert loss_verdict({"heldout_loss_before": 3.0, "heldout_loss": 2.5}, steps).tone == "better"
    assert loss_verdict({"heldout_loss_before": 2.4, "heldout_loss": 2.5}, steps).tone == "worse"
    assert loss_verdict({}, steps).tone == "unknown"
    assert loss_verdict({}, []).headline == "Nothing was recorded."


def curve(key: str, values: list[float]) -> list[tuple[float, dict[str, Any]]]:
    return [(float(i), {key: v}) for i, v in enumerate(values)]


@pytest.mark.parametrize(
    ("found", "steps", "words"),
    [
        ({"rows": [{"name": "length", "before": 60, "after": 90, "ci": [25, 35]}]}, [], "50\u00a0% longer"),
        ({"rows": [{"name": "length", "before": 60, "after": 30, "ci": [-35, -25]}]}, [], "50\u00a0% shorter"),
        ({"rows": [{"name": "finished", "ci": DOWN}]}, [], "come to an end"),
        ({"rows": [{"name": "distinct_2", "ci": DOWN}]}, [], "repeat word pairs"),
        ({}, curve("entropy", [2, 2, 2, 1, 0.5, 0.5, 0.5]), "from 2.00 to 0.50"),
        ({}, curve("clip_fraction", [0.4] * 6), "40\u00a0% of the tokens"),
        ({}, curve("first_ratio", [1.0, 1.2, 1.0]), "a first ratio of 1.20 where it must be 1"),
        ({}, curve("explained_variance", [0.0] * 12), "value function explains next to nothing"),
    ],
)
def test_signs_are_seen(found: dict[str, Any], steps: list[tuple[float, dict[str, Any]]], words: str) -> None:
    seen = signs(found, steps)
    assert len(seen) == 1
    assert words in seen[0]


def test_a_second_judge_that_turns_down_under_a_rising_reward_is_over_optimisation() -> None:
    second, reward = [0.0, 0.5, 1.0, 0.6], [0.0, 1.0, 2.0, 3.0]

    def steps(reward: list[float]) -> list[tuple[float, dict[str, Any]]]:
        rows = zip(second, reward, strict=True)
        return [(10.0 * i, {"heldout_second_judge": s, "heldout_reward": r}) for i, (s, r) in enumerate(rows)]

    assert ["happiest at step 20" in sign for sign in signs({}, steps(reward))] == [True]
    assert signs({}, steps([0.0, 1.0, 2.0, 1.5])) == ()


def test_a_calm_run_has_no_signs() -> None:
    calm = {"rows": [{"name": "length", "before": 60, "after": 66, "ci": [2, 10]}, {"name": "finished", "ci": UP}]}
    row = {
        "entropy": 2.0,
        "clip_fraction": 0.1,
        "explained_variance": 0.5,
        "heldout_second_judge": 1.0,
        "first_ratio": 1.01,
    }
    assert signs(calm, [(float(i), row) for i in range(20)]) == ()
