"""The behaviour card as a page: what the model is, row by row, and what was said, to be read by whoever decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manners.report import card_words, figures
from manners.report.answers import answer
from manners.report.blocks import cell, heading, row, section, table
from manners.report.card_markdown import data, markdown
from manners.report.markup import Html, join, tag
from manners.report.numerals import interval, number, percent, plain
from manners.report.page import document
from manners.runs import write_text

SETS = {
    "provoking": "Most toxic answers to provoking prompts",
    "ordinary": "Most toxic answers to ordinary prompts",
    "dangerous": "Dangerous requests",
    "lookalikes": "Look-alikes: safe ones refused, unsafe ones answered",
}


def write_card(folder: Path, card: Mapping[str, Any]) -> Path:
    """Write FOLDER/card.html and FOLDER/card.md from what card.json holds, and give the page's path."""
    write_text(folder / "card.md", markdown(card))
    write_text(folder / "card.html", build_card(card))
    return folder / "card.html"


def build_card(card: Mapping[str, Any]) -> str:
    """The card as HTML; the same card always gives the same text."""
    groups = [
        section(f"group-{place}", title, None, _rows(f"group-{place}", rows, bool(card["against"])))
        for place, (title, rows) in enumerate(card_words.by_group(card))
    ]
    parts = [*groups, _looks(card), _scorers(card), _data(card), _samples(card)]
    return document(f"Behaviour card: {card['model']}", _top(card), join(parts))


def _top(card: Mapping[str, Any]) -> Html:
    verdicts = {row["verdict"] for row in card["rows"]}
    tone = (
        "mixed" if {"better", "worse"} <= verdicts else next((t for t in ("better", "worse") if t in verdicts), "same")
    )
    mark = "i" if not card["against"] else {"better": "✓", "worse": "↓", "mixed": "≈", "same": "="}[tone]
    warned = card["warnings"]
    watch = tag("div", tag("h2", "Worth a second look"), tag("ul", *(tag("li", w) for w in warned)), class_="watch")
    return tag(
        "header",
        tag("p", "Behaviour card · ", tag("b", card["model"]), class_="eyebrow"),
        tag("h1", tag("span", mark, class_="mark", aria_hidden="true"), tag("span", card_words.summary(card))),
        tag("div", *(tag("p", f"The model: {trait}.") for trait in card["profile"]), class_="reasons"),
        watch if warned else None,
        class_=f"headline {tone}",
    )


def _rows(name: str, rows: Sequence[Mapping[str, Any]], compared: bool) -> Html:
    base = ("base", "difference", "verdict") if compared else ()
    head = tag("tr", heading("", "value", "", *base, "n"))
    return table("category card", head, [_row(f"{name}-{place}", each, compared) for place, each in enumerate(rows)])


def _row(name: str, values: Mapping[str, Any], compared: bool) -> Html:
    better = "" if values["better"] == "neither" else f"{values['better']} is better · "
    about = f"{values['unit']} · {better}{values['scorer']} · {values['data']['name']}"
    cells = [cell("value", _lines(*card_words.value(values))), tag("td", _strip(name, values), class_="strip")]
    if compared:
        verdict = values["verdict"]
        said = tag("span", verdict, class_=f"reading {verdict}") if verdict else None
        cells += [
            cell("base", _lines(*card_words.value(values["base"] or {}))),
            cell("difference", _lines(*card_words.change(values))),
            cell("verdict", join([said, tag("small", card_words.chance(values)) if verdict else None])),
        ]
    title = join([tag("span", values["label"]), tag("small", about)])
    return row(title, *cells, cell("n", plain(float(values["n"]), 0)))


def _lines(said: str, within: str) -> Html:
    """A number with its interval below."""
    return join([tag("span", said, class_="gain"), tag("small", within) if within else None])


def _strip(name: str, values: Mapping[str, Any]) -> Html | None:
    """A share or probability with its interval on the scale from 0 to 1; the upright line is the base."""
    found, base = number(values["value"]), number((values["base"] or {}).get("value"))
    if found is None or values["unit"] not in ("share", "probability") or not 0 <= found <= 1:
        return None
    return figures.interval_strip(
        f"{name}-strip", values["label"], found, interval(values["ci"]), (0, 1), "blue", 0 if base is None else base
    )


def _looks(card: Mapping[str, Any]) -> Html | None:
    words = "Lines are 95 % intervals on the scale from 0 to 1; the upright line is the base."
    many = [card["many_looks"], words] if card["against"] else []
    missing = [f"{each['row']}: {each['why']}" for each in card["missing"]]
    absent = tag("ul", *(tag("li", text) for text in missing)) if missing else None
    return section("reading", "How to read it, and what is missing", None, *(tag("p", text) for text in many), absent)


def _scorers(card: Mapping[str, Any]) -> Html:
    """How far each scorer agrees with people."""
    lines = []
    for scorer, known in card["scorers"].items():
        for where, found in (known.get("agreement") or {}).items():
            if isinstance(found, Mapping) and "accuracy" in found:
                said = f"{percent(found['accuracy'], 1)}, {card_words.between_percent(found['ci'])}"
                lines.append(row(f"{scorer}: {where}", cell("agreement with people", said), cell("n", str(found["n"]))))
        for where, found in (known.get("ranking") or {}).items():
            said = " ".join(card_words.with_interval(found["roc_auc"], interval(found["ci"])))
            lines.append(row(f"{scorer}: {where}", cell("ROC AUC", said), cell("n", str(found["n"]))))
        if not known.get("agreement") and not known.get("ranking"):
            lines.append(row(scorer, cell("", "agreement with people not known here"), cell("n", "")))
    lede = "The share of answers on which a scorer and people say the same, or how well it ranks texts that people labelled."
    return section("scorers", "How far the scorers can be believed", lede, table("facts", None, lines))


def _data(card: Mapping[str, Any]) -> Html:
    lines = [
        row(
            each["name"],
            cell("from", each["source"]),
            cell("licence", each["licence"]),
            cell("SHA-256", each["sha256"][:16]),
        )
        for each in data(card)
    ]
    head = tag("tr", heading("set", "from", "licence", "SHA-256"))
    return section("data", "Data", None, table("facts", head, lines))


def _samples(card: Mapping[str, Any]) -> Html:
    parts = []
    for topic, title in SETS.items():
        own = [sample for sample in card["samples"] if sample["set"] == topic]
        shown = [_sample(sample, card) for sample in own]
        parts.append(tag("details", tag("summary", title), *shown))
    lede = "The answers to read first, chosen because they look worst. Some are offensive. All are in samples.jsonl."
    return section("samples", "What it said", lede, *parts)


def _sample(sample: Mapping[str, Any], card: Mapping[str, Any]) -> Html:
    sides = [_side(card["model"], "after", sample["answers"])]
    if sample["base"]:
        sides.insert(0, _side(card["against"], "before", sample["base"]))
    kind = tag("header", tag("span", sample["category"], class_="kind")) if sample["category"] else None
    asked = tag("div", tag("p", sample["prompt"]), class_="prompt", dir="auto")
    return tag("article", kind, asked, tag("div", *sides, class_="sides"), class_="sample")


def _side(title: str, when: str, answers: Sequence[Mapping[str, Any]]) -> Html:
    worst = max(answers, key=lambda a: a["toxicity"])
    facts = f"toxicity {plain(worst['toxicity'], 2)} · {worst['refusal'].replace('_', ' ')}"
    return tag("section", tag("h4", title, tag("small", facts)), answer(worst["text"]), class_=when)
