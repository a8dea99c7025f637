"""Answers to read, before and after side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manners.report.evidence import Row
from manners.report.lists import controls, datum, more
from manners.report.markup import Html, join, tag
from manners.report.numerals import number, plain, signed

MOST_PAIRS = 300


def side_by_side(samples: Sequence[Row]) -> Html:
    """Every evaluated prompt with its answer before and after, and the controls to filter and sort them."""
    shown = samples[:MOST_PAIRS]
    left_out = len(samples) - len(shown)
    categories = sorted({_text(s.get("category")) for s in shown} - {""})
    cards = tag("div", *(_pair(place, sample) for place, sample in enumerate(shown)), class_="samples list")
    rest = tag("p", f"{left_out} more are in evaluation.json.", class_="quiet") if left_out else None
    return join([controls(_orders(shown), categories), cards, more(), rest])


def _orders(samples: Sequence[Row]) -> dict[str, str]:
    """What the samples have numbers to be sorted by."""
    orders = {"order": "as they came"}
    if any(_gain(s, "reward") is not None for s in samples):
        orders |= {"gain": "largest reward gain first", "-gain": "smallest reward gain first"}
    if any(number(s.get("kl")) is not None for s in samples):
        orders |= {"kl": "largest KL first"}
    if any(_gap(s) is not None for s in samples):
        orders |= {"gap": "judges disagree most first"}
    return orders


def _pair(place: int, sample: Row) -> Html:
    gain, second, kl = _gain(sample, "reward"), _gain(sample, "second"), number(sample.get("kl"))
    category = _text(sample.get("category"))
    facts = [
        tag("span", category, class_="kind") if category else None,
        tag("span", f"reward {signed(gain, 2)}") if gain is not None else None,
        tag("span", f"second judge {signed(second, 2)}") if second is not None else None,
        tag("span", f"KL {plain(kl, 1)} nats") if kl is not None else None,
    ]
    return tag(
        "article",
        tag("header", *facts) if any(facts) else None,
        tag("div", conversation(sample.get("prompt")), class_="prompt", dir="auto"),
        tag("div", _side("Before", "before", sample), _side("After", "after", sample), class_="sides"),
        class_="sample",
        data_order=-place,
        data_category=category,
        data_gain=datum(gain),
        data_kl=datum(kl),
        data_gap=datum(_gap(sample)),
    )


def _side(title: str, when: str, sample: Row) -> Html:
    scores = [
        f"{label} {plain(score, 2)}"
        for label, judge in (("reward", "reward"), ("second judge", "second"))
        if (score := number(sample.get(f"{judge}_{when}"))) is not None
    ]
    return tag("section", _title(title, scores), answer(sample.get(when)), class_=when)


def conversation(prompt: Any) -> Html:
    """A prompt to read: a text as it is, several messages with the role in front of each."""
    messages = prompt.get("messages") if isinstance(prompt, Mapping) else prompt
    if not isinstance(messages, list) or not all(isinstance(m, Mapping) for m in messages):
        return tag("p", _text(prompt))
    if len(messages) == 1:
        return tag("p", _text(messages[0].get("content")))
    return join(tag("p", tag("b", _text(m.get("role"))), " ", _text(m.get("content"))) for m in messages)


def _title(title: str, facts: Sequence[str]) -> Html:
    return tag("h4", title, tag("small", " · ".join(facts)) if facts else None)


def answer(value: Any) -> Html:
    """An answer to read; an empty one and one that is not there say so."""
    if not _text(value).strip():
        return tag("p", "(empty answer)" if isinstance(value, str) else "(not recorded)", class_="quiet")
    return tag("div", tag("p", _text(value)), class_="answer", dir="auto")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


def _gain(sample: Row, judge: str) -> float | None:
    before, after = number(sample.get(f"{judge}_before")), number(sample.get(f"{judge}_after"))
    return None if before is None or after is None else after - before


def _gap(sample: Row) -> float | None:
    """How much more the first judge liked the change than the second: large where an answer pleases one judge only."""
    own, other = _gain(sample, "reward"), _gain(sample, "second")
    return None if own is None or other is None else own - other
