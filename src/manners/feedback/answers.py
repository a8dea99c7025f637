"""Answers with what they earned: from files of scored answers, or from judgements.

A row of such a file has a prompt, completions, and, where they were scored, as many rewards:

    {"prompt": "Say hello.", "completions": ["Hello!", {"text": "No.", "finished": true}], "rewards": [1.0, -1.0]}

`manners sample` writes such rows, without rewards; with `--best-of` it writes the best answer and its score.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manners.errors import MannersError
from manners.feedback.materials import prompt_in
from manners.feedback.pairs import split_of
from manners.records import Completion, Pair, Prompt
from manners.runs import read_jsonl

Reward = float | tuple[float, ...]


@dataclass(frozen=True)
class Answered:
    """A prompt with answers to it and the reward of each: a number, or a number for each of its tokens. `rewards` is empty where nobody
    has said yet."""

    prompt: Prompt
    completions: tuple[Completion, ...]
    rewards: tuple[Reward, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A row of a file of answers."""
        answers = {"prompt": self.prompt.to_json(), "completions": [c.to_json() for c in self.completions]}
        return answers | ({"rewards": list(self.rewards)} if self.rewards else {})

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Answered:
        """From such a row. Raises KeyError, TypeError or ValueError for something else."""
        prompt = prompt_in(row)
        completions = tuple(
            Completion(prompt.id, given)
            if isinstance(given, str)
            else Completion.from_json({**given, "prompt_id": prompt.id})
            for given in row["completions"]
        )
        rewards = tuple(tuple(map(float, r)) if isinstance(r, list) else float(r) for r in row.get("rewards") or ())
        if rewards and len(rewards) != len(completions):
            raise ValueError(f"{len(rewards)} rewards for {len(completions)} completions")
        return cls(prompt, completions, rewards)


def answered_in(pairs: Sequence[Pair]) -> list[Answered]:
    """All answers in `pairs` by prompt. An answer earns +1 for each comparison that it won and −1 for each that it lost, on average:
    with two answers to a prompt ±1, with more of them something between. A pair with a `probability` p gives ±(2p − 1)."""
    prompts: dict[str, Prompt] = {}
    completions: dict[str, dict[str, Completion]] = defaultdict(dict)
    verdicts: dict[tuple[str, str], list[float]] = defaultdict(list)
    for pair in pairs:
        prompts.setdefault(pair.prompt.id, pair.prompt)
        for completion, sign in ((pair.chosen, 1), (pair.rejected, -1)):
            completions[pair.prompt.id].setdefault(completion.id, completion)
            verdicts[pair.prompt.id, completion.id].append(sign * (2 * pair.probability - 1))
    return [
        Answered(
            prompt,
            tuple(completions[key].values()),
            tuple(sum(told) / len(told) for told in (verdicts[key, c] for c in completions[key])),
        )
        for key, prompt in prompts.items()
    ]


def together(answered: Sequence[Answered]) -> list[Answered]:
    """The same answers with each prompt once. Empty ones without an end are left out: there is no token in them."""
    found: dict[str, Answered] = {}
    for one in answered:
        kept = [place for place, c in enumerate(one.completions) if c.text or c.finished]
        before = found.get(one.prompt.id, replace(one, completions=(), rewards=()))
        found[one.prompt.id] = replace(
            before,
            completions=before.completions + tuple(one.completions[place] for place in kept),
            rewards=before.rewards + (tuple(one.rewards[place] for place in kept) if one.rewards else ()),
        )
    return [one for one in found.values() if one.completions]


def read_answers(path: Path) -> list[Answered]:
    """The rows of a file of answers. Raises MannersError for a file that is missing, empty, or something else."""
    if not path.is_file():
        raise MannersError(f"{path} is not a file of answers; `manners sample --out {path}` writes one")
    found = []
    for number, row in enumerate(read_jsonl(path), 1):
        try:
            found.append(Answered.from_json(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = error if isinstance(error, ValueError) else "it needs a prompt and completions"
            raise MannersError(f"row {number} of {path} is no prompt with answers: {why}") from None
    if not found:
        raise MannersError(f"{path} holds no answers")
    return found


def demonstrations_in(answered: Sequence[Answered], split: str, seed: int) -> list[tuple[Prompt, Completion]]:
    """All answers to the prompts of `split`, to be imitated: those to be learned from are "train". Those of a split of their own stay
    in it, of the others a tenth is for validation."""
    return [
        (one.prompt, completion)
        for one in answered
        if split_of(one.prompt, seed, validation=0.1, test=0) == split
        for completion in one.completions
    ]
