"""Was it trained on the test? Prompts of an evaluation that share a long run of words with prompts that a model was trained on.

A prompt overlaps where any `size` words in a row (8 by default) stand in a training prompt too; a prompt of fewer words, where the
whole of it is a training prompt or one of its messages. Words are compared without case, accents' encoding and punctuation. System
messages are left out: many prompts share them. Runs of words as in Brown et al. 2020 (arXiv 2005.14165, app. C).

A card asks it so: `found = overlapping(prompts, training_prompts(model).prompts)`, measures on `found.clean(prompts)`, and shows
`found.to_json()`; `training_prompts` is in `evaluate.training_data`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from manners.records import Prompt

T = TypeVar("T")
SIZE = 8
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_Run = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Overlap:
    """One prompt of the evaluation, by its place, with the words it shares and the training prompt it shares them with."""

    place: int
    prompt: Prompt
    shared: str
    training: Prompt


@dataclass(frozen=True)
class Overlaps:
    """What was found among `checked` prompts of an evaluation and `trained` training prompts."""

    found: tuple[Overlap, ...]
    checked: int
    trained: int
    size: int

    def clean(self, rows: Sequence[T]) -> list[T]:
        """`rows`, one for each prompt that was checked, in their order, without those of prompts that overlap."""
        assert len(rows) == self.checked, "a row for each prompt"
        out = {overlap.place for overlap in self.found}
        return [row for place, row in enumerate(rows) if place not in out]

    def to_json(self) -> dict[str, Any]:
        """What a card shows: how many were excluded, and which."""
        return {
            "size": self.size,
            "checked": self.checked,
            "training_prompts": self.trained,
            "excluded": len(self.found),
            "list": [{"prompt": o.prompt.text, "shared": o.shared, "training": o.training.text} for o in self.found],
        }


def overlapping(evaluation: Sequence[Prompt], training: Iterable[Prompt], size: int = SIZE) -> Overlaps:
    """The prompts of `evaluation` that overlap with any of `training`, each with the first place where it does.

    Memory is that of the evaluation's runs of words; training prompts pass by one at a time.
    """
    wanted: dict[_Run, list[int]] = {}
    for place, prompt in enumerate(evaluation):
        for run in _runs_asked(prompt, size):
            wanted.setdefault(run, []).append(place)
    found: dict[int, Overlap] = {}
    trained = 0
    for prompt in training:
        trained += 1
        for run in _runs_trained(prompt, size):
            for place in wanted.get(run, ()):
                found.setdefault(place, Overlap(place, evaluation[place], " ".join(run), prompt))
    return Overlaps(tuple(found[place] for place in sorted(found)), len(evaluation), trained, size)


def words_of(text: str) -> list[str]:
    """The words of a text as they are compared: NFKC, without case and punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _runs_asked(prompt: Prompt, size: int) -> Iterator[_Run]:
    """What to look for: the runs of `size` words of each message, or, where no message has so many, the whole prompt."""
    messages = _messages(prompt)
    runs = [run for words in messages for run in _runs(words, size)]
    whole = tuple(word for words in messages for word in words)
    return iter(runs or ([whole] if whole else []))


def _runs_trained(prompt: Prompt, size: int) -> Iterator[_Run]:
    """What a training prompt holds: the runs of `size` words of its messages, each message as a whole, and all of them together."""
    messages = _messages(prompt)
    for words in messages:
        yield from _runs(words, size)
        yield tuple(words)
    yield tuple(word for words in messages for word in words)


def _runs(words: Sequence[str], size: int) -> Iterator[_Run]:
    return (tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _messages(prompt: Prompt) -> list[list[str]]:
    return [words_of(message.content) for message in prompt.messages if message.role != "system"]
