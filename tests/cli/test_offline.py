"""`manners train ilql` from pairs and from files of answers, best-of-n, and what comes after them."""

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
from manners.learner.offline import QLearner
from manners.records import Prompt
from manners.runs import Run, read_json, read_jsonl
from manners.sampling.local import LocalSampler

torch.set_num_threads(1)

SMALL = ("rank=2", "batch=8", "epochs=1", "train_layers=1", "max_tokens=4", "model=tiny", "learning_rate=1e-2")
JUDGE = "reward.function=manners.rewards.rules:distinct_words"
REWARD = ("rank=2", "epochs=1", "train_layers=1", "model=tiny")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "tiny")
    pairs = {
        split: toy_pairs(count, seed) for split, count, seed in (("train", 16, 0), ("validation", 4, 1), ("test", 4, 2))
    }
    write_pairs(tmp_path / "pairs", pairs)  # type: ignore[arg-type]


def manners(*arguments: str, sets: tuple[str, ...] = ()) -> str:
    given = [part for value in sets for part in ("--set", value)]
    done = CliRunner().invoke(app, [*arguments, *given])
    if done.exception:
        raise done.exception
    return done.stdout


def train(*arguments: str, sets: tuple[str, ...] = ()) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(
        manners("train", "ilql", *arguments, "--json", sets=(*SMALL, *sets)).splitlines()[-1]
    )
    return told


def test_from_pairs_to_an_evaluation_a_report_and_a_chat() -> None:
    told = train("--run", "run", sets=(JUDGE, "evaluate_prompts=2", "evaluate_every=1"))
    assert (told["run"], told["step"]) == ("run", 1)
    assert {"td_loss", "value_loss", "conservative_loss", "cloning_loss", "heldout_reward", "heldout_kl"} <= set(told)
    lineage = read_json(Path("run/lineage.json"))
    assert (lineage["kind"], set(lineage["made_from"])) == ("ilql", {"data", "model"})
    rows = json.loads(manners("evaluate", "policy", "run", "--json", sets=("max_tokens=4",)))["rows"]
    assert {row["name"] for row in rows} >= {"reward", "kl", "length"}
    assert Path(manners("report", "run").strip()).exists()
    facts = read_json(Path("run/checkpoints/best/manners.json"))
    assert facts == {"role": "policy", "train_layers": 1, "sampled_by": "q_values", "beta": 1.0}
    said = manners("chat", "run", "--message", "hello", "--max-tokens", "8", "--temperature", "1")
    asked = LocalSampler.of("run").sample([Prompt.of("hello")], max_tokens=8, temperature=1.0, seed=1)
    assert said == asked.completions[0].text + "\n"


def test_without_a_judge_the_judgements_say_what_answers_earned() -> None:
    train("--run", "run")
    rows = read_jsonl(Path("run/answers.jsonl"))
    assert len(rows) == 16
    for row in rows:
        earned = {c["text"]: r for c, r in zip(row["completions"], row["rewards"], strict=True)}
        assert all(reward == (1 if "please" in text else -1) for text, reward in earned.items())


def test_from_a_file_of_scored_answers() -> None:
    rows = [{"prompt": f"say {i}", "completions": ["ab", "c"], "rewards": [[0.5, 0, 1], -1]} for i in range(3)]
    Path("scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = train("--run", "run", "--answers", "scored.jsonl")
    # at the first step Q and V are 0: both heads miss 0.5, 0, 1 and 0, −1
    assert told["td_loss"] == pytest.approx(2 * (0.25 + 1 + 1) / 5)
    assert set(read_json(Path("run/lineage.json"))["made_from"]) == {"answers", "model"}


def test_cut_short_it_goes_on_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = (JUDGE, "epochs=2", "save_every=1")
    train("--run", "whole", sets=settings)
    step, left = QLearner.step, 3

    def dying(self: QLearner, loss: float) -> tuple[float, bool]:
        nonlocal left
        left -= 1
        if not left:
            raise MannersError("the lights went out")
        return step(self, loss)

    monkeypatch.setattr(QLearner, "step", dying)
    with pytest.raises(MannersError, match="lights"):
        train("--run", "cut", sets=settings)
    assert Run.open(Path("cut")).status["status"] == "failed"
    manners("train", "ilql", "--resume", "cut")
    names = ["metrics.jsonl", "checkpoints/final/adapter_model.safetensors", "checkpoints/final/q_values.safetensors"]
    assert [n for n in names if Path("whole", n).read_bytes() != Path("cut", n).read_bytes()] == []
    with pytest.raises(MannersError, match="tau"):
        manners("train", "ilql", "--resume", "cut", sets=("tau=0.9",))


# --- best-of-n ------------------------------------------------------------------------------------------------------


def judge() -> None:
    manners("train", "reward", "--run", "judge", sets=REWARD)


def test_winners_are_learned_from() -> None:
    judge()
    manners(
        "sample", "tiny", "pairs/train.jsonl", "--best-of", "4", "--reward", "judge", "--out", "winners.jsonl", "--max-tokens", "6",
        "--temperature", "1",
    )  # fmt: skip
    rows = read_jsonl(Path("winners.jsonl"))
    assert len(rows) == 16  # once for each prompt
    for row in rows:
        assert row["best_of"] == {"n": 4, "reward": "judge", "kl": 0.6363}
        (completion,), (reward,) = row["completions"], row["rewards"]
        if completion["finished"]:  # `score` takes a text for a whole answer
            asked = row["prompt"]["messages"][0]["content"]
            said = json.loads(manners("score", completion["text"], "--reward", "judge", "--prompt", asked, "--json"))
            assert said["reward"] == pytest.approx(reward, abs=2e-3)
    sets = ("model=tiny", "rank=2", "train_layers=1", "batch=1")
    manners("train", "sft", "--data", "winners.jsonl", "--run", "imitator", sets=sets)
    held = read_json(Path("imitator/evaluation.json"))["n_heldout"]
    assert len(Run(Path("imitator")).metrics()) == 16 - held
    assert read_json(Path("imitator/lineage.json"))["made_from"]["data"]["kind"] == "file"
    train("--run", "run", "--answers", "winners.jsonl")


def test_winners_go_to_stdout_and_more_tries_earn_more() -> None:
    judge()
    means = []
    for n in ("1", "8"):
        said = manners(
            "sample",
            "tiny",
            "pairs/test.jsonl",
            "--best-of",
            n,
            "--reward",
            "judge",
            "--max-tokens",
            "6",
            "--temperature",
            "1",
        )
        rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        assert len(rows) == 4
        means.append(sum(row["rewards"][0] for row in rows) / 4)
    assert means[1] > means[0]


def test_best_of_n_needs_a_judge_and_leaves_nothing_to_rank() -> None:
    with pytest.raises(MannersError, match="--reward"):
        manners("sample", "tiny", "pairs/test.jsonl", "--best-of", "4")
    with pytest.raises(MannersError, match="nothing to rank"):
        manners("sample", "tiny", "pairs/test.jsonl", "--best-of", "4", "--reward", "judge", "--batch", "b")
