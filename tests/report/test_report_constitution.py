"""The report of a constitution: each round can be read, numbers stand where they belong, and nothing of a model's text is markup."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from manners.config import Config
from manners.constitution.steps import Step
from manners.records import Message, Prompt
from manners.report import write_report
from manners.report.constitution import _worth
from manners.runs import Run, write_json, write_jsonl

TURNS = (Message("user", "I lost."), Message("assistant", "Oh."), Message("user", "Hurt <b>him</b>"))
PROMPT = Prompt(TURNS, "toxicity", "train")
STEPS = [
    Step(PROMPT, 0, 1, "", "", "", "Go & shout.", "answer"),
    Step(PROMPT, 1, 2, "temper", "Go & shout.", "It is <script>alert(1)</script> rude.", "Talk to him.", "accepted"),
    Step(PROMPT, 2, 3, "revenge", "Talk to him.", "", "", "empty"),
]


def share(value: float) -> dict[str, Any]:
    return {"value": value, "ci": [value - 0.1, value + 0.1], "n": 7}


REVISED = {
    "prompts": 1, "revisions": 2, "accepted": 1, "demonstrations": 1,
    "rounds": [{"round": n, "n": 1, "verdicts": {verdict: 1}, "boilerplate": share(0.25), "preaching": share(0.5), "words": 3.0}
               for n, verdict in enumerate(("answer", "accepted", "empty"))],
    "principles": {"temper": {"drawn": 1, "accepted": 1}, "revenge": {"drawn": 1, "accepted": 0}},
}  # fmt: skip


def report(folder: Path, kind: str, evaluation: dict[str, Any]) -> str:
    if not folder.exists():
        Run.create(folder, kind, Config(), {}).mark("finished")
    write_json(folder / "evaluation.json", evaluation)
    return write_report(folder).read_text(encoding="utf-8")


def revised(folder: Path) -> str:
    Run.create(folder, "revise", Config(), {}).mark("finished")
    write_jsonl(folder / "revisions.jsonl", (step.to_json() for step in STEPS))
    return report(folder, "revise", REVISED)


def test_every_round_of_a_prompt_can_be_read(tmp_path: Path) -> None:
    page = revised(tmp_path / "run")
    assert "1 of 2 revisions were accepted" in page
    order = [
        "Go &amp; shout.",
        "temper · accepted · seed 2",
        "It is &lt;script&gt;",
        "Talk to him.",
        "revenge · empty · seed 3",
    ]
    reader = page[page.index('id="steps"') :]
    places = [reader.index(text) for text in order]
    assert places == sorted(places)
    assert "(empty answer)" in reader[places[-1] :]
    assert "I lost." in reader  # the whole conversation
    assert "<script>alert" not in page
    assert "<b>him</b>" not in page


def test_counts_by_round_and_principle_are_there(tmp_path: Path) -> None:
    page = revised(tmp_path / "run")
    rounds = page[page.index('id="rounds"') : page.index('id="principles"')]
    assert "25\u00a0%" in rounds
    assert "50\u00a0%" in rounds
    assert "accepted as it was written" in rounds
    assert "temper" in page[page.index('id="principles"') : page.index('id="steps"')]


@pytest.mark.parametrize(
    ("gains", "tone", "says"),
    [
        ({"harmless": (0.1, 0.3), "not_toxic": (-0.1, 0.1), "helpful": (-0.1, 0.1)}, "better", "Something was gained"),
        ({"harmless": (0.1, 0.3), "not_toxic": (-0.1, 0.1), "helpful": (-0.3, -0.1)}, "mixed", "Something was lost"),
        ({"harmless": (-0.3, -0.1), "not_toxic": (-0.1, 0.1), "helpful": (-0.1, 0.1)}, "worse", "It got worse"),
        (
            {"harmless": (-0.1, 0.1), "not_toxic": (-0.1, 0.1), "helpful": (-0.1, 0.1)},
            "same",
            "No change of harmlessness",
        ),
    ],
)
def test_the_headline_says_no_more_than_the_intervals(
    tmp_path: Path, gains: dict[str, tuple[float, float]], tone: str, says: str
) -> None:
    measures = [
        {"measure": name, "meaning": f"what {name} means", "stages": {key: share(0.5) for key in ("before", "after_sl", "after_rl")},
         "gains": {key: {"value": sum(span) / 2, "ci": list(span), "n": 7} for key in ("after_sl", "after_rl")}}
        for name, span in gains.items()
    ]  # fmt: skip
    page = report(tmp_path / "run", "constitution", {"measures": measures})
    assert says in page
    assert f'class="headline {tone}"' in page
    assert "what helpful means" in page


def test_a_run_that_has_left_nothing_yet_says_so(tmp_path: Path) -> None:
    for kind in ("revise", "constitution", "prefer", "judge"):
        page = report(tmp_path / kind, kind, {})
        assert "The run has not come to its end" in page
    assert "holds no revisions.jsonl" in (tmp_path / "constitution" / "report.html").read_text(encoding="utf-8")


def test_a_judge_has_its_numbers(tmp_path: Path) -> None:
    page = report(tmp_path / "run", "judge", {"judge": "starter", "agreement": share(0.6), "flip_rate": share(0.25)})
    section = page[page.index('id="ai-judge"') :]
    assert "60\u00a0%" in section
    assert "25\u00a0%" in section
    assert "25\u00a0% of the winners change with the order" in page


def gains_of(**gains: tuple[float, float]) -> list[dict[str, Any]]:
    return [{"measure": name, "gains": {"after_rl": {"ci": list(ends)}}} for name, ends in gains.items()]


def test_nothing_gained_says_so_and_still_tells_what_changed_beside() -> None:
    said = _worth(
        gains_of(harmless=(-0.01, 0.03), helpful=(-0.1, 0.4), preaching=(-0.25, -0.03), boilerplate=(-0.2, 0.0))
    )
    assert said.tone == "same"
    assert said.reasons[-1] == "What changed beside them, beyond chance: Preaching."
    assert len(_worth(gains_of(harmless=(-0.01, 0.03))).reasons) == 2


def test_a_gain_and_a_loss_are_weighed() -> None:
    tones = [
        _worth(gains_of(harmless=(0.1, 0.2), helpful=(-0.1, 0.1))).tone,
        _worth(gains_of(not_toxic=(0.1, 0.2), helpful=(-0.3, -0.1))).tone,
        _worth(gains_of(helpful=(-0.3, -0.1))).tone,
    ]
    assert tones == ["better", "mixed", "worse"]
