from __future__ import annotations

import pytest

from manners.records import Completion, Prompt
from manners.rewards import rules
from manners.rewards.load import FunctionJudge

TEXTS = ["", "   ", "one", "One one ONE", "yes,  and\nno, and yes", "a b c d"]


def scored(name: str) -> list[float]:
    """What a run that names the rule gives the texts."""
    judge = FunctionJudge.load(f"manners.rewards.rules:{name}")
    prompt = Prompt.of("say something")
    return judge([prompt] * len(TEXTS), [Completion(prompt.id, text) for text in TEXTS]).tolist()


def test_distinct_words_by_hand() -> None:
    assert scored("distinct_words") == [0, 0, 1, 1, 4, 4]  # "yes," is another word than "yes"


def test_brevity_by_hand() -> None:
    assert scored("brevity") == [0, 0, -1, -3, -5, -4]


@pytest.mark.parametrize("rule", [rules.distinct_words, rules.brevity])
def test_a_rule_looks_at_each_completion_alone(rule: object) -> None:
    assert callable(rule)
    together = rule(["p"] * len(TEXTS), TEXTS)
    assert together == [rule(["another prompt"], [text])[0] for text in TEXTS]
    assert rule([], []) == []


def test_saying_it_again_earns_nothing_and_costs_brevity() -> None:
    once, again = "mind the gap", "mind the gap mind the gap"
    assert rules.distinct_words([], [once]) == rules.distinct_words([], [again])
    assert rules.brevity([], [again])[0] == 2 * rules.brevity([], [once])[0]
