"""The Ties score by hand: every part, every case."""

from __future__ import annotations

import math

import pytest
import torch

from manners.evaluate.preferences import Preference
from manners.evaluate.scores import Scored
from manners.evaluate.ties import ties_score
from manners.records import Prompt


def row(key: str, right: list[float], wrong: list[float]) -> Scored:
    preference = Preference(
        Prompt.of(f"question {key}"),
        tuple(f"right {i}" for i in range(len(right))),
        tuple(f"wrong {i}" for i in range(len(wrong))),
        "Ties",
        key,
        "ties",
    )
    return Scored(preference, torch.tensor(right).double(), torch.tensor(wrong).double())


def value(*rows: Scored) -> float:
    return ties_score(rows).estimate()["value"]


def test_a_judge_that_is_right_by_far_gets_a_little_more_than_1() -> None:
    # margin of tied 10 − 0 − …: the worst right answer 10, the best wrong 0, right answers 1 apart; ref: 8
    found = value(row("ref:1", [8.0], [0.0, -1.0]), row("tied:1", [11.0, 10.0], [0.0]))
    assert found == pytest.approx(1 + 0.01 * math.tanh(8 / 1 - 1))


def test_right_answers_further_apart_than_from_the_wrong_ones_cost_two_parts() -> None:
    # tied: margin 1, spread 4; ref: margin 2. Accurate in both, prefers neither way, tanh(min(1, 2)/4 − 1)
    found = value(row("ref:1", [2.0], [0.0]), row("tied:1", [5.0, 1.0], [0.0]))
    assert found == pytest.approx(0.6 + 0.01 * math.tanh(1 / 4 - 1))


def test_the_hard_part_takes_the_smaller_of_the_two_margins() -> None:
    # tied: margin 5 > spread 2, but ref: margin 1 < spread
    found = value(row("ref:1", [1.0], [0.0]), row("tied:1", [7.0, 5.0], [0.0]))
    assert found == pytest.approx(0.6 + 0.2 + 0.01 * math.tanh(1 / 2 - 1))


def test_a_wrong_answer_above_the_worst_right_one_is_not_accurate() -> None:
    # tied: margin 1 − 3 = −2 < spread 4; ref: equal scores are not above
    found = value(row("ref:1", [2.0], [2.0]), row("tied:1", [5.0, 1.0], [3.0]))
    assert found == pytest.approx(0.01 * math.tanh(-2 / 4 - 1))


def test_equal_right_answers_have_no_ratio_of_margins() -> None:
    assert value(row("ref:1", [2.0], [0.0]), row("tied:1", [3.0, 3.0], [0.0])) == pytest.approx(1.0)


def test_means_are_over_the_questions_that_speak_of_a_part() -> None:
    """Question 2 has no tied row: its accuracy counts, and nothing else."""
    found = ties_score([row("ref:1", [8.0], [0.0]), row("tied:1", [4.0, 3.0], [0.0]), row("ref:2", [0.0], [1.0])])
    told = found.estimate()
    assert told["value"] == pytest.approx(0.3 * 1 + 0.3 * 0.5 + 0.2 + 0.2 + 0.01 * math.tanh(3 - 1))
    assert (told["n"], told["prompts"]) == (2, 2)


def test_without_tied_rows_only_the_plain_accuracy_counts() -> None:
    assert value(row("ref:1", [1.0], [0.0]), row("ref:2", [0.0], [1.0])) == pytest.approx(0.15)
