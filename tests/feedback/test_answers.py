from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from manners.errors import MannersError
from manners.feedback.answers import Answered, answered_in, demonstrations_in, read_answers, together
from manners.feedback.pairs import pairs_of
from manners.records import Completion, Judgement, Message, Pair, Prompt, Ranking


def judgement(prompt: str, tiers: Sequence[Sequence[str]]) -> Judgement:
    asked = Prompt.of(prompt)
    completions = tuple(Completion(asked.id, text) for tier in tiers for text in tier)
    ids = {c.text: c.id for c in completions}
    return Judgement(asked, completions, Ranking(asked.id, tuple(tuple(ids[t] for t in tier) for tier in tiers)))


def rewards(pairs: Sequence[Pair]) -> dict[str, Any]:
    return {c.text: r for one in answered_in(pairs) for c, r in zip(one.completions, one.rewards, strict=True)}


def test_the_chosen_of_two_earns_1_and_the_rejected_minus_1() -> None:
    assert rewards(pairs_of(judgement("p", [["good"], ["bad"]]))) == {"good": 1, "bad": -1}


def test_in_a_ranking_it_is_wins_less_defeats_per_comparison() -> None:
    assert rewards(pairs_of(judgement("p", [["a"], ["b"], ["c"], ["d"]]))) == {
        "a": 1, "b": pytest.approx(1 / 3), "c": pytest.approx(-1 / 3), "d": -1
    }  # fmt: skip
    assert rewards(pairs_of(judgement("p", [["a"], ["b", "c"]]))) == {"a": 1, "b": -1, "c": -1}


def test_judges_who_disagree_and_soft_labels_give_something_between() -> None:
    both = [*pairs_of(judgement("p", [["x"], ["y"]])), *pairs_of(judgement("p", [["y"], ["x"]]))]
    assert rewards(both) == {"x": 0, "y": 0}
    (pair,) = pairs_of(judgement("p", [["x"], ["y"]]))
    assert rewards([replace(pair, probability=0.75)]) == {"x": 0.5, "y": -0.5}


def test_prompts_come_together_and_empty_answers_go() -> None:
    p, q = Prompt.of("p"), Prompt.of("q")
    one, two, none = Completion(p.id, "one"), Completion(p.id, "two"), Completion(p.id, "", finished=False)
    silent = Completion(q.id, "", finished=False)
    found = together(
        [Answered(p, (one, none), (1.0, 5.0)), Answered(q, (silent,), (1.0,)), Answered(p, (two,), (2.0,))]
    )
    assert found == [Answered(p, (one, two), (1.0, 2.0))]
    ends_at_once = Completion(p.id, "")
    assert together([Answered(p, (ends_at_once,))]) == [Answered(p, (ends_at_once,))]


def test_a_file_of_answers_comes_back(tmp_path: Path) -> None:
    prompt = Prompt((Message("system", "be kind"), Message("user", "hi")), category="talk", split="test")
    answers = (Completion(prompt.id, "hello", model="m", seed=3), Completion(prompt.id, "…", finished=False))
    rows = [
        Answered(prompt, answers, (0.1 + 0.2, (1.0, -2.0))),
        Answered(Prompt.of("x"), (Completion(Prompt.of("x").id, "y"),)),
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows), encoding="utf-8")
    assert read_answers(path) == rows


def test_texts_are_enough(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(
        '{"prompt": "Say hello.", "completions": ["Hello!", {"text": "No", "finished": false}], "rewards": [1, -1]}\n'
    )
    (row,) = read_answers(path)
    assert [(c.text, c.finished) for c in row.completions] == [("Hello!", True), ("No", False)]
    assert (row.prompt, row.rewards) == (Prompt.of("Say hello."), (1.0, -1.0))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"prompt": "p"}\n', "row 1 .* needs a prompt and completions"),
        ('{"prompt": "p", "completions": ["a"], "rewards": [1, 2]}\n', "2 rewards for 1 completions"),
        ('{"prompt": "p", "completions": ["a"]}\n[1]\n', "row 2"),
        ("", "holds no answers"),
    ],
)
def test_what_is_no_file_of_answers_is_refused_by_its_row(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MannersError, match=why):
        read_answers(path)
    with pytest.raises(MannersError, match="is not a file of answers"):
        read_answers(tmp_path)


def test_a_prompt_of_a_split_is_only_there_and_the_others_are_shared_out() -> None:
    def one(text: str, split: Any = "") -> Answered:
        prompt = Prompt.of(text, split=split)
        return Answered(prompt, (Completion(prompt.id, f"answer to {text}"), Completion(prompt.id, "another")))

    own = [one("a", "train"), one("b", "validation"), one("c", "test")]
    for answered, split in zip(own, ("train", "validation", "test"), strict=True):
        found = demonstrations_in(own, split, seed=0)
        assert found == [(answered.prompt, completion) for completion in answered.completions]
    many = [one(f"prompt {i}") for i in range(300)]
    sizes = {split: len(demonstrations_in(many, split, seed=0)) // 2 for split in ("train", "validation", "test")}
    assert sum(sizes.values()) == 300
    assert sizes["test"] == 0
    assert 15 < sizes["validation"] < 45
