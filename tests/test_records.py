from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from typing import Any

import pytest

from manners.records import Completion, Judgement, Message, Pair, Prompt, Ranking, content_hash

TEXTS = [
    "a",
    "Grüße, 世界 🙂",
    'quotes " and \\ and \n lines',
    "  spaces  ",
    "line\u2028separator\u2029",
    "0",
    "null",
    "x" * 300,
]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def random_prompt(draw: random.Random) -> Prompt:
    roles = ["system", "user", "assistant", "user"][draw.randint(0, 3) :]
    messages = tuple(Message(role, draw.choice(TEXTS)) for role in roles)  # type: ignore[arg-type]
    return Prompt(messages, draw.choice(["", "helpful", "Ärger"]), draw.choice(["", "train", "validation", "test"]))


def random_completion(draw: random.Random, prompt: Prompt, mark: int = 0) -> Completion:
    return Completion(
        prompt.id,
        f"{draw.choice(TEXTS)} {mark}",
        draw.random() < 0.5,
        draw.choice(["", "starter"]),
        draw.choice([{}, {"temperature": 0.7, "max_tokens": 48}]),
        draw.choice([None, 0, 2**40]),
    )


def random_judgement(draw: random.Random) -> Judgement:
    prompt = random_prompt(draw)
    completions = tuple(random_completion(draw, prompt, mark) for mark in range(draw.randint(1, 5)))
    ids = [c.id for c in completions]
    named = draw.sample(ids, draw.randint(1, len(ids)))
    tiers: list[tuple[str, ...]] = []
    while named:
        size = draw.randint(1, len(named))
        tiers.append(tuple(named[:size]))
        named = named[size:]
    shown = tuple(draw.sample(ids, len(ids)))
    ranking = Ranking(
        prompt.id,
        tuple(tiers),
        draw.choice(["human", "ai", "rule"]),
        draw.choice(["", "ada"]),
        shown,
        draw.random() < 0.2,
        draw.choice([None, 1.5]),
        draw.choice(["", "note ✓"]),
        draw.choice([None, "0123456789abcdef"]),
    )
    return Judgement(prompt, completions, ranking)


def through_json(value: dict[str, Any]) -> dict[str, Any]:
    back: dict[str, Any] = json.loads(json.dumps(value))
    return back


# --- identity -------------------------------------------------------------------------------------------------------


def test_ids_are_the_hash_of_canonical_json_written_by_hand() -> None:
    assert content_hash("a", [1, None, True], {"z": 1, "b": "é"}) == digest('["a",[1,null,true],{"b":"é","z":1}]')
    prompt = Prompt((Message("system", "Be kind."), Message("user", "Hé?")))
    assert prompt.id == digest('["prompt",[["system","Be kind."],["user","Hé?"]]]')
    completion = Completion(prompt.id, "Yes.", True, "starter", {"temperature": 1.0}, 3)
    assert completion.id == digest(f'["completion","{prompt.id}","Yes.",true,"starter"]')
    ranking = Ranking("p", (("a", "b"), ("c",)), "ai", "judge", ("c", "b", "a"), False, 2.5, "why")
    assert ranking.id == digest('["ranking","p",[["a","b"],["c"]],"ai","judge",["c","b","a"],false,"why",null]')


def test_an_id_does_not_move_between_processes() -> None:
    # From `sha256sum` of ["prompt",[["user","How do I say no politely?"]]]: stores on disk hold such ids.
    assert Prompt.of("How do I say no politely?").id == "0cf5821eb4259272"


