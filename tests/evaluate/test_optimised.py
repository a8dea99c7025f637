from __future__ import annotations

from pathlib import Path

import tiny

from manners.cli.data import made_from
from manners.evaluate.optimised import Rewards, rewards_of
from manners.learner.local import POLICY
from manners.models.trunk import Trunk
from manners.rewards.load import ScorerConfig
from manners.runs import Run
from manners.train.dpo import DPOConfig
from manners.train.ppo import PPOConfig


def policy(folder: Path, base: str, judge: ScorerConfig, **sources: Path) -> Path:
    """A run of a policy on `base` that was trained to please `judge`."""
    config = PPOConfig(model=base, reward=judge, train_layers=1)
    return trained(Run.create(folder, "ppo", config, made_from(folder, **sources)), base)


def trained(run: Run, base: str) -> Path:
    """The run with a checkpoint of a policy on `base`."""
    trunk: Trunk = tiny.tiny_trunk(train_layers=1)
    trunk.adapters.add(POLICY, rank=2, alpha=4, seed=0)
    target = run.checkpoint("final")
    target.mkdir(parents=True)
    trunk.adapters.save(POLICY, target, base=base)
    return run.path


def saved(folder: Path, said: str) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "weights").write_text(said)
    (folder / "lineage.json").write_text('{"kind": "reward", "made_from": {}}')
    return folder


def test_the_offline_scorer_of_any_fault_is_one_scorer(tmp_path: Path) -> None:
    run = policy(tmp_path / "run", "tiny-random", ScorerConfig(toxicity="hate"))
    found = rewards_of(str(run))
    assert found.toxicity
    assert found.include(ScorerConfig(toxicity="toxicity"))
    assert not found.include(ScorerConfig(function="numbers:one"))
    assert not found.include(ScorerConfig())


def test_a_judge_is_known_by_its_path_and_by_its_content(tmp_path: Path) -> None:
    first = saved(tmp_path / "first", "weights")
    run = policy(tmp_path / "run", "tiny-random", ScorerConfig(model=str(first)), reward=first)
    found = rewards_of(str(run))
    copy, other = saved(tmp_path / "copy", "weights"), saved(tmp_path / "other", "other weights")
    assert found.include(ScorerConfig(model=str(first)))
    assert found.include(ScorerConfig(model=str(copy)))
    assert not found.include(ScorerConfig(model=str(other)))
    assert found.include(ScorerConfig.model_validate({"parts": [{"model": str(other)}, {"model": str(first)}]}))


def test_what_the_base_was_rewarded_by_counts_too(tmp_path: Path) -> None:
    below = policy(tmp_path / "below", "tiny-random", ScorerConfig(function="numbers:one"))
    above = policy(tmp_path / "above", str(below), ScorerConfig(toxicity="toxicity"))
    found = rewards_of(str(above))
    assert found.toxicity
    assert found.include(ScorerConfig(function="numbers:one"))
    assert not found.include(ScorerConfig(function="numbers:two"))


def test_a_plain_model_was_rewarded_by_nothing(tmp_path: Path) -> None:
    assert rewards_of(str(tiny.save_tiny(tmp_path / "plain"))) == Rewards()
    assert rewards_of("tiny-random") == Rewards()


def test_a_judge_that_training_never_asked_was_no_reward(tmp_path: Path) -> None:
    config = DPOConfig(model="tiny-random", train_layers=1, online=False, reward=ScorerConfig(toxicity="hate"))
    run = trained(Run.create(tmp_path / "run", "dpo", config, {}), "tiny-random")
    assert rewards_of(str(run)) == Rewards()
