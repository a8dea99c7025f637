from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import HELDOUT, PROMPTS, FakeLearner, Stage
from safetensors.torch import load_file
from tiny import shake, tiny_model, tiny_tokenizer

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.config import load_config
from manners.errors import MannersError
from manners.learner.local import POLICY, LocalLearner
from manners.learner.optimiser import Optimiser
from manners.models.heads import ScalarHead
from manners.models.trunk import Trunk
from manners.ops.moments import Moments
from manners.protocols import Evaluated
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.rewards.model import RewardModel
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train.cycle import next_beta
from manners.train.experiment import (
    Judges,
    look_at_heldout,
    prompt_order,
    shape_scores,
    take_again,
    with_shift_penalty,
)
from manners.train.ppo import PPOConfig, make_learner, ppo_batch, ppo_loop, ppo_objective, train_ppo

torch.set_num_threads(1)

GARBAGE = 77.0  # what stands where nothing counts


def two_rollouts() -> Rollouts:
    """A prompt of two tokens with three of response, and a prompt of one with two; one column and a half of padding."""
    mask = torch.tensor([[0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 0, 0]]).bool()
    logps = torch.tensor([[0, 0, -1.0, -2.0, -3.0, 0], [0, -0.5, -1.5, 0, 0, 0]])
    prompts = (Prompt.of("a"), Prompt.of("b"))
    rollouts = Rollouts(
        torch.arange(12).reshape(2, 6), torch.tensor([2, 1]), torch.tensor([5, 3]), logps, torch.tensor([True, False]),
        torch.zeros(2, 6, 0), prompts, tuple(Completion(p.id, "x") for p in prompts), None,
    )  # fmt: skip
    assert torch.equal(rollouts.response_mask, mask)
    return rollouts


def scored(rewards: list[list[float]]) -> ScoredRollouts:
    zero = torch.zeros(2, 6)
    return ScoredRollouts(
        **vars(two_rollouts()), scores=torch.zeros(2), reference_logps=zero, rewards=torch.tensor(rewards)
    )


# --- the parts, by hand ---------------------------------------------------------------------------------------------


def test_the_shift_penalty_is_paid_at_every_token_and_the_score_comes_with_the_last() -> None:
    rollouts = two_rollouts()
    reference = torch.tensor([[9, 9, -1.5, -1.0, -3.0, 9], [9, -0.5, -3.5, 9, 9, 9]])
    found = with_shift_penalty(rollouts, torch.tensor([2.0, -1.0]), reference, beta=0.1)
    # log π − log π_ref: 0.5, −1, 0 and 0, 2
    expected = torch.tensor([[0, 0, -0.05, 0.1, 2.0, 0], [0, 0.0, -1.2, 0, 0, 0]])
    torch.testing.assert_close(found.rewards, expected)
    assert found.rewards.sum(1).tolist() == pytest.approx([2.0 - 0.1 * -0.5, -1.0 - 0.1 * 2.0])
    assert (found.scores.tolist(), found.logps, found.prompts) == ([2.0, -1.0], rollouts.logps, rollouts.prompts)


def test_advantages_and_returns_of_a_batch_by_hand() -> None:
    values = torch.tensor(
        [[GARBAGE, GARBAGE, 0.5, 0.25, -1.0, GARBAGE], [GARBAGE, 0.0, 2.0, GARBAGE, GARBAGE, GARBAGE]]
    )
    rewards = [[GARBAGE, GARBAGE, 0.0, -0.5, 1.0, GARBAGE], [GARBAGE, 0.5, 1.0, GARBAGE, GARBAGE, GARBAGE]]
    config = PPOConfig(gamma=0.5, lam=0.8, whiten_advantages=False)
    batch = ppo_batch(scored(rewards), values, config)
    # row 1: δ₃ = 1 + 0 + 1 = 2;  δ₂ = −0.5 − 0.5 − 0.25 = −1.25, A₂ = −1.25 + 0.4 · 2 = −0.45
    #        δ₁ = 0 + 0.125 − 0.5 = −0.375, A₁ = −0.375 + 0.4 · −0.45 = −0.555
    # row 2: δ₂ = 1 − 2 = −1;  δ₁ = 0.5 + 1 − 0 = 1.5, A₁ = 1.5 + 0.4 · −1 = 1.1
    mask = batch.response_mask
    assert batch.advantages[mask].tolist() == pytest.approx([-0.555, -0.45, 2.0, 1.1, -1.0])
    assert batch.returns[mask].tolist() == pytest.approx([-0.055, -0.2, 1.0, 1.1, 1.0])
    assert not batch.advantages[~mask].any()
    assert not batch.returns[~mask].any()
    assert torch.equal(batch.old_logps, two_rollouts().logps)
    assert torch.equal(batch.old_values[mask], values[mask])


def test_with_gamma_and_lambda_one_the_advantage_is_the_reward_to_come_less_the_value() -> None:
    values = torch.tensor([[0, 0, 0.5, 0.25, -1.0, 0], [0, 0.0, 2.0, 0, 0, 0]])
    rewards = [[0, 0, 0.25, -0.5, 1.0, 0], [0, 0.5, 1.0, 0, 0, 0]]
    batch = ppo_batch(scored(rewards), values, PPOConfig(gamma=1, lam=1, whiten_advantages=False))
    assert batch.advantages[batch.response_mask].tolist() == pytest.approx([0.25, 0.25, 2.0, 1.5, -1.0])


def test_whitening_is_over_all_tokens_of_the_batch_and_leaves_the_returns_alone() -> None:
    values = torch.zeros(2, 6)
    rewards = [[GARBAGE, 0, 1.0, 2.0, 3.0, GARBAGE], [0, 4.0, 5.0, GARBAGE, 0, 0]]
    config = PPOConfig(gamma=1, lam=0)  # advantages are the rewards: 1 … 5, mean 3, biased variance 2
    batch = ppo_batch(scored(rewards), values, config)
    expected = [(x - 3) / math.sqrt(2) for x in (1, 2, 3, 4, 5)]
    assert batch.advantages[batch.response_mask].tolist() == pytest.approx(expected, abs=1e-6)
    assert not batch.advantages[~batch.response_mask].any()
    assert batch.returns[batch.response_mask].tolist() == [1, 2, 3, 4, 5]


