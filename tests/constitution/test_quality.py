"""How good a judge is, where that is known beforehand."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ScriptedJudge

from manners.constitution.constitution import Comparison
from manners.constitution.ledger import Ledger
from manners.constitution.quality import (
    QualityConfig,
    judge_quality,
    measured,
    refuse_weak_judge,
    some_of,
    weaknesses,
)
from manners.errors import MannersError
from manners.feedback.importers import read
from manners.feedback.pairs import pairs_of
from manners.records import Completion, Judgement, Pair, Prompt

PRINCIPLES = [Comparison(id=f"p{i}", principle=f"Which is better, {i}?", aspects=("helpful",)) for i in range(2)]


def pair(number: int, chosen: str, rejected: str, category: str = "") -> Pair:
    prompt = Prompt.of(f"prompt {number}", category=category)
    return Pair(prompt, Completion(prompt.id, chosen), Completion(prompt.id, rejected))


def quality(folder: Path, judge: ScriptedJudge, pairs: list[Pair], **fields: Any) -> dict[str, Any]:
    return judge_quality(judge, pairs, PRINCIPLES, Ledger(folder / "checked.jsonl"), **fields)


RIGHT = [pair(i, "2", "1", "even" if i % 2 == 0 else "odd") for i in range(40)]


def test_a_judge_that_is_always_right(tmp_path: Path) -> None:
    found = quality(tmp_path, ScriptedJudge(float), RIGHT)
    assert found["agreement"] == {"value": 1.0, "ci": [1.0, 1.0], "n": 40}
    assert found["flip_rate"]["value"] == 0.0
    assert (found["n_pairs"], found["n_prompts"], found["failures"]) == (40, 40, {})
    # σ(1) = 0.731 said, and right every time
    assert found["ece"] == pytest.approx(1 - 0.7310585786)
    assert found["entropy"]["value"] == pytest.approx(0.5822028, abs=1e-6)
    assert weaknesses(found, QualityConfig()) == []


def test_agreement_by_principle_and_by_category_adds_up(tmp_path: Path) -> None:
    wrong = [pair(100 + i, "1", "2", "odd") for i in range(20)]
    found = quality(tmp_path, ScriptedJudge(float), RIGHT + wrong)
    assert found["agreement"]["value"] == pytest.approx(40 / 60)
    assert found["by_category"]["even"] == {"value": 1.0, "ci": [1.0, 1.0], "n": 20}
    assert found["by_category"]["odd"]["value"] == pytest.approx(0.5)
    assert set(found["by_principle"]) == {"p0", "p1"}
    total = sum(row["value"] * row["n"] for row in found["by_principle"].values())
    assert total == pytest.approx(40)


def test_one_order_shows_the_pull_of_the_first_place_and_both_do_not(tmp_path: Path) -> None:
    found = quality(tmp_path, ScriptedJudge(float, bias=10.0), RIGHT)
    assert found["agreement"]["value"] == 1.0
    assert 0.2 < found["agreement_one_order"]["value"] < 0.8
    assert found["flip_rate"]["value"] == 1.0
    assert found["first_wins"]["value"] == 1.0


def test_people_who_contradict_each_other_are_counted_one_by_one(tmp_path: Path) -> None:
    both = [pair(1, "2", "1"), pair(1, "1", "2"), pair(1, "2", "1"), pair(2, "2", "1")]
    judge = ScriptedJudge(float)
    found = quality(tmp_path, judge, both)
    assert found["agreement"]["value"] == pytest.approx(0.75)
    assert found["n_prompts"] == 2
    assert len(judge.asked) == 4


def test_the_pull_of_length_beside_that_of_people(tmp_path: Path) -> None:
    pairs = [pair(i, "long" * 3, "short") for i in range(3)] + [
        pair(9, "short", "long" * 3),
        pair(10, "same!", "other"),
    ]
    found = quality(tmp_path, ScriptedJudge(len), pairs)
    assert found["longer_wins"]["value"] == 1.0
    assert found["longer_wins_by_people"]["value"] == pytest.approx(0.75)
    assert found["longer_wins"]["n"] == found["longer_wins_by_people"]["n"] == 4


def test_a_tie_is_half_right_and_claims_nothing(tmp_path: Path) -> None:
    found = quality(tmp_path, ScriptedJudge(lambda _: 0.0), RIGHT)
    assert found["agreement"]["value"] == 0.5
    assert (found["ece"], found["calibration"]) == (None, [])
    some = [*RIGHT[:4], *(pair(50 + i, "2", "2 ") for i in range(3))]
    (tmp_path / "other").mkdir()
    assert quality(tmp_path / "other", ScriptedJudge(float), some)["ece"] == pytest.approx(1 - 0.7310585786)


def test_failures_are_counted_and_left_out(tmp_path: Path) -> None:
    found = quality(tmp_path, ScriptedJudge(float), [*RIGHT[:3], pair(77, "1???", "2")])
    assert (found["failures"], found["failure_rate"], found["n_pairs"]) == ({"no verdict": 1}, 0.25, 3)
    with pytest.raises(MannersError, match=r"no verdict on 1 comparisons \(no verdict 1\)"):
        quality(tmp_path, ScriptedJudge(float), [pair(78, "1???", "2")])


def test_what_was_answered_is_not_asked_again(tmp_path: Path) -> None:
    first = quality(tmp_path, ScriptedJudge(float), RIGHT)
    later = ScriptedJudge(float)
    assert quality(tmp_path, later, RIGHT) == first
    assert later.asked == []


def test_a_judge_below_chance_is_no_teacher_unless_told(tmp_path: Path) -> None:
    found = quality(tmp_path, ScriptedJudge(lambda text: -float(text)), RIGHT)
    with pytest.raises(MannersError, match=r"agrees with people in 0\.000 of 40 comparisons.*allow_weak_judge"):
        refuse_weak_judge(found, QualityConfig())
    assert len(refuse_weak_judge(found, QualityConfig(allow_weak_judge=True))) == 1


def test_a_judge_that_flips_or_fails_too_often_is_no_teacher(tmp_path: Path) -> None:
    flips = quality(tmp_path, ScriptedJudge(float, bias=10.0), RIGHT)
    with pytest.raises(MannersError, match=r"changes its mind with the order in 1\.000"):
        refuse_weak_judge(flips, QualityConfig(most_flips=0.9))
    assert refuse_weak_judge(flips, QualityConfig(most_flips=1.0)) == []
    (tmp_path / "other").mkdir()
    fails = quality(tmp_path / "other", ScriptedJudge(float), [*RIGHT[:2], pair(77, "???", "2"), pair(78, "???", "1")])
    assert weaknesses(fails, QualityConfig(most_failures=0.5)) == []
    assert len(weaknesses(fails, QualityConfig(most_failures=0.4))) == 1


def test_an_interval_goes_by_prompt() -> None:
    values, prompts = [1.0] * 10 + [0.0] * 10, ["a"] * 10 + ["b"] * 10
    assert measured(values, prompts)["ci"] == [0.0, 1.0]
    low, high = measured(values, [str(i) for i in range(20)])["ci"]
    assert 0.2 < low < 0.4 < 0.6 < high < 0.8
    assert measured([], []) == {"value": None, "ci": [None, None], "n": 0}


def test_some_pairs_are_whole_prompts_in_a_drawn_order() -> None:
    pairs = [pair(i // 3, "2", str(j)) for i in range(30) for j in [i % 3 + 3]]
    some = some_of(pairs, 9, seed=0)
    assert len(some) == 9
    assert len({p.prompt.id for p in some}) == 3
    assert some == some_of(pairs, 9, seed=0)
    assert some != some_of(pairs, 9, seed=1)
    assert some_of(pairs, 100, seed=0) != pairs
    assert len(some_of(pairs, 100, seed=0)) == 30


@pytest.mark.data
@pytest.mark.skipif("MANNERS_DATA" not in os.environ, reason="MANNERS_DATA is not set")
@pytest.mark.parametrize("name", ["hh_helpful_test_human", "hh_harmless_test_human"])
def test_the_longer_answer_on_real_human_comparisons(tmp_path: Path, name: str) -> None:
    rows = read(Path(os.environ["MANNERS_DATA"]) / "derived" / f"{name}.jsonl")
    pairs = [p for row in rows if isinstance(row, Judgement) for p in pairs_of(row)]
    assert len(pairs) > 1500
    found = quality(tmp_path, ScriptedJudge(lambda text: math.log1p(len(text)), bias=0.3), pairs)
    counts = [
        (len(p.chosen.text) > len(p.rejected.text)) + 0.5 * (len(p.chosen.text) == len(p.rejected.text)) for p in pairs
    ]
    assert found["agreement"]["value"] == pytest.approx(sum(counts) / len(counts))
    assert found["longer_wins"]["value"] == 1.0
    close = [abs(math.log1p(len(p.chosen.text)) - math.log1p(len(p.rejected.text))) < 0.3 for p in pairs]
    assert found["flip_rate"]["value"] == pytest.approx(sum(close) / len(close))
    uneven = [p for p in pairs if len(p.chosen.text) != len(p.rejected.text)]
    assert found["longer_wins"]["n"] == len(uneven)
