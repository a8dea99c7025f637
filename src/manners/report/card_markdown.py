"""The behaviour card as Markdown: what is committed beside a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manners.report import card_words


def markdown(card: Mapping[str, Any]) -> str:
    """The card as one Markdown page, without the samples: some of them are offensive by intent."""
    lines = [f"# Behaviour card: {_cell(card['model'])}", "", f"**{_cell(card_words.summary(card))}**", ""]
    lines += [f"- {_cell(trait)}" for trait in card["profile"]]
    lines += _listed("Warnings", card["warnings"])
    for title, rows in card_words.by_group(card):
        lines += ["", f"## {title}", "", *_table(rows, bool(card["against"]))]
    if card["against"]:
        lines += ["", card["many_looks"]]
    lines += _listed("Missing", [f"{each['row']}: {each['why']}" for each in card["missing"]])
    lines += ["", "## Data", "", "| set | from | licence | SHA-256 |", "|---|---|---|---|"]
    lines += [
        f"| {_cell(d['name'])} | {_cell(d['source'])} | {_cell(d['licence'])} | `{d['sha256'][:16]}` |"
        for d in data(card)
    ]
    return "\n".join(lines) + "\n"


def data(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Each data set of the card once."""
    return list({row["data"]["sha256"]: row["data"] for row in card["rows"]}.values())


def _table(rows: Sequence[Mapping[str, Any]], compared: bool) -> list[str]:
    base = ["base", "difference", "p", "test", "verdict"] if compared else []
    columns = ["", "value [95 %]", *base, "n", "better is", "scorer"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        more = []
        if compared:
            base_value, difference = card_words.value(row["base"] or {}), card_words.change(row)
            test = row["difference"]["test"] if row["difference"] else ""
            more = [" ".join(base_value), " ".join(difference), card_words.chance(row), test, row["verdict"]]
        cells = [_named(row), " ".join(card_words.value(row)), *more, str(row["n"]), row["better"], row["scorer"]]
        lines.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    return lines


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['label']}, {row['unit']}"


def _listed(title: str, items: Sequence[str]) -> list[str]:
    return ["", f"## {title}", "", *(f"- {_cell(item)}" for item in items)] if items else []


def _cell(text: str) -> str:
    """Text that neither ends a cell nor is read as HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