def test_the_critic_can_look_further_ahead_than_the_policy() -> None:
    values = torch.tensor([[0, 0, 0.5, 0.25, -1.0, 0], [0, 0.0, 2.0, 0, 0, 0]])
    rewards = [[0, 0, 0.25, -0.5, 1.0, 0], [0, 0.5, 1.0, 0, 0, 0]]
    config = PPOConfig(gamma=1, lam=0, value_lam=1, whiten_advantages=False)
    batch = ppo_batch(scored(rewards), values, config)
    # λ = 0: r + V' − V; λ = 1: the return is all the reward to come, whatever the values
    assert batch.advantages[batch.response_mask].tolist() == pytest.approx([0.0, -1.75, 2.0, 2.5, -1.0])
    assert batch.returns[batch.response_mask].tolist() == pytest.approx([0.75, 0.5, 1.0, 1.5, 1.0])
    alike = ppo_batch(scored(rewards), values, PPOConfig(gamma=1, lam=0.3, value_lam=0.3))
    assert torch.equal(alike.returns, ppo_batch(scored(rewards), values, PPOConfig(gamma=1, lam=0.3)).returns)


def test_whitened_rewards_have_variance_1_and_keep_their_mean() -> None:
    rewards = [[GARBAGE, 0, 1.0, 2.0, 3.0, GARBAGE], [0, 4.0, 5.0, GARBAGE, 0, 0]]  # mean 3, biased variance 2
    config = PPOConfig(gamma=1, lam=0, whiten_rewards=True, whiten_advantages=False)
    batch = ppo_batch(scored(rewards), torch.zeros(2, 6), config)
    expected = [(x - 3) / math.sqrt(2) + 3 for x in (1, 2, 3, 4, 5)]
    assert batch.advantages[batch.response_mask].tolist() == pytest.approx(expected, abs=1e-6)
    assert batch.returns[batch.response_mask].tolist() == pytest.approx(expected, abs=1e-6)


def test_importance_weights_scale_the_whitened_advantage_and_leave_the_returns_alone() -> None:
    rewards = [[0, 0, 1.0, 2.0, 3.0, 0], [0, 4.0, 5.0, 0, 0, 0]]
    config = PPOConfig(gamma=1, lam=0)
    weights = torch.tensor([[9, 9, 2.0, 0.5, 1.0, 9], [9, 3.0, 0.0, 9, 9, 9]])
    plain = ppo_batch(scored(rewards), torch.zeros(2, 6), config)
    weighted = ppo_batch(scored(rewards), torch.zeros(2, 6), config, weights)
    mask = plain.response_mask
    factors = torch.tensor([2.0, 0.5, 1.0, 3.0, 0.0])
    torch.testing.assert_close(weighted.advantages[mask], plain.advantages[mask] * factors)
    assert not weighted.advantages[~mask].any()
    assert torch.equal(weighted.returns, plain.returns)


class Another(FakeLearner):
    """A learner to whom every token is half as probable as it was to the engine that sampled."""

    def logprobs(self, rollouts: Rollouts, who: Any) -> torch.Tensor:
        found = super().logprobs(rollouts, who)
        return torch.where(rollouts.response_mask, found - math.log(2), 0) if who == "policy" else found


def test_with_a_cap_the_learners_own_log_probabilities_take_the_place_of_the_samplers() -> None:
    rollouts = two_rollouts()
    same, weights = take_again(rollouts, Another([]), None)
    assert same is rollouts
    assert weights is None
    own, weights = take_again(rollouts, Another([]), 2.0)
    assert weights is not None
    mask = rollouts.response_mask
    torch.testing.assert_close(own.logps[mask], rollouts.logps[mask] - math.log(2))
    torch.testing.assert_close(weights[mask], torch.full((5,), 0.5))
    assert not weights[~mask].any()


def test_scores_are_divided_by_the_running_standard_deviation_and_keep_their_mean() -> None:
    config = PPOConfig(scale_scores=True)
    first, rollouts = three_rollouts([1.0, 2.0, 6.0], [True] * 3)
    second = torch.tensor([3.0, 3.0, 9.0])
    shaped, moments = shape_scores(first, rollouts, Moments(), config)
    assert shaped.tolist() == pytest.approx([x / statistics.stdev([1, 2, 6]) for x in (1, 2, 6)])
    shaped, _ = shape_scores(second, rollouts, moments, config)
    assert shaped.tolist() == pytest.approx([x / statistics.stdev([1, 2, 6, 3, 3, 9]) for x in (3, 3, 9)])


def test_scores_are_scaled_before_they_are_clipped() -> None:
    scores, rollouts = three_rollouts([0.0, 10.0, 20.0], [True, True, False])
    shaped, _ = shape_scores(
        scores, rollouts, Moments(), PPOConfig(scale_scores=True, score_clip=1.5, missing_eos_penalty=0.5)
    )
    assert shaped.tolist() == [0.0, 1.0, 1.0]  # standard deviation 10; 2 is clipped to 1.5, less 0.5


