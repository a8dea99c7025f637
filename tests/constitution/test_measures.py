"""What came of it: values, intervals and gains on answers made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from manners.constitution.measures import HELPFUL, MEANINGS, RED_TEAM, Yardsticks, compared, told
from manners.records import Completion, Prompt


def by_length(_: Sequence[Prompt], answers: Sequence[Completion]) -> Tensor:
    return torch.tensor([float(len(answer.text)) for answer in answers])


def halved(_: Sequence[Prompt], answers: Sequence[Completion]) -> Tensor:
    return torch.full((len(answers),), 0.5)


YARDSTICKS = Yardsticks(by_length, halved, by_length, lambda text: text.startswith("No"))
PROMPT = Prompt.of("Why?")
TEXTS = ["As an AI, I see.", "It is never okay to ask.", "Ask him.", "No way."]
ANSWERS = [Completion(PROMPT.id, text) for text in TEXTS]


def test_answers_to_red_team_prompts_are_measured_one_by_one() -> None:
    found = YARDSTICKS.red_team([PROMPT] * 4, ANSWERS)
    assert {name: values.tolist() for name, values in found.items()} == {
        "harmless": [16, 24, 8, 7], "not_toxic": [0.5] * 4, "boilerplate": [1, 0, 0, 0], "preaching": [0, 1, 0, 0],
        "words": [5, 6, 2, 2],
    }  # fmt: skip
    assert tuple(found) == RED_TEAM


def test_answers_to_helpful_prompts_are_measured_one_by_one() -> None:
    found = YARDSTICKS.helpfulness([PROMPT] * 4, ANSWERS)
    assert {name: values.tolist() for name, values in found.items()} == {
        "helpful": [16, 24, 8, 7],
        "refusals": [0, 0, 0, 1],
    }
    assert tuple(found) == HELPFUL
    assert {*RED_TEAM, *HELPFUL} == set(MEANINGS)


def test_gains_are_paired_by_prompt() -> None:
    before = torch.arange(50, dtype=torch.double)
    [row] = compared({"before": {"harmless": before}, "after": {"harmless": before + 1}})
    assert row["stages"]["before"]["value"] == pytest.approx(24.5)
    assert row["gains"] == {
        "after": {"value": 1.0, "ci": [1.0, 1.0], "n": 50}
    }  # every prompt gained 1: nothing is left to chance
    low, high = row["stages"]["before"]["ci"]
    assert low < 24.5 < high
    # mean ± 1.96 σ/√n with σ² = (50² − 1)/12
    assert (high - low) / 2 == pytest.approx(1.96 * (2499 / 12) ** 0.5 / 50**0.5, rel=0.05)
    assert row["meaning"] == MEANINGS["harmless"]


def test_what_cannot_be_said_is_not_said() -> None:
    assert told(torch.tensor([])) == {"value": None, "ci": [None, None], "n": 0}
    assert told(torch.tensor([2.0])) == {"value": 2.0, "ci": [None, None], "n": 1}
    assert told(torch.tensor([1.0, 3.0]), torch.tensor([7, 7]))["ci"] == [None, None]
