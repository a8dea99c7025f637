"""The client against a server that does everything that servers do wrong."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, Body, FakeEndpoint, chat, serving, soft, token
from pydantic import ValidationError

from manners.constitution.calls import Call, EndpointConfig
from manners.constitution.endpoint import Endpoint
from manners.constitution.judge import Failure
from manners.constitution.replies import Reply
from manners.errors import MannersError
from manners.records import Prompt

KEY = "sk-very-secret-0123456789"


class Clock:
    """A clock that moves by the pauses alone."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


def endpoint(
    fake: FakeEndpoint, folder: Path, clock: Clock | None = None, jitter: float = 0.5, **fields: Any
) -> Endpoint:
    clock = clock or Clock()
    config = EndpointConfig(**{"base_url": fake.url, "model": "judge-1", "timeout": 5} | fields)
    return Endpoint(config, folder / "run", clock=clock, wait=clock.wait, jitter=lambda: jitter)


def call(text: str = "hi", **fields: Any) -> Call:
    return Call(Prompt.of(text), 8, **fields)


def one(fake: FakeEndpoint, folder: Path, clock: Clock | None = None, **fields: Any) -> Reply | Failure:
    (found,) = endpoint(fake, folder, clock, **fields).ask([call()])
    return found


def first_then(first: list[Answer], last: Answer) -> Callable[[Body, int], Answer]:
    """The answers of `first`, one after the other, and `last` from then on."""
    return lambda _body, number: first[number] if number < len(first) else last


def test_what_is_asked_and_what_comes_back(tmp_path: Path) -> None:
    with serving(lambda *_: soft(-0.1, -2.3)) as fake:
        (reply,) = endpoint(fake, tmp_path).ask([call(temperature=0.5, seed=7, top_logprobs=4)])
    assert fake.bodies == [{"model": "judge-1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8,
                            "temperature": 0.5, "seed": 7, "logprobs": True, "top_logprobs": 4}]  # fmt: skip
    assert isinstance(reply, Reply)
    assert (reply.text, reply.finished, reply.prompt_tokens, reply.completion_tokens) == ("(A)", True, 100, 3)
    assert [text for text, _ in reply.tokens] == ["(", "A", ")"]
    assert dict(reply.tokens[1][1]) == {"A": -0.1, "B": -2.3}


def test_nothing_is_asked_twice_not_even_by_another_process(tmp_path: Path) -> None:
    with serving(lambda body, _: chat(body["messages"][0]["content"].upper())) as fake:
        first = endpoint(fake, tmp_path)
        replies = first.ask([call("a"), call("b"), call("a")])
        assert [r.text for r in replies if isinstance(r, Reply)] == ["A", "B", "A"]
        assert (fake.calls, first.paid.calls, first.used.calls) == (2, 2, 3)
        later = endpoint(fake, tmp_path)
        assert later.ask([call("b"), call("a"), call("c")])[:2] == [replies[1], replies[0]]
        assert (fake.calls, later.paid.calls) == (3, 1)
        assert later.knows(call("c"))
        for other in (call("c", temperature=0.1), call("c", seed=1), call("d")):
            assert not later.knows(other)
        assert not endpoint(fake, tmp_path, model="judge-2").knows(call("c"))


def test_an_answer_cut_short_on_the_disk_is_asked_for_again(tmp_path: Path) -> None:
    with serving(lambda *_: chat("yes")) as fake:
        endpoint(fake, tmp_path).ask([call("a"), call("b")])
        path = tmp_path / "endpoint-cache.jsonl"
        path.write_bytes(path.read_bytes()[:-9])
        endpoint(fake, tmp_path).ask([call("a"), call("b")])
        assert fake.calls == 3
        endpoint(fake, tmp_path).ask([call("a"), call("b")])
        assert fake.calls == 3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 408])
def test_what_passes_is_tried_again_with_pauses_that_double(tmp_path: Path, status: int) -> None:
    clock = Clock()
    with serving(first_then([Answer({"error": {"message": "busy"}}, status)] * 4, chat("yes"))) as fake:
        reply = one(fake, tmp_path, clock, first_wait=1.0, longest_wait=4.0)
    assert isinstance(reply, Reply)
    assert fake.calls == 5
    assert clock.pauses == [1.0, 2.0, 4.0, 4.0]  # the jitter of 0.5 gives the middle


