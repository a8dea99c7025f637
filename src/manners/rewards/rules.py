"""Rewards by plain rules, for `function: manners.rewards.rules:NAME`, alone or as a part of a combination.

Each takes prompts and completions, lists of texts, and gives one number per completion. A word is what stands between white
space, whatever its letter case.
"""

from __future__ import annotations

from collections.abc import Sequence


def distinct_words(_prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """How many different words a completion has."""
    return [float(len(set(text.lower().split()))) for text in completions]


def brevity(_prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    """Minus the number of words: as a part, an explicit length penalty of its weight per word; with a floor of −60, only of words
    beyond the sixtieth."""
    return [-float(len(text.split())) for text in completions]
