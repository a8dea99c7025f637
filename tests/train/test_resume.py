"""A run that is cut short anywhere and resumed is, byte for byte, the run that was left alone."""

from __future__ import annotations

import functools
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import FakeLearner, FakeSampler, FakeScorer
from tiny import tiny_model, tiny_tokenizer

from manners import runs
from manners.guards import Guard
from manners.learner.local import LocalLearner
from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run, read_json
from manners.sampling.local import LocalSampler
from manners.train import cycle
from manners.train.experiment import Judges
from manners.train.grpo import GRPOConfig, train_grpo
from manners.train.ppo import PPOConfig, ppo_loop, train_ppo
from manners.train.settings import OnPolicyConfig

torch.set_num_threads(1)

LETTERS = "abcdef"
ASKED = [Prompt.of(first + second) for first in LETTERS for second in LETTERS]
TRAIN, HELD = ASKED[::2], ASKED[1::2]
TINY: dict[str, Any] = {
    "steps": 3, "batch": 4, "max_tokens": 4, "rank": 2, "alpha": 4, "epochs": 2, "minibatches": 2, "learning_rate": 3e-2,
    "evaluate_every": 1, "evaluate_prompts": 4, "log_rollouts": 2, "train_layers": 1,
}  # fmt: skip
EVERYTHING: dict[str, Any] = {
    "scale_scores": True, "kl_target_per_sequence": 0.1, "kl_horizon_episodes": 10, "steps": 4, "evaluate_every": 2,
    "max_roll_backs": 5, "guards": (
        Guard(signal="kl", limit=0.01, action="roll_back"), Guard(signal="entropy", limit=99, patience=2),
        Guard(signal="reference_logp", limit=-99, patience=3),
    ),
}  # fmt: skip


class Killed(BaseException):
    """What a kill is like from within: nothing that the process still wanted to do happens."""


class Death:
    """Strikes at the `at`-th call of anything that `lurk` has watched; 0: never. After it nothing is removed or renamed any more."""

    def __init__(self) -> None:
        self.at = self.seen = 0
        self.struck = False

    def may_strike(self) -> None:
        self.seen += 1
        self.struck = self.struck or self.seen == self.at
        if self.struck:
            raise Killed

    def lurk(self, patch: pytest.MonkeyPatch) -> None:
        for owner, names in (
            (LocalSampler, ("sample", "pieces")),
            (LocalLearner, ("logprobs", "values", "step", "save", "roll_back", "save_state")),
            (TextScorer, ("score",)),
            (Run, ("log", "sample", "time")),
            (cycle, ("save_progress",)),
        ):
            for name in names:
                patch.setattr(owner, name, self._before(vars(owner)[name]))
        for name in ("rename", "replace"):
            patch.setattr(Path, name, self._around(vars(Path)[name]))
        patch.setattr(runs, "_remove", self._unless_dead(runs._remove))
        patch.setattr(Run, "_append", self._torn(Run._append))

    def _before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **fields: Any) -> Any:
            self.may_strike()
            return method(*args, **fields)

        return call

    def _around(self, rename: Callable[..., Path]) -> Callable[..., Path]:
        def call(path: Path, target: Path) -> Path:
            self.may_strike()
            found = rename(path, target)
            self.may_strike()
            return found

        return call

    def _unless_dead(self, remove: Callable[[Path], None]) -> Callable[[Path], None]:
        def call(path: Path) -> None:
            if not self.struck:
                self.may_strike()
                remove(path)

        return call

    def _torn(self, append: Callable[..., None]) -> Callable[..., None]:
        def call(run: Run, name: str, row: dict[str, Any]) -> None:
            try:
                self.may_strike()
            except Killed:
                with (run.path / name).open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps({"step": row["step"]})[:-3])
                raise
            append(run, name, row)

        return call


@pytest.fixture
def death(monkeypatch: pytest.MonkeyPatch) -> Death:
    made = Death()
    made.lurk(monkeypatch)
    return made


def with_luck(_: list[str], completions: list[str]) -> list[float]:
    """A judge that is moody, in every way there is: by Python's, NumPy's and PyTorch's own random numbers."""
    mood = random.random() + float(np.random.random()) + float(torch.rand(()))
    return [text.count("a") - 0.5 * text.count("b") + 0.1 * mood for text in completions]


