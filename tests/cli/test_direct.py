"""`manners train dpo` from files: pairs, thumbs, or prompts and a judge; and what comes after it."""

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
from manners.learner.direct import DirectLearner
from manners.runs import Run, read_json

torch.set_num_threads(1)

SMALL = ("rank=2", "batch=8", "epochs=1", "evaluate_every=1", "train_layers=1", "sample_tokens=4", "model=tiny", "steps=2",
         "evaluate_prompts=2", "learning_rate=1e-2")  # fmt: skip
JUDGE = "reward.function=manners.rewards.rules:distinct_words"


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny")
    pairs = {
        split: toy_pairs(count, seed) for split, count, seed in (("train", 16, 0), ("validation", 4, 1), ("test", 4, 2))
    }
    write_pairs(tmp_path / "pairs", pairs)  # type: ignore[arg-type]


def train(*arguments: str, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    given = [part for value in (*SMALL, *sets) for part in ("--set", value)]
    result = CliRunner().invoke(app, ["train", "dpo", *arguments, *given, "--json"])
    if result.exception:
        raise result.exception
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


def test_from_pairs_to_a_report_with_answers_before_and_after() -> None:
    told = train("--run", "run", sets=(JUDGE,))
    assert told["run"] == "run"
    assert told["n_pairs"] == 4
    lineage = read_json(Path("run/lineage.json"))
    assert (lineage["kind"], set(lineage["made_from"])) == ("dpo", {"data", "model"})
    done = CliRunner().invoke(app, ["evaluate", "policy", "run", "--set", "max_tokens=4", "--json"])
    assert done.exception is None
    evaluation = read_json(Path("run/evaluation.json"))
    assert evaluation["rows"][0]["label"] == "Reward (a judge that training never asked)"
    assert evaluation["preferences"]["accuracy"] == told["accuracy"]
    assert CliRunner().invoke(app, ["report", "run"]).exception is None
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert "Direct preference optimisation" in page
    assert "By its implicit rewards it agrees with" in page
    assert 'id="guards"' not in page


def test_thumbs_teach_kto() -> None:
    rows = [
        {"prompt": f"say {i}", "completion": word, "label": word == "please"}
        for i in range(40)
        for word in ("please", "never")
    ]
    Path("thumbs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    told = train("--run", "run", "--thumbs", "thumbs.jsonl", sets=("loss=kto",))
    assert told["n_pairs"] == 0
    assert set(read_json(Path("run/lineage.json"))["made_from"]) == {"thumbs", "model"}
    assert Run.open(Path("run")).metrics()[-1]["heldout_rewards/margins"] > 0


def test_online_a_judge_is_asked() -> None:
    train("--run", "run", sets=(JUDGE, "online=true"))
    assert len(Run.open(Path("run")).metrics()) == 2
    with pytest.raises(MannersError, match="none is named"):
        train("--run", "other", sets=("online=true",))
    with pytest.raises(MannersError, match="leave --thumbs out"):
        train("--run", "other", "--thumbs", "thumbs.jsonl", sets=(JUDGE, "online=true"))
    assert not Path("other").exists()


def test_a_run_that_was_cut_short_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("pairs").rename("judged")
    train("--run", "whole", "--data", "judged", sets=("save_every=1",))
    step = DirectLearner.step

    def interrupted(self: DirectLearner, loss: float) -> tuple[float, bool]:
        if self.optimiser.done == 1:
            raise MannersError("power")
        return step(self, loss)

    monkeypatch.setattr(DirectLearner, "step", interrupted)
    with pytest.raises(MannersError, match="power"):
        train("--run", "cut", "--data", "judged", sets=("save_every=1",))
    monkeypatch.setattr(DirectLearner, "step", step)
    with pytest.raises(MannersError, match=r"beta: 0\.1 → 0\.2"):
        train("--resume", "cut", sets=("save_every=1", "beta=0.2"))
    train("--resume", "cut", sets=("save_every=1",))
    for name in (
        "metrics.jsonl",
        "checkpoints/final/adapter_model.safetensors",
        "checkpoints/best/adapter_model.safetensors",
    ):
        assert (Path("cut") / name).read_bytes() == (Path("whole") / name).read_bytes()
