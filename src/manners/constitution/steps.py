"""What a run of critique and revision leaves: one step for each prompt and round, as rows of RUN/revisions.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from manners.errors import MannersError
from manners.records import Prompt
from manners.runs import read_jsonl

REVISIONS = "revisions.jsonl"
Verdict = Literal[
    "answer", "accepted", "trimmed", "empty", "copied", "truncated", "repetitive", "boilerplate", "refusal"
]
VERDICTS: Mapping[Verdict, str] = {
    "answer": "the first answer, before any critique",
    "accepted": "accepted as it was written",
    "trimmed": "accepted up to its last whole sentence; it had reached the length limit",
    "empty": "nothing was written",
    "copied": "the text before it, the critique, the request or an example once more",
    "truncated": "it reached the length limit and holds no whole sentence",
    "repetitive": "the same words over and over",
    "boilerplate": "stock phrases",
    "refusal": "a bare refusal, without a reason or help",
}
GOOD: tuple[Verdict, ...] = ("accepted", "trimmed")


@dataclass(frozen=True, slots=True)
class Step:
    """One round for one prompt; round 0 is the first answer, which stands in `revision`.

    `before` is the text that was criticised. `seed` is what critique and revision were drawn with.
    """

    prompt: Prompt
    round: int
    seed: int
    principle: str
    before: str
    critique: str
    revision: str
    verdict: Verdict

    @property
    def after(self) -> str:
        """The text that the next round starts from: the revision where it was accepted, else what was there before."""
        return self.revision if self.verdict in ("answer", *GOOD) else self.before

    def to_json(self) -> dict[str, Any]:
        fields = asdict(self)
        return {"prompt_id": self.prompt.id, **fields, "prompt": self.prompt.to_json()}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Step:
        texts = {key: str(row[key]) for key in ("principle", "before", "critique", "revision")}
        if row["verdict"] not in VERDICTS:
            raise ValueError(f"unknown verdict {row['verdict']!r}")
        return cls(
            Prompt.from_json(row["prompt"]), int(row["round"]), int(row["seed"]), verdict=row["verdict"], **texts
        )


def read_steps(run: Path) -> list[Step]:
    """The steps of the run in the folder `run`. Raises MannersError where it has none or they cannot be read."""
    path = run / REVISIONS
    if not path.is_file():
        raise MannersError(f"{run} holds no {REVISIONS}; make it with `manners constitution revise --run {run}`")
    try:
        return [Step.from_json(row) for row in read_jsonl(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise MannersError(f"{path} holds a row that is no step of critique and revision: {error}") from None


def by_prompt(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps of each prompt in the order of their rounds; prompts in the order in which they were first answered."""
    found: dict[str, list[Step]] = {}
    for step in steps:
        found.setdefault(step.prompt.id, []).append(step)
    return [sorted(own, key=lambda step: step.round) for own in found.values()]
