"""How varied a set of texts is."""

from __future__ import annotations

from collections.abc import Sequence


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams in all `texts`; 1 = no n-gram twice, 0 where there is none. Li et al. 2016."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[str], n: int = 3) -> float:
    """Share of a text's word n-grams that occurred before in it, mean over `texts`; 0 = no text says anything twice.

    A text of fewer than `n` words repeats nothing and counts as 0. For one text with n-grams it is 1 − distinct_n (seq-rep-n of
    Welleck et al. 2020); over several, what one text shares with another does not count.
    """
    shares = [1 - len(set(grams)) / len(grams) if (grams := _grams(text, n)) else 0.0 for text in texts]
    return sum(shares) / len(shares) if shares else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.lower().split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
