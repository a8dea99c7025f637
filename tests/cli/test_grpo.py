"""`manners train grpo` from files: prompts and a judge into a run; and what comes after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny
from toy_judgements import toy_pairs
from typer.testing import CliRunner

from manners.cli.app import app
from manners.errors import MannersError
from manners.feedback.pairs import write_pairs
from manners.runs import Run, read_json, read_jsonl

torch.set_num_threads(1)

SMALL = ("model=tiny", "rank=2", "train_layers=1", "batch=8", "answers=4", "steps=3", "max_tokens=4", "epochs=1", "evaluate_every=1",
         "evaluate_prompts=2", "learning_rate=1e-2", "reward.function=manners.rewards.rules:distinct_words")  # fmt: skip


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny")
    pairs = {
        split: toy_pairs(count, seed) for split, count, seed in (("train", 16, 0), ("validation", 4, 1), ("test", 4, 2))
    }
    write_pairs(tmp_path / "pairs", pairs)  # type: ignore[arg-type]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception:
        raise result.exception
    return result.stdout


def train(*arguments: str, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    given = [part for value in sets for part in ("--set", value)]
    told: dict[str, Any] = json.loads(call("train", "grpo", *arguments, *given, "--json").splitlines()[-1])
    return told


def test_from_prompts_to_a_report_an_export_and_a_conversation() -> None:
    told = train("--run", "run", sets=SMALL)
    assert (told["run"], told["step"], told["stopped"]) == ("run", 2, "steps")
    assert "equal_groups" in told
    assert "value_loss" not in told
    lineage = read_json(Path("run/lineage.json"))
    assert (lineage["kind"], set(lineage["made_from"])) == ("grpo", {"data", "model"})
    rows = json.loads(call("evaluate", "policy", "run", "--set", "max_tokens=4", "--json").splitlines()[-1])["rows"]
    assert rows[0]["label"] == "Reward (the judge that was optimised)"
    assert call("report", "run").strip().endswith("report.html")
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Groups without a difference" in page
    assert "The value function" not in page
    assert "the mean of all answers to its prompt" in page
    assert call("chat", "run", "--message", "say", "--temperature", "0", "--max-tokens", "4").strip()
    call("export", "run", "merged")
    assert Path("merged/model.safetensors").exists()
    call("export", "run", "adapter", "--adapter-only")
    assert Path("adapter/adapter_model.safetensors").exists()


def test_a_run_that_was_cut_short_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pairs").rename("judged")  # where it lies only the run knows
    train("--run", "whole", "--data", "judged", sets=SMALL)
    log = Run.log

    def interrupt(run: Run, **row: Any) -> None:
        if row["step"] == 1:
            raise MannersError("power")
        log(run, **row)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", interrupt)
        with pytest.raises(MannersError, match="power"):
            train("--run", "cut", "--data", "judged", sets=SMALL)
    assert len(read_jsonl(Path("cut/metrics.jsonl"))) == 1
    assert train("--resume", "cut")["step"] == 2
    for name in ("metrics.jsonl", "samples.jsonl", "checkpoints/final/adapter_model.safetensors"):
        assert Path("cut", name).read_bytes() == Path("whole", name).read_bytes()


def test_what_cannot_work_is_told_before_anything_is_written() -> None:
    with pytest.raises(MannersError, match="set answers to 2 or more"):
        train("--run", "run", sets=(*SMALL, "answers=1"))
    with pytest.raises(MannersError, match="no judge is named"):
        train("--run", "run", sets=("model=tiny",))
    assert not Path("run").exists()