@pytest.mark.parametrize(
    "key", ["top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "min_new_tokens"]
)
def test_what_bends_the_distribution_that_is_sampled_from_is_refused_with_the_reason(key: str) -> None:
    with pytest.raises(
        MannersError, match=f"{key} bends the distribution .* the update would see other log-probabilities"
    ):
        load_config(PPOConfig, None, [f"{key}=1"])


def three_rollouts(scores: list[float], finished: list[bool]) -> tuple[torch.Tensor, Rollouts]:
    """Scores [3] and rollouts with answers of 2, 4 and 1 tokens."""
    prompts = tuple(Prompt.of(x) for x in "abc")
    lengths = torch.tensor([1, 3, 2])
    rollouts = Rollouts(
        torch.zeros(3, 7).long(), lengths, lengths + torch.tensor([2, 4, 1]), torch.zeros(3, 7), torch.tensor(finished),
        torch.zeros(3, 7, 0), prompts, tuple(Completion(p.id, "x") for p in prompts), None,
    )  # fmt: skip
    return torch.tensor(scores), rollouts


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [3.0, -7.0, 0.5]),
        ({"missing_eos_reward": -1.0}, [3.0, -1.0, -1.0]),
        ({"missing_eos_reward": 0.0}, [3.0, 0.0, 0.0]),
        ({"missing_eos_penalty": 2.0}, [3.0, -9.0, -1.5]),
        ({"score_clip": 2.0}, [2.0, -2.0, 0.5]),
        ({"score_clip": 2.0, "missing_eos_penalty": 1.0}, [2.0, -3.0, -0.5]),
        ({"score_clip": 0.5, "missing_eos_reward": -4.0}, [0.5, -4.0, -4.0]),
        ({"length_penalty_per_token": 0.5}, [2.0, -9.0, 0.0]),
        ({"length_penalty_per_token": 0.5, "score_clip": 2.0, "missing_eos_penalty": 1.0}, [1.0, -5.0, -1.0]),
        ({"length_penalty_per_token": 0.5, "missing_eos_reward": -4.0}, [2.0, -4.0, -4.0]),
    ],
)
def test_scores_are_clipped_then_cost_their_length_and_then_their_missing_end(
    fields: dict[str, Any], expected: list[float]
) -> None:
    scores, rollouts = three_rollouts([3.0, -7.0, 0.5], [True, False, False])
    shaped, moments = shape_scores(scores, rollouts, Moments(), PPOConfig(**fields))
    assert shaped.tolist() == expected
    assert moments == Moments()


def test_an_answer_without_its_end_is_replaced_or_punished_and_not_both_and_never_rewarded() -> None:
    with pytest.raises(MannersError, match="not both"):
        load_config(PPOConfig, None, ["missing_eos_reward=-1", "missing_eos_penalty=1"])
    with pytest.raises(MannersError, match="greater than or equal to 0"):
        load_config(PPOConfig, None, ["missing_eos_penalty=-1"])


@pytest.mark.parametrize(("count", "batch", "steps"), [(5, 2, 10), (3, 7, 6), (8, 8, 3), (1, 4, 2), (10, 3, 2)])
def test_every_prompt_comes_once_before_any_comes_again(count: int, batch: int, steps: int) -> None:
    config = PPOConfig(batch=batch, steps=steps, seed=4)
    order = prompt_order(count, config)
    assert [len(step) for step in order] == [batch] * steps
    flat = [i for step in order for i in step]
    for start in range(0, len(flat), count):
        part = flat[start : start + count]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(count))
    assert prompt_order(count, config) == order


def test_each_round_and_each_seed_has_its_own_order() -> None:
    rounds = prompt_order(20, PPOConfig(batch=20, steps=3, seed=0))
    assert rounds[0] != rounds[1] != rounds[2]
    assert prompt_order(20, PPOConfig(batch=20, steps=3, seed=1)) != rounds


def test_beta_stays_without_a_target_and_turns_towards_it_with_one() -> None:
    assert next_beta(0.05, 1e6, PPOConfig()) == 0.05
    config = PPOConfig(kl_target_per_sequence=6.0, kl_horizon_episodes=10_000, batch=256)
    assert next_beta(0.1, 12.0, config) == pytest.approx(0.100512)  # Ziegler et al. 2019: error clipped to 0.2
    assert next_beta(0.1, 0.0, config) == pytest.approx(0.099488)
    assert next_beta(0.1, 6.0, config) == pytest.approx(0.1)
    assert next_beta(0.1, 6.6, config) == pytest.approx(0.1 * (1 + 0.1 * 0.0256))


def one_token(**values: float) -> PPOBatch:
    """A batch of one answer of one token; what is not named is 0."""
    names = ("old_logps", "reference_logps", "advantages", "returns", "old_values")
    fields = {name: torch.full((1, 1), values.get(name, 0.0)) for name in names}
    length = torch.ones(1).long()
    return PPOBatch(torch.ones(1, 1).long(), 0 * length, length, torch.zeros(1, 1, 0), **fields)


def now(logp: float, entropy: float = 0.0, value: float = 0.0) -> Evaluated:
    return Evaluated(*(torch.full((1, 1), x) for x in (logp, entropy, value)))


def test_the_objective_by_hand() -> None:
    batch = one_token(old_logps=-1, advantages=2, returns=1, old_values=0.5)
    config = PPOConfig(clip_low=0.1, clip_high=0.2, value_clip=0.1, value_weight=0.25, entropy_weight=0.01)
    found = ppo_objective(now(math.log(1.5) - 1, entropy=3, value=0.9), batch, config=config)
    # policy: max(−2 · 1.5, −2 · 1.2) = −2.4; value: ½ max(0.1², (0.6 − 1)²) = 0.08; −2.4 + 0.25 · 0.08 − 0.01 · 3
    assert found.total.item() == pytest.approx(-2.41)
    assert {k: v.item() for k, v in found.parts.items()} == pytest.approx(
        {"policy_loss": -2.4, "value_loss": 0.08, "entropy": 3.0}
    )
    # k3 of π_old ‖ π: ρ − 1 − log ρ
    assert found.statistics["approx_kl"].item() == pytest.approx(0.5 - math.log(1.5))
    assert found.statistics["ratio"].item() == pytest.approx(1.5)
    assert bool(found.statistics["clip_fraction"]) is True
    assert bool(found.statistics["value_clip_fraction"]) is True

    down = one_token(old_logps=-1, advantages=-2)
    up = ppo_objective(now(math.log(1.5) - 1), down, config=config).parts["policy_loss"]
    assert up.item() == pytest.approx(3.0)  # never clipped upwards
    low = ppo_objective(now(math.log(0.5) - 1), down, config=config).parts["policy_loss"]
    assert low.item() == pytest.approx(1.8)  # 2 · (1 − clip_low)


