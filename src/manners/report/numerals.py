"""Numbers as people read them: the same decimals along a row, a true minus sign, percentages for shares."""

from __future__ import annotations

import math
from typing import Any

Interval = tuple[float, float]

MINUS = "−"
NOTHING = "–"


def number(value: Any) -> float | None:
    """`value` as a float; None for anything else, NaN, infinities and what is too large to add up."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e300 else None


def interval(value: Any) -> Interval | None:
    """`value` as (low, high); None for anything that is not two finite numbers."""
    if not isinstance(value, list | tuple) or len(value) != 2:
        return None
    low, high = number(value[0]), number(value[1])
    return None if low is None or high is None else (min(low, high), max(low, high))


def decimals(*values: float | None) -> int:
    """How many decimals show about three digits of the largest of `values`."""
    largest = max((abs(v) for v in values if v is not None), default=0.0)
    if largest >= 100:
        return 0
    if largest >= 10:
        return 1
    if largest >= 0.1 or largest == 0:
        return 2
    return min(6, 2 - math.floor(math.log10(largest)))


def plain(value: float | None, places: int | None = None) -> str:
    """`value` with `places` decimals (by default by its size); an en dash where there is none."""
    if value is None:
        return NOTHING
    text = f"{value:,.{decimals(value) if places is None else places}f}"
    # "-0.00" says a sign that the digits do not carry.
    text = text.lstrip("-") if not text.strip("-0.,") else text
    return text.replace("-", MINUS)


def signed(value: float | None, places: int | None = None) -> str:
    """`plain` with a plus sign in front of what is above zero."""
    text = plain(value, places)
    return f"+{text}" if value is not None and value > 0 and text.strip("0.,") else text


def percent(share: float | None, places: int = 0) -> str:
    """A share of 0 to 1 as a percentage, which no line break tears apart."""
    return NOTHING if share is None else f"{plain(100 * share, places)}\u00a0%"


def short(value: float) -> str:
    """The shortest way to write a round number: "0.5", "−20", "1e−5"."""
    if value and not 1e-3 <= abs(value) < 1e5:
        digits, power = f"{value:.2e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}".replace("-", MINUS)
    return f"{value:.6g}".replace("-", MINUS)


def between(span: Interval | None, places: int | None = None, sign: bool = False) -> str:
    """An interval in words: "0.61 to 0.72"; with `sign`, "+0.61 to +0.72"."""
    if span is None:
        return NOTHING
    places = decimals(*span) if places is None else places
    show = signed if sign else plain
    return f"{show(span[0], places)} to {show(span[1], places)}"


def duration(seconds: float | None) -> str:
    """A time span in the two largest units that it needs: "45 s", "12 min 30 s", "3 h 5 min"."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{plain(seconds, 1)} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"
