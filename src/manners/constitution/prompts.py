"""What the model is asked: the prompts of the package, those of a file or a store, and those that a model writes itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Literal

from manners.constitution.wording import words
from manners.constitution.writer import Writer, drawn
from manners.feedback.pairs import split_of
from manners.records import Prompt, Split

Shipped = Literal["red_team", "helpful"]
SHIPPED: tuple[Shipped, ...] = ("red_team", "helpful")
_ORDER: tuple[Split, ...] = ("test", "validation", "train")
_ITEM = re.compile(r"\A\s*(?:\d+\s*[.):]|[-*•])\s*")
FEWEST_WORDS, MOST_WORDS = 3, 40


def shipped(name: Shipped) -> list[Prompt]:
    """The prompts that come with the package: mild "red_team" ones in six categories, or plain "helpful" ones."""
    text = resources.files("manners.constitution").joinpath(f"{name}.jsonl").read_text(encoding="utf-8")
    return [Prompt.from_json(json.loads(line)) for line in text.splitlines()]


def normalised(prompt: Prompt) -> str:
    """The words of the whole conversation: equal for prompts that differ in case, signs or layout alone."""
    return " | ".join(f"{message.role} {' '.join(words(message.content))}" for message in prompt.messages)


def apart(
    prompts: Iterable[Prompt], seed: int, validation: float = 0.1, test: float = 0.1, taken: Iterable[Prompt] = ()
) -> dict[Split, list[Prompt]]:
    """The prompts by split, each with its split written on it, and each normalised text once.

    A text that is named for two splits stays in the one that is held out most: test before validation before train. What is among
    the `taken` is left out.
    """
    known = {normalised(prompt) for prompt in taken}
    by_split: dict[Split, list[Prompt]] = {split: [] for split in _ORDER}
    for prompt in prompts:
        split = split_of(prompt, seed, validation, test)
        by_split[split].append(replace(prompt, split=split))
    for split in _ORDER:
        kept = []
        for prompt in by_split[split]:
            if (text := normalised(prompt)) not in known:
                known.add(text)
                kept.append(prompt)
        by_split[split] = kept
    return by_split


@dataclass(frozen=True, slots=True)
class Written:
    """Prompts that a model wrote, and how many of its lines were repetitions or no usable prompt."""

    prompts: list[Prompt]
    repeated: int
    unfit: int


def write_prompts(
    writer: Writer, examples: Sequence[Prompt], count: int, *, seed: int, shown: int = 6, temperature: float = 1.0,
    max_tokens: int = 160, calls_at_once: int = 8, most_rounds: int = 8, known: Iterable[Prompt] = (),
) -> Written:  # fmt: skip
    """Up to `count` new prompts in the style of `examples`: a model goes on with a list of `shown` of them, drawn anew for each call.

    What says the same as an example, as one of the `known`, or as another written one is left out. The prompts have the split "train":
    nothing written by a model is measured on. It may be fewer than `count` where the model repeats itself.
    """
    short = [example for example in examples if len(example.messages) == 1]
    seen = {normalised(prompt) for prompt in (*examples, *known)}
    found: list[Prompt] = []
    repeated = unfit = 0
    for number in range(most_rounds):
        if len(found) >= count:
            break
        places = [number * calls_at_once + i for i in range(calls_at_once)]
        asked = [list_to_go_on(_some(short, shown, seed, place)) for place in places]
        seeds = [drawn("written", seed, place) % 2**31 for place in places]
        for completion in writer.complete(asked, max_tokens, temperature, seeds):
            for line in lines_of(completion.text, completion.finished):
                if not FEWEST_WORDS <= len(words(line)) <= MOST_WORDS:
                    unfit += 1
                    continue
                prompt = Prompt.of(line, category="written", split="train")
                if normalised(prompt) in seen:
                    repeated += 1
                    continue
                seen.add(normalised(prompt))
                found.append(prompt)
    return Written(found[:count], repeated, unfit)


def list_to_go_on(examples: Sequence[Prompt]) -> Prompt:
    """The request to go on with a numbered list of prompts."""
    listed = "\n".join(f"{number}. {' '.join(e.text.split())}" for number, e in enumerate(examples, 1))
    ask = f"Here is a list of things that people said to an assistant. Go on with the list, one a line.\n\n{listed}"
    return Prompt.of(f"{ask}\n{len(examples) + 1}.")


def lines_of(text: str, finished: bool) -> list[str]:
    """The items of a list that a model wrote, without their numbers; the last one is left out where it was cut off."""
    lines = [_ITEM.sub("", line).strip() for line in text.splitlines() if line.strip()]
    return lines if finished else lines[:-1]


def _some(examples: Sequence[Prompt], shown: int, seed: int, place: int) -> list[Prompt]:
    return sorted(examples, key=lambda e: drawn("example", seed, place, e.id))[:shown]