@pytest.mark.parametrize(
    ("kind", "loss"), [("reverse", 1.5 * 0.5 * 0.3**2), ("forward", 1.5 * (math.exp(-0.3) - 1 + 0.3))]
)
def test_a_kl_loss_is_added_with_its_weight(kind: Any, loss: float) -> None:
    batch = one_token(old_logps=-1, reference_logps=math.log(1.5) - 1.3)
    seen = now(math.log(1.5) - 1)  # ρ = 1.5, log π − log π_ref = 0.3
    found = ppo_objective(seen, batch, config=PPOConfig(kl_loss=kind, kl_loss_weight=2))
    assert found.parts["kl_loss"].item() == pytest.approx(loss, rel=1e-5)
    assert found.total.item() == pytest.approx(2 * loss, rel=1e-5)
    assert "kl_loss" not in ppo_objective(seen, batch, config=PPOConfig()).parts


def test_a_dual_clip_in_the_settings_reaches_the_loss() -> None:
    batch, seen = one_token(advantages=-1), now(math.log(8))
    assert ppo_objective(seen, batch, config=PPOConfig(dual_clip=3)).parts["policy_loss"].item() == pytest.approx(3)
    assert ppo_objective(seen, batch, config=PPOConfig()).parts["policy_loss"].item() == pytest.approx(8)


# --- the loop on fakes ----------------------------------------------------------------------------------------------

KEYS = {
    "step", "episodes", "reward", "reward_std", "score", "score_std", "skipped", "kl", "kl_k3", "beta", "shift_penalty", "logp",
    "reference_logp", "entropy", "first_ratio", "first_approx_kl", "policy_loss", "value_loss", "clip_fraction",
    "value_clip_fraction", "approx_kl", "gradient_norm", "epochs", "explained_variance", "value", "length", "finished",
    "distinct_2", "repetition", "alarms",
}  # fmt: skip
SECOND = {"second_judge", "second_judge_std"}


PHASES = ["sample", "score", "logprobs of the reference", "values"]


def test_a_step_is_sample_score_reference_values_and_then_the_epochs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=2, epochs=3)
    stage.play(heldout=[])
    step = [*PHASES, "step", "step", "step", "logprobs of the policy", "save the state"]
    assert stage.calls == ["save start", *step, *step, "save final"]
    assert not stage.run.checkpoint("best").exists()


def test_a_look_at_the_held_out_prompts_samples_and_scores_once_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], second=[5.0], steps=2, epochs=1)
    rows = stage.play()
    step = ["sample", "score", "second", "logprobs of the reference", "values", "step", "logprobs of the policy"]
    assert stage.calls[1:9] == [*step, "save the state"]
    assert stage.calls[9:16] == step
    assert sorted(stage.calls[16:20]) == sorted(["sample", "logprobs of the reference", "score", "second"])
    assert stage.calls[20:] == ["save best", "save the state", "save final"]
    assert "heldout_reward" not in rows[0]
    assert (rows[1]["heldout_reward"], rows[1]["heldout_second_judge"], rows[1]["best"]) == (0.0, 5.0, True)
    assert [row["second_judge"] for row in rows] == [5.0, 5.0]


def test_without_a_guard_that_rolls_back_and_without_answers_to_open_nothing_is_done_for_them(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=1, epochs=1, guards=(), log_rollouts=0)
    stage.play(heldout=[])
    assert stage.calls == [*PHASES, "step", "save the state", "save final"]
    assert stage.run.samples() == []


def test_held_out_prompts_are_asked_with_the_same_random_numbers_every_time_and_steps_with_their_own(
    tmp_path: Path,
) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], seed=3)
    stage.play()
    looks = [seed for prompts, seed in stage.sampler.asked if prompts == tuple(HELDOUT)]
    steps = [seed for prompts, seed in stage.sampler.asked if prompts != tuple(HELDOUT)]
    assert (len(looks), len(set(looks))) == (2, 1)
    assert (len(steps), len(set(steps))) == (4, 4)
    assert not set(looks) & set(steps)
    trained = [p for prompts, _ in stage.sampler.asked if prompts != tuple(HELDOUT) for p in prompts]
    assert set(trained[:6]) == set(PROMPTS)
    assert not set(trained) & set(HELDOUT)


def test_held_out_prompts_can_be_asked_several_times(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0], steps=1, evaluate_samples=3)
    stage.play()
    looked, _ = stage.sampler.asked[-1]
    assert [looked.count(prompt) for prompt in HELDOUT] == [3, 3, 3]


def test_every_step_is_logged_with_the_documented_keys(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0, 2.0, 3.0], [0.5], second=[0.0])
    rows = stage.play()
    keys, look = KEYS | SECOND, {"heldout_reward", "heldout_kl", "heldout_second_judge", "best"}
    assert [set(row) for row in rows] == [keys | {"unwatched"}, keys | look, keys, keys | look | {"stopped"}]
    assert [(row["step"], row["episodes"]) for row in rows] == [(0, 2), (1, 4), (2, 6), (3, 8)]
    first = rows[0]
    expected = {
        "reward": 1.0, "score": 1.0, "reward_std": 0.0, "second_judge": 0.0, "kl": 0.5, "beta": 0.05, "length": 2.0, "finished": 1.0,
        "entropy": 1.0, "first_ratio": 1.0, "first_approx_kl": 0.0, "distinct_2": 0.5, "repetition": 0.0, "value": 0.0, "logp": -1.0,
        "reference_logp": -1.25, "skipped": 0.0, "epochs": 2, "gradient_norm": 1.0,
    }  # fmt: skip
    assert {k: first[k] for k in expected} == pytest.approx(expected)
    assert first["shift_penalty"] == pytest.approx(0.025)
    assert first["kl_k3"] == pytest.approx(2 * (math.exp(-0.25) - 1 + 0.25))
    (sentence,) = first["unwatched"]
    assert sentence.startswith("the guard disagreement watches nothing")


