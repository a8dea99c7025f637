from __future__ import annotations

import pytest

from manners.ops.diversity import distinct_n


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
