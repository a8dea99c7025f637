"""A writer that says what it was told to say, and a short constitution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from manners.constitution.constitution import Constitution
from manners.records import Completion, Prompt

SHORT = Path(__file__).parent / "constitution" / "short.yaml"
Says = Callable[[Prompt, int], str]


def kind_of(conversation: Prompt) -> str:
    """Which of its requests `revise` put under the short constitution: "answer", "critique" or "revision"."""
    return {0: "answer", 1: "critique", 2: "revision"}[conversation.text.count(" | ")]


class FakeWriter:
    """`says` gives the text for a conversation and a seed; "…" at its end means that the length limit was reached. Every call is
    written down. With `fails_at` the call of that number, from 0, raises."""

    def __init__(self, says: Says, fails_at: int = -1) -> None:
        self.says, self.fails_at = says, fails_at
        self.calls: list[tuple[list[Prompt], int, float, list[int]]] = []

    def complete(
        self, conversations: Sequence[Prompt], max_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Completion]:
        if len(self.calls) == self.fails_at:
            raise RuntimeError("the power is gone")
        self.calls.append((list(conversations), max_tokens, temperature, list(seeds)))
        found = []
        for conversation, seed in zip(conversations, seeds, strict=True):
            text = self.says(conversation, seed)
            found.append(Completion(conversation.id, text.removesuffix("…"), not text.endswith("…"), "fake", {}, seed))
        return found

    @property
    def asked(self) -> list[Prompt]:
        return [conversation for conversations, *_ in self.calls for conversation in conversations]


def short() -> Constitution:
    return Constitution.load(SHORT)
