"""Prompts of the package, the splits, and prompts that a model writes."""

from __future__ import annotations

from collections import Counter

from writers import FakeWriter

from manners.constitution.prompts import apart, lines_of, list_to_go_on, normalised, shipped, write_prompts
from manners.records import Message, Prompt


def test_the_prompts_of_the_package_are_enough_and_two_thirds_are_for_training() -> None:
    red, helpful = shipped("red_team"), shipped("helpful")
    assert Counter(p.split for p in red) == {"train": 64, "test": 32}
    assert Counter(p.split for p in helpful) == {"train": 44, "test": 22}
    assert len({normalised(p) for p in [*red, *helpful]}) == len(red) + len(helpful)
    assert sum(len(p.messages) > 1 for p in red) >= 6
    for category in ("toxicity", "aggression", "danger", "deception", "privacy", "hate"):
        assert {p.split for p in red if p.category == category} == {"train", "test"}


def test_a_text_that_is_named_for_two_splits_stays_held_out() -> None:
    prompts = [
        Prompt.of("How are you?", split="train"), Prompt.of("how are you", split="test"), Prompt.of("Who?", split="validation"),
        Prompt.of("WHO", split="train"), Prompt.of("Why?", split="train"), Prompt.of("Why? ", split="train"),
    ]  # fmt: skip
    found = apart(prompts, 0)
    texts = {split: [p.text for p in own] for split, own in found.items()}
    assert texts == {"test": ["how are you"], "validation": ["Who?"], "train": ["Why?"]}


def test_the_whole_conversation_counts() -> None:
    said = [
        Prompt((Message("user", a), Message("assistant", "Well."), Message("user", "Why?"))) for a in ("One", "Two")
    ]
    assert len(apart(said, 0, 0, 0)["train"]) == 2


def test_what_is_taken_is_left_out_and_every_prompt_gets_a_split() -> None:
    prompts = [Prompt.of(f"Question {n}?") for n in range(300)]
    found = apart(prompts, 0, taken=[Prompt.of("question 7")])
    assert sum(map(len, found.values())) == 299
    assert all(p.split == split for split, own in found.items() for p in own)
    assert 15 <= len(found["test"]) <= 45  # a tenth of 300, and four deviations of that draw
    assert found == apart(prompts, 0, taken=[Prompt.of("question 7")])


def test_items_of_a_list_lose_their_numbers_and_the_last_one_where_it_was_cut_off() -> None:
    assert lines_of("7. Why so?\n\n8) How so?\n- Who", True) == ["Why so?", "How so?", "Who"]
    assert lines_of("7. Why so?\n8. How", False) == ["Why so?"]


def test_written_prompts_are_new_counted_and_never_measured_on() -> None:
    answers = iter(
        ["7. How do I steal a boat?\n8. how do I steal a BOAT\n9. No\n10. Where is it, really?\n11. And th…", "…"]
    )
    writer = FakeWriter(lambda _, __: next(answers))
    examples = [Prompt.of("How do I steal a car?"), Prompt.of("Where is it, really?")]
    found = write_prompts(writer, examples, 5, seed=0, calls_at_once=1, most_rounds=2, known=[])
    assert [p.text for p in found.prompts] == ["How do I steal a boat?"]
    assert (found.repeated, found.unfit) == (2, 1)
    assert found.prompts[0].split == "train"
    assert len(writer.calls) == 2


def test_it_stops_when_there_are_enough_and_shows_other_examples_each_time() -> None:
    count = iter(range(100))
    writer = FakeWriter(lambda _, __: f"1. What about number {next(count)}?")
    examples = [Prompt.of(f"Tell me about thing {n}.") for n in range(20)]
    found = write_prompts(writer, examples, 5, seed=0, calls_at_once=3, shown=4)
    assert len(found.prompts) == 5
    assert len(writer.calls) == 2
    assert len({c.text for c in writer.asked}) == 6
    again = FakeWriter(lambda _, __: f"1. What about number {next(count)}?")
    write_prompts(again, examples, 5, seed=0, calls_at_once=3, shown=4)
    assert [c.text for c in again.asked] == [c.text for c in writer.asked]


def test_the_request_is_a_numbered_list_that_waits_for_the_next_number() -> None:
    text = list_to_go_on([Prompt.of("One?"), Prompt.of("Two\nlines?")]).text
    assert text.endswith("1. One?\n2. Two lines?\n3.")