def test_what_is_said_changes_the_id_and_what_surrounds_it_does_not() -> None:
    prompt = Prompt.of("Hello")
    assert Prompt.of("Hello", category="greeting", split="test").id == prompt.id
    assert len({prompt.id, Prompt.of("hello").id, Prompt((Message("assistant", "Hello"),)).id,
                Prompt((Message("system", ""), Message("user", "Hello"))).id}) == 4  # fmt: skip

    answer = Completion("p", "Hi")
    assert Completion("p", "Hi", sampling={"temperature": 0.5}, seed=9).id == answer.id
    others = [
        Completion("q", "Hi"),
        Completion("p", "Hi "),
        Completion("p", "Hi", False),
        Completion("p", "Hi", model="m"),
    ]
    assert len({answer.id, *(c.id for c in others)}) == 5

    ranking = Ranking("p", (("a",), ("b",)), shown=("a", "b", "c"))
    assert dataclasses.replace(ranking, seconds=4.0).id == ranking.id
    changes: list[dict[str, Any]] = [
        {"prompt_id": "q"}, {"tiers": (("b",), ("a",))}, {"tiers": (("a", "b"),)}, {"tiers": (("a",),)},
        {"source": "ai"}, {"judge": "ada"}, {"shown": ("b", "a", "c")}, {"all_bad": True}, {"note": "x"},
        {"supersedes": ranking.id},
    ]  # fmt: skip
    assert len({ranking.id, *(dataclasses.replace(ranking, **change).id for change in changes)}) == 1 + len(changes)


def test_texts_that_only_meet_when_glued_have_different_ids() -> None:
    assert Completion("p", "ab").id != Completion("pa", "b").id
    assert Prompt((Message("user", "a"), Message("user", "b"))).id != Prompt((Message("user", "ab"),)).id


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(40))
def test_everything_comes_back_from_json_as_it_was(seed: int) -> None:
    draw = random.Random(seed)
    judgement = random_judgement(draw)
    prompt, ranking = judgement.prompt, judgement.ranking
    completion = judgement.completions[0]
    pair = Pair(
        prompt, completion, random_completion(draw, prompt, 9), draw.random(), float(draw.randint(1, 4)), ranking.id
    )
    for record in (prompt, completion, ranking, pair, judgement):
        back = type(record).from_json(through_json(record.to_json()))
        assert back == record
        assert type(back) is type(record)
    again = Judgement.from_json(through_json(judgement.to_json()))
    assert again.ranking.id == ranking.id
    assert [c.id for c in again.completions] == [c.id for c in judgement.completions]


def test_a_judgement_that_does_not_know_the_order_on_screen_comes_back_the_same() -> None:
    prompt = Prompt.of("Hello")
    completions = (Completion(prompt.id, "Hi"), Completion(prompt.id, "What?"))
    judgement = Judgement(prompt, completions, Ranking(prompt.id, ((completions[1].id,),)))
    back = Judgement.from_json(through_json(judgement.to_json()))
    assert back.ranking.shown == ()
    assert back.ranking.id == judgement.ranking.id


def test_a_line_of_our_own_jsonl_reads_as_people_write_it() -> None:
    line = {"prompt": {"messages": [{"role": "user", "content": "Hello"}]},
            "completions": [{"text": "Go away"}, {"text": "Hi"}, {"text": "Hey"}], "tiers": [[1, 2], [0]]}  # fmt: skip
    judgement = Judgement.from_json(line)
    bad, first, second = judgement.completions
    assert judgement.prompt == Prompt.of("Hello")
    assert judgement.ranking.tiers == ((first.id, second.id), (bad.id,))
    assert judgement.ranking.shown == ()  # nobody said in which order they stood on the screen
    assert (judgement.ranking.source, judgement.ranking.judge, judgement.ranking.all_bad) == ("human", "", False)
    assert all(c.prompt_id == judgement.prompt.id and c.finished for c in judgement.completions)


def test_the_line_counts_into_its_completions_and_names_no_ids() -> None:
    prompt = Prompt.of("Hello")
    a, b, c = (Completion(prompt.id, text) for text in "abc")
    line = Judgement(prompt, (a, b, c), Ranking(prompt.id, ((c.id,), (a.id, b.id)), shown=(b.id, c.id, a.id))).to_json()
    assert (line["tiers"], line["shown"]) == ([[2], [0, 1]], [1, 2, 0])
    assert prompt.id not in json.dumps(line)


