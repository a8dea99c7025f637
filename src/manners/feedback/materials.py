"""What a batch is made of: prompts with the answers to be judged, read from files or taken from the store.

    {"prompt": "Where is Oslo?", "completions": ["No idea.", "In Norway."]}
    {"prompt": [{"role": "user", "content": "Hi"}], "completions": [{"text": "Hello!", "model": "m1"}], "gold": [[0]], "priority": 0.7}

`gold` is the ranking that everybody should give, `priority` how unsure a reward model is (the higher, the sooner the active arm
asks). What `manners sample` writes and our own judgements fit as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from manners.errors import MannersError
from manners.feedback.importers.files import read_rows
from manners.feedback.importers.rows import BadRowError, ImportOptions, Reject, Row, list_of, need, number_of, text_of
from manners.feedback.importers.turns import prompt_of
from manners.feedback.store import Store
from manners.feedback.tables import COMPLETIONS, ITEMS
from manners.records import Completion, Prompt

LONGEST_TEXT = 50_000
MOST_ANSWERS = 9


@dataclass(frozen=True, slots=True)
class Material:
    """One prompt with its answers. `gold` holds places in `completions`, best tier first."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    gold: tuple[tuple[int, ...], ...] | None = None
    priority: float | None = None


def read_materials(path: Path) -> Iterator[Material | Reject]:
    """The materials of a JSON lines, JSON or CSV file, and the rows that are none, in their order."""
    return materials_of(read_rows(path))


def materials_of(rows: Iterable[Row | Reject]) -> Iterator[Material | Reject]:
    """Every row as a material, or as a reject with its reason."""
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            yield material_of(row.value)
        except ValueError as error:
            yield Reject(row.line, str(error), row.raw)


def material_of(row: Mapping[str, Any]) -> Material:
    """The material that a row writes. Raises BadRowError with the reason where it is none."""
    need(row, "prompt", "completions")
    prompt = _prompt(row)
    for message in prompt.messages:
        _short(message.content, "a turn of the prompt")
    answers = list_of(row["completions"], "completions")
    if not 1 <= len(answers) <= MOST_ANSWERS:
        raise BadRowError(f"there are {len(answers)} answers; an item holds 1 to {MOST_ANSWERS}")
    completions = tuple(_completion(prompt, value, place) for place, value in enumerate(answers))
    if len({c.id for c in completions}) < len(completions):
        raise BadRowError("the same answer is there twice")
    priority = None if row.get("priority") is None else number_of(row["priority"], "the priority")
    return Material(prompt, completions, _gold(row.get("gold"), len(completions)), priority)


def starter_materials() -> list[Material | Reject]:
    """The prompts and answers that come with the program, to try things out."""
    with as_file(files("manners") / "starter" / "judgements.jsonl") as path:
        return list(read_materials(path))


def unjudged(store: Store) -> Iterator[Material]:
    """Prompts of the store with their answers, two to nine, that are in no batch yet: what `manners sample --db` put there."""
    with store.reading() as connection:
        taken = set(connection.scalars(sa.select(ITEMS.c.prompt_id).distinct()))
        counted = sa.select(COMPLETIONS.c.prompt_id).group_by(COMPLETIONS.c.prompt_id)
        enough = set(connection.scalars(counted.having(sa.func.count().between(2, MOST_ANSWERS))))
    for prompt in store.prompts():
        if prompt.id in enough and prompt.id not in taken:
            yield Material(prompt, tuple(store.completions(prompt.id)))


def sampled(answers: Iterable[tuple[Prompt, Sequence[Completion]]], least: int = 2) -> list[Material]:
    """Prompts with what a model answered, the same words once, where at least `least` different answers are left.

    Raises MannersError where no prompt is left.
    """
    made = [Material(prompt, tuple({c.text: c for c in given}.values())) for prompt, given in answers]
    kept = [material for material in made if len(material.completions) >= least]
    if not kept:
        raise MannersError(
            "all answers to a prompt came out the same, for every prompt; sample at a higher temperature"
        )
    return kept


def prompts_in(text: str, in_json: bool) -> list[Prompt]:
    """The prompts that a text names: one a line, or JSON lines (prompts, judgements, or {"prompt": "text"}).

    Raises MannersError for a line that is no prompt, and where there is none.
    """
    found = []
    for number, line in enumerate(text.split("\n") if in_json else text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(prompt_in(json.loads(line)) if in_json else Prompt.of(line.strip()))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise MannersError(f"line {number} is no prompt: {error}") from None
    if not found:
        raise MannersError("there are no prompts")
    return found


def prompt_in(row: Any) -> Prompt:
    """The prompt of a JSON value: the text itself, a prompt of ours, or something that has one under `prompt`."""
    prompt = row.get("prompt", row) if isinstance(row, dict) else row
    return Prompt.of(prompt) if isinstance(prompt, str) else Prompt.from_json(prompt)


def _prompt(row: Mapping[str, Any]) -> Prompt:
    value = row["prompt"]
    if isinstance(value, Mapping):
        inner = {key: value.get(key) for key in ("category", "split")}
        return prompt_of(value.get("messages"), inner, ImportOptions())
    return prompt_of(value, row, ImportOptions())


def _completion(prompt: Prompt, value: Any, place: int) -> Completion:
    what = f"answer {place}"
    if isinstance(value, str):
        return Completion(prompt.id, _short(text_of(value, what), what))
    if not isinstance(value, Mapping):
        raise BadRowError(f"{what} must be text or an object with its text, not {type(value).__name__}")
    fields = {"finished": (value.get("finished", True), bool), "model": (value.get("model") or "", str),
              "sampling": (value.get("sampling") or {}, dict), "seed": (value.get("seed"), int | None)}  # fmt: skip
    for key, (given, kind) in fields.items():
        if not isinstance(given, kind):
            raise BadRowError(f"{what} has a {key} that is {type(given).__name__}")
    # Taken as it is, with the white space around it: it may be in the store already, under the hash of these very characters.
    text_of(value.get("text"), what)
    return Completion(prompt.id, _short(value["text"], what), **{key: given for key, (given, _) in fields.items()})


def _gold(value: Any, count: int) -> tuple[tuple[int, ...], ...] | None:
    if value is None:
        return None
    tiers = [tier if isinstance(tier, list) else [tier] for tier in list_of(value, "gold")]
    places = [place for tier in tiers for place in tier]
    if any(isinstance(p, bool) or not isinstance(p, int) or not 0 <= p < count for p in places):
        raise BadRowError(f"gold holds places of answers, from 0 to {count - 1}")
    if len(places) != len(set(places)) or len(tiers) < 2 or not all(tiers):
        raise BadRowError("gold names every answer once at most and has two tiers at least")
    return tuple(tuple(tier) for tier in tiers)


def _short(text: str, what: str) -> str:
    if len(text) > LONGEST_TEXT:
        raise BadRowError(f"{what} has {len(text)} characters; {LONGEST_TEXT} are the most an annotator is shown")
    return text
