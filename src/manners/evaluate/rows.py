"""From readings to the rows of card.json: numbers, differences, and a verdict on each that allows for many looks."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from manners.evaluate.quantities import Measured
from manners.ops.intervals import Interval
from manners.ops.significance import holm

ALPHA = 0.05
MANY_LOOKS = (
    "Better, worse and changed are said only where p, adjusted by Holm's method for all rows with a difference, is at most"
    " 0.05; so the chance that a card of two equal models calls any row better or worse is at most 5 %. Intervals are plain 95 %"
    " intervals of each row by itself."
)


def rows_of(own: Sequence[Measured], base: Sequence[Measured], optimised: Collection[str]) -> list[dict[str, Any]]:
    """The rows of card.json, in their order; `base` is empty for one model. `optimised`: names of
    scorers that the model was trained to please."""
    before = {measured.quantity.name: measured for measured in base}
    rows = [
        _row(measured, before.get(measured.quantity.name), measured.quantity.scorer in optimised) for measured in own
    ]
    differing = [row["difference"] for row in rows if row["difference"]]
    for difference, adjusted in zip(differing, holm([d["p"] for d in differing]), strict=True):
        difference["p_adjusted"] = adjusted
    for row in rows:
        row["verdict"] = verdict(row["better"], row["difference"])
    return rows


def verdict(better: str, difference: Mapping[str, Any] | None) -> str:
    """better, worse or no evidence; changed or unchanged where neither way is better; nothing without a difference."""
    if not difference:
        return ""
    shown = difference["p_adjusted"] <= ALPHA
    if better == "neither":
        return "changed" if shown else "unchanged"
    if not shown:
        return "no evidence"
    return "better" if (difference["mean"] > 0) == (better == "higher") else "worse"


def _row(own: Measured, base: Measured | None, rewarded: bool) -> dict[str, Any]:
    quantity = own.quantity
    difference = own.reading.beside(base.reading if base else None)
    return {
        "name": quantity.name, "group": quantity.group, "label": quantity.label, "unit": quantity.unit, "better": quantity.better,
        **_numbers(own), "base": _numbers(base) if base else None,
        "difference": difference.to_json() if difference else None, "verdict": "",
        "scorer": quantity.scorer, "optimised": rewarded, "data": quantity.data.to_json(),
    }  # fmt: skip


def _numbers(measured: Measured) -> dict[str, Any]:
    span: Interval = measured.reading.span()
    return {"value": span.mean, "ci": span.ends, "n": measured.reading.items}
