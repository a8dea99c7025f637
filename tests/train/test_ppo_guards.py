"""What a guard's alarm does to a run: nothing, its end, or the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import HELDOUT, Stage
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from manners.guards import Action, Guard
from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run
from manners.train.experiment import Judges
from manners.train.ppo import PPOConfig, train_ppo

torch.set_num_threads(1)


def over(action: Action, limit: float = 5.0, **fields: Any) -> dict[str, Any]:
    """Settings with one guard, of the KL."""
    return {"guards": (Guard(signal="kl", limit=limit, action=action),), "epochs": 1, "log_rollouts": 0} | fields


def test_a_warning_is_written_down_and_nothing_else_happens(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [1.0, 9.0, 1.0], steps=3, **over("warn"))
    rows = stage.play(heldout=[])
    assert [len(row["alarms"]) for row in rows] == [0, 1, 0]
    (alarm,) = rows[1]["alarms"]
    assert (alarm["guard"], alarm["action"], alarm["value"], alarm["limit"]) == ("kl", "warn", 9.0, 5.0)
    assert "9.00 nats per sequence" in alarm["says"]
    assert [row.get("stopped") for row in rows] == [None, None, "steps"]
    assert not any("roll back" in call or call == "save start" for call in stage.calls)


def test_a_guard_that_stops_ends_the_run_with_a_look_and_a_final_checkpoint(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [1.0, 9.0, 1.0], steps=9, **over("stop", evaluate_every=100))
    rows = stage.play()
    assert [row.get("stopped") for row in rows] == [None, "guard: kl"]
    # the look is a look, and no policy that was stopped is the best
    assert (rows[1]["heldout_reward"], rows[1]["best"]) == (1.0, False)
    assert stage.calls[-2:] == ["save the state", "save final"]
    assert "save best" not in stage.calls


def test_before_any_look_a_roll_back_goes_to_the_start(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [1.0, 9.0, 1.0], steps=3, **over("roll_back"))
    rows = stage.play(heldout=[])
    assert stage.calls[0] == "save start"
    assert [row.get("rolled_back_to") for row in rows] == [None, "start", None]
    assert stage.calls.count("roll back to start") == 1


def test_after_a_look_a_roll_back_goes_to_the_best(tmp_path: Path) -> None:
    # reference: step 0, its look, step 1, its look, step 2 (over), its look, step 3, its look
    kls = [1.0, 1.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0]
    stage = Stage(
        tmp_path, [0.0, 1.0, 0.0, 2.0, 0.0, 3.0, 0.0, 0.5], kls, steps=4, **over("roll_back", evaluate_every=1)
    )
    rows = stage.play()
    assert [row.get("rolled_back_to") for row in rows] == [None, None, "best", None]
    # a policy that is given up is not the best, however well it scores
    assert [row["best"] for row in rows] == [True, True, False, False]
    assert stage.epochs_of("best") == 2


def test_each_roll_back_makes_the_shift_dearer(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, [0.0], [9.0, 1.0, 9.0, 1.0], steps=4, **over("roll_back", beta=0.1, roll_back_beta_factor=3.0)
    )
    rows = stage.play(heldout=[])
    assert [row["beta"] for row in rows] == pytest.approx([0.1, 0.3, 0.3, 0.9])


def test_the_next_alarm_after_the_last_roll_back_stops_the_run_where_it_went_back_to(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [9.0], steps=9, **over("roll_back", max_roll_backs=2))
    rows = stage.play(heldout=[])
    assert [row.get("stopped") for row in rows] == [None, None, "guard: kl"]
    assert [row.get("rolled_back_to") for row in rows] == ["start"] * 3
    assert stage.calls[-3:] == ["roll back to start", "save the state", "save final"]


def test_without_room_for_a_roll_back_the_first_alarm_stops(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [9.0], steps=9, **over("roll_back", max_roll_backs=0))
    assert [row.get("stopped") for row in stage.play(heldout=[])] == ["guard: kl"]


def test_the_start_is_kept_only_for_a_guard_that_might_need_it(tmp_path: Path) -> None:
    for action, kept in (("warn", False), ("stop", False), ("roll_back", True)):
        stage = Stage(tmp_path / action, [0.0], [0.0], steps=1, **over(action))  # type: ignore[arg-type]
        stage.play(heldout=[])
        assert stage.run.checkpoint("start").exists() is kept


def test_alarms_are_json_and_name_their_step_by_standing_in_its_row(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [9.0], steps=2, **over("warn"))
    stage.play(heldout=HELDOUT)
    rows = [json.loads(line) for line in (stage.run.path / "metrics.jsonl").read_text().splitlines()]
    assert [[alarm["guard"] for alarm in row["alarms"]] for row in rows] == [["kl"], []]


def test_a_real_policy_is_back_where_it_began_and_its_adam_has_forgotten(tmp_path: Path) -> None:
    letters = "abcdef"
    tokenizer = tiny_tokenizer(letters)
    config = PPOConfig(
        steps=3, batch=8, max_tokens=4, rank=2, alpha=4, epochs=1, learning_rate=3e-2, train_layers=1, evaluate_prompts=0,
        log_rollouts=0, guards=(Guard(signal="entropy", limit=99, patience=2, action="roll_back"),), warmup=0,
    )  # fmt: skip
    prompts = [Prompt.of(a + b) for a in letters for b in letters]
    run = Run.create(tmp_path / "run", "ppo", config, {})

    def share(_: list[str], completions: list[str]) -> list[float]:
        return [text.count("a") / max(1, len(text)) for text in completions]

    judges = Judges(TextScorer(FunctionJudge(share)), None)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer), layers=2), tokenizer, 1, name="tiny")
    trained = train_ppo(config, prompts, [], run, trunk, judges)
    rows = run.metrics()
    assert [row.get("rolled_back_to") for row in rows] == [None, "start", None]
    assert abs(rows[1]["kl"]) > 1e-2
    assert rows[2]["kl"] == pytest.approx(0, abs=1e-5)  # the reference again, after the way back
    assert rows[2]["logp"] == pytest.approx(rows[2]["reference_logp"], abs=1e-5)
    state = load_file(next((run.path / "resume").iterdir()) / "learner.safetensors")
    steps = {float(value) for name, value in state.items() if name.startswith("adam.") and name.endswith(".step")}
    assert steps == {1.0}  # of three updates, one since then
    final, start = (load_file(run.checkpoint(name) / "adapter_model.safetensors") for name in ("final", "start"))
    assert any(not torch.equal(final[name], start[name]) for name in start)
    assert all(torch.equal(value, final[name]) for name, value in trained.adapters.state("policy").items())
