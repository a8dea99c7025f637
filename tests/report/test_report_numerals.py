from __future__ import annotations

from typing import Any

import pytest

from manners.report.numerals import between, decimals, duration, interval, number, percent, plain, signed


@pytest.mark.parametrize(
    ("value", "read"),
    [(1, 1.0), (0.5, 0.5), (True, None), ("1", None), (None, None), (float("nan"), None), (float("inf"), None),
     (10**400, None), (-1e308, None)],
)  # fmt: skip
def test_only_finite_numbers_are_numbers(value: Any, read: float | None) -> None:
    assert number(value) == read


@pytest.mark.parametrize(
    ("value", "read"), [([1, 2], (1, 2)), ([2, 1], (1, 2)), ([1], None), ([1, None], None), ("12", None), (None, None)]
)
def test_an_interval_is_two_numbers_in_order(value: Any, read: tuple[float, float] | None) -> None:
    assert interval(value) == read


@pytest.mark.parametrize(
    ("values", "places"),
    [((123.4,), 0), ((12.34, 1.0), 1), ((1.234,), 2), ((0.5,), 2), ((0.0,), 2), ((0.012,), 4), ((1e-9,), 6),
     ((None,), 2)],
)  # fmt: skip
def test_decimals_follow_the_largest_number(values: tuple[float | None, ...], places: int) -> None:
    assert decimals(*values) == places


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (plain(1234.5), "1,234"),
        (plain(-0.42), "−0.42"),
        (plain(-0.001, 2), "0.00"),
        (plain(None), "–"),
        (signed(0.2), "+0.20"),
        (signed(-0.2), "−0.20"),
        (signed(0.0001, 2), "0.00"),
        (percent(0.694, 1), "69.4\u00a0%"),
        (between((0.1, 0.25), sign=True), "+0.10 to +0.25"),
        (between((-12.5, 3.0)), "−12.5 to 3.0"),
        (between(None), "–"),
        (duration(4.25), "4.2 s"),
        (duration(59.4), "59 s"),
        (duration(59.6), "1 min 0 s"),
        (duration(754), "12 min 34 s"),
        (duration(11_100), "3 h 5 min"),
        (duration(None), "–"),
    ],
)
def test_numbers_in_words(words: str, expected: str) -> None:
    assert words == expected
