"""The microscope: every rollout that was logged, open to the single token, with the numbers that the update saw of it.

The page carries a token once, as text, and its numbers once, as JSON in an attribute of its rollout. microscope.js builds
the opened view from a template; without it the tokens are there all the same, coloured by the first quantity.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from manners.report.answers import answer, conversation
from manners.report.evidence import Row
from manners.report.lists import controls, datum, more
from manners.report.markup import Html, join, tag
from manners.report.numerals import NOTHING, number, plain, signed
from manners.report.quantities import Quantity, quantities, reading
from manners.report.rollouts import Rollout, orders, within

SNIPPET = 120


def microscope(rollouts: Sequence[Rollout], config: Row) -> Html:
    """The list of rollouts with its controls, and the template of the opened view. `config`: of the run."""
    shown = within(rollouts)
    recorded = {key for rollout in shown for key in rollout.trace}
    lenses = [
        lens.scaled(v for r in shown for v in r.trace.get(lens.key, ()) if v is not None)
        for lens in quantities(config)
        if lens.key in recorded
    ]
    traced = any(rollout.trace for rollout in shown)
    rest = f"{len(rollouts) - len(shown)} more are in samples.jsonl; the extremes and an even choice are shown."
    return join(
        [
            _first_reading(lenses[0]) if traced else None,
            controls(orders(shown)),
            tag("div", *(_card(rollout, lenses) for rollout in shown), class_="rollouts list"),
            more(),
            tag("p", rest, class_="quiet") if len(shown) < len(rollouts) else None,
            _template(lenses) if traced else None,
        ]
    )


def _first_reading(lens: Quantity) -> Html:
    """What the colours mean as long as no script lets the reader choose another quantity."""
    return tag("div", tag("p", "Tokens are coloured by ", tag("b", lens.label), "."), reading(lens), id="first-lens")


def _card(rollout: Rollout, lenses: Sequence[Quantity]) -> Html:
    row, trace = rollout.row, [rollout.trace.get(lens.key) for lens in lenses]
    if rollout.trace:
        shown = _tokens(rollout, lenses[0])
    else:
        quiet = tag("p", "The numbers of its tokens were not recorded.", class_="quiet")
        shown = join([answer(row.get("completion")), quiet])
    return tag(
        "details",
        tag("summary", _facts(row), tag("span", _snippet(row), class_="snippet", dir="auto")),
        tag("div", conversation(row.get("prompt")), class_="prompt", dir="auto"),
        shown,
        _sum(rollout),
        class_="rollout",
        data_trace=json.dumps(trace, separators=(",", ":")) if rollout.trace else None,
        data_step=datum(rollout.value("step")),
        data_reward=datum(rollout.value("reward")),
        data_kl=datum(rollout.value("kl")),
        data_disagreement=datum(rollout.value("disagreement")),
        data_gap=datum(rollout.gap),
    )


def _facts(row: Row) -> Html:
    """What the closed list shows. A row without "score" is of the time when "reward" held what was left of it."""
    reward, second = number(row.get("reward")), number(row.get("second_judge"))
    disagreement, kl = number(row.get("disagreement")), number(row.get("kl"))
    facts = {
        "step": f"{row['step']:g}",
        "reward" if "score" in row else "adjusted reward": None if reward is None else signed(reward, 2),
        "second judge": None if second is None else signed(second, 2),
        "disagreement": None if disagreement is None else plain(disagreement, 2),
        "KL": None if kl is None else plain(kl, 1),
    }
    told = [tag("span", words, " ", tag("b", value)) for words, value in facts.items() if value is not None]
    return tag("span", *told, class_="known")


def _snippet(row: Row) -> str:
    words = row.get("completion")
    line = " ".join(words.split()) if isinstance(words, str) else ""
    return f"{line[:SNIPPET]}…" if len(line) > SNIPPET else line or "(empty answer)"


def _tokens(rollout: Rollout, first: Quantity) -> Html:
    values = rollout.trace.get(first.key) or [None] * len(rollout.tokens)
    marked = [
        tag("i", _visible(token), class_=first.colour(value))
        for token, value in zip(rollout.tokens, values, strict=True)
    ]
    return tag("div", tag("p", *marked), class_="answer tokens", dir="auto")


def _visible(token: str) -> str:
    """Line breaks get a sign, since a token is often nothing else; a token without text gets one too."""
    return token.replace("\r\n", "\n").replace("\n", "⏎\n") or "∅"


def _sum(rollout: Rollout) -> Html | None:
    """How the score came about and what the rewards of all tokens add up to, which is what the training was to raise."""
    reward, score = number(rollout.row.get("reward")), number(rollout.row.get("score"))
    shares = [share for share in rollout.trace.get("penalty", ()) if share is not None]
    if score is None or not shares:
        return None
    penalty = sum(shares)
    changed = reward is not None and round(reward, 4) != round(score, 4)
    paid = (
        f"The judge gave {signed(reward, 2)}, of which {signed(score, 2)} was paid"
        if changed
        else (f"The judge gave {signed(score, 2)}")
    )
    words = f"{paid}; the shift penalty of all tokens is {signed(penalty, 2)}. Together "
    return tag("p", words, tag("b", signed(score + penalty, 2)), ", which the training was to raise.", class_="sum")


def _template(lenses: Sequence[Quantity]) -> Html:
    """The parts of the opened view that are the same for every rollout."""
    choices = [
        tag("label", tag("input", type="radio", value=lens.key, data_centre=f"{lens.centre:g}", data_sided=lens.sided,
                         data_limits=" ".join(f"{limit:g}" for limit in lens.limits)), tag("span", lens.label))
        for lens in lenses
    ]  # fmt: skip
    chooser = tag("fieldset", tag("legend", "Colour by"), *choices)
    numbers = [tag("div", tag("dt", lens.label), tag("dd", NOTHING), data_key=lens.key) for lens in lenses]
    return tag(
        "template",
        tag("div", chooser, *(reading(lens) for lens in lenses), class_="lens"),
        tag("div", tag("p", class_="which"), tag("dl", *numbers), class_="readout", role="status"),
        id="lens",
    )
