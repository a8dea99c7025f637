"""Answers to read: before and after side by side, and the answers that were sampled on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manners.report.evidence import Row
from manners.report.markup import Html, join, tag
from manners.report.numerals import number, plain, signed

MOST_PAIRS = 300
MOST_STEPS, MOST_PROMPTS, MOST_PER_STEP = 6, 4, 3


def side_by_side(samples: Sequence[Row]) -> Html:
    """Every evaluated prompt with its answer before and after, and the controls to filter and sort them.

    The controls are hidden until the script of the page, which alone can work them, shows them.
    """
    shown = samples[:MOST_PAIRS]
    left_out = len(samples) - len(shown)
    cards = tag("div", *(_pair(place, sample) for place, sample in enumerate(shown)), class_="samples", id="samples")
    more = tag("p", tag("button", "Show more", type="button", id="more"), class_="controls", hidden=True)
    rest = tag("p", f"{left_out} more are in evaluation.json.", class_="quiet") if left_out else None
    return join([_controls(shown), cards, more, rest])


def _controls(samples: Sequence[Row]) -> Html:
    """Only what the samples can be sorted and filtered by; an order names a data attribute, "-" turns it round."""
    orders = {"order": "as they came"}
    if any(_gain(s, "reward") is not None for s in samples):
        orders |= {"gain": "largest reward gain first", "-gain": "smallest reward gain first"}
    if any(number(s.get("kl")) is not None for s in samples):
        orders |= {"kl": "largest KL first"}
    if any(_gap(s) is not None for s in samples):
        orders |= {"gap": "judges disagree most first"}
    categories = sorted({_text(s.get("category")) for s in samples} - {""})
    choose = _select("Category", "category", {"": "all"} | {c: c for c in categories}) if categories else None
    count = tag("span", id="shown", role="status")
    return tag("p", choose, _select("Order", "sort", orders), count, class_="controls", hidden=True)


def _select(label: str, name: str, options: Mapping[str, str]) -> Html:
    chosen = tag("select", *(tag("option", words, value=value) for value, words in options.items()), id=name)
    return tag("label", label, " ", chosen)


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
        data_gain=_datum(gain),
        data_kl=_datum(kl),
        data_gap=_datum(_gap(sample)),
    )


def _side(title: str, when: str, sample: Row) -> Html:
    scores = [
        f"{label} {plain(score, 2)}"
        for label, judge in (("reward", "reward"), ("second judge", "second"))
        if (score := number(sample.get(f"{judge}_{when}"))) is not None
    ]
    return tag("section", _title(title, scores), _answer(sample.get(when)), class_=when)


def along_the_way(rows: Sequence[Row]) -> Html:
    """How answers changed during training: prompts that were sampled repeatedly, or else some answers of some steps.

    Each of `rows` has a number as its step.
    """
    by_prompt: dict[str, dict[float, Row]] = {}
    for row in rows:
        by_prompt.setdefault(conversation(row.get("prompt")), {})[float(row["step"])] = row
    recurring = sorted((steps for steps in by_prompt.values() if len(steps) >= 2), key=len, reverse=True)
    if recurring:
        return join(_growth(steps) for steps in recurring[:MOST_PROMPTS])
    by_step: dict[float, list[Row]] = {}
    for row in rows:
        by_step.setdefault(float(row["step"]), []).append(row)
    chosen = [row for step in _spread(sorted(by_step), MOST_STEPS) for row in by_step[step][:MOST_PER_STEP]]
    return tag("div", *(_moment(row, with_prompt=True) for row in chosen), class_="moments")


def _growth(steps: Mapping[float, Row]) -> Html:
    chosen = _spread(sorted(steps), MOST_STEPS)
    prompt = tag("div", conversation(steps[chosen[0]].get("prompt")), class_="prompt", dir="auto")
    return tag("article", prompt, tag("div", *(_moment(steps[s]) for s in chosen), class_="moments"), class_="sample")


def _moment(row: Row, with_prompt: bool = False) -> Html:
    reward, kl = number(row.get("reward")), number(row.get("kl"))
    facts = [f"reward {plain(reward, 2)}"] if reward is not None else []
    facts += [f"KL {plain(kl, 1)} nats"] if kl is not None else []
    prompt = tag("div", conversation(row.get("prompt")), class_="prompt", dir="auto") if with_prompt else None
    return tag("section", _title(f"step {row['step']:g}", facts), prompt, _answer(row.get("completion")))


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


def _answer(value: Any) -> Html:
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


def _datum(value: float | None) -> str | None:
    return None if value is None else f"{value:.6g}"


def _spread(values: Sequence[float], most: int) -> list[float]:
    """At most `most` of the values, evenly, first and last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]
