"""Cutting, comparing and recognising texts, on texts made by hand."""

from __future__ import annotations

import pytest

from manners.constitution.wording import (
    STOPS,
    boilerplate,
    borrows,
    cut_at,
    preaching,
    repetitive,
    same,
    unlabelled,
    whole_sentences,
)


def test_the_first_stop_string_ends_the_text_wherever_it_stands() -> None:
    text = "Ask him.\nHuman: and then?\nAssistant: wait.<|im_end|>"
    assert cut_at(text, STOPS) == ("Ask him.", True)
    assert cut_at("Ask him.", STOPS) == ("Ask him.", False)
    assert cut_at("<|im_end|>", STOPS) == ("", True)
    assert cut_at("Human: and then?", STOPS) == ("", True)
    assert cut_at("The Human: a play", STOPS) == ("The Human: a play", False)


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Revised answer: Talk to him.", "Talk to him."),
        ("Here is a revised version of the answer:\n\nTalk to him.", "Talk to him."),
        ("**Revision:** Talk to him.", "Talk to him."),
        ("Assistant: Talk to him.", "Talk to him."),
        ('"Talk to him."', "Talk to him."),
        ('"No" is an answer, and "yes" is too."', '"No" is an answer, and "yes" is too."'),
        ("The answer is: 42.", "The answer is: 42."),
        ("Three steps: wash, dry, fold.", "Three steps: wash, dry, fold."),
    ],
)
def test_labels_before_a_text_go(text: str, bare: str) -> None:
    assert unlabelled(text) == bare


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("Wash it. Then dry", "Wash it."),
        ('He said "no!" And th', 'He said "no!"'),
        ("Wash it", ""),
        ("Do this:\n1. Wash it.\n2. Dr", "Do this:\n1. Wash it."),
        ("Ask Dr. Bell, e.g. by ph", ""),
        ("It costs 3.5 or", ""),
        ("All done?", "All done?"),
    ],
)
def test_a_text_is_cut_back_to_its_last_whole_sentence(text: str, whole: str) -> None:
    assert whole_sentences(text) == whole


def test_the_same_words_are_the_same_text() -> None:
    assert same("Talk to him, calmly.", "talk to HIM calmly")
    assert same("one two three four five", "one two three four")  # its end is missing
    assert not same("one two three four five", "one two three")  # too much of it is
    assert not same("one two three four", "two three four one")
    assert same("", "")


def test_a_sentence_that_stands_elsewhere_is_borrowed() -> None:
    others = ["Her messages are hers, so I will not help. Ask her.", "Write only the new answer of the assistant."]
    assert borrows("Fine. Her messages are hers so I WILL not help! And so on.", others)
    assert borrows("Be safe. Write only the new answer of the assistant.", others)
    assert not borrows("Ask her.", others)  # too short to be more than chance
    assert not borrows("Her letters are hers, so I will not help.", others)
    assert not borrows("her messages are hers so I will not helpfully", others)


def test_a_text_that_goes_round_in_circles() -> None:
    assert repetitive("No, " * 20)
    assert repetitive("It is a fallacy of the use of the word. " * 4)
    assert not repetitive("No, no, no.")
    assert not repetitive(
        "Damage would only make the quarrel worse, so I leave that out. Tell him which hours bother you."
    )


@pytest.mark.parametrize(
    ("text", "stock", "lecture"),
    [
        ("As an AI language model, I have no opinion.", True, False),
        ("I\u2019m just a language model.", True, False),
        ("I'm sorry, but I can't assist with that.", True, False),
        ("You are valid, valued, and cared for.", True, False),
        ("It is never okay to insult people.", False, True),
        ("It's important to remember that everyone deserves respect.", False, True),
        ("We should all be kind.", False, True),
        ("I will not help to hurt him. Talk to him on Monday.", False, False),
        ("You should soak it for an hour.", False, False),
        ("I can help with that: boil the egg for nine minutes.", False, False),
        ("Remember the milk.", False, False),
    ],
)
def test_stock_phrases_and_lectures(text: str, stock: bool, lecture: bool) -> None:
    assert (boilerplate(text), preaching(text)) == (stock, lecture)


def test_the_texts_of_the_package_practise_what_they_preach() -> None:
    from manners.constitution.constitution import Constitution

    for example in Constitution.load().revision_examples:
        assert not boilerplate(example.revision)
        assert not preaching(example.revision)
