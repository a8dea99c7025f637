"""Length bias by hand, and the correlation against scipy."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import pearsonr

from manners.evaluate.length_bias import length_bias
from manners.evaluate.preferences import Preference
from manners.evaluate.scores import Scored
from manners.records import Prompt


def pair(prompt: str, chosen: int, rejected: int, scores: tuple[float, float]) -> Scored:
    """Answers of so many words."""
    preference = Preference(Prompt.of(prompt), ("one " * chosen,), ("two " * rejected,), "", "", "pairs")
    return Scored(preference, torch.tensor([scores[0]]).double(), torch.tensor([scores[1]]).double())


# words of chosen and rejected, and which scored higher
PAIRS = [
    pair("a", 5, 2, (1.0, 0.0)),  # longer, right
    pair("b", 6, 2, (1.0, 0.0)),  # longer, right
    pair("c", 7, 2, (0.0, 1.0)),  # longer, wrong: for the shorter
    pair("d", 1, 4, (1.0, 0.0)),  # shorter, right
    pair("e", 2, 5, (0.0, 3.0)),  # shorter, wrong: for the longer
    pair("f", 2, 6, (0.0, 2.0)),  # shorter, wrong: for the longer
    pair("g", 3, 3, (0.0, 1.0)),  # of one length, wrong
]
RIGHT = torch.tensor([1.0, 1, 0, 1, 0, 0, 0]).double()
PROMPTS = torch.arange(7)


def test_shares_by_hand() -> None:
    found = length_bias(PAIRS, RIGHT, PROMPTS)
    values = {name: number["value"] for name, number in found.items()}
    assert values["accuracy_chosen_longer"] == pytest.approx(2 / 3)
    assert values["accuracy_chosen_shorter"] == pytest.approx(1 / 3)
    assert values["wrong_for_the_longer"] == pytest.approx(2 / 3)
    assert values["prefers_longer"] == pytest.approx(4 / 6)
    assert values["people_prefer_longer"] == pytest.approx(3 / 6)
    assert {name: number["n"] for name, number in found.items()} == {
        "accuracy_chosen_longer": 3, "accuracy_chosen_shorter": 3, "wrong_for_the_longer": 3, "prefers_longer": 6,
        "people_prefer_longer": 6, "correlation": 14,
    }  # fmt: skip


def test_the_correlation_is_within_prompts() -> None:
    """Pearson's over what is left when each prompt's means are taken off; how prompts differ from each other says nothing."""
    pairs = [pair("a", 9, 3, (100.0, 101.0)), pair("b", 2, 4, (-5.0, -2.0)), pair("c", 5, 4, (0.0, -2.0))]
    found = length_bias(pairs, torch.tensor([0.0, 0, 1]).double(), torch.arange(3))["correlation"]
    lengths, scores = [3, -3, -1, 1, 0.5, -0.5], [-0.5, 0.5, -1.5, 1.5, 1, -1]
    assert found["value"] == pytest.approx(pearsonr(lengths, scores).statistic)


def test_an_answer_in_several_pairs_counts_once() -> None:
    one, other = pair("a", 9, 3, (1.0, 0.0)), pair("b", 2, 4, (0.0, 2.0))
    once = length_bias([one, other], torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))["correlation"]
    twice = length_bias([one, one, other], torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0, 0, 1]))["correlation"]
    assert twice["value"] == once["value"]
    assert twice["n"] == 4


def test_where_nothing_varies_there_is_no_correlation() -> None:
    pairs = [pair("a", 3, 3, (1.0, 0.0)), pair("b", 2, 2, (0.0, 2.0))]
    found = length_bias(pairs, torch.tensor([1.0, 0.0]), torch.tensor([0, 1]))
    assert found["correlation"]["value"] is None
    assert found["prefers_longer"] == {"value": None, "ci": [None, None], "n": 0, "prompts": 0}
