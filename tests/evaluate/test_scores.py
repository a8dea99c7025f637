"""Texts that nobody sampled, scored by every kind of judge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import save_tiny, shake, tiny_trunk

from manners.errors import MannersError
from manners.evaluate.preferences import Preference
from manners.evaluate.scores import log_odds_per_unit, score_preferences
from manners.models.heads import ScalarHead
from manners.records import Completion, Prompt
from manners.rewards.ensemble import RewardEnsemble
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer, load_scorer
from manners.rewards.model import RewardModel

PROMPT, OTHER = Prompt.of("Hi"), Prompt.of("Why?")
PREFERENCES = [
    Preference(PROMPT, ("four",), ("two", "eleven chars"), "", "0", "best_of"),
    Preference(PROMPT, ("two",), ("four",), "", "1", "pairs"),
    Preference(OTHER, ("two",), ("no",), "", "2", "pairs"),
]


def reward_model(std: float = 1.0, seed: int = 1) -> RewardModel:
    trunk = tiny_trunk()
    trunk.adapters.add("reward", rank=4, alpha=8, seed=seed)
    shake(trunk, "reward", seed)
    head = ScalarHead.for_reward(trunk.width, seed)
    return RewardModel(trunk, "reward", head, "mean", mean=0.5, std=std)


def test_every_answer_is_judged_once_and_lands_in_its_place() -> None:
    asked: list[str] = []

    def letters(_prompts: list[str], completions: list[str]) -> list[float]:
        asked.extend(completions)
        return [float(len(text)) for text in completions]

    best, pair, other = score_preferences(TextScorer(FunctionJudge(letters)), PREFERENCES)
    assert sorted(asked) == ["eleven chars", "four", "no", "two", "two"]  # "two" to either prompt
    assert (best.chosen.tolist(), best.rejected.tolist()) == ([4.0], [3.0, 12.0])
    assert (pair.chosen.tolist(), pair.rejected.tolist()) == ([3.0], [4.0])
    assert (other.chosen.tolist(), other.rejected.tolist()) == ([3.0], [2.0])


def test_a_reward_model_says_what_it_says_of_texts() -> None:
    model = reward_model()
    [_, pair, _] = score_preferences(model, PREFERENCES)
    expected = model.score_texts([PROMPT, PROMPT], [Completion(PROMPT.id, "two"), Completion(PROMPT.id, "four")])
    assert [*pair.chosen, *pair.rejected] == pytest.approx(expected.tolist())
    assert pair.chosen != pair.rejected


def test_a_saved_reward_model_is_loaded_onto_a_trunk_of_its_own(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base")
    trunk = tiny_trunk()
    trunk.name = str(base)
    trunk.adapters.add("reward", rank=4, alpha=8, seed=0)
    shake(trunk, "reward")
    model = RewardModel(trunk, "reward", ScalarHead.for_reward(trunk.width, 0), "last")
    model.save(tmp_path / "reward")
    loaded = load_scorer(ScorerConfig(model=str(tmp_path / "reward")), None, "reward")
    for one, other in zip(score_preferences(model, PREFERENCES), score_preferences(loaded, PREFERENCES), strict=True):
        assert torch.allclose(one.chosen, other.chosen, atol=1e-5)
        assert torch.allclose(one.rejected, other.rejected, atol=1e-5)


def test_what_makes_a_score_a_probability() -> None:
    assert log_odds_per_unit(reward_model(std=2.5)) == 2.5
    assert log_odds_per_unit(RewardEnsemble([reward_model(std=1.0), reward_model(std=4.0)])) == 2.5
    assert log_odds_per_unit(load_scorer(ScorerConfig(toxicity="hate"), None, "reward")) == 1.0


def test_a_score_that_is_none_stops() -> None:
    def broken(prompts: Sequence[Prompt], _completions: Sequence[Completion]) -> torch.Tensor:
        return torch.full((len(prompts),), math.nan)

    with pytest.raises(MannersError, match="not finite"):
        score_preferences(TextScorer(broken), PREFERENCES)
