"""What somebody types about a task, as a change of the form that the page in the browser has.

So a draft goes from the terminal to the browser and back, and both hand in by the same rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from manners.errors import MannersError
from manners.feedback.batch import Mode
from manners.feedback.submissions import CRITERIA, FLAGS, LONGEST_NOTE
from manners.web.forms import Values

LETTERS = "abcdefghi"
_EXAMPLES: Mapping[Mode, str] = {"rank": "b>a=c", "pair": "a>>b", "ratings": "a 4 3 5", "thumbs": "a+ b-", "edit": "edit a"}  # fmt: skip
_RANKING = re.compile(r"[a-z](?:[>=]+[a-z])*")
_RATINGS = re.compile(r"([a-z])((?:\s+(?:\d+|-))+)")
_THUMBS = re.compile(r"(?:[a-z][+-])+")


def changed(values: Values, line: str, mode: Mode, count: int) -> dict[str, Any]:
    """The form once `line` was typed. Raises MannersError, with what to type instead, for a line that says nothing here."""
    word, rest = word_of(line)
    tight = "".join(line.split()).lower()
    if word == "why":
        return _noted(values, rest)
    if word == "flag":
        return _flagged(values, rest.split(), count)
    if tight == "bad":
        return _all_bad(values, mode, count)
    if rated := _RATINGS.fullmatch(line.strip().lower()):
        return _rated(values, rated[1], rated[2].split(), count)
    if mode == "thumbs" and _THUMBS.fullmatch(tight):
        thumbs = {f"thumb-{_place(tight[i], count)}": _UP_DOWN[tight[i + 1]] for i in range(0, len(tight), 2)}
        return {**values, **thumbs}
    if "<" in tight:
        raise MannersError("write the better answer first, with >: b>a says that b is better than a")
    if mode in ("rank", "pair") and _RANKING.fullmatch(tight):
        return _ranked(values, tight, count) if mode == "rank" else _preferred(values, tight, count)
    raise MannersError(f"{line.strip()[:40]!r} says nothing here; type for example {_EXAMPLES[mode]}, or ? for help")


def word_of(line: str) -> tuple[str, str]:
    """The first word of a line, in small letters, and what follows it."""
    word, _, rest = line.strip().partition(" ")
    return word.lower(), rest.strip()


_UP_DOWN = {"+": "up", "-": "down"}


def chosen(letter: str, count: int) -> int:
    """The place of the answer that `letter` names, which may be left out where there is one answer only."""
    return 0 if not letter and count == 1 else _place(letter.lower(), count)


def heard(values: Values, mode: Mode, count: int) -> list[str]:
    """What the form holds, in the words of the terminal, a line for each thing."""
    lines = []
    if mode == "rank" and (ranks := _ranks(values, count)):
        tiers = [" = ".join(LETTERS[p] for p in range(count) if ranks.get(p) == r) for r in sorted(set(ranks.values()))]
        rest = [LETTERS[p] for p in range(count) if p not in ranks]
        lines.append(" > ".join(tiers) + (f"   ({', '.join(rest)} not ranked)" if rest else ""))
    if mode == "pair" and (preference := values.get("preference")):
        lines.append(_STRENGTHS.get(str(preference), str(preference)))
    for place in range(count):
        lines += _heard_of(values, place)
    if mode == "edit" and values.get("edited"):
        lines.append(f"the better answer: {values['edited']}")
    if values.get("all_bad"):
        lines.append("no answer is acceptable")
    if values.get("note"):
        lines.append(f"why: {values['note']}")
    return lines


_WORDS = {1: "slightly better", 2: "better", 3: "clearly better", 4: "much better"}
_STRENGTHS = {
    **{f"A{n}": f"a is {words} than b" for n, words in _WORDS.items()},
    **{f"B{n}": f"b is {words} than a" for n, words in _WORDS.items()},
    "tie": "a and b are equally good",
    "bad": "both are bad",
}


def _heard_of(values: Values, place: int) -> list[str]:
    letter, lines = LETTERS[place], []
    if thumb := values.get(f"thumb-{place}"):
        lines.append(f"{letter} is {'good' if thumb == 'up' else 'bad'}")
    given = [f"{c} {values[name]}" for c in CRITERIA if values.get(name := f"rate-{place}-{c}")]
    if given:
        lines.append(f"{letter}: {', '.join(given)}")
    if flags := values.get(f"flag-{place}"):
        lines.append(f"{letter} is flagged: {', '.join(flags)}")
    return lines


def _noted(values: Values, note: str) -> dict[str, Any]:
    if len(note) > LONGEST_NOTE:
        raise MannersError(f"a reason has {LONGEST_NOTE} characters at most")
    return {**values, "note": note}


def _flagged(values: Values, words: list[str], count: int) -> dict[str, Any]:
    if not words:
        raise MannersError(f"say which answer and why: flag a {next(iter(FLAGS))}; flags are {', '.join(FLAGS)}")
    place, flags = _place(words[0].lower(), count), [word.strip(",").lower() for word in words[1:]]
    if unknown := [flag for flag in flags if flag not in FLAGS]:
        raise MannersError(f"there is no flag {unknown[0][:40]!r}; flags are {', '.join(FLAGS)}")
    return {**values, f"flag-{place}": flags}


def _all_bad(values: Values, mode: Mode, count: int) -> dict[str, Any]:
    match mode:
        case "pair":
            return {**values, "preference": "bad"}
        case "thumbs":
            return {**values, **{f"thumb-{place}": "down" for place in range(count)}}
        case "edit":
            raise MannersError("this batch asks for a better answer; type edit a, or skip")
    return {**values, "all_bad": "" if values.get("all_bad") else "1"}


def _rated(values: Values, letter: str, numbers: list[str], count: int) -> dict[str, Any]:
    place = _place(letter, count)
    if len(numbers) > len(CRITERIA):
        raise MannersError(f"three ratings at most, in this order: {', '.join(CRITERIA)}")
    if any(number not in ("-", "1", "2", "3", "4", "5") for number in numbers):
        raise MannersError("a rating is a number from 1 to 5, or - for none")
    given = zip(CRITERIA, numbers, strict=False)
    return {**values, **{f"rate-{place}-{c}": number.replace("-", "") for c, number in given}}


def _ranked(values: Values, text: str, count: int) -> dict[str, Any]:
    if ">>" in text or "==" in text:
        raise MannersError("one > or = stands between two answers: b>a=c")
    tiers = [[_place(letter, count) for letter in tier.split("=")] for tier in text.split(">")]
    places = [place for tier in tiers for place in tier]
    _once(places)
    if len(places) < 2:
        raise MannersError(f"one answer alone compares nothing; name two at least: {_EXAMPLES['rank']}")
    ranks = {place: str(rank) for rank, tier in enumerate(tiers, 1) for place in tier}
    return {**values, **{f"rank-{place}": ranks.get(place, "") for place in range(count)}}


def _preferred(values: Values, text: str, count: int) -> dict[str, Any]:
    places = [_place(letter, count) for letter in (text[0], text[-1])]
    sign = text[1:-1]
    _once(places)
    if sign == "=":
        return {**values, "preference": "tie"}
    if not 1 <= len(sign) <= 4 or set(sign) != {">"}:
        raise MannersError(
            "between the two stands = or one to four >: a>b slightly, a>>b, a>>>b clearly, a>>>>b much better"
        )
    return {**values, "preference": f"{'AB'[places[0]]}{len(sign)}"}


def _once(places: list[int]) -> None:
    twice = [place for place in places if places.count(place) > 1]
    if twice:
        raise MannersError(f"{LETTERS[twice[0]]} stands there twice; every answer has one place")


def _place(letter: str, count: int) -> int:
    place = LETTERS.find(letter) if len(letter) == 1 else -1
    if not 0 <= place < count:
        known = "there is one answer, a" if count == 1 else f"the answers are a to {LETTERS[count - 1]}"
        raise MannersError(f"{known}; there is no {letter[:20]!r}" if letter else f"name an answer; {known}")
    return place


def _ranks(values: Values, count: int) -> dict[int, int]:
    # A draft may come from another program, and hold anything.
    given = {place: str(values.get(f"rank-{place}") or "") for place in range(count)}
    return {place: int(rank) for place, rank in given.items() if rank.isascii() and rank.isdigit()}
