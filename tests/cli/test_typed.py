"""What somebody types at the terminal: what it means, and what they are told where it means nothing."""

from __future__ import annotations

from typing import Any

import pytest

from manners.cli.typed import changed, heard
from manners.errors import MannersError
from manners.feedback.batch import Mode


def ranks(line: str, count: int = 4) -> list[str]:
    values = changed({}, line, "rank", count)
    return [values[f"rank-{place}"] for place in range(count)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("b>a=c", ["2", "1", "2", ""]),
        (" B > A = C ", ["2", "1", "2", ""]),
        ("a=b=c=d", ["1", "1", "1", "1"]),
        ("d>c>b>a", ["4", "3", "2", "1"]),
        ("d>a", ["2", "", "", "1"]),
    ],
)
def test_a_ranking(line: str, expected: list[str]) -> None:
    assert ranks(line) == expected


def test_a_new_ranking_replaces_the_old_one_whole() -> None:
    first = changed({"note": "why not"}, "a>b>c", "rank", 3)
    assert changed(first, "c>a", "rank", 3) == {"note": "why not", "rank-0": "2", "rank-1": "", "rank-2": "1"}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("a>b", "A1"),
        ("a>>b", "A2"),
        ("b>>>a", "B3"),
        ("b >>>> a", "B4"),
        ("a=b", "tie"),
        ("b=a", "tie"),
        ("bad", "bad"),
    ],
)
def test_a_preference_with_its_strength(line: str, value: str) -> None:
    assert changed({}, line, "pair", 2) == {"preference": value}


def test_ratings_thumbs_flags_and_reasons() -> None:
    assert changed({}, "b 4 - 5", "rank", 2) == {"rate-1-helpful": "4", "rate-1-honest": "", "rate-1-harmless": "5"}
    assert changed({}, "a 3", "ratings", 2) == {"rate-0-helpful": "3"}
    assert changed({}, "a+b- c+", "thumbs", 3) == {"thumb-0": "up", "thumb-1": "down", "thumb-2": "up"}
    assert changed({}, "bad", "thumbs", 2) == {"thumb-0": "down", "thumb-1": "down"}
    flagged = changed({}, "flag b insult, hate", "rank", 2)
    assert flagged == {"flag-1": ["insult", "hate"]}
    assert changed(flagged, "flag b", "rank", 2) == {"flag-1": []}
    assert changed({}, "why  b > a in every way ", "rank", 2) == {"note": "b > a in every way"}


def test_all_bad_is_taken_back_by_saying_it_again() -> None:
    once = changed({}, "bad", "rank", 2)
    assert heard(once, "rank", 2) == ["no answer is acceptable"]
    assert heard(changed(once, "bad", "rank", 2), "rank", 2) == []


@pytest.mark.parametrize(
    ("line", "mode", "count", "words"),
    [
        ("a<b", "rank", 2, "write the better answer first"),
        ("2 1 3", "rank", 3, "type for example b>a=c"),
        ("a>e", "rank", 3, "the answers are a to c; there is no 'e'"),
        ("a>b>a", "rank", 3, "a stands there twice"),
        ("b", "rank", 3, "one answer alone compares nothing"),
        ("a>>b", "rank", 3, "one > or = stands between"),
        ("a>", "rank", 3, "type for example"),
        ("a>>>>>b", "pair", 2, "one to four >"),
        ("a>a", "pair", 2, "a stands there twice"),
        ("a 6", "ratings", 2, "a number from 1 to 5"),
        ("a 1 2 3 4", "ratings", 2, "helpful, honest, harmless"),
        ("c+", "thumbs", 2, "the answers are a to b"),
        ("a+", "rank", 2, "type for example"),
        ("bad", "edit", 1, "edit a"),
        ("flag", "rank", 2, "insult"),
        ("flag a rude", "rank", 2, "there is no flag 'rude'"),
        ("flag x insult", "rank", 2, "there is no 'x'"),
        ("why " + "x" * 5001, "rank", 2, "5000 characters"),
        ("\x1b[2J", "rank", 2, r"'\\x1b"),
    ],
)
def test_a_line_that_says_nothing_is_answered_with_what_to_type(line: str, mode: Mode, count: int, words: str) -> None:
    with pytest.raises(MannersError, match=words):
        changed({}, line, mode, count)


@pytest.mark.parametrize(
    ("values", "mode", "lines"),
    [
        ({"rank-0": "3", "rank-1": "1", "rank-3": "3"}, "rank", ["b > a = d   (c not ranked)"]),
        ({"preference": "B4"}, "pair", ["b is much better than a"]),
        ({"thumb-1": "down", "rate-1-honest": "2", "flag-1": ["hate"]}, "thumbs",
         ["b is bad", "b: honest 2", "b is flagged: hate"]),
        ({"rank-0": "x", "rank-1": None}, "rank", []),
    ],
)  # fmt: skip
def test_what_was_heard_is_read_back(values: dict[str, Any], mode: Mode, lines: list[str]) -> None:
    assert heard(values, mode, 4) == lines