def test_swap_turns_the_pair_round_and_back() -> None:
    prompt = Prompt.of("Hello")
    good, bad = Completion(prompt.id, "Hi"), Completion(prompt.id, "Go away")
    pair = Pair(prompt, good, bad, 0.5, 2.0, "r")
    assert (pair.swap().chosen, pair.swap().rejected) == (bad, good)
    assert (pair.swap().weight, pair.swap().margin, pair.swap().ranking_id) == (0.5, 2.0, "r")
    assert pair.swap().swap() == pair


def test_a_prompt_shows_its_last_message() -> None:
    assert Prompt((Message("system", "Be kind."), Message("user", "Hello"))).text == "Hello"


@pytest.mark.parametrize("record", [Message("user", "a"), Prompt.of("a"), Completion("p", "a"), Ranking("p", (("a",),)),
                                    Pair(Prompt.of("a"), Completion("p", "a"), Completion("p", "b"))])  # fmt: skip
def test_records_cannot_be_changed(record: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, dataclasses.fields(record)[0].name, "other")


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Message("human", "a"), "role must be one of system, user, assistant, not 'human'"),  # type: ignore[arg-type]
        (lambda: Prompt(()), "at least one message"),
        (lambda: Prompt.of("  \n"), "last message of the prompt is empty"),
        (lambda: Prompt((Message("user", "a"), Message("assistant", ""))), "last message of the prompt is empty"),
        (lambda: Prompt.of("a", split="dev"), "split must be one of train, validation, test, not 'dev'"),
        (lambda: Ranking("p", (("a",),), source="robot"), "source must be one of human, ai, rule, not 'robot'"),  # type: ignore[arg-type]
        (lambda: Ranking("p", (("a", "b"), ("a",))), "named twice"),
        (lambda: Ranking("p", (("a", "a"),)), "named twice"),
        (lambda: Ranking("p", (("a",), ())), "a tier of the ranking is empty"),
        (lambda: Ranking("p", ()), "names no completion and does not say all_bad"),
        (lambda: Ranking("p", (("a",),), shown=("b",)), "that was not shown"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(build: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build()


def test_all_bad_may_name_nobody_and_a_partial_ranking_is_fine() -> None:
    assert Ranking("p", (), all_bad=True).tiers == ()
    assert Ranking("p", (("a",),), shown=("a", "b")).shown == ("a", "b")
    assert Prompt((Message("system", ""), Message("user", "a"))).text == "a"  # only the last message must say something


def test_what_does_not_belong_together_is_no_judgement() -> None:
    prompt, other = Prompt.of("Hello"), Prompt.of("Bye")
    mine, foreign = Completion(prompt.id, "Hi"), Completion(other.id, "Hi")
    with pytest.raises(ValueError, match="do not belong together"):
        Judgement(prompt, (mine,), Ranking(other.id, ((mine.id,),)))
    with pytest.raises(ValueError, match="do not belong together"):
        Judgement(prompt, (mine, foreign), Ranking(prompt.id, ((mine.id,),)))
    with pytest.raises(ValueError, match="that is not there"):
        Judgement(prompt, (mine,), Ranking(prompt.id, ((foreign.id,),)))


@pytest.mark.parametrize("index", [3, -1, "0", 0.0, None])
@pytest.mark.parametrize("key", ["tiers", "shown"])
def test_an_index_outside_the_completions_is_refused(index: Any, key: str) -> None:
    line = {"prompt": {"messages": [{"role": "user", "content": "Hello"}]}, "completions": [{"text": t} for t in "abc"],
            "tiers": [[0], [1]], "shown": [0, 1, 2]}  # fmt: skip
    line[key] = [[0], [index]] if key == "tiers" else [0, 1, index]
    with pytest.raises(ValueError, match="tiers count into completions from 0 to 2"):
        Judgement.from_json(line)