def live(run: Run, config: OnPolicyConfig) -> None:
    """One life of a run, from wherever it stands to its end, with everything made anew."""
    tokenizer = tiny_tokenizer(LETTERS)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer), seed=1, layers=2), tokenizer, config.train_layers, name="tiny")
    judges = Judges(TextScorer(FunctionJudge(with_luck)), TextScorer(FunctionJudge(with_luck)))
    if isinstance(config, GRPOConfig):
        train_grpo(config, TRAIN, HELD, run, trunk, judges, state=run.resume())
    else:
        assert isinstance(config, PPOConfig)
        train_ppo(config, TRAIN, HELD, run, trunk, judges, state=run.resume())


def left_by(run: Run) -> dict[str, bytes]:
    """All that must be the same: the metrics, the samples and every file of every checkpoint."""
    files = [run.path / "metrics.jsonl", run.path / "samples.jsonl", *run.path.glob("checkpoints/**/*")]
    return {str(p.relative_to(run.path)): p.read_bytes() for p in files if p.is_file()}


def start(folder: Path, config: OnPolicyConfig) -> Run:
    return Run.create(folder, "grpo" if isinstance(config, GRPOConfig) else "ppo", config, {})


def left_alone(folder: Path, config: OnPolicyConfig) -> Run:
    run = start(folder / "whole", config)
    live(run, config)
    return run


def die_everywhere(folder: Path, config: OnPolicyConfig, death: Death, stride: int = 1) -> tuple[Run, int]:
    """A run that is killed at each `stride`-th thing it does, until it is through; and how many deaths that took."""
    run, deaths, at, stood = start(folder / "killed", config), 0, 1, ""
    while True:
        death.at, death.seen, death.struck = at, 0, False
        try:
            live(run, config)
        except Killed:
            deaths += 1
        else:
            return run, deaths
        states = sorted(p.name for p in (run.path / "resume").glob("0*"))
        now = states[-1] if states else ""
        # a step further: start with its first deed again
        at, stood = (at + stride, stood) if now == stood else (1 + deaths % stride, now)


def assert_same(run: Run, whole: Run) -> None:
    found, expected = left_by(run), left_by(whole)
    assert sorted(found) == sorted(expected)
    assert [name for name, content in expected.items() if found[name] != content] == []


# --- killed ---------------------------------------------------------------------------------------------------------


def test_killed_at_everything_it_does_a_run_is_still_the_same(tmp_path: Path, death: Death) -> None:
    config = PPOConfig(**TINY | {"steps": 2})
    whole = left_alone(tmp_path, config)
    run, deaths = die_everywhere(tmp_path, config, death, stride=2)
    assert deaths > 60
    assert_same(run, whole)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("roll backs, moments and an adaptive beta", EVERYTHING),
        ("a state every third step", EVERYTHING | {"save_every": 3}),
        ("a state at the end alone", {"save_every": 100}),
        ("a critic of its own", {"critic": "adapter", "adam_eps_placement": "tensorflow", "critic_warmup_steps": 1}),
        ("an early stop", {"target_reward": -100.0}),
    ],
)
def test_whatever_it_carries_from_step_to_step_comes_back(
    tmp_path: Path, death: Death, name: str, fields: dict[str, Any]
) -> None:
    config = PPOConfig(**TINY | fields)
    whole = left_alone(tmp_path, config)
    rows = whole.metrics()
    match name:
        case "roll backs, moments and an adaptive beta" | "a state every third step":
            assert sum("rolled_back_to" in row for row in rows) >= 1
            assert len({row["beta"] for row in rows}) > 2
        case "an early stop":
            assert [row.get("stopped") for row in rows] == ["target reward"]
    run, deaths = die_everywhere(tmp_path, config, death, stride=9)
    assert deaths > 5
    assert_same(run, whole)


