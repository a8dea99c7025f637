"""The profile of a PPO or GRPO step: which parts there are, that they fit into the step, and that it changes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import HELDOUT, PROMPTS, Stage
from tiny import tiny_model, tiny_tokenizer

from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run, read_jsonl
from manners.stopwatch import STILL, RunningStopwatch
from manners.train.experiment import Judges
from manners.train.grpo import GRPOConfig, train_grpo
from manners.train.ppo import PPOConfig, ppo_loop, train_ppo
from manners.train.recording import stopwatch_for

torch.set_num_threads(1)

LETTERS = "abcd"
ASKED = [Prompt.of(a + b) for a in LETTERS for b in LETTERS]
SMALL: dict[str, Any] = {
    "steps": 3, "batch": 8, "max_tokens": 4, "rank": 2, "alpha": 4, "epochs": 2, "minibatches": 2, "evaluate_every": 2,
    "evaluate_prompts": 4, "log_rollouts": 2, "train_layers": 2, "guards": (),
}  # fmt: skip
SAMPLED = ["sample", "decode", "prefill", "score"]
UPDATED = ["epoch 1", "optimizer", "epoch 2", "record"]


def share_of_a(_: list[str], completions: list[str]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def learn(method: str, folder: Path, **fields: Any) -> Run:
    tokenizer = tiny_tokenizer(LETTERS)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer), seed=0), tokenizer, 2, name="tiny")
    judge = TextScorer(FunctionJudge(share_of_a))
    if method == "ppo":
        ppo = PPOConfig(**SMALL | fields)
        run = Run.create(folder, method, ppo, {})
        train_ppo(ppo, ASKED[::2], ASKED[1::2], run, trunk, Judges(judge, judge))
    else:
        grpo = GRPOConfig(**SMALL | {"answers": 4} | fields)
        run = Run.create(folder, method, grpo, {})
        train_grpo(grpo, ASKED[::2], ASKED[1::2], run, trunk, Judges(judge, None))
    return run


def timings(run: Run) -> list[dict[str, Any]]:
    return read_jsonl(run.path / "timings.jsonl")


@pytest.mark.parametrize(
    ("method", "middle"),
    [("ppo", ["second judge", "reference", "advantage", "values"]), ("grpo", ["reference", "advantage"])],
)
def test_a_profile_has_every_part_and_they_fit_into_the_step(tmp_path: Path, method: str, middle: list[str]) -> None:
    rows = timings(learn(method, tmp_path / "run", profile=True))
    usual = [*SAMPLED, *middle, *UPDATED]
    assert [list(row["profile_seconds"]) for row in rows] == [usual, [*usual, "evaluate"], [*usual, "evaluate"]]
    for row in rows:
        parts = row["profile_seconds"]
        assert all(seconds > 0 for seconds in parts.values())
        assert sum(parts.values()) <= row["seconds"] + 0.0006  # which is rounded to milliseconds
        assert sum(parts.values()) > 0.5 * row["seconds"]


@pytest.mark.parametrize("method", ["ppo", "grpo"])
def test_a_profile_changes_no_number_and_without_it_there_is_no_key(tmp_path: Path, method: str) -> None:
    on, off = learn(method, tmp_path / "on", profile=True), learn(method, tmp_path / "off")
    assert (on.path / "metrics.jsonl").read_bytes() == (off.path / "metrics.jsonl").read_bytes()
    weights = "checkpoints/final/adapter_model.safetensors"
    assert (on.path / weights).read_bytes() == (off.path / weights).read_bytes()
    assert {key for row in timings(off) for key in row} == {"step", "seconds", "phase_seconds"}


def test_each_second_belongs_to_the_part_it_was_spent_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of a seam takes a time of its own, on a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stage = Stage(tmp_path, [1.0], [0.0], second=[0.0], steps=2, log_rollouts=1)

    def taking(seam: Any, name: str, seconds: float) -> None:
        def slow(plain: Any, *args: Any, **fields: Any) -> Any:
            now[0] += seconds
            return plain(*args, **fields)

        monkeypatch.setattr(seam, name, partial(slow, getattr(seam, name)))

    for place, (seam, name) in enumerate(
        [
            (stage.sampler, "sample"), (stage.judges.reward, "score"), (stage.judges.second, "score"),
            (stage.learner, "logprobs"), (stage.learner, "values"), (stage.learner, "step"),
        ]
    ):  # fmt: skip
        taking(seam, name, 2.0**place)
    watch = RunningStopwatch()
    ppo_loop(
        stage.config, PROMPTS, HELDOUT, stage.run, stage.sampler, stage.judges, stage.learner, stopwatch=watch
    )  # fmt: skip
    first, second = stage.timings()
    expected = {"sample": 1, "score": 2, "second judge": 4, "reference": 8, "advantage": 0, "values": 16}
    expected |= {"epoch 1": 32, "epoch 2": 32, "record": 8}
    assert first["profile_seconds"] == expected
    # a look samples, asks both judges and the reference: that is no time of the step's own parts
    assert second["profile_seconds"] == expected | {"evaluate": 15}
    assert [first["seconds"], second["seconds"]] == [103, 118]


def test_a_device_is_waited_for_only_where_there_is_one_and_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device | str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    gpu = torch.device("cuda", 1)
    assert stopwatch_for(False, gpu) is STILL
    for device in ("cpu", "mps", gpu):
        with stopwatch_for(True, torch.device(device)).part("decode"):
            pass
    assert waited == ["mps", "mps", gpu, gpu]