def test_what_depends_on_the_clock_stands_in_a_file_of_its_own(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.5], steps=2)
    stage.play()
    first, second = stage.timings()
    phases = ["sample", "score", "reference", "advantage", "update"]
    assert [set(row) for row in (first, second)] == [{"step", "seconds", "phase_seconds"}] * 2
    assert list(first["phase_seconds"]) == phases
    assert list(second["phase_seconds"]) == [*phases, "evaluate"]
    assert all(sum(row["phase_seconds"].values()) <= row["seconds"] + 0.01 for row in (first, second))


def test_a_few_answers_of_each_step_are_kept_token_by_token(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.5], [0.5], second=[3.0], steps=2, batch=5, log_rollouts=4, beta=0.1)
    stage.play(heldout=[])
    samples = stage.run.samples()
    assert [s["step"] for s in samples] == [0] * 4 + [1] * 4
    assert samples[0]["prompt"] in {p.text for p in PROMPTS}
    for sample in samples:
        assert {k: v for k, v in sample.items() if k not in ("step", "prompt", "trace", "kl")} == {
            "completion": "very well", "reward": 1.5, "score": 1.5, "second_judge": 3.0, "tokens": ["<3>", "<4>"]
        }  # fmt: skip
        assert sample["kl"] == pytest.approx(0.5)
        trace = sample["trace"]
        assert {k: v for k, v in trace.items() if k != "advantage"} == {
            "logp": [-1.0, -1.0], "reference_logp": [-1.25, -1.25], "penalty": [-0.025, -0.025], "value": [0.0, 0.0], "ratio": [1.0, 1.0]
        }  # fmt: skip
        assert len(trace["advantage"]) == 2


def test_the_learner_gets_the_score_less_the_penalty(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [2.0], [1.0], steps=1, epochs=1, whiten_advantages=False, lam=1.0, beta=0.1)
    stage.play(heldout=[])
    (batch,) = stage.learner.batches
    # penalty 0.1 · 0.5 at each of two tokens: 2 − 0.05 to come at the last, 2 − 0.1 at the first
    assert batch.advantages[0, 3:].tolist() == pytest.approx([1.9, 1.95])
    assert batch.returns[0, 3:].tolist() == pytest.approx([1.9, 1.95])


def test_scores_are_clipped_in_training_and_shown_as_they_are_on_held_out_prompts(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [2.0], [0.0], score_clip=0.5, steps=1)
    row = stage.play()[0]
    assert (row["reward"], row["score"], row["heldout_reward"]) == (2.0, 0.5, 2.0)


def test_an_answer_without_its_end_costs_the_policy_its_penalty(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [2.0], [0.0], steps=1, epochs=1, missing_eos_penalty=0.5, whiten_advantages=False, lam=1.0)
    stage.sampler.finished = False
    (row,) = stage.play(heldout=[])
    assert (row["reward"], row["score"], row["finished"]) == (2.0, 1.5, 0.0)
    assert stage.learner.batches[0].returns[0, 3:].tolist() == [1.5, 1.5]


def test_a_kl_over_the_budget_ends_the_run_with_a_look_and_a_final_checkpoint(tmp_path: Path) -> None:
    # reference calls: step 0, step 1, look, step 2 (over), look
    stage = Stage(tmp_path, [1.0], [1.0, 2.0, 2.0, 9.0, 2.0], steps=10, kl_budget_per_sequence=5.0)
    rows = stage.play()
    assert [row["kl"] for row in rows] == pytest.approx([1.0, 2.0, 9.0])
    assert [row.get("stopped") for row in rows] == [None, None, "KL budget"]
    assert "heldout_reward" in rows[-1]
    assert stage.calls[-1] == "save final"
    assert stage.epochs_of("final") == 6


def test_a_policy_over_the_budget_is_never_the_best(tmp_path: Path) -> None:
    # score calls: step 0, step 1, look, step 2, step 3, look: the second look is better but too far away
    stage = Stage(tmp_path, [0.0, 0.0, 1.0, 0.0, 0.0, 7.0], [1.0, 1.0, 1.0, 1.0, 1.0, 8.0], kl_budget_per_sequence=5.0)
    rows = stage.play()
    assert [row.get("best") for row in rows] == [None, True, None, False]
    assert stage.epochs_of("best") == 4


def test_reaching_the_target_reward_ends_the_run(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0, 0.0, 0.5, 0.0, 0.0, 2.0], [0.0], steps=20, target_reward=2.0)
    rows = stage.play()
    assert len(rows) == 4
    assert (rows[-1]["heldout_reward"], rows[-1]["best"], rows[-1]["stopped"]) == (2.0, True, "target reward")
    assert stage.calls[-3:] == ["save best", "save the state", "save final"]


def test_when_its_time_is_up_the_run_ends_with_a_look(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0], steps=20, max_seconds=60.0)
    stage.run.time(step=-1, seconds=59.0)
    stage.run.time(step=-1, seconds=1.5)
    (row,) = stage.play()
    assert (row["stopped"], "heldout_reward" in row) == ("time", True)
    assert stage.calls[-1] == "save final"
    longer = Stage(tmp_path / "longer", [1.0], [0.0], steps=3, max_seconds=60.0)
    assert [r.get("stopped") for r in longer.play()] == [None, None, "steps"]


def test_the_target_is_reached_on_held_out_prompts_only(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [9.0, 9.0, 0.0, 9.0, 9.0, 0.0], [0.0], target_reward=2.0)
    rows = stage.play()
    assert (len(rows), rows[-1]["stopped"]) == (4, "steps")


def test_the_best_checkpoint_is_kept_and_not_the_last(tmp_path: Path) -> None:
    # looks after steps 2, 4, 6 (every second): rewards 1, 3, 2
    stage = Stage(tmp_path, [0, 0, 1.0, 0, 0, 3.0, 0, 0, 2.0], [0.0], steps=6)
    rows = stage.play()
    assert [row["best"] for row in rows if "best" in row] == [True, True, False]
    assert stage.epochs_of("best") == 8
    assert stage.epochs_of("final") == 12