@pytest.mark.parametrize("advantage", ["grpo", "remax"])
def test_a_method_without_a_value_function_is_the_same_too(tmp_path: Path, death: Death, advantage: str) -> None:
    config = GRPOConfig(**TINY | {"answers": 2, "advantage": advantage, "beta": 0.1})
    whole = left_alone(tmp_path, config)
    run, deaths = die_everywhere(tmp_path, config, death, stride=9)
    assert deaths > 5
    assert_same(run, whole)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_cut_exactly_between_two_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    config = PPOConfig(**TINY)
    whole, run = left_alone(tmp_path, config), start(tmp_path / "cut", config)
    save = cycle.save_progress

    def cut(run: Run, progress: Any, learner: Any) -> None:
        save(run, progress, learner)
        if progress.step == steps:
            raise Killed

    monkeypatch.setattr(cycle, "save_progress", cut)
    with pytest.raises(Killed):
        live(run, config)
    monkeypatch.setattr(cycle, "save_progress", save)
    assert len(run.metrics()) == steps
    live(run, config)
    assert_same(run, whole)


def test_a_run_that_is_through_stays_as_it_is(tmp_path: Path) -> None:
    config = PPOConfig(**TINY)
    whole = left_alone(tmp_path, config)
    before = left_by(whole)
    live(whole, config)
    assert left_by(whole) == before


def test_a_run_that_its_guard_has_stopped_stays_stopped(tmp_path: Path) -> None:
    config = PPOConfig(**TINY | {"guards": (Guard(signal="kl", limit=0.01, action="stop"),)})
    run = left_alone(tmp_path, config)
    before = left_by(run)
    assert run.metrics()[-1]["stopped"] == "guard: kl"
    assert len(run.metrics()) < config.steps
    live(run, config)
    assert left_by(run) == before


def test_a_run_begins_alike_whatever_was_drawn_before_it(tmp_path: Path) -> None:
    config = PPOConfig(**TINY | {"steps": 1})
    first = left_alone(tmp_path / "first", config)
    draws = random.random(), np.random.random(), torch.rand(3)
    second = left_alone(tmp_path / "second", config)
    assert len(draws) == 3
    assert_same(second, first)


def test_one_state_is_kept_and_it_says_where_the_run_stands(tmp_path: Path) -> None:
    config = PPOConfig(**TINY)
    run = left_alone(tmp_path, config)
    (state,) = (run.path / "resume").iterdir()
    assert state.name == "00000003"
    saved = read_json(state / "progress.json")
    assert (saved["step"], saved["stopped"], saved["roll_backs"]) == (3, "steps", 0)
    assert saved["best"] == max(row["heldout_reward"] for row in run.metrics())
    assert {p.name for p in state.iterdir()} == {
        "learner.safetensors", "learner.json", "progress.json", "random.json", "random.safetensors"
    }  # fmt: skip


# --- the order of things, on fakes ----------------------------------------------------------------------------------


def test_behind_a_roll_back_the_state_is_saved_at_once(tmp_path: Path) -> None:
    # what it went back to may be replaced by a better one before the next state is due
    kl = Guard(signal="kl", limit=1, action="roll_back")
    config = PPOConfig(steps=3, batch=2, epochs=1, guards=(kl,), save_every=100, log_rollouts=0)
    calls: list[str] = []
    learner = FakeLearner(calls, [0.0, 2.0, 0.0])
    ppo_loop(
        config,
        TRAIN,
        [],
        start(tmp_path / "run", config),
        FakeSampler(calls),
        Judges(FakeScorer(calls, [0.0]), None),
        learner,
    )
    step = ["sample", "score", "logprobs of the reference", "values", "step"]
    assert calls == [
        "save start", *step, *step, "roll back to start", "save the state", *step, "save the state", "save final"
    ]  # fmt: skip


# --- really killed --------------------------------------------------------------------------------------------------


def test_killed_by_the_system_a_run_is_still_the_same() -> None:
    short = ["steps=3", "batch=4", "max_tokens=6", "evaluate_prompts=4", "evaluate_every=1", "epochs=1"]
    script = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"
    sets = [part for value in short for part in ("--set", value)]
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "2", *sets], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["kills"], found["files_differing"]) == (2, [])
    assert {"metrics.jsonl", "samples.jsonl", "checkpoints/final/adapter_model.safetensors"} <= set(
        found["files_compared"]
    )
