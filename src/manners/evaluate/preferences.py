"""Preference sets that a judge is tried on: pairs, best of n, ties and styles, from files in their published layouts.

A row has a prompt, what was chosen and what was rejected. Each of the two is one answer, as a text or as messages, or a list of
texts: then the row asks for the best of several (RewardBench 2), or crosses three styles of a right and of a wrong answer (RM-Bench,
whose rows have a `domain`). `subset` and `id` are read where they are there. Pairs of our own (`manners pairs`) fit as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from manners.errors import MannersError
from manners.feedback.importers.files import read_rows
from manners.feedback.importers.preference import HH, PREFERENCE
from manners.feedback.importers.rows import ImportOptions, Reject, Row, need, text_of
from manners.feedback.importers.turns import own_text, prompt_of
from manners.records import Judgement, Pair, Prompt

Kind = Literal["pairs", "best_of", "ties", "styles"]
STYLES = 3  # concise, detailed, detailed with Markdown: from plain to rich, as RM-Bench writes them
_TIES_ID = re.compile(r"(ref|tied):(\d+)")
_OPTIONS = ImportOptions()


@dataclass(frozen=True, slots=True)
class Preference:
    """One row: answers that are right and answers that are wrong. `key` is the row's own id, else its place in the file."""

    prompt: Prompt
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]
    subset: str
    key: str
    kind: Kind

    @property
    def ties_id(self) -> tuple[str, int]:
        """Of a row about ties: "ref" or "tied", and the number that both rows of a question share."""
        found = _TIES_ID.fullmatch(self.key)
        assert found, "rows about ties are told by their id"
        return found[1], int(found[2])


@dataclass(frozen=True)
class PreferenceSet:
    """The preferences of a file, and the rows that are none with the reason why."""

    path: Path
    preferences: tuple[Preference, ...]
    left_out: tuple[Reject, ...]


def read_preferences(path: Path) -> PreferenceSet:
    """The preferences of a JSON lines, JSON or CSV file. Raises MannersError for one that cannot be read or that holds none."""
    found: list[Preference] = []
    left_out: list[Reject] = []
    for row in read_rows(path):
        if isinstance(row, Reject):
            left_out.append(row)
            continue
        try:
            found.append(_preference(row))
        except (ValueError, KeyError, TypeError) as error:
            left_out.append(Reject(row.line, str(error), row.raw))
    if not found:
        why = f" (line {left_out[0].line}: {left_out[0].reason})" if left_out else ""
        raise MannersError(f"{path} holds no preferences{why}; a row needs prompt, chosen and rejected")
    return PreferenceSet(path, tuple(found), tuple(left_out))


def preferences_of(pairs: Sequence[Pair]) -> list[Preference]:
    """Pairs of ours as preferences; their subset is the category of the prompt."""
    return [
        Preference(pair.prompt, (pair.chosen.text,), (pair.rejected.text,), pair.prompt.category, str(place), "pairs")
        for place, pair in enumerate(pairs)
    ]


def _preference(row: Row) -> Preference:
    value = row.value
    need(value, "chosen", "rejected")
    subset = own_text(value, "subset") or own_text(value, "category") or own_text(value, "domain")
    key = str(value.get("id", row.line))
    if isinstance(value["chosen"], Mapping):
        pair = Pair.from_json(value)
        return Preference(pair.prompt, (pair.chosen.text,), (pair.rejected.text,), pair.prompt.category, key, "pairs")
    if _several(value["chosen"]) or _several(value["rejected"]):
        need(value, "prompt")
        prompt = prompt_of(value["prompt"], {}, _OPTIONS)
        chosen, rejected = (_texts(value[name], name) for name in ("chosen", "rejected"))
        return Preference(prompt, chosen, rejected, subset, key, _kind(value, chosen, rejected, key))
    layout = HH if HH.fits(value, _OPTIONS) else PREFERENCE
    [read] = layout.judgements([Row(row.line, {**value, "category": "", "split": ""}, row.raw)], _OPTIONS)
    if not isinstance(read, Judgement):
        raise ValueError(read.reason)
    chosen_text, rejected_text = (completion.text for completion in read.completions)
    return Preference(read.prompt, (chosen_text,), (rejected_text,), subset, key, "pairs")


def _several(value: Any) -> bool:
    """Whether it is a list of answers, and not the messages of one."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _texts(value: Any, what: str) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not _several(value) or not value:
        raise ValueError(f"{what} must be a list of texts where the other one is")
    return tuple(text_of(item, f"{what} {place}") for place, item in enumerate(value))


def _kind(value: Mapping[str, Any], chosen: Sequence[str], rejected: Sequence[str], key: str) -> Kind:
    if _TIES_ID.fullmatch(key):
        return "ties"
    if value.get("domain") is not None and len(chosen) == len(rejected) == STYLES:
        return "styles"
    return "pairs" if len(chosen) == len(rejected) == 1 else "best_of"
