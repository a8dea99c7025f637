from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_runs import MadeUpConfig, accuracy_of, reward_evaluation
from page_reader import Page, page_of

from manners.report.verdict import judge_verdict
from manners.runs import Run, write_json


def page_with(path: Path, **changed: Any) -> Page:
    run = Run.create(path / "run", "reward", MadeUpConfig(), {})
    write_json(run.path / "evaluation.json", reward_evaluation() | changed)
    return page_of(run)


def test_all_parts_of_the_accuracy_stand_on_one_scale(tmp_path: Path) -> None:
    page = page_with(tmp_path)
    headings = [w for w in page.words["th"] if w.startswith(("Altogether", "By ", "Each "))]
    assert headings == [
        "Altogether", "By kind of prompt", "By who judged", "By how many people agree", "Each member of the ensemble",
    ]  # fmt: skip
    names = ["all pairs", "of nearly equal length", "advice", "Ada", "Bruno", "all agree", "member 1", "member 3"]
    assert set(names) <= set(page.words["th"])
    assert "50 to 75\u00a0% agree; siding with the majority reaches 62\u00a0%" in page.words["th"]
    gains = [word for word in page.words["span"] if word.endswith("%")]
    assert gains == [
        f"{100 * share:.1f}\u00a0%"
        for share in (0.694, 0.648, 0.71, 0.62, 0.78, 0.66, 0.72, 0.65, 0.55, 0.71, 0.83, 0.68, 0.69, 0.66)
    ]
    scales = [attrs for attrs in page.named("svg") if "scale" in (attrs["aria-labelledby"] or "")]
    assert len(scales) == 1
    assert "0.34" in page.words["td"]


def test_one_annotator_or_one_member_is_no_comparison(tmp_path: Path) -> None:
    one = accuracy_of(0.7, 800)
    nothing = {"accuracy": None, "ci": [None, None], "n_pairs": 0}
    page = page_with(
        tmp_path, by_judge={"Ada": one}, members=[one], by_agreement={}, length_matched=nothing, disagreement=None
    )
    headings = [w for w in page.words["th"] if w.startswith(("Altogether", "By ", "Each "))]
    assert headings == ["Altogether", "By kind of prompt"]
    assert "of nearly equal length" not in page.words["th"]
    assert not [words for words in page.words["p"] if "equal length" in words]


@pytest.mark.parametrize(
    "key", ["length_matched", "by_judge", "by_agreement", "members", "disagreement", "by_category"]
)
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, [None, 1], [{}], {"a": 1}, {"a-b": {"accuracy": 0.5}}])
def test_any_part_may_be_missing_or_odd(tmp_path: Path, key: str, value: Any) -> None:
    assert "all pairs" in page_with(tmp_path, **{key: value}).words["th"]


@pytest.mark.parametrize(("half", "doubt"), [(0.02, False), (0.2, True)])
def test_the_verdict_says_what_is_left_where_length_cannot_help(half: float, doubt: bool) -> None:
    found = {"accuracy": 0.7, "ci": [0.66, 0.74], "length_matched": {"accuracy": 0.6, "ci": [0.6 - half, 0.6 + half]}}
    said = [reason for reason in judge_verdict(found).reasons if "equal length" in reason]
    assert len(said) == 1
    assert "agrees with 60.0\u00a0%" in said[0]
    assert ("not clearly more than a coin" in said[0]) == doubt
