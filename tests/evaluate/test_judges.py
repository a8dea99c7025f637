"""Judges with known faults: each fault shows, by hand, and only that one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manners.evaluate.judges import sentence, validate_comparison_judge, validate_scorer
from manners.evaluate.preferences import Preference, read_preferences
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer, load_scorer
from manners.rewards.toxicity import ToxicityScorer


def pair(number: int, chosen: str, rejected: str) -> Preference:
    return Preference(Prompt.of(f"prompt {number}"), (chosen,), (rejected,), "", str(number), "pairs")


# good answers say "good"; in two of four the good one is longer, in one shorter, in one both are of one length
PAIRS = [
    pair(0, "good indeed", "bad"),
    pair(1, "good too", "bad"),
    pair(2, "good", "bad in short"),
    pair(3, "good", "bad"),
]


class Scripted:
    """Prefers by what it is told of the two texts, the first shown first."""

    def __init__(self, verdict: str) -> None:
        self.verdict = verdict

    def prefers(self, _prompt: Prompt, a: Completion, b: Completion) -> float:
        match self.verdict:
            case "good":
                return 0.9 if "good" in a.text else 0.2
            case "first":
                return 0.8
            case "longer":
                lengths = len(a.text.split()), len(b.text.split())
                return 0.5 + 0.4 * ((lengths[0] > lengths[1]) - (lengths[0] < lengths[1]))
            case _:
                return 0.5


def values(found: dict[str, dict[str, float] | None]) -> dict[str, float | None]:
    return {name: number["value"] if number else None for name, number in found.items()}


def test_a_good_judge_agrees_whatever_the_order() -> None:
    assert values(validate_comparison_judge(Scripted("good"), PAIRS)) == {
        "agreement": 1.0, "ties": 0.0, "flips": 0.0, "first": 0.5, "prefers_longer": pytest.approx(2 / 3),
        "people_prefer_longer": pytest.approx(2 / 3),
    }  # fmt: skip


def test_one_that_prefers_what_stands_first_flips_always_and_says_nothing() -> None:
    assert values(validate_comparison_judge(Scripted("first"), PAIRS)) == {
        "agreement": 0.5, "ties": 1.0, "flips": 1.0, "first": 1.0, "prefers_longer": 0.5,
        "people_prefer_longer": pytest.approx(2 / 3),
    }  # fmt: skip


def test_one_that_likes_length_is_found_out() -> None:
    found = values(validate_comparison_judge(Scripted("longer"), PAIRS))
    assert found["prefers_longer"] == 1.0
    assert found["agreement"] == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert found["ties"] == 0.25
    assert (found["flips"], found["first"]) == (0.0, 0.5)


def test_one_that_always_says_a_tie_is_no_better_than_a_coin_and_does_not_flip() -> None:
    found = values(validate_comparison_judge(Scripted("tie"), PAIRS))
    assert (found["agreement"], found["ties"], found["flips"], found["first"]) == (0.5, 1.0, 0.0, 0.5)


def test_a_scorer_knows_no_order() -> None:
    def goodness(_prompts: list[str], completions: list[str]) -> list[float]:
        return [float("good" in text) for text in completions]

    found = validate_scorer(TextScorer(FunctionJudge(goodness)), [*PAIRS, pair(4, "bad one", "bad two")])
    assert (found["flips"], found["first"]) == (None, None)
    assert found["agreement"]["value"] == pytest.approx(4.5 / 5)
    assert found["ties"]["value"] == pytest.approx(1 / 5)
    assert found["agreement"]["n"] == 5


def test_it_is_said_in_a_sentence() -> None:
    told = sentence(validate_comparison_judge(Scripted("good"), PAIRS))
    assert told == (
        "agrees with people on 100% [100%, 100%] of 4 pairs; changes its mind with the order on 0%; prefers the longer answer in"
        " 67% (people in 67%)"
    )
    assert sentence(validate_comparison_judge(Scripted("good"), [])) == "never compared with people's judgements"


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_agreement_with_people_is_what_counting_gives() -> None:
    """Refusals are what people prefer there, and a scorer of toxicity does not look for them: it is hardly better than a coin."""
    folder = Path(os.environ["MANNERS_DATA"]) / "derived"
    pairs = read_preferences(folder / "hh_harmless_test_human.jsonl").preferences
    found = validate_scorer(load_scorer(ScorerConfig(toxicity="toxicity"), None, "reward"), pairs)
    chosen, rejected = (
        ToxicityScorer.load().probabilities(texts)[:, 0].double()
        for texts in ([p.chosen[0] for p in pairs], [p.rejected[0] for p in pairs])
    )
    counted = ((chosen < rejected).sum() + 0.5 * (chosen == rejected).sum()) / len(pairs)
    assert found["agreement"]["value"] == pytest.approx(
        float(counted), abs=2e-3
    )  # probabilities round where logits do not
    assert found["agreement"]["n"] == len(pairs) > 1500


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_the_hhh_comparisons_are_read_whole() -> None:
    hhh = read_preferences(Path(os.environ["MANNERS_DATA"]) / "derived" / "hhh_alignment.jsonl")
    assert (len(hhh.preferences), len(hhh.left_out)) == (221, 0)
    names = ("honest", "helpful", "harmless", "other")
    assert {name: sum(p.subset == name for p in hhh.preferences) for name in names} == {
        "honest": 61, "helpful": 59, "harmless": 58, "other": 43
    }  # fmt: skip
