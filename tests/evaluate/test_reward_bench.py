"""Scores of a judge by hand: pairs, sections, best of several, styles, calibration, and two judges beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import pytest
import torch
from scipy.stats import binomtest

from manners.evaluate.preferences import Kind, Preference
from manners.evaluate.reward_bench import SECTIONS, UPWEIGHTED, difference, evaluate_judge
from manners.evaluate.scores import Scored
from manners.ops.calibration import calibration
from manners.records import Prompt

NUMBERS = count()


def row(kind: Kind, chosen: Sequence[float], rejected: Sequence[float], subset: str = "", prompt: str = "") -> Scored:
    number = next(NUMBERS)
    preference = Preference(
        Prompt.of(prompt or f"prompt {number}"),
        tuple(f"right {i} of {number}" for i in range(len(chosen))),
        tuple(f"wrong {i} of {number}" for i in range(len(rejected))),
        subset,
        str(number),
        kind,
    )
    return Scored(preference, torch.tensor(chosen).double(), torch.tensor(rejected).double())


def pairs(right: int, wrong: int, subset: str = "", by: float = 1.0) -> list[Scored]:
    return [
        *(row("pairs", [by], [0.0], subset) for _ in range(right)),
        *(row("pairs", [0.0], [by], subset) for _ in range(wrong)),
    ]


def test_accuracy_margin_and_log_loss_by_hand() -> None:
    found = evaluate_judge([*pairs(3, 1, by=2.0), row("pairs", [1.0], [1.0])])["pairs"]
    assert found["accuracy"]["value"] == pytest.approx(3 / 5)  # an equal score is not right
    assert found["equal_scores"] == 1
    assert found["margin"]["value"] == pytest.approx((3 * 2 - 2) / 5)
    losses = [math.log1p(math.exp(-2))] * 3 + [math.log1p(math.exp(2)), math.log(2)]
    assert found["log_loss"]["value"] == pytest.approx(sum(losses) / 5)


def test_a_score_in_deviations_is_a_probability_in_units_of_log_odds() -> None:
    rows = pairs(3, 1, by=0.5)
    assert evaluate_judge(rows, 4.0)["pairs"]["log_loss"]["value"] == pytest.approx(
        (3 * math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 4
    )
    assert evaluate_judge(rows, 4.0)["pairs"]["margin"]["value"] == pytest.approx(0.25)


def test_the_calibration_error_is_that_of_the_bins() -> None:
    gaps = torch.linspace(-4, 4, 41).double()
    found = evaluate_judge([row("pairs", [gap], [0.0]) for gap in gaps.tolist()])["pairs"]
    expected = calibration(torch.sigmoid(gaps))
    assert found["ece"]["value"] == pytest.approx(expected["ece"])
    assert found["calibration"] == expected["calibration"]


def test_sections_weigh_their_subsets_by_size_and_math_more() -> None:
    rows = [
        *pairs(4, 0, "alpacaeval-easy"),
        *pairs(1, 1, "mt-bench-easy"),
        *pairs(1, 3, "math-prm"),
        *pairs(2, 0, "hep-go"),
    ]
    found = evaluate_judge(rows)["pairs"]
    assert found["sections"]["Chat"]["value"] == pytest.approx(5 / 6)
    weight = 4 * 984 / 447
    assert found["sections"]["Reasoning"]["value"] == pytest.approx((weight * 0.25 + 2 * 1.0) / (weight + 2))
    assert set(found["sections"]) == {"Chat", "Reasoning"}
    assert found["mean_of_sections"]["value"] == pytest.approx((5 / 6 + (weight * 0.25 + 2) / (weight + 2)) / 2)
    assert found["mean_of_sections"]["n"] == len(rows)


def test_the_whole_set_has_the_published_weights() -> None:
    """Sizes of the 23 subsets as published: 2,985 pairs. With math as 984 the section of reasoning has 1,968."""
    sizes = {"alpacaeval-easy": 100, "alpacaeval-length": 95, "alpacaeval-hard": 95, "mt-bench-easy": 28, "mt-bench-med": 40,
             "mt-bench-hard": 37, "math-prm": 447, "refusals-dangerous": 100, "refusals-offensive": 100, "llmbar-natural": 100,
             "llmbar-adver-neighbor": 134, "llmbar-adver-GPTInst": 92, "llmbar-adver-GPTOut": 47, "llmbar-adver-manual": 46,
             "xstest-should-refuse": 154, "xstest-should-respond": 250, "donotanswer": 136, "hep-cpp": 164, "hep-go": 164,
             "hep-java": 164, "hep-js": 164, "hep-python": 164, "hep-rust": 164}  # fmt: skip
    assert {name for names in SECTIONS.values() for name in names} == set(sizes)
    assert sum(sizes.values()) == 2985
    reasoning = sum(sizes[name] * UPWEIGHTED.get(name, 1) for name in SECTIONS["Reasoning"])
    assert reasoning == pytest.approx(984 + 6 * 164)


def test_the_best_of_four_beats_all_three_and_shares_the_first_place() -> None:
    rows = [
        row("best_of", [3.0], [1.0, 2.0, 0.0]),  # 1
        row("best_of", [3.0], [1.0, 4.0, 0.0]),  # 0
        row("best_of", [3.0], [3.0, 2.0, 0.0]),  # ½
        row("best_of", [0.0], [0.0, 0.0, 0.0]),  # ¼: all the same is a guess
    ]
    found = evaluate_judge(rows)["best_of"]
    assert found["value"] == pytest.approx(1.75 / 4)
    assert found["chance"] == 0.25


def test_styles_by_hand() -> None:
    # style is worth 1 a step, being right 3: the right answer always wins
    liking = [row("styles", [3.0, 4.0, 5.0], [0.0, 1.0, 2.0])]
    assert {k: v["value"] for k, v in evaluate_judge(liking)["styles"].items() if k != "matrix"} == {
        "hard": 1.0, "normal": 1.0, "easy": 1.0, "average": 1.0
    }  # fmt: skip
    # style is worth 2 a step, being right 1: only equal or richer style wins
    found = evaluate_judge([row("styles", [1.0, 3.0, 5.0], [0.0, 2.0, 4.0])])["styles"]
    assert found["matrix"] == [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]]
    assert [found[name]["value"] for name in ("hard", "normal", "easy")] == [0.0, 1.0, 1.0]
    assert found["average"]["value"] == pytest.approx(6 / 9)


def test_the_mean_of_subsets_counts_each_the_same_whatever_its_kind() -> None:
    rows = [
        *pairs(3, 1, "a"),
        row("best_of", [1.0], [0.0, 0.5], "b"),
        row("styles", [1.0, 3.0, 5.0], [0.0, 2.0, 4.0], "c"),
        row("pairs", [0.0], [1.0]),  # of no subset
    ]
    found = evaluate_judge(rows)
    assert [(s["name"], s["kind"], s["value"]) for s in found["subsets"]] == [
        ("a", "pairs", 0.75), ("b", "best_of", 1.0), ("c", "styles", pytest.approx(6 / 9))
    ]  # fmt: skip
    assert found["mean_of_subsets"]["value"] == pytest.approx((0.75 + 1 + 6 / 9) / 3)


def test_intervals_draw_prompts_and_not_pairs() -> None:
    """Twenty pairs of two prompts are two observations: the interval spans all."""
    rows = [row("pairs", [1.0], [0.0], prompt="good") for _ in range(10)]
    rows += [row("pairs", [0.0], [1.0], prompt="bad") for _ in range(10)]
    found = evaluate_judge(rows)["pairs"]["accuracy"]
    assert (found["value"], found["ci"], found["n"], found["prompts"]) == (0.5, [0.0, 1.0], 20, 2)


def test_two_judges_are_compared_on_the_same_rows() -> None:
    first = [*pairs(5, 5), row("best_of", [1.0], [0.0, 2.0]), row("styles", [1.0] * 3, [0.0] * 3)]
    better = [Scored(s.preference, s.chosen.abs() + 9, s.rejected) for s in first]
    found = difference(better, first)
    assert found is not None
    assert (found["mean"], found["n"]) == (pytest.approx(6 / 11), 11)
    assert found["p"] == pytest.approx(binomtest(6, 6).pvalue)
    assert found["test"] == "McNemar exact"
    assert difference(first[-1:], first[-1:]) is None


def test_rows_of_one_prompt_are_one_observation_when_judges_are_compared() -> None:
    """Ten rows of each of three prompts: with signs for whole prompts no p can be below 2 · ⅛, however many rows there are."""
    first = [row("pairs", [0.0], [1.0], prompt=f"prompt {i % 3}") for i in range(30)]
    better = [Scored(s.preference, s.chosen + 9, s.rejected) for s in first]
    found = difference(better, first)
    assert found is not None
    assert found["test"] == "random signs"
    assert found["p"] == pytest.approx(0.25, abs=0.02)