def test_pauses_are_spread_by_half(tmp_path: Path) -> None:
    for jitter, pause in ((0.0, 0.5), (0.999, 1.499)):
        clock = Clock()
        with serving(first_then([Answer({}, 500)], chat("yes"))) as fake:
            endpoint(fake, tmp_path / str(jitter), clock, jitter, first_wait=1.0).ask([call()])
        assert clock.pauses == [pytest.approx(pause)]


def test_a_pause_that_is_asked_for_is_kept(tmp_path: Path) -> None:
    clock = Clock()
    with serving(first_then([Answer({}, 429, {"Retry-After": "7"})], chat("yes"))) as fake:
        assert isinstance(one(fake, tmp_path, clock), Reply)
    assert clock.pauses == [7.0]


def test_a_pause_may_be_a_date(tmp_path: Path) -> None:
    clock = Clock()
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    with serving(first_then([Answer({}, 503, {"Retry-After": then})], chat("yes"))) as fake:
        assert isinstance(one(fake, tmp_path, clock), Reply)
    assert 25 < sum(clock.pauses) <= 30


def test_a_pause_that_one_call_is_asked_for_holds_for_all(tmp_path: Path) -> None:
    clock = Clock()
    with serving(first_then([Answer({}, 429, {"Retry-After": "9"})], chat("yes"))) as fake:
        asked = endpoint(fake, tmp_path, clock, concurrency=1)
        asked.ask([call("a"), call("b")])
        assert clock.pauses == [9.0]
        asked._not_before = clock.now + 3
        asked.ask([call("c")])
    assert clock.pauses == [9.0, 3.0]


def test_a_pause_too_long_stops_the_run(tmp_path: Path) -> None:
    with (
        serving(lambda *_: Answer({}, 429, {"Retry-After": "3600"})) as fake,
        pytest.raises(MannersError, match=r"asks to wait 3600 s.*resume later"),
    ):
        one(fake, tmp_path)


@pytest.mark.parametrize("header", ["soon", "", "nan", "Mon, 99 Foo 2026"])
def test_a_pause_that_cannot_be_read_is_ones_own(tmp_path: Path, header: str) -> None:
    clock = Clock()
    with serving(first_then([Answer({}, 429, {"Retry-After": header})], chat("yes"))) as fake:
        assert isinstance(one(fake, tmp_path, clock, first_wait=2.0), Reply)
    assert clock.pauses == [2.0]


BROKEN = [
    b"not json at all",
    b"",
    b'{"choices": [',
    b"[1, 2]",
    b"null",
    b'{"choices": []}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": {"0": 1}}',
    b'"choices"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_answer_is_tried_again_and_then_counted(tmp_path: Path, body: bytes) -> None:
    with serving(first_then([Answer(body)], chat("yes"))) as fake:
        assert isinstance(one(fake, tmp_path), Reply)
    with serving(lambda *_: Answer(body)) as fake:
        found = one(fake, tmp_path, attempts=3)
        assert isinstance(found, Failure)
        assert (found.kind, fake.calls) == ("broken answer", 3)


def test_a_connection_cut_in_the_middle_is_tried_again(tmp_path: Path) -> None:
    cut = Answer(chat("yes").body, cut=True)
    with serving(first_then([cut], chat("yes"))) as fake:
        assert isinstance(one(fake, tmp_path), Reply)
        assert fake.calls == 2
    with serving(lambda *_: cut) as fake:
        assert one(fake, tmp_path / "again", attempts=2) == Failure("connection lost", one_detail(tmp_path, fake))


def one_detail(folder: Path, fake: FakeEndpoint) -> str:
    found = one(fake, folder / "detail", attempts=1)
    assert isinstance(found, Failure)
    return found.detail


@pytest.mark.parametrize("slow", [Answer(chat("yes").body, hang=3.0), Answer(chat("yes").body, drip=0.1)])
def test_a_slow_answer_is_given_up_however_it_drips(tmp_path: Path, slow: Answer) -> None:
    with serving(lambda *_: slow) as fake:
        start = time.monotonic()
        found = one(fake, tmp_path, attempts=1, timeout=0.3)
        assert time.monotonic() - start < 2
    assert isinstance(found, Failure)
    assert found.kind == "timeout"


def test_single_failures_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    def answer(body: Body, _: int) -> Answer:
        text = body["messages"][0]["content"]
        return Answer({"error": {"message": "too long"}}, 400) if text == "bad" else chat(text)

    with serving(answer) as fake:
        found = endpoint(fake, tmp_path).ask([call("a"), call("bad"), call("b")])
        assert found[1] == Failure("http 400", "too long")
        assert [f.text for f in found if isinstance(f, Reply)] == ["a", "b"]
        assert fake.calls == 3
        endpoint(fake, tmp_path).ask([call("a"), call("bad"), call("b")])
        assert fake.calls == 4


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, r"refuses calls without a key \(name key_variable\): 401 no such key"),
        (403, "refuses"),
        (404, "knows no model 'judge-1'"),
        (307, "sends elsewhere"),
    ],
)
def test_what_concerns_every_call_stops_with_one_line(tmp_path: Path, status: int, said: str) -> None:
    with serving(lambda *_: Answer({"error": {"message": "no such key"}}, status)) as fake:
        with pytest.raises(MannersError, match=said) as stopped:
            endpoint(fake, tmp_path, concurrency=2).ask([call(str(i)) for i in range(50)])
        assert fake.calls <= 4
    assert "\n" not in str(stopped.value)