def test_an_equal_look_does_not_replace_the_earlier_one_which_is_nearer_to_the_reference(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0], steps=4)
    stage.play()
    assert stage.epochs_of("best") == 4


def test_the_last_step_is_always_looked_at(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0], steps=3, evaluate_every=100)
    assert [("heldout_reward" in row) for row in stage.play()] == [False, False, True]


def test_beta_of_the_next_step_follows_the_kl_of_this_one(tmp_path: Path) -> None:
    stage = Stage(
        tmp_path, [1.0], [12.0, 0.0, 6.0, 6.0], beta=0.1, kl_target_per_sequence=6.0, kl_horizon_episodes=10.0
    )
    rows = stage.play(heldout=[])
    # error ±0.2 · 2 episodes of 10 = ±4 %
    assert [row["beta"] for row in rows] == pytest.approx([0.1, 0.104, 0.09984, 0.09984])


def test_progress_is_shown_step_by_step(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0])
    shown: list[tuple[int, str]] = []

    def track(items: Any, description: str) -> Any:
        for item in items:
            shown.append((item, description))
            yield item

    ppo_loop(stage.config, PROMPTS, [], stage.run, stage.sampler, stage.judges, stage.learner, track)
    assert [item for item, _ in shown] == [0, 1, 2, 3]
    assert {name for _, name in shown} == {"PPO"}


class Wandering(FakeLearner):
    """A learner whose policy is a little further away after every epoch, and back at the next step."""

    def values(self, rollouts: Rollouts) -> torch.Tensor:
        self.gone = 0.0
        return super().values(rollouts)

    def step(self, *args: Any, **fields: Any) -> dict[str, float]:
        self.gone += 0.01
        return super().step(*args, **fields) | {"approx_kl": self.gone}


@pytest.mark.parametrize(("limit", "epochs"), [(0.005, 1), (0.01, 2), (0.025, 3), (0.5, 5), (None, 5)])
def test_no_further_epoch_once_the_policy_is_too_far_from_the_one_that_sampled(
    tmp_path: Path, limit: float | None, epochs: int
) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=2, epochs=5, approx_kl_limit=limit)
    stage.learner = Wandering(stage.calls)
    rows = stage.play(heldout=[])
    assert [row["epochs"] for row in rows] == [epochs, epochs]
    assert stage.calls.count("step") == 2 * epochs


def test_while_the_critic_warms_up_it_alone_learns(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=3, epochs=2, critic_warmup_steps=2)
    stage.play(heldout=[])
    assert [call for call in stage.calls if call.startswith("step")] == ["step of the critic"] * 4 + ["step"] * 2


def test_scaled_scores_remember_all_steps_before(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [], [0.0], steps=3, scale_scores=True)
    given = [torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 2.0]), torch.tensor([0.0, 6.0])]
    batches = iter(given)
    stage.judges = Judges(Told(batches), None)
    rows = stage.play(heldout=[])
    seen: list[float] = []
    for row, scores in zip(rows, given, strict=True):
        seen += scores.tolist()
        assert row["score"] == pytest.approx(float(scores.mean()) / statistics.stdev(seen))


class Told:
    """A judge that says what it is told."""

    def __init__(self, scores: Any) -> None:
        self.scores = scores

    def score(self, _: Rollouts) -> torch.Tensor:
        scores: torch.Tensor = next(self.scores)
        return scores


def test_a_judge_that_fails_ends_the_loop(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.0], [0.0])

    def fail(_: list[str], completions: list[str]) -> list[float]:
        return [1.0] * (len(completions) + 1)

    with pytest.raises(MannersError, match="gave 3 numbers for 2 completions"):
        ppo_loop(
            stage.config,
            PROMPTS,
            [],
            stage.run,
            stage.sampler,
            Judges(TextScorer(FunctionJudge(fail)), None),
            stage.learner,
        )


# --- a tiny model really learns -------------------------------------------------------------------------------------

LETTERS, GOOD = "abcdef", "abc"


def few_letters(seed: int = 1, train_layers: Any = 2, *, lean: bool = True) -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    return Trunk(tiny_model(vocabulary=len(tokenizer), seed=seed), tokenizer, train_layers, name="tiny", lean=lean)


def share_of_good(_: list[str], completions: list[str]) -> list[float]:
    return [sum(text.count(letter) for letter in GOOD) / max(1, len(text)) for text in completions]


def length_of(_: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


ASKED = [Prompt.of(first + second + third) for first in LETTERS for second in LETTERS for third in "ad"]
TRAIN, HELD = ASKED[::2][:16], ASKED[1::2][:16]
TINY: dict[str, Any] = {
    "steps": 14, "batch": 32, "max_tokens": 8, "rank": 8, "alpha": 16, "epochs": 4, "learning_rate": 1e-2,
    "value_learning_rate": 3e-2, "beta": 0.02, "evaluate_every": 4, "evaluate_prompts": 16, "train_layers": 2,
}  # fmt: skip


def learn(folder: Path, function: Any = share_of_good, *, lean: bool = True, **fields: Any) -> tuple[Run, Trunk]:
    config = PPOConfig(**TINY | fields)
    run = Run.create(folder, "ppo", config, {})
    judges = Judges(TextScorer(FunctionJudge(function)), TextScorer(FunctionJudge(length_of)))
    return run, train_ppo(config, TRAIN, HELD, run, few_letters(train_layers=config.train_layers, lean=lean), judges)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Trunk]:
    return learn(tmp_path_factory.mktemp("ppo") / "run")


def reward_of(trunk: Trunk, adapter: str | None) -> float:
    rollouts = LocalSampler(trunk, adapter).sample(HELD * 4, max_tokens=8, temperature=1.0, seed=99)
    return float(TextScorer(FunctionJudge(share_of_good)).score(rollouts).mean())


def test_the_reward_rises_on_prompts_it_never_saw(learned: tuple[Run, Trunk]) -> None:
    run, trunk = learned
    rows = run.metrics()
    before, after = reward_of(trunk, None), reward_of(trunk, POLICY)
    assert after > before + 0.35
    assert rows[-1]["heldout_reward"] > rows[0]["reward"] + 0.35


