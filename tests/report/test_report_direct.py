from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_runs import MadeUpConfig
from page_reader import page_of

from manners.report.direct import direct_signs, direct_verdict
from manners.runs import Run, write_json

UP, FLAT, DOWN = [0.1, 0.5], [-0.2, 0.3], [-0.5, -0.1]
AGREES = {"preferences": {"accuracy": 0.71, "ci": [0.64, 0.78], "n_pairs": 135, "n_prompts": 24}}


class DirectConfig(MadeUpConfig):
    online: bool = False


def evaluation(reward: list[float] | None, second: list[float] | None) -> dict[str, Any]:
    rows = [{"name": name, "label": name, "before": 0.0, "after": sum(span) / 2, "gain": sum(span) / 2, "ci": span, "n": 80}
            for name, span in (("reward", reward), ("second_judge", second)) if span]  # fmt: skip
    return {"prompts": 80, "rows": rows, **AGREES} if rows else dict(AGREES)


@pytest.mark.parametrize(
    ("reward", "second", "tone", "headline"),
    [
        (UP, UP, "better", "It really got better."),
        (UP, None, "better", "It got better."),
        (UP, FLAT, "mixed", "Not every judge sees a gain."),
        (FLAT, UP, "mixed", "Not every judge sees a gain."),
        (FLAT, FLAT, "same", "No clear change."),
        (FLAT, None, "same", "No clear change."),
        (UP, DOWN, "worse", "It got worse."),
        (DOWN, UP, "worse", "It got worse."),
        (DOWN, None, "worse", "It got worse."),
        (None, None, "unknown", "No verdict yet."),
    ],
)
def test_verdicts(reward: Any, second: Any, tone: str, headline: str) -> None:
    found = direct_verdict(evaluation(reward, second))
    assert (found.tone, found.headline) == (tone, headline)
    assert any("agrees with 71.0" in reason and "64.0 to 78.0" in reason for reason in found.reasons)


def test_sinking_preferred_answers_are_worth_a_second_look() -> None:
    rows = [(float(i), {"heldout_rewards/chosen": value}) for i, value in enumerate((0.1, -0.3))]
    (sign,) = direct_signs(rows)
    assert "−0.30" in sign
    assert direct_signs(rows[:1]) == ()
    assert direct_signs([]) == ()


def direct_run(path: Path, **fields: Any) -> Run:
    run = Run.create(path, "dpo", DirectConfig(**fields), {})
    for step in range(12):
        row = {"loss": 0.69 - step / 50, "rewards/chosen": step / 30, "rewards/rejected": -step / 20, "rewards/margins": step / 12,
               "rewards/accuracies": 0.6, "logps/chosen": -40.0, "logps/rejected": -44.0, "learning_rate": 1e-3,
               "gradient_norm": 1.0, "skipped": 0}  # fmt: skip
        look = (
            {f"heldout_{name}": value for name, value in row.items() if "/" in name or name == "loss"}
            if step % 4 == 3
            else {}
        )
        run.log(step=step, epoch=0, **row, **look)
    write_json(path / "evaluation.json", evaluation(UP, UP))
    run.mark("finished", seconds=9.0)
    return run


def test_the_page_of_a_run_without_a_judge_in_its_loop(tmp_path: Path) -> None:
    page = page_of(direct_run(tmp_path / "run"))
    assert "It really got better." in page.text("span")
    titles = page.words["h3"]
    assert {"Loss", "Agreement", "Implicit rewards", "Margin", "How likely the judged answers are", "Updates"} <= set(
        titles
    )
    assert "Guards" not in page.words["h2"]
    assert "reward, a judge never asked" in page.text("dt")
    assert "heldout" not in page.text("figcaption")  # every metric has a panel of its own words


def test_online_it_is_a_run_against_a_judge(tmp_path: Path) -> None:
    page = page_of(direct_run(tmp_path / "run", online=True))
    assert "The judge it was trained against prefers the new answers" in page.text("p")
    assert "Guards" in page.words["h2"]
