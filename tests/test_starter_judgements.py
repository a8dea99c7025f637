"""The judgements that come with the project are whole, balanced, and split by prompt."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import manners
from manners.feedback.pairs import make_pairs
from manners.records import Judgement
from manners.runs import read_jsonl

FOLDER = Path(manners.__file__).parent / "starter"


@pytest.fixture(scope="module")
def judgements() -> list[Judgement]:
    return [Judgement.from_json(row) for row in read_jsonl(FOLDER / "judgements.jsonl")]


def test_four_kinds_of_prompts_with_four_answers_each_and_held_out_prompts_apart(judgements: list[Judgement]) -> None:
    kinds = Counter((j.prompt.category, j.prompt.split) for j in judgements)
    assert {kind for kind, _ in kinds} == {"everyday", "hostile", "decline", "knowable"}
    assert {kinds[kind, "train"] for kind, _ in kinds} == {54}
    assert {kinds[kind, "validation"] for kind, _ in kinds} == {6}
    assert {kinds[kind, "test"] for kind, _ in kinds} == {20}
    assert len({j.prompt.text.lower().strip(" ?.!") for j in judgements}) == 320
    assert all(len({c.text for c in j.completions}) == 4 for j in judgements)
    assert all(
        sorted(c for tier in j.ranking.tiers for c in tier) == sorted(c.id for c in j.completions) for j in judgements
    )


def test_answers_are_written_or_sampled_and_neither_length_nor_an_ending_gives_the_best_away(
    judgements: list[Judgement],
) -> None:
    answers = {c.id: c for j in judgements for c in j.completions}
    assert {c.model for c in answers.values()} == {"starter", "written"}
    best = [answers[j.ranking.tiers[0][0]] for j in judgements]
    worst = [answers[j.ranking.tiers[-1][-1]] for j in judgements]
    longer = sum(len(b.text) > len(w.text) for b, w in zip(best, worst, strict=True)) / len(judgements)
    assert 0.3 < longer < 0.7
    assert sum(w.finished for w in worst) / len(worst) > 0.7


def test_pairs_of_no_prompt_stand_in_two_splits(judgements: list[Judgement]) -> None:
    splits = make_pairs(judgements, seed=0)
    prompts = {name: {p.prompt.id for p in pairs} for name, pairs in splits.items()}
    assert not prompts["train"] & prompts["test"]
    assert not prompts["train"] & prompts["validation"]
    assert len(prompts["test"]) == 80
    assert len(splits["train"]) > 1000


def test_the_guideline_is_there() -> None:
    text = (FOLDER / "guideline.md").read_text(encoding="utf-8")
    assert all(word in text for word in ("Harmless", "Honest", "Helpful"))
