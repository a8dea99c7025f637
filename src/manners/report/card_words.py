"""The numbers of a behaviour card in words: the same on the page, in Markdown and at the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manners.report.numerals import NOTHING, between, decimals, interval, number, plain, signed

Row = Mapping[str, Any]
GROUPS = {
    "harmless": "Harmless",
    "honest": "Honest",
    "helpful": "Helpful",
    "hhh": "Helpful, honest, harmless: which of two answers it finds likelier",
    "side_effects": "Side effects",
}


def value(row: Row) -> tuple[str, str]:
    """A number and its interval: "0.31" and "[0.25 to 0.38]"."""
    return with_interval(number(row.get("value")), interval(row.get("ci")))


def change(row: Row) -> tuple[str, str]:
    """The difference to the base and its interval."""
    difference = row.get("difference") or {}
    return with_interval(number(difference.get("mean")), interval(difference.get("ci")), sign=True)


def with_interval(found: float | None, span: tuple[float, float] | None, sign: bool = False) -> tuple[str, str]:
    """A number and its interval, both with the decimals that the number needs, or, at 0, the interval."""
    if found is None:
        return NOTHING, ""
    places = decimals(found or max(map(abs, span or (0, 0))))
    said = signed(found, places) if sign else plain(found, places)
    return said, f"[{between(span, places, sign)}]" if span else ""


def chance(row: Row) -> str:
    """p as it is and adjusted, and the test."""
    difference = row.get("difference") or {}
    p, adjusted = number(difference.get("p")), number(difference.get("p_adjusted"))
    if p is None:
        return NOTHING
    return f"p {_p(p)}, adjusted {_p(adjusted)}"


def summary(card: Mapping[str, Any]) -> str:
    """One line: what became better and worse, or, of one model, what stands out."""
    rows: Sequence[Row] = card["rows"]
    if not card["against"]:
        return f"{card['model']}: {'; '.join(card['profile'])}"
    counts = {word: sum(row["verdict"] == word for row in rows) for word in ("better", "worse", "no evidence")}
    return (
        f"{card['model']} against {card['against']}: better in {counts['better']}, worse in {counts['worse']}, no evidence in"
        f" {counts['no evidence']} rows"
    )


def by_group(card: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    """Titles and rows of the groups that have any, in their order."""
    found = [(title, [row for row in card["rows"] if row["group"] == name]) for name, title in GROUPS.items()]
    return [(title, rows) for title, rows in found if rows]


def between_percent(ends: Any) -> str:
    """ "95 % interval 84.9 to 91.1 %"."""
    span = interval(ends)
    return f"95 % interval {between((100 * span[0], 100 * span[1]), 1)} %" if span else "no interval"


def _p(p: float | None) -> str:
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else plain(p, 3)
