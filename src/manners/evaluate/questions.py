"""What a model is asked: the items of the behaviour card."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from manners.records import Prompt

Topic = Literal["ordinary", "provoking", "dangerous", "lookalikes", "truthful", "comparisons", "passages", "facts"]
TOPICS: tuple[Topic, ...] = (
    "ordinary", "provoking", "dangerous", "lookalikes", "truthful", "comparisons", "passages", "facts"
)  # fmt: skip
SAFE, UNSAFE = "safe", "unsafe"


@dataclass(frozen=True)
class Question:
    """A question with true and false answers; `best` is one of the true ones."""

    text: str
    best: str
    true: tuple[str, ...]
    false: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """A better and a worse answer to a prompt, and what makes the one better: the subset."""

    subset: str
    prompt: Prompt
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Fact:
    """The beginning of a sentence, the word that completes it, and words that do not."""

    text: str
    answer: str
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Items:
    """All that a card asks. `lookalikes` have the category "safe" or "unsafe"."""

    ordinary: tuple[Prompt, ...]
    provoking: tuple[Prompt, ...]
    dangerous: tuple[Prompt, ...]
    lookalikes: tuple[Prompt, ...]
    truthful: tuple[Question, ...]
    comparisons: tuple[Comparison, ...]
    passages: tuple[str, ...]
    facts: tuple[Fact, ...]


ItemT = TypeVar("ItemT")


def some(items: Sequence[ItemT], limit: int, seed: int) -> list[ItemT]:
    """At most `limit` of the items, drawn by `seed`, in their order."""
    if len(items) <= limit:
        return list(items)
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), limit))]
