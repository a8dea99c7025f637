"""Verdicts and scores read from answers: strict, soft where there are log-probabilities, and never guessed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, Body, FakeEndpoint, chat, serving, soft, token

from manners.constitution.asking import Asking
from manners.constitution.calls import EndpointConfig
from manners.constitution.endpoint import Endpoint
from manners.constitution.judge import Failure, Question, Verdict
from manners.constitution.judges import DirectJudge
from manners.constitution.remote_judge import RemoteJudge, RemoteWriter, score_in, verdict_in
from manners.constitution.replies import Reply, reply_of
from manners.errors import MannersError
from manners.records import Completion, Prompt

ASKING = Asking("{conversation}|{principle}(A){a}(B){b}", rating="{conversation}|{answer}|{principle}")
QUESTIONS = [Question(Prompt.of(f"question {i}"), "kinder?", "yes", "no") for i in range(12)]


QUESTION = Question(Prompt.of("hi"), "kinder?", "Yes, gladly.  Come in.", "Yes or no?")


def reply(answer: Answer) -> Reply:
    return reply_of(json.dumps(answer.body).encode(), 0.1, str)


def judge_at(fake: FakeEndpoint, folder: Path, *, thought_tokens: int = 0, **fields: Any) -> RemoteJudge:
    config = EndpointConfig(base_url=fake.url, model="judge-1", timeout=5, first_wait=0.001, **fields)
    return RemoteJudge(Endpoint(config, folder / "run"), ASKING, thought_tokens=thought_tokens)


@pytest.mark.parametrize("text", ["(A)", "A", " (A).", "(A", "[[A]]", "A:\n", "After thought: [[A]]", "[[A]] [[A]]"])
def test_a_verdict_alone_counts(text: str) -> None:
    assert verdict_in(reply(chat(text)), QUESTION) == Verdict(1.0)
    assert verdict_in(
        reply(chat(text.replace("A]", "B]").replace("A", "B").replace("Bfter", "After"))), QUESTION
    ) == Verdict(0.0)


@pytest.mark.parametrize(("text", "probability"), [("(A) Yes, gladly. Co", 1.0), (" (B) Yes or no?", 0.0)])
def test_a_verdict_may_quote_the_answer_that_it_names(text: str, probability: float) -> None:
    assert verdict_in(reply(chat(text)), QUESTION) == Verdict(probability)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("I think that (A) is the better one.", "no verdict"),
        ("(A) because it is kinder", "no verdict"),
        ("(A) Yes", "no verdict"),
        ("(B) Yes, gladly.", "no verdict"),
        ("Yes, gladly.", "no verdict"),
        ("(A) or (B)", "no verdict"),
        ("[[A]] or [[B]]", "no verdict"),
        ("(C)", "no verdict"),
        ("Both are fine.", "no verdict"),
        ("I can't assist with that.", "refusal"),
        ("As an AI language model, I have no opinion.", "refusal"),
    ],
)
def test_what_is_no_verdict_is_counted_by_kind(text: str, kind: str) -> None:
    found = verdict_in(reply(chat(text)), QUESTION)
    assert isinstance(found, Failure)
    assert found.kind == kind


def test_a_declined_answer_is_a_refusal_whatever_it_says() -> None:
    found = verdict_in(reply(chat("(A)", finish_reason="content_filter")), QUESTION)
    assert isinstance(found, Failure)
    assert found.kind == "refusal"


def test_a_soft_verdict_where_there_are_log_probabilities() -> None:
    found = verdict_in(reply(soft(math.log(0.6), math.log(0.2))), QUESTION)
    assert isinstance(found, Verdict)
    assert found.probability == pytest.approx(0.75)
    assert found.logps == pytest.approx((math.log(0.6), math.log(0.2)))


def test_spellings_of_an_option_are_added_up() -> None:
    alternatives = {"A": math.log(0.3), " A": math.log(0.1), "(B": math.log(0.1), "B": math.log(0.1), "Apple": -0.1}
    tokens = [{"token": "A", "logprob": math.log(0.3),
               "top_logprobs": [{"token": t, "logprob": p} for t, p in alternatives.items()]}]  # fmt: skip
    found = verdict_in(reply(chat("A", tokens)), QUESTION)
    assert isinstance(found, Verdict)
    assert found.probability == pytest.approx(0.4 / 0.6)


def test_an_option_that_is_not_named_is_at_most_as_likely_as_the_least_that_is() -> None:
    tokens = [
        {
            "token": "B",
            "logprob": -0.2,
            "top_logprobs": [{"token": "B", "logprob": -0.2}, {"token": "C", "logprob": -4.0}],
        }
    ]
    found = verdict_in(reply(chat("B", tokens)), QUESTION)
    assert isinstance(found, Verdict)
    assert found.logps == (-4.0, pytest.approx(-0.2))


def test_tokens_that_do_not_hold_the_verdict_leave_it_hard() -> None:
    assert verdict_in(reply(chat("(A)", [token("(A)x", C=-0.1)])), QUESTION) == Verdict(1.0)


@pytest.mark.parametrize(("text", "score"), [("10", 1.0), ("1", -1.0), (" 7.", 1 / 3), ("7/10", 1 / 3)])
def test_a_score_alone_counts(text: str, score: float) -> None:
    assert score_in(reply(chat(text))) == pytest.approx(score)


@pytest.mark.parametrize("text", ["0", "11", "7.5", "I say 7", "-3", "seven"])
def test_what_is_no_score_is_counted(text: str) -> None:
    found = score_in(reply(chat(text)))
    assert isinstance(found, Failure)
    assert found.kind == "no score"


def test_a_score_is_the_expectation_over_the_alternatives() -> None:
    alternatives = {"8": math.log(0.6), " 4": math.log(0.2), "great": -1.0}
    top = [{"token": text, "logprob": logp} for text, logp in alternatives.items()]
    tokens = [{"token": "8", "logprob": math.log(0.6), "top_logprobs": top}]
    assert score_in(reply(chat("8", tokens))) == pytest.approx(1 / 3)


@pytest.mark.parametrize("odd", ["7:", "7/10", "[7]"])
def test_a_score_in_an_odd_token_is_a_score(odd: str) -> None:
    tokens = [{"token": odd, "logprob": -0.1, "top_logprobs": [{"token": "10/10x", "logprob": -3.0}]}]
    assert score_in(reply(chat("7", tokens))) == pytest.approx(1 / 3)


def test_each_question_is_put_to_the_endpoint_and_comes_back_in_its_place(tmp_path: Path) -> None:
    def answer(body: Body, _: int) -> Answer:
        number = int(body["messages"][-1]["content"].split("question ")[1].split("|")[0])
        return soft(-0.1, -1.0) if number % 3 == 0 else chat("" if number % 3 == 1 else "(B)")

    with serving(answer) as fake:
        found = judge_at(fake, tmp_path).compare(QUESTIONS)
    assert [type(f).__name__ for f in found] == ["Verdict", "Failure", "Verdict"] * 4
    assert [round(f.probability, 2) for f in found if isinstance(f, Verdict)] == [0.71, 0.0] * 4
    assert fake.bodies[0]["top_logprobs"] == 10
    assert fake.bodies[0]["temperature"] == 0.0
    assert "(A)yes(B)no" in fake.bodies[0]["messages"][-1]["content"]


def test_a_thought_comes_first_and_goes_into_the_second_question(tmp_path: Path) -> None:
    def answer(body: Body, _: int) -> Answer:
        return soft(-0.5, -1.5) if len(body["messages"]) == 3 else chat(f"a thought of {body['max_tokens']}")

    with serving(answer) as fake:
        judge = judge_at(fake, tmp_path, thought_tokens=33)
        (found,) = judge.compare(QUESTIONS[:1])
        again = judge.compare(QUESTIONS[:1])
    assert isinstance(found, Verdict)
    assert (found.thought, fake.calls) == ("a thought of 33", 2)
    assert again == [found]
    assert [m["role"] for m in fake.bodies[1]["messages"]] == ["user", "assistant", "user"]
    assert fake.bodies[1]["messages"][1]["content"] == "a thought of 33"


def test_a_forecast_costs_nothing_twice(tmp_path: Path) -> None:
    with serving(lambda *_: soft(-0.1, -2.0)) as fake:
        judge = judge_at(fake, tmp_path, concurrency=1, price_prompt=0.5, price_completion=2.0)
        line = judge.forecast(QUESTIONS)
        assert fake.calls == 3
        judge.compare(QUESTIONS)
        assert fake.calls == 12
        assert judge.forecast(QUESTIONS) == ""
    # nine calls of 100 tokens read and 3 written: 0.9 · 0.5 + 0.027 · 2
    assert line.startswith("judge-1: 9 calls, 900 tokens to read, 27 to write, about 0.504, about 0 s")


def test_what_costs_too_much_does_not_start(tmp_path: Path) -> None:
    with serving(lambda *_: soft(-0.1, -2.0)) as fake:
        judge = judge_at(fake, tmp_path, price_prompt=0.5, price_completion=2.0, most_cost=0.5)
        with pytest.raises(MannersError, match=r"about 0\.504, more than most_cost 0\.5"):
            judge.forecast(QUESTIONS)
        assert fake.calls == 3


def test_it_writes_too(tmp_path: Path) -> None:
    def answer(body: Body, _: int) -> Answer:
        text = body["messages"][-1]["content"]
        return Answer({}, 400) if text == "b" else chat(f" {text} {body['seed']}", finish_reason="length")

    with serving(answer) as fake:
        config = EndpointConfig(base_url=fake.url, model="writer-1")
        writer = RemoteWriter(Endpoint(config, tmp_path / "run"))
        prompts = [Prompt.of(text) for text in ("a", "b", "a")]
        found = writer.complete(prompts, 16, 0.7, [4, 5, 6])
    assert [(c.text, c.finished, c.model, c.seed) for c in found] == [
        ("a 4", False, "writer-1", 4), ("", False, "writer-1", 5), ("a 6", False, "writer-1", 6)]  # fmt: skip
    assert [c.prompt_id for c in found] == [p.id for p in prompts]
    assert writer.failures == {"http 400": 1}
    assert {(b["max_tokens"], b["temperature"]) for b in fake.bodies} == {(16, 0.7)}


def test_direct_scores_are_rewards_and_one_that_is_missing_teaches_nothing(tmp_path: Path) -> None:
    def answer(body: Body, _: int) -> Answer:
        return chat(body["messages"][-1]["content"].split("|")[1])

    prompt = Prompt.of("hi")
    with serving(answer) as fake:
        direct = DirectJudge(judge_at(fake, tmp_path))
        scores = direct.score([prompt] * 3, [Completion(prompt.id, text) for text in ("10", "well", "1")])
        assert scores.tolist() == [1.0, 0.0, -1.0]
        assert direct.failures == {"no score": 1}
        with pytest.raises(MannersError, match=r"none of 1 answers a score \(no score\)"):
            direct.score([prompt], [Completion(prompt.id, "words")])


def spelt(text: str, *places: tuple[str, tuple[tuple[str, float], ...]]) -> Reply:
    """An answer with its tokens and the alternatives at each."""
    return Reply(text, True, False, places, 1, len(places), 0.1)


def test_a_letter_with_both_probabilities_is_a_verdict_whatever_follows_it() -> None:
    half, sixth = math.log(1 / 2), math.log(1 / 6)
    there = (("(", (("(", -0.5),)), ("A", (("A", half), ("B", sixth))), (")", ((")", 0.0),)))
    found = verdict_in(spelt("(A)\n\nThe answer is", *there), QUESTION)
    assert isinstance(found, Verdict)
    assert found.probability == pytest.approx(3 / 4)
    without = (there[0], ("A", (("A", half), ("C", sixth))), there[2])
    assert verdict_in(spelt("(A)\n\nThe answer is", *without), QUESTION) == Failure(
        "no verdict", "(A)\n\nThe answer is"
    )
    assert isinstance(verdict_in(spelt("Say (A) or", *there), QUESTION), Failure)


def test_a_ten_in_two_digits_shares_what_stands_at_one() -> None:
    first = ("1", (("1", math.log(0.8)), ("7", math.log(0.2))))
    found = score_in(spelt("10", first, ("0", (("0", math.log(0.5)), (".", math.log(0.5))))))
    # 10 with 0.4, 1 with 0.4, 7 with 0.2: 5.8 of 1 … 10, that is (5.8 − 5.5)/4.5
    assert found == pytest.approx((5.8 - 5.5) / 4.5)
    assert score_in(spelt("10", first, ("0", (("0", 0.0),)))) == pytest.approx((9.4 - 5.5) / 4.5)
