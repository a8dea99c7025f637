"""Thumbs: verdicts on single answers, up or down, for what learns without a second answer to compare with.

They come as JSONL with a line for each answer: `thumbs.jsonl` as feedback is exported (`prompt`, `completion`, `label`), or answers with a
`rating`, of which those above a threshold count as up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.feedback.pairs import split_of
from manners.records import Completion, Message, Prompt
from manners.runs import read_jsonl


@dataclass(frozen=True, slots=True)
class Thumb:
    """One answer and whether it is a good one."""

    prompt: Prompt
    completion: Completion
    up: bool
    weight: float = 1.0


def read_thumbs(path: Path, threshold: float | None = None) -> list[Thumb]:
    """The thumbs in a JSONL file. A row with a `rating` in place of a `label` counts as up where it exceeds `threshold`.

    prompt: a text, or a list of messages; completion: a text, or a list of one message. Raises MannersError for a missing file, for a
    row that is no thumb, and for ratings without a threshold.
    """
    thumbs = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            prompt = _prompt(row["prompt"])
            thumbs.append(Thumb(prompt, Completion(prompt.id, _answer(row["completion"])), _is_up(row, threshold)))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise MannersError(
                f"row {number} of {path} is no thumb ({error}); it needs prompt, completion and label or rating"
            ) from None
    if not thumbs:
        raise MannersError(f"{path} holds no thumbs")
    return thumbs


def split_thumbs(thumbs: Sequence[Thumb], seed: int, validation: float = 0.1) -> tuple[list[Thumb], list[Thumb]]:
    """Thumbs to learn from and held-out ones, split by prompt; those of a test split are left alone."""
    parts: dict[str, list[Thumb]] = {"train": [], "validation": [], "test": []}
    for thumb in thumbs:
        parts[split_of(thumb.prompt, seed, validation=validation, test=0)].append(thumb)
    return parts["train"], parts["validation"]


def _prompt(value: Any) -> Prompt:
    if isinstance(value, str):
        return Prompt.of(value)
    return Prompt(tuple(Message(turn["role"], turn["content"]) for turn in value))


def _answer(value: Any) -> str:
    text = value if isinstance(value, str) else value[0]["content"]
    if not isinstance(text, str):
        raise ValueError("the completion is no text")
    return text


def _is_up(row: dict[str, Any], threshold: float | None) -> bool:
    if "label" in row:
        if not isinstance(row["label"], bool):
            raise ValueError(f"label must be true or false, not {row['label']!r}")
        return row["label"]
    rating = row["rating"]
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        raise ValueError(f"rating must be a number, not {rating!r}")
    if threshold is None:
        raise ValueError("ratings need a threshold above which they count as up")
    return rating > threshold
