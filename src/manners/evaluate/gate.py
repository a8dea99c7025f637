"""A gate for continuous integration: rules on the rows of a behaviour card, and whether a model keeps all of them.

    rules:
      - row: toxicity
        of: difference_high
        at_most: 0.02
        because: toxicity may not rise by 0.02, and the interval must say so

A rule that speaks of a row, or of a comparison with the base, that the card does not have is broken: what was not measured was not
passed. `optional: true` lets it be missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from manners.config import Config
from manners.errors import MannersError
from manners.runs import read_json

Of = Literal["value", "low", "high", "difference", "difference_low", "difference_high"]
Outcome = Literal["passed", "failed", "missing", "skipped"]
VERDICTS = {"better": ("better",), "not worse": ("better", "no evidence", "unchanged", "changed")}


class Rule(Config):
    """What one row, or every row that a pattern names, has to keep: bounds on a number, or a verdict."""

    row: str = Field(description="name of a row of the card; * and ? stand for any letters")
    group: str = Field("", description="only rows of this group: harmless, honest, helpful, hhh, side_effects")
    of: Of = Field(
        "value",
        description="the number that is bounded: the value, an end of its 95 % interval (low, high), the difference to the base, or an end"
        " of that (difference_low, difference_high)",
    )
    at_least: float | None = Field(None, allow_inf_nan=False, description="in the unit of the row")
    at_most: float | None = Field(None, allow_inf_nan=False, description="in the unit of the row")
    verdict: Literal["", "better", "not worse"] = Field("", description="what the card has to say against the base")
    optional: bool = Field(False, description="pass where the card has no such row or no base")
    because: str = Field("", description="shown beside the outcome")

    @model_validator(mode="after")
    def _says_something(self) -> Rule:
        bounded = self.at_least is not None or self.at_most is not None
        if bounded == bool(self.verdict):
            raise ValueError("a rule has bounds (at_least, at_most) or a verdict, one of the two")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least} lies above at_most {self.at_most}")
        return self

    @property
    def asks(self) -> str:
        """The rule in words."""
        if self.verdict:
            return f"verdict {self.verdict}"
        low = [] if self.at_least is None else [f"≥ {self.at_least:g}"]
        high = [] if self.at_most is None else [f"≤ {self.at_most:g}"]
        return f"{self.of.replace('_', ' ')} {' and '.join(low + high)}"


class GateConfig(Config):
    """The rules of a gate."""

    rules: tuple[Rule, ...] = Field(min_length=1, description="all of them have to be kept")


@dataclass(frozen=True, slots=True)
class Checked:
    """One rule on one row: what it asked, what the card says, and what came of it."""

    row: str
    asks: str
    found: str
    outcome: Outcome
    because: str = ""

    @property
    def ok(self) -> bool:
        return self.outcome in ("passed", "skipped")

    def to_json(self) -> dict[str, Any]:
        return {
            "row": self.row,
            "asks": self.asks,
            "found": self.found,
            "outcome": self.outcome,
            "because": self.because,
        }


def read_card(path: Path) -> dict[str, Any]:
    """The card in a file, or in a folder that holds card.json. Raises MannersError for something else."""
    card = read_json(path / "card.json" if path.is_dir() else path)
    rows = card.get("rows") if isinstance(card, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "name" in row for row in rows):
        raise MannersError(f"{path} is no behaviour card; `manners evaluate MODEL` writes one")
    return card


def check(gate: GateConfig, rows: Sequence[Mapping[str, Any]]) -> list[Checked]:
    """Every rule on every row that it names, in the order of the rules; the model may ship where all are `ok`."""
    checked = []
    for rule in gate.rules:
        named = [
            row for row in rows if fnmatchcase(str(row["name"]), rule.row) and rule.group in ("", row.get("group"))
        ]
        checked += [_on(rule, row) for row in named] or [_missing(rule, rule.row, "no such row on the card")]
    return checked


def _on(rule: Rule, row: Mapping[str, Any]) -> Checked:
    name = str(row["name"])
    if rule.verdict:
        verdict = row.get("verdict") or ""
        if not verdict:
            return _missing(rule, name, "no verdict: the card has no base")
        return _judged(rule, name, verdict, verdict in VERDICTS[rule.verdict])
    value = _number(row, rule.of)
    if value is None:
        return _missing(rule, name, f"no {rule.of.replace('_', ' ')} on the card")
    kept = (rule.at_least is None or value >= rule.at_least) and (rule.at_most is None or value <= rule.at_most)
    return _judged(rule, name, f"{value:.4g}", kept)


def _judged(rule: Rule, name: str, found: str, kept: bool) -> Checked:
    return Checked(name, rule.asks, found, "passed" if kept else "failed", rule.because)


def _missing(rule: Rule, name: str, why: str) -> Checked:
    return Checked(name, rule.asks, why, "skipped" if rule.optional else "missing", rule.because)


def _number(row: Mapping[str, Any], of: Of) -> float | None:
    """The number of a row that `of` names; None where it was not measured."""
    difference = row.get("difference") or {}
    ends = row.get("ci") or [None, None]
    gap = difference.get("ci") or [None, None]
    value: float | None
    match of:
        case "value":
            value = row.get("value")
        case "low":
            value = ends[0]
        case "high":
            value = ends[1]
        case "difference":
            value = difference.get("mean")
        case "difference_low":
            value = gap[0]
        case "difference_high":
            value = gap[1]
    return value
