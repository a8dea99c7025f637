from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from manners.text.ngrams import Features, hashed_ngrams

BUCKETS = 1 << 16


def as_counts(features: Features, words: range) -> Counter[tuple[int, float]]:
    """Places and signs of the features of some words, the order forgotten."""
    chosen = (features.words >= words.start) & (features.words < words.stop)
    return Counter(zip(features.places[chosen].tolist(), features.signs[chosen].tolist(), strict=True))


def counted(words: list[str]) -> int:
    """How many features a text has, by cutting strings."""
    padded = [f" {word} " for word in words]
    letters = sum(max(len(word) - n + 1, 0) for word in padded for n in (3, 4, 5))
    return len(words) + max(len(words) - 1, 0) + letters


@pytest.mark.parametrize(
    "words", [[], ["a"], ["ab", "cde"], ["the", "quick", "brown", "fox", "jumps", "over", "a", "dog"]]
)
def test_words_pairs_and_letters_are_counted_as_by_hand(words: list[str]) -> None:
    assert len(hashed_ngrams([words], BUCKETS).places) == counted(words)


def test_a_text_has_the_same_features_alone_and_among_others() -> None:
    texts = [["mind", "the", "gap"], [], ["the", "gap"], ["x"]]
    together, number = hashed_ngrams(texts, BUCKETS), 0
    for words in texts:
        alone = hashed_ngrams([words], BUCKETS)
        assert as_counts(together, range(number, number + len(words))) == as_counts(alone, range(len(words)))
        number += len(words)


def test_equal_words_have_equal_features_and_others_have_others() -> None:
    once, twice = hashed_ngrams([["gap"]], BUCKETS), hashed_ngrams([["gap"], ["gap"]], BUCKETS)
    assert as_counts(twice, range(2)) == Counter({k: 2 * n for k, n in as_counts(once, range(1)).items()})
    assert not set(as_counts(once, range(1))) & set(as_counts(hashed_ngrams([["mud"]], BUCKETS), range(1)))


def test_words_and_letters_lie_in_halves_of_their_own() -> None:
    features = hashed_ngrams([["gap"]], BUCKETS)
    assert (features.places < BUCKETS // 2).tolist() == [True] + [False] * 6


def test_places_and_signs_are_even() -> None:
    """Of 20,000 made-up words: each sixteenth of the places within five standard deviations of its share, and the signs too."""
    features = hashed_ngrams([[f"w{number:05d}" for number in range(20_000)]], BUCKETS)
    names = features.places[:20_000]
    share = np.bincount(names // (BUCKETS // 32), minlength=16)
    assert share.sum() == 20_000
    assert (abs(share - 1250) < 5 * 1250**0.5).all()
    assert abs(features.signs[:20_000].mean()) < 5 / 20_000**0.5


def test_another_process_gives_the_same_numbers() -> None:
    """Python's own hash would not, without PYTHONHASHSEED."""
    code = "from manners.text.ngrams import hashed_ngrams; print(hashed_ngrams([['mind', 'the', 'gap']], 65536).places.tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert other.stdout.strip() == str(hashed_ngrams([["mind", "the", "gap"]], BUCKETS).places.tolist())


def test_the_hash_is_the_polynomial_it_says() -> None:
    """The place of "a" and of "ab", by whole numbers of Python."""

    def place(word: str) -> int:
        value = 0
        for letter in word:
            value = (value * 0x9E3779B97F4A7C15 + ord(letter)) % 2**64
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
        return (value ^ (value >> 31)) % (BUCKETS // 2)

    assert hashed_ngrams([["zzz"], ["a", "ab"]], BUCKETS).places[:3].tolist() == [place("zzz"), place("a"), place("ab")]


def test_buckets_are_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        hashed_ngrams([["a"]], 1000)
