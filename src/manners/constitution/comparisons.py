"""Comparisons as they are asked and kept: two answers under one principle, in both orders, one row each in a file that only grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manners.constitution.constitution import Comparison
from manners.constitution.judge import CLAMP, Failure, Judge, Question, Verdict, both_orders, clamped, flipped
from manners.constitution.ledger import Ledger
from manners.constitution.writer import drawn
from manners.records import Completion, Prompt, content_hash
from manners.runs import Track, untracked


@dataclass(frozen=True, slots=True)
class Asked:
    """Two answers to one prompt and the principle that was drawn for them by `seed`."""

    prompt: Prompt
    principle: Comparison
    first: Completion
    second: Completion
    seed: int

    @classmethod
    def draw(
        cls, prompt: Prompt, first: Completion, second: Completion, principles: Sequence[Comparison], seed: int
    ) -> Asked:
        """With a principle that depends on `seed`, the prompt and the two texts alone, so that a resumed run draws the same."""
        place = drawn("principle", seed, prompt.id, first.text, second.text) % len(principles)
        return cls(prompt, principles[place], first, second, seed)

    @property
    def id(self) -> str:
        return content_hash("comparison", self.prompt.id, self.principle.id, self.principle.principle,
                            self.first.text, self.second.text)  # fmt: skip

    def orders(self, swap: bool) -> list[Question]:
        """The question with the first answer as (A), and, where both orders are asked, with the answers swapped."""
        shown = Question(self.prompt, self.principle.principle, self.first.text, self.second.text)
        return [shown, shown.swapped] if swap else [shown]


@dataclass(frozen=True, slots=True)
class Compared:
    """What the judge made of it. `probability` that the first answer is the better one; `swapped` is None where only one order was
    asked."""

    asked: Asked
    shown: Verdict
    swapped: Verdict | None
    probability: float

    @classmethod
    def of(cls, asked: Asked, shown: Verdict, swapped: Verdict | None, clamp: tuple[float, float] | None) -> Compared:
        label = shown.probability if swapped is None else both_orders(shown.probability, swapped.probability)
        return cls(asked, shown, swapped, clamped(label, clamp) if clamp else label)

    @property
    def flipped(self) -> bool:
        """Whether the winner changed with the order."""
        return self.swapped is not None and flipped(self.shown.probability, self.swapped.probability)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """What came of each comparison, None where it failed, in the order in which they were asked for; and failures by kind."""

    each: list[Compared | None]
    failures: Counter[str]

    @property
    def compared(self) -> list[Compared]:
        return [found for found in self.each if found is not None]

    @property
    def failure_rate(self) -> float:
        """Share of all comparisons that have no label."""
        return self.failures.total() / max(1, len(self.each))


def compare(
    judge: Judge,
    asked: Sequence[Asked],
    ledger: Ledger,
    *,
    swap: bool,
    batch: int,
    retry: bool,
    say: Callable[[str], None],
    track: Track,
) -> Comparisons:
    """Ask for all of `asked` that `ledger` does not hold, `batch` at a time, each in both orders unless `swap` is False.

    A comparison of which one order fails is left out and counted; with `retry` those that failed before are asked again. Where the
    judge thinks first, the label is clamped. `say` hears beforehand what it will take.
    """
    rows = {row["id"]: row for row in ledger.rows()}
    waiting = [a for a in {a.id: a for a in asked}.values() if a.id not in rows or (retry and "failure" in rows[a.id])]
    if forecast := judge.forecast([order for a in waiting for order in a.orders(swap)], track):
        say(forecast)
    for part in track([waiting[start : start + batch] for start in range(0, len(waiting), batch)], "comparing"):
        verdicts = iter(judge.compare([order for a in part for order in a.orders(swap)], untracked))
        found = [_row(a, [next(verdicts) for _ in a.orders(swap)], clamp=CLAMP if judge.thinks else None) for a in part]
        ledger.add(found)
        rows |= {row["id"]: row for row in found}
    own = [(a, rows[a.id]) for a in asked]
    failures = Counter(str(row["failure"]["kind"]) for _, row in own if "failure" in row)
    return Comparisons([None if "failure" in row else _compared(a, row) for a, row in own], failures)


def _row(asked: Asked, verdicts: Sequence[Verdict | Failure], clamp: tuple[float, float] | None) -> dict[str, Any]:
    """A row of comparisons.jsonl."""
    row: dict[str, Any] = {
        "id": asked.id, "prompt": asked.prompt.to_json(), "principle": asked.principle.id, "seed": asked.seed,
        "first": asked.first.to_json(), "second": asked.second.to_json(),
    }  # fmt: skip
    failure = next((v for v in verdicts if isinstance(v, Failure)), None)
    if failure:
        return {**row, "failure": {"kind": failure.kind, "detail": failure.detail}}
    shown, swapped = ([v for v in verdicts if isinstance(v, Verdict)] + [None])[:2]
    assert shown is not None
    compared = Compared.of(asked, shown, swapped, clamp)
    return {**row, "shown": shown.to_json(), "swapped": swapped.to_json() if swapped else None,
            "probability": compared.probability, "flipped": compared.flipped}  # fmt: skip


def _compared(asked: Asked, row: Mapping[str, Any]) -> Compared:
    swapped = Verdict.from_json(row["swapped"]) if row["swapped"] else None
    return Compared(asked, Verdict.from_json(row["shown"]), swapped, float(row["probability"]))
