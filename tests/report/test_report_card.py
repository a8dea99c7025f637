from __future__ import annotations

from typing import Any

import pytest
from page_reader import Page

from manners.report import card_words
from manners.report.card import build_card
from manners.report.card_markdown import markdown

DATA = {"name": "our own", "source": "manners", "licence": "Apache-2.0", "sha256": "ab" * 32, "shipped": True}
EVIL = "<script>alert(1)</script> | <b>"


def line(name: str, group: str, verdict: str = "", **more: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": name, "group": group, "label": f"Row {name}", "unit": "share", "better": "higher", "value": 0.25, "ci": [0.125, 0.5],
        "n": 40, "base": None, "difference": None, "verdict": verdict, "scorer": "refusal detector", "optimised": False, "data": DATA,
    }  # fmt: skip
    if verdict:
        row["base"] = {"value": 0.75, "ci": [0.5, 0.875], "n": 40}
        row["difference"] = {
            "mean": -0.5,
            "ci": [-0.75, -0.25],
            "p": 0.0004,
            "test": "McNemar exact",
            "p_adjusted": 0.012,
        }
    return row | more


def card(against: str = "", **more: Any) -> dict[str, Any]:
    verdict = "worse" if against else ""
    said = [{"text": EVIL, "finished": True, "toxicity": 0.9, "refusal": "full_compliance"}]
    value: dict[str, Any] = {
        "model": f"m {EVIL}", "against": against, "profile": ["toxic when provoked"], "warnings": [f"beware {EVIL}"],
        "rows": [line("attack", "harmless", verdict), line("kl", "side_effects", unit="nats", value=3.5, ci=[None, None])],
        "missing": [{"row": "win_rate", "why": "no judge"}], "many_looks": "Holm.", "samples": [
            {"set": "dangerous", "prompt": f"how {EVIL}", "category": "fraud", "answers": said, "base": said if against else None}
        ],
        "scorers": {"refusal detector": {"version": "1", "agreement": {"people": {"n": 450, "accuracy": 0.95, "ci": [0.9, 0.97]}}},
                    "unknown judge": {"agreement": None}},
    }  # fmt: skip
    return value | more


@pytest.mark.parametrize("against", ["", "base"])
def test_nothing_that_was_said_is_read_as_markup(against: str) -> None:
    page, text = build_card(card(against)), markdown(card(against))
    assert "<script>alert" not in page
    assert "<script>" not in text
    assert all(
        part.count("|") == 0 or part.startswith("|")
        for part in text.splitlines()
        if "alert" in part and "\\|" not in part
    )


def test_numbers_stand_with_interval_count_and_verdict() -> None:
    page = build_card(card("base"))
    for words in (
        ">0.25</span><small>[0.12 to 0.50]",
        ">0.75</span><small>[0.50 to 0.88]",
        ">−0.50</span><small>[−0.75 to −0.25]",
        "p &lt; 0.001, adjusted 0.012",
        "reading worse",
        "share · higher is better · refusal detector · our own",
        "95.0",
        "agreement with people not known here",
        "win_rate: no judge",
        "ab" * 8,
    ):
        assert words in page, words
    assert build_card(card("base")) == page
    assert "Row kl" in page
    assert ">3.50<" in page
    assert card_words.with_interval(0.0, (0.0, 0.0838)) == ("0.0000", "[0.0000 to 0.0838]")
    assert card_words.with_interval(0.0, (0.0, 0.0)) == ("0.00", "[0.00 to 0.00]")
    assert card_words.with_interval(None, None) == ("–", "")


def test_one_model_has_no_columns_of_another() -> None:
    page, text = build_card(card()), markdown(card())
    assert "verdict" not in page.split("</style>")[1].split("How far")[0]
    assert "| value [95 %] | n | better is | scorer |" in text
    assert "Holm" not in text


def test_markdown_holds_every_row_and_no_sample() -> None:
    text = markdown(card("base"))
    numbers = "0.25 [0.12 to 0.50] | 0.75 [0.50 to 0.88] | −0.50 [−0.75 to −0.25]"
    assert f"| Row attack, share | {numbers} | p &lt; 0.001, adjusted 0.012 | McNemar exact | worse |" in text
    assert "how " not in text.split("## Data")[0].replace("how often", "")
    assert "Holm." in text
    assert "abababababababab" in text


def test_the_headline_counts_verdicts_or_says_what_stands_out() -> None:
    assert (
        card_words.summary(card("base", model="m")) == "m against base: better in 0, worse in 1, no evidence in 0 rows"
    )
    assert card_words.summary(card(model="m")) == "m: toxic when provoked"
    page = Page(build_card(card("base", model="m")))
    assert page.faults == []
    assert "m against base: better in 0, worse in 1, no evidence in 0 rows" in page.text("span")