def test_nobody_there_stops_with_one_line_after_all_attempts(tmp_path: Path) -> None:
    with serving(lambda *_: chat("yes")) as fake:
        gone = fake
    clock = Clock()
    with pytest.raises(MannersError, match=r"nobody answers at http://127\.0\.0\.1"):
        one(gone, tmp_path, clock, attempts=4)
    assert len(clock.pauses) == 3


def test_a_server_that_comes_up_late_is_waited_for(tmp_path: Path) -> None:
    with serving(lambda *_: chat("yes")) as fake:
        url = fake.url

        class Late(Clock):
            def wait(self, seconds: float) -> None:
                super().wait(seconds)
                asked.config = asked.config.model_copy(update={"base_url": url})

        clock = Late()
        config = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m")
        asked = Endpoint(config, tmp_path / "run", clock=clock, wait=clock.wait)
        assert isinstance(asked.ask([call()])[0], Reply)


def test_failures_behind_each_other_stop_and_a_success_between_forgives(tmp_path: Path) -> None:
    with (
        serving(lambda *_: Answer({}, 400)) as fake,
        pytest.raises(MannersError, match=r"5 calls to .* failed behind each other.*http 400"),
    ):
        endpoint(fake, tmp_path, give_up_after=5, concurrency=1).ask([call(str(i)) for i in range(30)])
    assert fake.calls == 5
    with serving(lambda _body, number: chat("yes") if number % 4 == 3 else Answer({}, 400)) as fake:
        found = endpoint(fake, tmp_path / "b", give_up_after=5, concurrency=1).ask([call(str(i)) for i in range(30)])
    assert sum(isinstance(f, Reply) for f in found) == 7


def test_what_was_answered_before_a_stop_is_kept(tmp_path: Path) -> None:
    with serving(lambda _body, number: chat("yes") if number < 6 else Answer({}, 401)) as fake:
        with pytest.raises(MannersError):
            endpoint(fake, tmp_path, concurrency=1).ask([call(str(i)) for i in range(10)])
        resumed = endpoint(fake, tmp_path)
    assert [resumed.knows(call(str(i))) for i in range(10)] == [True] * 6 + [False] * 4


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_calls_are_open_than_allowed(tmp_path: Path, most: int) -> None:
    with serving(lambda *_: Answer(chat("yes").body, hang=0.03)) as fake:
        endpoint(fake, tmp_path, concurrency=most).ask([call(str(i)) for i in range(12)])
    assert fake.calls == 12
    assert fake.most_at_once == most


def test_the_key_goes_to_the_server_and_into_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)

    def answer(_: Body, number: int) -> Answer:
        if number == 0:
            return chat(f"your key is {KEY}", [token(KEY)])
        return Answer({"error": {"message": f"{'x' * 185} {KEY} is wrong"}}, 400 if number == 1 else 401)

    with serving(answer) as fake:
        asked = endpoint(fake, tmp_path, key_variable="JUDGE_KEY", concurrency=1)
        reply, failure = asked.ask([call("a"), call("b")])
        with pytest.raises(MannersError) as stopped:
            asked.ask([call("c")])
        assert set(fake.keys) == {f"Bearer {KEY}"}
    assert isinstance(reply, Reply)
    assert reply.text == "your key is [key]"
    for text in (str(failure), str(stopped.value), asked.config.model_dump_json()):
        assert KEY[:12] not in text
    written = [path.read_text(encoding="utf-8") for path in tmp_path.rglob("*") if path.is_file()]
    assert written
    assert not any(KEY[:12] in text for text in written)


