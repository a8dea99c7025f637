from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import MadeUpConfig, old_ppo_run, rollouts
from page_reader import ATTACK, Page, page_of

from manners.report import build_report
from manners.report.microscope import microscope
from manners.report.rollouts import read_rollouts
from manners.runs import Run

ORDER = ("advantage", "value", "penalty", "logp", "reference_logp", "ratio")
TRACE = {
    "advantage": [-1.5, 0.03, 2.0], "value": [0.25, 0.5, -0.75], "penalty": [-0.01, 0.02, -0.04],
    "logp": [-0.1, -2.3, -4.6], "reference_logp": [-0.3, -1.9, -5.4], "ratio": [1.1, 0.9, 1.0],
}  # fmt: skip
ROW = {"step": 4, "prompt": "Why?", "completion": "So it is.", "reward": 1.25, "score": 1.0, "kl": 0.6,
       "second_judge": -0.5, "disagreement": 0.3, "tokens": ["So", " it", " is."], "trace": TRACE}  # fmt: skip


def cards(text: str) -> list[str]:
    """The rollouts of a page, each with all that belongs to it."""
    return re.findall(r'<details class="rollout".*?</details>', text, re.DOTALL)


def look(*rows: dict[str, Any], config: dict[str, Any] | None = None) -> list[str]:
    return cards(microscope(read_rollouts(rows), config or {}))


def test_every_number_of_every_token_is_on_the_page() -> None:
    rows = rollouts(20)
    found = look(*rows)
    assert len(found) == len(rows) == 80
    for card, row in zip(found, rows, strict=True):
        (details,) = Page(card).named("details")
        shown = json.loads(details["data-trace"] or "")
        assert len(shown) == len(ORDER)
        for key, values in zip(ORDER, shown, strict=True):
            assert values == pytest.approx(row["trace"][key], rel=1e-3, abs=1e-5)


def test_the_tokens_are_the_answer_and_carry_the_colour_of_the_first_quantity() -> None:
    page = Page(look(ROW)[0])
    assert page.words["i"] == ["So", " it", " is."]
    # The scale of these advantages is 0.1, 0.2, 0.5, 1: it goes up to what most of them reach.
    assert [attrs.get("class") for attrs in page.named("i")] == ["n4", None, "p4"]
    for card, row in zip(look(*rollouts(3)), rollouts(3), strict=True):
        words = "".join(Page(card).words["i"])
        assert words.replace("⏎\n", "\n") == row["completion"] + "<|im_end|>"


def test_the_closed_list_shows_what_the_judges_said_and_what_it_is_sorted_by() -> None:
    rows = [{**ROW, "step": step, "reward": step / 3, "second_judge": -step} for step in (2, 1, 0)]
    found = look(*rows)
    pages = [Page(card) for card in found]
    assert pages[2].words["b"][:5] == ["2", "+0.67", "−2.00", "0.30", "0.6"]
    attributes = [page.named("details")[0] for page in pages]
    assert [a["data-step"] for a in attributes] == ["0", "1", "2"]
    assert [float(a["data-reward"] or "") for a in attributes] == pytest.approx([0, 1 / 3, 2 / 3], abs=1e-5)
    assert [a["data-kl"] for a in attributes] == ["0.6"] * 3
    assert [a["data-disagreement"] for a in attributes] == ["0.3"] * 3
    gaps = [float(a["data-gap"] or "") for a in attributes]
    assert gaps == pytest.approx([-(6**0.5), 0, 6**0.5], abs=1e-4)


def test_what_was_paid_is_told_and_adds_up() -> None:
    # 1.00 − 0.01 + 0.02 − 0.04 = 0.97
    words = " ".join(Page(look(ROW)[0]).text("p", "b").split("\n"))
    assert "The judge gave +1.25, of which +1.00 was paid; the shift penalty of all tokens is −0.03." in words
    assert "+0.97" in words
    unchanged = Page(look({**ROW, "reward": 1.0})[0]).text("p")
    assert "The judge gave +1.00; the shift penalty" in unchanged


def test_rows_of_older_runs_are_shown_and_say_what_their_reward_is(tmp_path: Path) -> None:
    run = old_ppo_run(tmp_path / "run")
    text = build_report(run, {})
    page, found = Page(text), cards(text)
    assert len(found) == len(run.samples()) == 6
    for card, row in zip(found, run.samples(), strict=True):
        assert row["prompt"] in Page(card).text("p")
        assert row["completion"] in Page(card).text("p")
        assert "The numbers of its tokens were not recorded." in Page(card).text("p")
    assert "data-trace" not in "".join(found)
    assert page.words["span"].count("adjusted reward ") == 6
    assert page.named("template") == []
    assert [a for a in page.named("details") if "data-reward" in a and "data-kl" in a and "data-gap" not in a]


