"""A local judge against the plain model, one sequence at a time."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny import shake, tiny_model, tiny_tokenizer, tiny_trunk

from manners.constitution.asking import LEAD, SCORE_LEAD, Asking
from manners.constitution.constitution import Constitution
from manners.constitution.judge import Failure, Question, Verdict
from manners.constitution.local_judge import LocalJudge
from manners.models.trunk import Trunk
from manners.records import Message, Prompt

ASKING = Asking("{conversation}|{principle}(A){a}(B){b}", rating="{conversation}|{answer}|{principle}")
QUESTION = Question(Prompt.of("hi"), "kinder?", "hello you", "go")


def plainly(trunk: Trunk, text: str, end: str) -> float:
    """log p(end | text), nats, from the logits of the whole model."""
    ids = trunk.tokenizer(text + end, add_special_tokens=False, return_tensors="pt")["input_ids"]
    count = len(trunk.tokenizer(end, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logps = trunk.model(ids).logits.log_softmax(-1)[0]
    return sum(float(logps[i - 1, ids[0, i]]) for i in range(ids.shape[1] - count, ids.shape[1]))


def verdict_of(judge: LocalJudge, question: Question) -> Verdict:
    (found,) = judge.compare([question])
    assert isinstance(found, Verdict)
    return found


def test_a_text_is_continued_with_either_option() -> None:
    trunk = tiny_trunk()
    text = f"Human: hi|kinder?(A)hello you(B)go\n\n{LEAD}"
    found = verdict_of(LocalJudge(trunk, ASKING, form="text"), QUESTION)
    expected = [plainly(trunk, text, end) for end in (" (A)", " (B)")]
    assert found.logps == pytest.approx(expected, abs=1e-4)
    a, b = map(math.exp, expected)
    assert found.probability == pytest.approx(a / (a + b), abs=1e-5)


def test_a_chat_model_is_asked_in_its_own_words_and_its_turn_is_begun() -> None:
    trunk = tiny_trunk()
    text = (
        "<|user|>Human: hi|kinder?(A)hello you(B)go\n\nReply with (A) or (B) and nothing else.<|end|><|assistant|>"
        + LEAD
    )
    found = verdict_of(LocalJudge(trunk, ASKING), QUESTION)
    assert found.logps == pytest.approx([plainly(trunk, text, end) for end in (" (A)", " (B)")], abs=1e-4)


def test_a_batch_gives_what_each_question_gets_alone() -> None:
    judge = LocalJudge(tiny_trunk(), ASKING)
    questions = [QUESTION, QUESTION.swapped, Question(Prompt.of("a longer one"), "truer?", "yes", "no")]
    together = judge.compare(questions)
    for question, found in zip(questions, together, strict=True):
        assert isinstance(found, Verdict)
        assert found.logps == pytest.approx(verdict_of(judge, question).logps, abs=1e-4)


def test_an_adapter_judges_where_one_is_named() -> None:
    trunk = tiny_trunk()
    trunk.adapters.add("wise", rank=2, alpha=4, seed=0)
    shake(trunk, "wise")
    plain = verdict_of(LocalJudge(trunk, ASKING), QUESTION)
    wise = verdict_of(LocalJudge(trunk, ASKING, adapter="wise"), QUESTION)
    assert abs(plain.probability - wise.probability) > 1e-3


def test_examples_stand_before_the_question() -> None:
    constitution = Constitution.load("default")
    asking = Asking.of(constitution, examples=2)
    trunk = Trunk(tiny_model(context=4096), tiny_tokenizer())
    first = verdict_of(LocalJudge(trunk, asking, form="text"), QUESTION)
    blocks = [asking.text(q) + f"\n\n{LEAD} ({e.better})" for q, e in asking.examples]
    assert len(blocks) == 2
    text = "\n\n\n".join([*blocks, asking.text(QUESTION) + f"\n\n{LEAD}"])
    assert first.logps == pytest.approx([plainly(trunk, text, end) for end in (" (A)", " (B)")], abs=1e-3)


def test_a_conversation_too_long_loses_its_beginning_and_never_an_answer() -> None:
    trunk = Trunk(tiny_model(context=150), tiny_tokenizer())
    judge = LocalJudge(trunk, ASKING)
    turns = (Message("user", "x" * 90), Message("assistant", "y" * 60), Message("user", "hi"))
    long = Question(Prompt(turns), "kinder?", "hello you", "go")
    assert verdict_of(judge, long).logps == pytest.approx(verdict_of(judge, QUESTION).logps, abs=1e-4)
    (found,) = judge.compare([Question(Prompt.of("hi"), "kinder?", "z" * 150, "go")])
    assert isinstance(found, Failure)
    assert found.kind == "too long"


def test_what_is_too_long_does_not_move_the_others() -> None:
    judge = LocalJudge(Trunk(tiny_model(context=150), tiny_tokenizer()), ASKING)
    lost = Question(Prompt.of("hi"), "kinder?", "z" * 150, "go")
    found = judge.compare([lost, QUESTION, lost])
    assert [isinstance(f, Failure) for f in found] == [True, False, True]
    assert isinstance(found[1], Verdict)
    assert found[1].logps == pytest.approx(verdict_of(judge, QUESTION).logps, abs=1e-4)


def test_a_thought_is_written_first_and_stands_before_the_answer() -> None:
    trunk = tiny_trunk(layers=2)
    judge = LocalJudge(Trunk(tiny_model(context=600), tiny_tokenizer()), ASKING, thought_tokens=6, seed=3)
    found = verdict_of(judge, QUESTION)
    assert judge.thinks
    assert 0 < len(found.thought) <= 6
    again = verdict_of(judge, QUESTION)
    assert again == found
    text = (
        "<|user|>Human: hi|kinder?(A)hello you(B)go\n\nFirst say in one or two sentences how the two answers differ under"
        f" this question. Do not say which is better yet.<|end|><|assistant|>{found.thought}<|end|>"
        f"<|user|>So which answer is it? Reply with (A) or (B) and nothing else.<|end|><|assistant|>{LEAD}"
    )
    expected = [plainly(judge.trunk, text, end) for end in (" (A)", " (B)")]
    assert found.logps == pytest.approx(expected, abs=1e-4)
    assert not LocalJudge(trunk, ASKING).thinks


def test_a_plain_language_model_needs_no_chat_template() -> None:
    trunk = Trunk(tiny_model(), tiny_tokenizer(template=None))
    assert 0 < verdict_of(LocalJudge(trunk, ASKING, form="text"), QUESTION).probability < 1


def test_a_score_is_the_expectation_over_ten_whole_numbers() -> None:
    trunk = tiny_trunk()
    judge = LocalJudge(trunk, ASKING, form="text")
    (found,) = judge.rate([Prompt.of("hi")], ["hello"], "kind?")
    text = f"Human: hi|hello|kind?\n\n{SCORE_LEAD}"
    weights: list[Any] = [math.exp(plainly(trunk, text, f" {score}")) for score in range(1, 11)]
    weights[0] -= weights[9]  # " 10" begins with " 1"; letters are tokens here
    expectation = sum(score * weight for score, weight in enumerate(weights, 1)) / sum(weights)
    assert found == pytest.approx((expectation - 5.5) / 4.5, abs=1e-5)
    assert -1 < expectation <= 10