def test_every_step_begins_at_the_policy_that_sampled_and_leaves_it(learned: tuple[Run, Trunk]) -> None:
    rows = learned[0].metrics()
    assert [row["first_ratio"] for row in rows] == pytest.approx([1.0] * len(rows), abs=1e-4)
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the new policy is the reference
    assert all(row["approx_kl"] > 1e-4 for row in rows[1:-1])
    assert all(row["kl_k3"] > 0.1 for row in rows[4:])
    assert all(math.isfinite(v) for row in rows for v in row.values() if isinstance(v, float))


def test_the_learning_curve_is_that_of_the_plain_path(tmp_path: Path, learned: tuple[Run, Trunk]) -> None:
    plain, _ = learn(tmp_path / "run", lean=False)
    both = list(zip(learned[0].metrics(), plain.metrics(), strict=True))
    for name in ("reward", "entropy", "value_loss", "policy_loss", "kl_k3"):
        fast, slow = (row[name] for row in both[0])
        assert fast == pytest.approx(slow, rel=1e-3, abs=1e-4), name
    for fast, slow in both:  # later a token may be drawn otherwise for a difference of rounding
        noise = math.sqrt((fast["reward_std"] ** 2 + slow["reward_std"] ** 2) / TINY["batch"])
        assert abs(fast["reward"] - slow["reward"]) < 2 * noise
        assert slow["first_ratio"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.5}, {"critic": "adapter"}, {"importance_cap": 2.0}])
def test_in_the_first_minibatch_of_the_first_epoch_nothing_has_moved_yet(
    tmp_path: Path, fields: dict[str, Any]
) -> None:
    run, _ = learn(
        tmp_path / "run", steps=3, minibatches=2, epochs=2, learning_rate=3e-2, warmup=0, micro_tokens=99, **fields
    )
    rows = run.metrics()
    assert [row["first_ratio"] for row in rows] == pytest.approx([1.0] * 3, abs=1e-4)
    assert [row["first_approx_kl"] for row in rows] == pytest.approx([0.0] * 3, abs=1e-6)
    assert all(row["approx_kl"] > 1e-3 and row["clip_fraction"] > 0 for row in rows[:2])


class Listening(LocalLearner):
    """A learner that keeps the batches it learns from."""

    def step(self, batch: PPOBatch, *args: Any, **fields: Any) -> dict[str, float]:
        self.seen = batch
        return super().step(batch, *args, **fields)


def test_what_is_learned_from_are_the_very_tokens_that_were_drawn_and_no_answer_is_tokenised_again(
    tmp_path: Path,
) -> None:
    trunk = few_letters()
    config = PPOConfig(**TINY | {"steps": 1, "log_rollouts": 0})
    learner = Listening(
        trunk, rank=2, alpha=4, temperature=1.0, minibatches=1, micro_tokens=4096, seed=0, entropy_gradient=False
    )
    learner.optimise(partial(Optimiser, steps=4), 1e-3, 1e-3)
    sampler = LocalSampler(trunk, POLICY)
    drawn: list[Rollouts] = []
    plain, read = sampler.sample, trunk.tokenizer.__class__.__call__

    def sample(*args: Any, **fields: Any) -> Rollouts:
        drawn.append(plain(*args, **fields))
        return drawn[-1]

    texts: list[str] = []

    def tokenise(self: Any, text: str, **fields: Any) -> Any:
        texts.append(text)
        return read(self, text, **fields)

    sampler.sample = sample  # type: ignore[method-assign]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk.tokenizer.__class__, "__call__", tokenise)
        run = Run.create(tmp_path / "run", "ppo", config, {})
        judges = Judges(TextScorer(FunctionJudge(share_of_good)), None)
        ppo_loop(config, TRAIN, [], run, sampler, judges, learner)
    (rollouts,) = drawn
    assert torch.equal(learner.seen.tokens, rollouts.tokens)
    assert torch.equal(learner.seen.old_logps, rollouts.logps)
    assert len(texts) == len(rollouts)
    assert all(text.endswith("<|assistant|>") for text in texts)


def judge_on(trunk: Trunk) -> RewardModel:
    """A reward model on the trunk, of another rank than the policy's, whose scores are normalised."""
    trunk.adapters.add("reward", rank=3, alpha=9, seed=4)
    shake(trunk, "reward", seed=4)
    return RewardModel(trunk, "reward", ScalarHead.for_reward(trunk.width, seed=2), "last", mean=0.5, std=1.5)


def test_a_critic_from_the_reward_model_says_at_each_token_what_the_judge_says_of_the_answer_so_far() -> None:
    trunk = few_letters()
    judge = judge_on(trunk)
    config = PPOConfig(**TINY | {"critic": "reward"})
    learner = make_learner(config, trunk, Judges(judge, None))
    rollouts = LocalSampler(trunk, POLICY).sample(TRAIN[:6], max_tokens=8, temperature=1.0, seed=0)
    values = learner.values(rollouts)
    compared = 0
    for t in range(int(rollouts.prompt_lengths.min()), rollouts.tokens.shape[1]):
        so_far = replace(rollouts, lengths=rollouts.lengths.clamp(max=t))
        for row in range(6):
            if rollouts.prompt_lengths[row] <= t < rollouts.lengths[row]:
                assert values[row, t].item() == pytest.approx(judge.score(so_far)[row].item(), abs=1e-5)
                compared += 1
    assert compared == int(rollouts.response_mask.sum()) > 12


def test_a_critic_from_the_reward_model_needs_one_on_the_policys_own_base() -> None:
    config = PPOConfig(**TINY | {"critic": "reward"})
    for judge in (TextScorer(FunctionJudge(share_of_good)), judge_on(few_letters(seed=2))):
        with pytest.raises(
            MannersError, match=r"needs a reward model on the policy's own base .*; use critic: adapter"
        ):
            make_learner(config, few_letters(), Judges(judge, None))


