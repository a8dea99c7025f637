"""The rollouts that a run logged, as the microscope reads them, and which of them have room on the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from manners.report.evidence import Row, mapping
from manners.report.numerals import number

# About 75 bytes of the page each: some 3 MB at most, which still opens at once.
MOST_TOKENS = 40_000
# What a rollout costs beside its tokens, in tokens; letters of a text in the room of one token.
_FRAME, _LETTERS = 12, 32
# Of each order that people look at first, how many are kept where not all have room.
_EXTREMES = 12
# "-" turns an order round: smallest first.
ORDERS: Mapping[str, str] = {
    "-step": "first step first",
    "step": "last step first",
    "reward": "largest reward first",
    "-reward": "smallest reward first",
    "kl": "largest KL first",
    "-kl": "smallest KL first",
    "disagreement": "ensemble disagrees most first",
    "gap": "pleases the judge more than the second judge",
    "-gap": "pleases the second judge more than the judge",
}


@dataclass(frozen=True)
class Rollout:
    """One row of samples.jsonl. `trace`: the numbers of each quantity that has one for every token.

    `gap`: how much higher the judge rates it than the second judge does, each in standard deviations of its own ratings.
    """

    row: Row
    tokens: Sequence[str]
    trace: Mapping[str, Sequence[float | None]]
    gap: float | None

    @property
    def cost(self) -> int:
        """About how many traced tokens take as much room on the page."""
        words = 0 if self.trace else len(str(self.row.get("completion")))
        return _FRAME + len(self.tokens) + (words + len(str(self.row.get("prompt")))) // _LETTERS

    def value(self, key: str) -> float | None:
        """What an order of this name sorts it by."""
        return self.gap if key == "gap" else number(self.row.get(key))


def read_rollouts(rows: Sequence[Row]) -> list[Rollout]:
    """The rows that have a step as rollouts, in order of steps."""
    rows = sorted((row for row in rows if number(row.get("step")) is not None), key=lambda row: float(row["step"]))
    rewards = _standard([number(row.get("reward")) for row in rows])
    seconds = _standard([number(row.get("second_judge")) for row in rows])
    return [
        _rollout(row, None if own is None or other is None else own - other)
        for row, own, other in zip(rows, rewards, seconds, strict=True)
    ]


def orders(rollouts: Sequence[Rollout]) -> dict[str, str]:
    """The orders that some rollout has a number for."""
    return {key: words for key, words in ORDERS.items() if any(r.value(key.lstrip("-")) is not None for r in rollouts)}


def within(rollouts: Sequence[Rollout], most: int = MOST_TOKENS) -> list[Rollout]:
    """As many rollouts as have room, in their order: the extremes first, then evenly, as a ruler is divided."""
    bits = len(rollouts).bit_length()
    evenly = sorted(range(len(rollouts)), key=lambda place: int(f"{place:0{bits}b}"[::-1], 2))
    wanted = [place for order in orders(rollouts) if "step" not in order for place in _furthest(rollouts, order)]
    chosen: set[int] = set()
    for place in dict.fromkeys([*wanted, *evenly]):
        most -= rollouts[place].cost
        if most < 0:
            break
        chosen.add(place)
    return [rollouts[place] for place in sorted(chosen)]


def _rollout(row: Row, gap: float | None) -> Rollout:
    found = row.get("tokens")
    tokens = [token if isinstance(token, str) else "" for token in found] if isinstance(found, list) else []
    trace = {
        str(key): [_rounded(number(value)) for value in values]
        for key, values in mapping(row.get("trace")).items()
        if isinstance(values, list) and len(values) == len(tokens) > 0
    }
    return Rollout(row, tokens, trace, gap)


def _furthest(rollouts: Sequence[Rollout], order: str) -> list[int]:
    key, turn = order.lstrip("-"), -1 if order.startswith("-") else 1
    known = [(turn * value, -place) for place, r in enumerate(rollouts) if (value := r.value(key)) is not None]
    return [-place for _, place in sorted(known, reverse=True)[:_EXTREMES]]


def _standard(values: Sequence[float | None]) -> list[float | None]:
    """`values` in standard deviations from their mean; None throughout where they do not vary."""
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known else 0.0
    spread = math.sqrt(sum((value - mean) ** 2 for value in known) / len(known)) if known else 0.0
    return [None if value is None or spread == 0 else (value - mean) / spread for value in values]


def _rounded(value: float | None) -> float | None:
    """Four digits and at most five decimals: what a reader can tell apart, in a third of the bytes; never −0."""
    return None if value is None else float(f"{round(value, 5):.4g}") + 0.0
