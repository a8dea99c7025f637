"""`manners evaluate` is a group, and yet `manners evaluate MODEL` means a card, and with --data a policy on held-out prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from manners.cli.app import app
from manners.errors import MannersError
from manners.runs import Run, read_json

SMALL = """
width: 8
comparisons: 8
members: 2
replicates: 2
other_comparisons: []
other_widths: []
heldout_pairs: 4
prompts: 2
answers: 4
largest_n: 4
reward_epochs: 1
steps: 4
look_every: 2
batch: 4
look_samples: 1
max_tokens: 4
"""


def manners(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def said(result: Result) -> str:
    """What a user reads, wherever the error comes from."""
    return result.output + str(result.exception or "")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ("policy", "nowhere"),
        ("--split", "test", "nowhere"),
        ("nowhere", "--data", "pairs"),
        ("nowhere", "--json", "--data=pairs"),
    ],
)
def test_held_out_prompts_mean_a_policy_with_or_without_the_word(arguments: tuple[str, ...]) -> None:
    Path("pairs").mkdir()
    Path("pairs/test.jsonl").write_text("", encoding="utf-8")
    result = manners("evaluate", *arguments)
    assert isinstance(result.exception, MannersError)
    assert "nowhere is not a run directory" in said(result)


@pytest.mark.parametrize(
    "arguments", [("./nowhere",), ("card", "./nowhere"), ("--against", "tiny-random", "./nowhere")]
)
def test_a_model_means_a_card_with_or_without_the_word(arguments: tuple[str, ...]) -> None:
    assert "model './nowhere' does not exist" in said(manners("evaluate", *arguments))


def test_help_names_what_can_be_evaluated() -> None:
    result = manners("evaluate", "--help")
    assert result.exit_code == 0
    assert all(word in result.output for word in ("card", "policy", "overoptimisation"))
    assert "--split" in manners("evaluate", "policy", "--help").output


def test_overoptimisation_leaves_a_run_a_picture_and_one_line() -> None:
    Path("small.yaml").write_text(SMALL, encoding="utf-8")
    result = manners("evaluate", "overoptimisation", "small.yaml", "--run", "runs/law", "--set", "seed=3")
    assert result.exit_code == 0, said(result)
    line = json.loads(result.stdout.strip().splitlines()[-1])
    assert set(line) == {"run", "plot", "best_of_n", "ppo", "lowest_r2", "gold_peaks_first", "seconds"}
    assert Path(line["plot"]).read_text(encoding="utf-8").startswith("<svg")
    run = Run.open(Path("runs/law"))
    assert (run.kind, run.status["status"]) == ("overoptimisation", "finished")
    assert "seed: 3" in (run.path / "config.yaml").read_text(encoding="utf-8")
    saved = read_json(run.path / "overoptimisation.json")["ppo"]["judges"]["single"]["gold"]["alpha"]
    assert line["ppo"]["single"]["gold"]["alpha"] == pytest.approx(saved, abs=1e-4)
    again = manners("evaluate", "overoptimisation", "small.yaml", "--run", "runs/law")
    assert "is not empty" in said(again)
    assert manners("report", "runs/law").exit_code == 0


def test_an_unknown_key_is_told_before_anything_is_done() -> None:
    result = manners("evaluate", "overoptimisation", "--set", "comparison=3", "--run", "runs/law")
    assert "did you mean 'comparisons'" in said(result)
    assert not Path("runs").exists()
