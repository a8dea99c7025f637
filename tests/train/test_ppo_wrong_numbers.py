"""Numbers that go wrong: a run skips what it can, stops where it must, and leaves the batch behind for somebody to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import HELDOUT, PROMPTS, FakeLearner, FakeSampler, Stage
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.models.trunk import Trunk
from manners.protocols import Objective
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run, read_jsonl
from manners.train import ppo
from manners.train.experiment import Judges, with_shift_penalty
from manners.train.ppo import PPOConfig, train_ppo

torch.set_num_threads(1)

LETTERS = "abcdef"
ASKED = [Prompt.of(first + second) for first in LETTERS for second in LETTERS]
TINY: dict[str, Any] = {
    "steps": 3, "batch": 6, "max_tokens": 4, "rank": 2, "alpha": 4, "epochs": 2, "minibatches": 2, "train_layers": 1,
    "evaluate_prompts": 0, "learning_rate": 1e-2,
}  # fmt: skip


def learn(folder: Path, **fields: Any) -> Run:
    """A run of a tiny model that is paid for the letter a."""
    config = PPOConfig(**TINY | fields)
    run = Run.create(folder, "ppo", config, {})
    tokenizer = tiny_tokenizer(LETTERS)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer), layers=2), tokenizer, 1, name="tiny")
    judge = TextScorer(FunctionJudge(lambda _, completions: [float(text.count("a")) for text in completions]))
    train_ppo(config, ASKED, [], run, trunk, Judges(judge, None))
    return run


def spoil(monkeypatch: pytest.MonkeyPatch, calls: Sequence[int], how: Callable[[Objective], Objective]) -> None:
    """Let the objective go wrong in its calls of these numbers, counted from 0: with 2 epochs of 2 minibatches, 4 in a step."""
    plain, seen = ppo.ppo_objective, [0]

    def objective(*args: Any, **fields: Any) -> Objective:
        found = plain(*args, **fields)
        seen[0] += 1
        return how(found) if seen[0] - 1 in calls else found

    monkeypatch.setattr(ppo, "ppo_objective", objective)


def no_number(found: Objective) -> Objective:
    return replace_total(found, found.total * math.nan)


def replace_total(found: Objective, total: Tensor) -> Objective:
    return Objective(total, found.parts, found.statistics)


def test_a_minibatch_without_a_loss_is_skipped_counted_and_its_batch_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, [5], no_number)  # the second minibatch of the first epoch of step 1
    run = learn(tmp_path / "run", log_rollouts=6)
    rows = run.metrics()
    assert [row["skipped"] for row in rows] == [0, 1, 0]
    assert all(
        math.isfinite(row[name])
        for row in rows
        for name in ("policy_loss", "value_loss", "gradient_norm", "first_ratio")
    )
    offending = run.path / "offending"
    assert {p.name for p in offending.iterdir()} == {"step-000001.jsonl", "step-000001.safetensors"}
    texts = read_jsonl(offending / "step-000001.jsonl")
    logged = [sample for sample in run.samples() if sample["step"] == 1]
    assert {(t["prompt"], t["completion"]) for t in texts} == {(s["prompt"], s["completion"]) for s in logged}
    assert [set(text) for text in texts] == [{"prompt", "completion", "finished"}] * 6
    tensors = load_file(offending / "step-000001.safetensors")
    assert set(tensors) == {
        "tokens", "prompt_lengths", "lengths", "old_logps", "reference_logps", "advantages", "returns", "old_values"
    }  # fmt: skip
    assert len(tensors["tokens"]) == 6
    assert tensors["old_logps"].shape == tensors["tokens"].shape


def test_an_epoch_that_was_skipped_whole_leaves_a_row_without_its_means(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, [6, 7], no_number)  # the second epoch of step 1
    rows = learn(tmp_path / "run").metrics()
    assert [row["skipped"] for row in rows] == [0, 2, 0]
    assert "policy_loss" not in rows[1]
    assert {"policy_loss", "value_loss"} <= set(rows[0]) & set(rows[2])
    assert rows[1]["first_ratio"] == pytest.approx(1, abs=1e-4)


def test_three_in_a_row_end_the_run_with_the_batch_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, [4, 5, 6], no_number)
    with pytest.raises(
        MannersError, match=r"step 1: .* not a usable number three times in a row; .*step-000001\.jsonl$"
    ) as caught:
        learn(tmp_path / "run")
    assert "\n" not in str(caught.value)
    run = Run(tmp_path / "run")
    assert {p.suffix for p in (run.path / "offending").iterdir()} == {".jsonl", ".safetensors"}
    assert [row["step"] for row in run.metrics()] == [0]
    assert not run.checkpoint("final").exists()


def test_three_in_a_row_count_across_epochs_and_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, [3, 4, 5], no_number)
    with pytest.raises(MannersError, match="step 1: "):
        learn(tmp_path / "run")


def test_a_policy_whose_ratio_ran_away_is_not_updated_further(tmp_path: Path) -> None:
    # with a learning rate like this the second minibatch already sees another policy
    run = learn(tmp_path / "run", learning_rate=0.3, max_mean_ratio=1.0001, epochs=1, steps=2, warmup=0)
    rows = run.metrics()
    assert all(row["first_ratio"] == pytest.approx(1, abs=1e-4) for row in rows)
    assert sum(row["skipped"] for row in rows) >= 1
    assert (run.path / "offending").is_dir()


# --- judges ---------------------------------------------------------------------------------------------------------


class Broken:
    """A judge that says this."""

    def __init__(self, say: Callable[[int], Tensor]) -> None:
        self.say = say

    def score(self, rollouts: Rollouts) -> Tensor:
        return self.say(len(rollouts))


def one_bad(number: float) -> Callable[[int], Tensor]:
    return lambda count: torch.tensor([number] + [1.0] * (count - 1))


def divide(_: int) -> Tensor:
    raise ZeroDivisionError("division by zero")


BROKEN: list[tuple[str, Callable[[int], Tensor], str]] = [
    ("raises", divide, "ZeroDivisionError: division by zero"),
    ("nan", one_bad(math.nan), "the judge gave a score that is not finite for 1 of 2 answers"),
    ("inf", one_bad(-math.inf), "the judge gave a score that is not finite for 1 of 2 answers"),
    ("few", lambda count: torch.zeros(count - 1), r"the judge gave \(1,\) scores for 2 answers"),
    ("many", lambda count: torch.zeros(count, 2), r"the judge gave \(2, 2\) scores for 2 answers"),
]


def stops_with_the_texts(stage: Stage, step: int, told: str, heldout: list[Prompt]) -> None:
    with pytest.raises(MannersError, match=f"^step {step}: {told}; the batch is in .*step-{step:06d}.jsonl$") as caught:
        stage.play(heldout)
    assert "\n" not in str(caught.value)
    texts = read_jsonl(stage.run.path / "offending" / f"step-{step:06d}.jsonl")
    asked = stage.sampler.asked[-1][0]
    assert [text["prompt"] for text in texts] == [prompt.text for prompt in asked]
    assert {text["completion"] for text in texts} == {"very well"}
    assert "save final" not in stage.calls


@pytest.mark.parametrize(("say", "told"), [(say, told) for _, say, told in BROKEN], ids=[name for name, *_ in BROKEN])
def test_a_judge_that_fails_ends_the_run_in_one_line_with_the_texts_kept(
    tmp_path: Path, say: Callable[[int], Tensor], told: str
) -> None:
    stage = Stage(tmp_path, [0.0], [0.0])
    stage.judges = Judges(Broken(say), None)
    stops_with_the_texts(stage, 0, told, [])
    assert stage.run.metrics() == []


def test_a_second_judge_that_fails_does_so_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0])
    stage.judges = Judges(stage.judges.reward, Broken(one_bad(math.nan)))
    stops_with_the_texts(stage, 0, "the second judge gave a score that is not finite for 1 of 2 answers", [])


def test_a_judge_that_fails_on_held_out_answers_does_so_too(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=3, evaluate_every=2)
    stage.judges = Judges(Broken(lambda count: torch.full((count,), math.nan if count == len(HELDOUT) else 0.0)), None)
    stops_with_the_texts(stage, 1, "the judge gave a score that is not finite for 3 of 3 answers", HELDOUT)
    assert [row["step"] for row in stage.run.metrics()] == [0]


def test_numbers_that_only_look_odd_are_taken(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=1)
    stage.judges = Judges(Broken(lambda count: torch.tensor([-1e6, 1e6])[:count].double()), None)
    (row,) = stage.play(heldout=[])
    assert row["reward"] == 0.0


# --- log-probabilities ----------------------------------------------------------------------------------------------


class Dumb(FakeSampler):
    """A sampler that lost a log-probability."""

    def sample(self, prompts: Sequence[Prompt], **fields: Any) -> Rollouts:
        rollouts = super().sample(prompts, **fields)
        logps = rollouts.logps.clone()
        logps[1, -1] = math.nan
        return replace(rollouts, logps=logps)


class Blind(FakeLearner):
    """A learner whose reference thinks an answer impossible."""

    def logprobs(self, rollouts: Rollouts, who: Any) -> Tensor:
        return super().logprobs(rollouts, who) - (math.inf if who == "reference" else 0)


@pytest.mark.parametrize("which", ["policy", "reference"])
def test_a_log_probability_that_is_no_number_ends_the_run(tmp_path: Path, which: str) -> None:
    stage = Stage(tmp_path, [0.0], [0.0])
    if which == "policy":
        stage.sampler = Dumb(stage.calls)
    else:
        stage.learner = Blind(stage.calls)
    stops_with_the_texts(stage, 0, "a log-probability of the policy or of the reference is not a finite number", [])


def test_what_stands_in_the_padding_is_no_reason_to_stop() -> None:
    prompts = tuple(PROMPTS[:2])
    lengths = torch.tensor([2, 2])
    logps = torch.tensor([[math.nan, math.nan, -1.0, math.nan], [math.nan, math.nan, -1.0, -2.0]])
    rollouts = Rollouts(
        torch.zeros(2, 4).long(), lengths, torch.tensor([3, 4]), logps, torch.tensor([True, True]), torch.zeros(2, 4, 0), prompts,
        tuple(Completion(p.id, "x") for p in prompts), None,
    )  # fmt: skip
    found = with_shift_penalty(rollouts, torch.tensor([1.0, 2.0]), logps, beta=0.1)
    assert found.rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2]]
