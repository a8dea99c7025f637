from __future__ import annotations

import random

import pytest

from manners.ops.diversity import distinct_n, repetition


@pytest.mark.parametrize(
    ("texts", "n", "wanted"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),  # ab, ba, ab
        (["a b", "a b"], 2, 1 / 2),
        (["a b", "b a"], 2, 1.0),  # no bigram goes from one text into the next
        (["The cat", "the  CAT\n"], 1, 2 / 4),  # case and white space do not make a word
        (["one two three"], 3, 1.0),
        (["one two"], 3, 0.0),
        (["", "   "], 1, 0.0),
        ([], 1, 0.0),
        (["x " * 100], 1, 1 / 100),
    ],
)
def test_hand_counts(texts: list[str], n: int, wanted: float) -> None:
    assert distinct_n(texts, n) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("texts", "n", "wanted"),
    [
        (["a b c a b c"], 3, 1 / 4),  # abc bca cab abc
        (["thank you so much"], 3, 0.0),
        (["x " * 12], 3, 9 / 10),  # ten times xxx, nine of them again
        (["a b c a b c", "one two three four"], 3, 1 / 8),  # mean over texts
        (["a b c", "a b c"], 3, 0.0),  # what another text said is no repetition
        (["a b c a b c", "no"], 3, 1 / 8),  # a text without a triple repeats nothing
        (["a b", ""], 3, 0.0),
        ([], 3, 0.0),
        (["Very well,  very\nWELL, very well,"], 2, 3 / 5),  # case and white space do not make a word
        (["a a b"], 1, 1 / 3),
    ],
)
def test_repetition_by_hand(texts: list[str], n: int, wanted: float) -> None:
    assert repetition(texts, n) == pytest.approx(wanted)


def test_repetition_by_counting_each_ngram() -> None:
    """Against a count of what was seen before, n-gram by n-gram, over random texts of few words."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abc", k=draw.randrange(30))) for _ in range(50)]
    shares = []
    for text in texts:
        words, before, again = text.split(), list[list[str]](), 0
        for i in range(len(words) - 2):
            again += words[i : i + 3] in before
            before.append(words[i : i + 3])
        shares.append(again / len(before) if before else 0.0)
    assert 0.1 < sum(shares) / 50 < 0.9
    assert repetition(texts) == pytest.approx(sum(shares) / 50)
