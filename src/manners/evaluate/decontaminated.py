"""The items of a card without those that the model may have learned from, and what was left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from manners.evaluate.overlap import overlapping
from manners.evaluate.questions import TOPICS, Comparison, Fact, Items, Question
from manners.evaluate.training_data import training_prompts
from manners.records import Prompt


def decontaminated(items: Items, models: Sequence[str]) -> tuple[Items, dict[str, Any]]:
    """`items` without those that share a long run of words with a training prompt of any of `models`, as far as their runs record it.

    Gives too what card.json says of it: what was excluded by topic, the files that were compared with, and what could not be followed.
    """
    known = [training_prompts(model) for model in models]
    prompts = list({prompt.id: prompt for one in known for prompt in one.prompts}.values())
    kept: dict[str, Any] = {}
    topics: dict[str, Any] = {}
    for topic in TOPICS:
        rows = vars(items)[topic]
        found = overlapping([_asked(row) for row in rows], prompts)
        kept[topic] = tuple(found.clean(rows))
        if found.found:
            topics[topic] = found.to_json()
    sources = [source.to_json() for one in known for source in one.sources]
    unknown = list(dict.fromkeys(text for one in known for text in one.unknown))
    return replace(items, **kept), {"topics": topics, "sources": sources, "unknown": unknown}


def overlap_warnings(found: dict[str, Any]) -> list[str]:
    """One sentence for each topic that lost items."""
    return [
        f"{len(one['list'])} of {one['checked']} {topic} items were left out: they share {one['size']} words or more with what a model"
        " was trained on"
        for topic, one in found["topics"].items()
    ]


def _asked(item: Prompt | Question | Comparison | Fact | str) -> Prompt:
    """What of an item could have been seen in training: its prompt, its question or its text."""
    match item:
        case Prompt():
            return item
        case Comparison():
            return item.prompt
        case Question() | Fact():
            return Prompt.of(item.text)
        case _:
            return Prompt.of(item)