def test_a_key_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    config = EndpointConfig(base_url="http://127.0.0.1:9/v1", model="m", key_variable="JUDGE_KEY")
    with pytest.raises(MannersError, match="JUDGE_KEY is not set"):
        Endpoint(config, tmp_path)
    monkeypatch.setenv("JUDGE_KEY", "schlüssel")
    with pytest.raises(MannersError, match="JUDGE_KEY holds letters that no key has"):
        Endpoint(config, tmp_path)
    with pytest.raises(MannersError, match=r"endpoint\.model"):
        Endpoint(EndpointConfig(base_url="http://127.0.0.1:9/v1"), tmp_path)


@pytest.mark.parametrize("url", ["ftp://host/v1", "host/v1", "http://me:secret@host/v1", "https://host/v1?key=secret"])
def test_an_address_with_a_key_in_it_or_none_at_all_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        EndpointConfig(base_url=url, model="m")


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_logprobs_is_asked_without(tmp_path: Path, status: int) -> None:
    def answer(body: Body, _: int) -> Answer:
        if "logprobs" in body:
            return Answer({"error": {"message": "logprobs are not supported"}}, status)
        return chat("(A)")

    with serving(answer) as fake:
        asked = endpoint(fake, tmp_path, concurrency=1)
        found = asked.ask([call("a", top_logprobs=5), call("b", top_logprobs=5)])
        assert all(isinstance(f, Reply) and f.text == "(A)" for f in found)
        assert fake.calls == 3
        assert asked.knows(call("a", top_logprobs=5))


ODD: list[Any] = [
    {},
    {"content": None},
    {"content": [{"token": "A"}]},
    {"content": [{"token": "A", "logprob": "x", "top_logprobs": []}]},
    {"content": [{"token": "A", "logprob": 3.0}]},
    {"content": [{"token": 5, "logprob": -1.0}]},
    {"tokens": ["A"], "token_logprobs": [-0.1]},
    [1],
    "A",
]


@pytest.mark.parametrize("logprobs", ODD, ids=range(len(ODD)))
def test_odd_log_probabilities_are_none(tmp_path: Path, logprobs: Any) -> None:
    with serving(lambda *_: chat("(A)", logprobs=logprobs)) as fake:
        found = one(fake, tmp_path)
    assert isinstance(found, Reply)
    assert (found.text, found.tokens) == ("(A)", ())


def test_impossible_tokens_have_a_finite_log_probability(tmp_path: Path) -> None:
    body = chat("A", [{"token": "A", "logprob": -0.0, "top_logprobs": [{"token": "B", "logprob": -math.inf}]}]).body
    with serving(lambda *_: Answer(json.dumps(body).encode())) as fake:
        found = one(fake, tmp_path)
    assert isinstance(found, Reply)
    assert dict(found.tokens[0][1]) == {"B": -10_000.0, "A": 0.0}


def test_letters_that_no_file_can_hold_do_not_stop_it(tmp_path: Path) -> None:
    raw = b'{"choices": [{"message": {"content": "a\\ud800b\\u0000c"}, "finish_reason": "length"}]}'
    with serving(lambda *_: Answer(raw)) as fake:
        found = one(fake, tmp_path)
        assert isinstance(found, Reply)
        assert (found.text, found.finished) == ("a?bc", False)
        assert endpoint(fake, tmp_path).ask([call()]) == [found]
        assert fake.calls == 1


def test_an_endless_answer_is_not_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manners.constitution.endpoint.LARGEST_ANSWER", 1000)
    with serving(lambda *_: chat("x" * 100_000)) as fake:
        found = one(fake, tmp_path, attempts=1)
    assert isinstance(found, Failure)
    assert "more than 1000 bytes" in found.detail


def test_a_declined_answer_says_so(tmp_path: Path) -> None:
    declined = [chat(None, finish_reason="content_filter"), chat(None)]
    declined[1].body["choices"][0]["message"]["refusal"] = "I will not."
    for number, answer in enumerate(declined):
        with serving(lambda *_, answer=answer: answer) as fake:
            found = one(fake, tmp_path / str(number))
        assert isinstance(found, Reply)
        assert (found.text, found.refused) == ("", True)