def test_old_and_new_rows_stand_side_by_side() -> None:
    old = {"step": 1, "prompt": "Why?", "completion": "Because.", "reward": 0.5}
    with_hole = {**ROW, "trace": {key: values for key, values in TRACE.items() if key not in ("advantage", "ratio")}}
    first, second, third = look(old, with_hole, ROW)
    assert "Because." in Page(first).text("p")
    assert "data-trace" not in first
    trace = json.loads(Page(second).named("details")[0]["data-trace"] or "")
    assert [values is None for values in trace] == [True, False, False, False, False, True]
    assert [attrs.get("class") for attrs in Page(second).named("i")] == [None] * 3
    assert Page(third).words["i"] == ROW["tokens"]


def test_a_quantity_that_the_method_does_not_have_is_not_offered() -> None:
    trace = {key: values for key, values in TRACE.items() if key != "value"}
    text = microscope(
        read_rollouts([{**ROW, "trace": trace}, {**ROW, "trace": trace, "step": 5}]), {"advantage": "rloo"}
    )
    page = Page(text)
    inputs = [a["value"] for a in page.named("input") if a.get("type") == "radio"]
    assert inputs == [key for key in ORDER if key != "value"]
    for card in cards(text):
        assert len(json.loads(Page(card).named("details")[0]["data-trace"] or "")) == 5
    assert "value function" not in page.text("p")
    assert "the mean of the other answers to its prompt" in page.text("p")


def test_tokens_that_would_break_a_page_are_shown_as_they_are(tmp_path: Path) -> None:
    tokens = ["</script>", '"><img src=x>', ATTACK, "<!--", "\r\n", "", "\n\n", "'"]
    run = Run.create(tmp_path / "run", "ppo", MadeUpConfig(), {})
    trace = {key: [1.0] * len(tokens) for key in ORDER}
    row = {**ROW, "prompt": ATTACK, "completion": "".join(tokens), "tokens": tokens, "trace": trace}
    with (run.path / "samples.jsonl").open("w") as stream:
        stream.write(json.dumps(row) + "\n")
    text = build_report(run, {})
    page = page_of(run)
    shown = Page(cards(text)[0]).words["i"]
    assert shown[:2] == tokens[:2]
    assert shown[2] == ATTACK.replace("\x00", "\u2400").replace("\ud800", "\ufffd")
    assert shown[3:] == ["<!--", "⏎\n", "∅", "⏎\n⏎\n", "'"]
    assert "img" not in {name for name, _ in page.elements}
    assert text.count("<script") == text.count("</script>") == 2


def test_a_card_reads_without_a_script_and_the_template_has_no_number_of_its_own(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "ppo", MadeUpConfig(), {})
    run.sample(**ROW)
    text = build_report(run, {})
    page = Page(text)
    assert not [a for a in page.named("details") if "hidden" in a]
    first = Page(text[text.index('<div id="first-lens"') : text.index('<p class="controls"')])
    assert "coloured by " in first.text("p")
    assert len(first.named("i")) == 9
    inputs = [a for a in page.named("input") if a.get("type") == "radio"]
    assert [a["value"] for a in inputs] == list(ORDER)
    assert [a["data-centre"] for a in inputs] == ["0", "0", "0", "0", "0", "1"]
    assert ["data-sided" in a for a in inputs] == [True, True, True, False, False, True]
    assert all(len((a["data-limits"] or "").split()) == 4 for a in inputs)


def test_a_run_of_twenty_steps_makes_a_small_page(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "ppo", MadeUpConfig(), {})
    for row in rollouts(20, per_step=8, tokens=48):
        run.sample(**row)
    text = build_report(run, {})
    assert len(cards(text)) == 160
    assert text.count("<i") >= 160 * 48
    assert len(text.encode()) < 1_500_000


def test_a_very_long_run_shows_a_choice_and_says_so() -> None:
    rows = [{"step": step, "prompt": "p", "completion": f"answer {step}", "reward": step % 7} for step in range(5000)]
    shown = microscope(read_rollouts(rows), {})
    count = len(cards(shown))
    assert 2500 < count < 5000
    assert f"{5000 - count} more are in samples.jsonl" in Page(shown).text("p")