def test_the_settings_reach_the_optimizer_and_the_learner() -> None:
    config = PPOConfig(
        **TINY | {"steps": 5, "epochs": 3, "minibatches": 2, "warmup": 0.2, "schedule": "cosine", "adam_eps": 3e-4, "critic": "adapter",
                  "adam_eps_placement": "tensorflow", "max_grad_norm": 0.7, "max_mean_ratio": 4.0, "entropy_weight": 0.1}
    )  # fmt: skip
    learner = make_learner(config, few_letters(), Judges(TextScorer(FunctionJudge(share_of_good)), None))
    made = learner.optimiser
    assert made is not None
    assert (made.steps, made.warmup_steps, made.schedule, made.eps, made.eps_placement) == (
        30,
        6,
        "cosine",
        3e-4,
        "tensorflow",
    )
    assert (made.max_grad_norm, made.rates) == (0.7, [config.learning_rate, config.value_learning_rate])
    assert (learner.critic, learner.max_mean_ratio, learner.entropy_gradient, learner.minibatches) == (
        "critic",
        4.0,
        True,
        2,
    )


def test_the_value_function_learns_to_foresee(tmp_path: Path) -> None:
    def always_half(_: list[str], completions: list[str]) -> list[float]:
        return [0.5] * len(completions)

    run, _ = learn(tmp_path / "run", always_half, learning_rate=1e-9, value_weight=1.0, beta=0.0, steps=12)
    rows = run.metrics()
    assert rows[0]["value"] == 0.0
    assert rows[0]["value_loss"] > 0.03
    assert rows[-1]["value"] == pytest.approx(0.5, abs=0.05)
    assert rows[-1]["value_loss"] < 0.005


def test_the_best_checkpoint_of_a_real_run_gives_the_reward_it_was_kept_for(learned: tuple[Run, Trunk]) -> None:
    run, _ = learned
    best = max((row for row in run.metrics() if row.get("best")), key=lambda row: row["step"])
    config = PPOConfig(**TINY)
    learner = LocalLearner(few_letters(), rank=8, alpha=16, temperature=1.0, minibatches=1, micro_tokens=4096, seed=5,
                           entropy_gradient=False)  # fmt: skip
    learner.load(run.checkpoint("best"))
    judges = Judges(TextScorer(FunctionJudge(share_of_good)), None)
    seen = look_at_heldout(config, HELD, LocalSampler(learner.trunk, POLICY), judges, learner, run, 0)
    assert seen == pytest.approx({"heldout_reward": best["heldout_reward"], "heldout_kl": best["heldout_kl"]}, abs=1e-5)
    final = load_file(run.checkpoint("final") / "adapter_model.safetensors")
    assert all(torch.equal(v, final[k]) for k, v in learned[1].adapters.state(POLICY).items())


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    short = {"steps": 2, "evaluate_every": 1}
    first, second, other = (
        learn(tmp_path / name, seed=seed, **short)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
        assert (first.path / name).read_bytes() != (other.path / name).read_bytes()
    for name in ("best", "final"):
        a, b = (load_file(run.checkpoint(name) / "adapter_model.safetensors") for run in (first, second))
        assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_dear_shift_keeps_the_policy_near_the_reference(tmp_path: Path, learned: tuple[Run, Trunk]) -> None:
    run, _ = learn(tmp_path / "dear", beta=2.0, steps=6)
    assert abs(run.metrics()[-1]["kl"]) < 0.3 * learned[0].metrics()[5]["kl"]


def test_a_prompt_over_the_limit_is_cut_for_everybody_alike(tmp_path: Path) -> None:
    config = PPOConfig(
        **TINY | {"steps": 1, "batch": 4, "epochs": 1, "max_prompt_tokens": 6, "evaluate_prompts": 2, "log_rollouts": 4}
    )
    run = Run.create(tmp_path / "run", "ppo", config, {})
    judged: list[str] = []

    def listen(prompts: list[str], completions: list[str]) -> list[float]:
        judged.extend(prompts)
        return [0.0] * len(completions)

    tokenizer = tiny_tokenizer(LETTERS + "\n")
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer)), tokenizer, 2, name="tiny")
    train_ppo(
        config,
        [Prompt.of("ab\ncd")] * 4,
        [Prompt.of("ba\ndc")] * 2,
        run,
        trunk,
        Judges(TextScorer(FunctionJudge(listen)), None),
    )
    assert judged == ["ab"] * 4 + ["ba"] * 2
    assert {sample["prompt"] for sample in run.samples()} == {"ab"}


def test_with_a_cap_the_distance_of_the_engine_that_sampled_is_logged(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=1, importance_cap=2.0)
    stage.learner = Another(stage.calls)
    (row,) = stage.play(heldout=[])
    assert row["sampler_kl"] == pytest.approx(0.5 - 1 + math.log(2))  # k3 where the learner gives half the probability
    assert set(row) == KEYS | {"unwatched", "stopped", "sampler_kl"}


def test_without_looks_the_last_policy_is_what_there_is(tmp_path: Path) -> None:
    run, _ = learn(tmp_path / "run", steps=1, epochs=1, evaluate_prompts=0)
    assert "heldout_reward" not in run.metrics()[-1]
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["final", "start"]


def test_no_prompts_is_told(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "ppo", PPOConfig(), {})
    with pytest.raises(MannersError, match="no prompts to train on"):
        train_ppo(PPOConfig(), [], [], run, few_letters())


def test_a_judge_is_needed(tmp_path: Path) -> None:
    config = PPOConfig(**TINY)
    run = Run.create(tmp_path / "run", "ppo", config, {})
    with pytest.raises(MannersError, match="no judge is named"):
        train_ppo(config, TRAIN, HELD, run, few_letters())


def test_the_reward_of_every_answer_is_the_functions_own(learned: tuple[Run, Trunk]) -> None:
    for sample in learned[0].samples():
        assert sample["reward"] == pytest.approx(share_of_good([], [sample["completion"]])[0])
