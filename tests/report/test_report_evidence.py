from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up_runs import ppo_run, reward_run

from manners.report.evidence import by_step, gather, kl_budget, kl_levels, source_path
from manners.report.lineage import related_runs
from manners.runs import Run, write_json, write_text


def test_a_resumed_run_counts_each_step_once_and_the_last_writing() -> None:
    rows = [{"step": 1, "a": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 3}, {"step": 2, "a": 20}, {"step": 3, "b": 4}]
    assert by_step(rows) == [(1, {"step": 1, "a": 1}), (2, {"step": 2, "a": 20}), (3, {"step": 3, "a": 3, "b": 4})]


def test_steps_that_start_anew_with_each_epoch_are_carried_on() -> None:
    rows = [{"epoch": e, "step": s} for e in (1, 2, 3) for s in (1, 2)]
    assert [x for x, _ in by_step(rows)] == [1, 2, 3, 4, 5, 6]


def test_steps_that_run_on_through_epochs_stay_as_they_are() -> None:
    rows = [{"epoch": step // 4, "step": step} for step in range(10)]
    assert [x for x, _ in by_step(rows)] == list(range(10))


def test_rows_without_a_step_are_counted() -> None:
    assert [x for x, _ in by_step([{"loss": 1}, {"loss": 2}])] == [1, 2]


@pytest.mark.parametrize(
    ("config", "levels", "budget"),
    [
        ({"kl": {"target_per_sequence": 8}}, ((8, "target"),), 8),
        ({"kl_budget_per_sequence": 12, "kl_target_per_sequence": 6.5}, ((6.5, "target"), (12, "budget")), 12),
        ({"kl": {"budget": {"per_sequence": 4}}, "kl_target_per_sequence": None}, ((4, "budget"),), 4),
        ({"kl": {"target": 3}, "target_reward": 2, "tokens_per_sequence": 1}, (), None),
        ({}, (), None),
    ],
)
def test_kl_target_and_budget_are_found_in_the_config(
    config: dict[str, Any], levels: tuple[tuple[float, str], ...], budget: float | None
) -> None:
    assert kl_levels(config) == levels
    assert kl_budget(config) == budget


def test_broken_files_are_told_and_the_rest_is_read(tmp_path: Path) -> None:
    run = ppo_run(tmp_path / "run", steps=3)
    write_text(run.path / "evaluation.json", "{not json")
    write_text(run.path / "config.yaml", "a: [1")
    write_text(run.path / "metrics.jsonl", '{"step": 1}\nbroken\n{"step": 2}\n')
    evidence = gather(run)
    assert [problem.split()[0] for problem in evidence.problems] == ["metrics.jsonl", "evaluation.json", "config.yaml"]
    assert evidence.kind == "ppo"
    assert not evidence.evaluation
    assert not evidence.metrics
    assert evidence.config_text == "a: [1"


def test_values_of_the_wrong_shape_are_left_out(tmp_path: Path) -> None:
    run = ppo_run(tmp_path / "run", steps=1)
    write_text(run.path / "metrics.jsonl", '{"step": 1}\n3\n[1]\n{"step": 2}\n')
    write_json(run.path / "evaluation.json", [1, 2])
    write_json(run.path / "lineage.json", {"kind": "ppo", "made_from": {"pairs": "pairs.jsonl", "x": None}})
    evidence = gather(run)
    assert [row["step"] for row in evidence.metrics] == [1, 2]
    assert evidence.evaluation == {}
    assert evidence.made_from == {"pairs": {"path": "pairs.jsonl"}, "x": {"path": None}}
    assert source_path(run, evidence.made_from["pairs"]) == run.path / "pairs.jsonl"
    assert source_path(run, evidence.made_from["x"]) is None


def test_runs_are_followed_down_and_a_checkpoint_stands_for_its_run(family: Run) -> None:
    found = related_runs(family)
    assert {name: run.path.resolve().name for name, run in found.items()} == {
        "policy": "sft", "reward": "reward", "reward/start": "sft",
    }  # fmt: skip


def test_runs_made_from_each_other_end(tmp_path: Path) -> None:
    one, two = reward_run(tmp_path / "one"), reward_run(tmp_path / "two")
    write_json(one.path / "lineage.json", {"kind": "reward", "made_from": {"two": {"path": "../two"}}})
    write_json(two.path / "lineage.json", {"kind": "reward", "made_from": {"one": {"path": "../one"}}})
    assert list(related_runs(one)) == ["two"]


def test_a_path_that_cannot_exist_is_not_there(tmp_path: Path) -> None:
    run = reward_run(tmp_path / "run")
    paths = {"long": "x" * 5000, "nul": "a\0b", "number": 3}
    write_json(run.path / "lineage.json", {"kind": "reward", "made_from": {k: {"path": v} for k, v in paths.items()}})
    assert related_runs(run) == {}
