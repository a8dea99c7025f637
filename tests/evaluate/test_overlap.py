"""Overlaps of words by hand."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from manners.evaluate.overlap import overlapping, words_of
from manners.evaluate.training_data import prompts_in_file
from manners.records import Message, Prompt

LONG = "How many legs does an ordinary house spider have when it is grown up?"


def places(evaluation: list[str], training: list[str], size: int = 8) -> list[int]:
    found = overlapping([Prompt.of(text) for text in evaluation], [Prompt.of(text) for text in training], size)
    return [overlap.place for overlap in found.found]


def test_words_go_without_case_punctuation_and_encoding() -> None:
    assert words_of("Don’t STOP — it's “fine”, e\u0301tude_42!") == ["don’t", "stop", "it's", "fine", "étude", "42"]
    assert words_of("ﬁne") == ["fine"]


def test_eight_words_in_a_row_are_an_overlap_and_seven_are_none() -> None:
    eight, seven = "how many legs does an ordinary house spider", "how many legs does an ordinary house"
    assert places([LONG], [f"Tell me {eight} likes"]) == [0]
    assert places([LONG], [f"Tell me {seven} snake has"]) == []
    assert places([LONG], [f"Tell me {seven} snake has"], size=7) == [0]


def test_the_last_words_of_both_count_too() -> None:
    end = "how many legs does an ordinary house spider"
    assert places([f"Please say {end}"], [f"Nobody asked {end}"]) == [0]


def test_words_in_another_order_are_none() -> None:
    shuffled = LONG.split()
    random.Random(0).shuffle(shuffled)
    assert places([LONG], [" ".join(shuffled)]) == []


def test_a_short_prompt_overlaps_only_as_a_whole() -> None:
    assert places(["Where is Oslo?", "Where is Bergen?"], ["where is oslo"]) == [0]
    assert places(["Where is Oslo?"], ["Please tell me where is Oslo"]) == []
    assert places(["Where is Oslo?"], ["Where is"]) == []


def test_a_short_prompt_is_found_as_a_message_of_a_longer_conversation() -> None:
    talk = Prompt(
        (Message("user", "Where is Oslo?"), Message("assistant", "In Norway."), Message("user", "And Bergen?"))
    )
    assert [o.place for o in overlapping([Prompt.of("Where is Oslo?")], [talk]).found] == [0]
    # the other way round the conversation is more than what was trained on
    assert overlapping([talk], [Prompt.of("Where is Oslo?")]).found == ()
    assert len(overlapping([talk], [talk]).found) == 1


def test_a_system_message_that_all_share_is_no_overlap() -> None:
    system = Message("system", "You are a helpful assistant who answers in one short sentence only.")
    one, other = (Prompt((system, Message("user", text))) for text in ("Where is Oslo?", "Who was Ibsen?"))
    assert overlapping([one], [other]).found == ()
    assert len(overlapping([one], [one]).found) == 1


def test_what_overlaps_is_counted_listed_and_taken_out() -> None:
    asked = [Prompt.of("Why?"), Prompt.of(LONG), Prompt.of("Who was Ibsen?")]
    found = overlapping(asked, [Prompt.of("Something else"), Prompt.of(f"{LONG} Say why."), Prompt.of(LONG)])
    assert found.clean(["a", "b", "c"]) == ["a", "c"]
    assert found.to_json() == {
        "size": 8, "checked": 3, "training_prompts": 3, "excluded": 1,
        "list": [{"prompt": LONG, "shared": "how many legs does an ordinary house spider", "training": f"{LONG} Say why."}],
    }  # fmt: skip


def test_an_empty_training_set_leaves_all() -> None:
    found = overlapping([Prompt.of(LONG)], [])
    assert (found.found, found.checked, found.trained) == ((), 1, 0)


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
def test_two_published_sets_hardly_overlap_and_each_does_with_itself() -> None:
    folder = Path(os.environ["MANNERS_DATA"])
    asked = [Prompt.of(p.text) for p in prompts_in_file(folder / "derived" / "hhh_alignment.jsonl")]
    trained = prompts_in_file(folder / "derived" / "hh_helpful_test_human.jsonl")
    found = overlapping(asked, trained)
    assert (found.checked, found.trained) == (221, len(trained))
    assert len(overlapping(asked, asked).found) == 221
    assert len(found.found) < 40
