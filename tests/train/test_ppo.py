from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import FakeLearner, FakeSampler, FakeScorer
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.config import load_config
from manners.errors import MannersError
from manners.learner.local import POLICY, LocalLearner
from manners.models.trunk import Trunk
from manners.protocols import Evaluated
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train.ppo import (
    Judges,
    PPOConfig,
    _prompt_order,
    adjust_scores,
    look_at_heldout,
    next_beta,
    ppo_batch,
    ppo_loop,
    ppo_objective,
    train_ppo,
    with_shift_penalty,
)

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


SCORES, FINISHED = torch.tensor([3.0, -7.0, 0.5]), torch.tensor([True, False, False])


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
    ],
)
def test_scores_of_answers_without_an_end(fields: dict[str, Any], expected: list[float]) -> None:
    assert adjust_scores(SCORES, FINISHED, PPOConfig(**fields)).tolist() == expected


def test_an_answer_without_its_end_is_replaced_or_punished_and_not_both_and_never_rewarded() -> None:
    with pytest.raises(MannersError, match="not both"):
        load_config(PPOConfig, None, ["missing_eos_reward=-1", "missing_eos_penalty=1"])
    with pytest.raises(MannersError, match="greater than or equal to 0"):
        load_config(PPOConfig, None, ["missing_eos_penalty=-1"])


@pytest.mark.parametrize(("count", "batch", "steps"), [(5, 2, 10), (3, 7, 6), (8, 8, 3), (1, 4, 2), (10, 3, 2)])
def test_every_prompt_comes_once_before_any_comes_again(count: int, batch: int, steps: int) -> None:
    config = PPOConfig(batch=batch, steps=steps, seed=4)
    order = _prompt_order(count, config)
    assert [len(step) for step in order] == [batch] * steps
    flat = [i for step in order for i in step]
    for start in range(0, len(flat), count):
        part = flat[start : start + count]
        assert len(set(part)) == len(part)
        assert set(part) <= set(range(count))
    assert _prompt_order(count, config) == order


def test_each_round_and_each_seed_has_its_own_order() -> None:
    rounds = _prompt_order(20, PPOConfig(batch=20, steps=3, seed=0))
    assert rounds[0] != rounds[1] != rounds[2]
    assert _prompt_order(20, PPOConfig(batch=20, steps=3, seed=1)) != rounds


def test_beta_stays_without_a_target_and_turns_towards_it_with_one() -> None:
    assert next_beta(0.05, 1e6, PPOConfig()) == 0.05
    config = PPOConfig(kl_target_per_sequence=6.0, kl_horizon_episodes=10_000, batch=256)
    assert next_beta(0.1, 12.0, config) == pytest.approx(0.100512)  # Ziegler et al. 2019: error clipped to 0.2
    assert next_beta(0.1, 0.0, config) == pytest.approx(0.099488)
    assert next_beta(0.1, 6.0, config) == pytest.approx(0.1)
    assert next_beta(0.1, 6.6, config) == pytest.approx(0.1 * (1 + 0.1 * 0.0256))


def test_the_objective_by_hand() -> None:
    one = torch.ones(1, 1)
    tokens = torch.ones(1, 1, dtype=torch.long)
    batch = PPOBatch(tokens, torch.zeros(1).long(), torch.ones(1).long(), torch.zeros(1, 1, 0), old_logps=-1.0 * one,
                     advantages=2.0 * one, returns=1.0 * one, old_values=0.5 * one)  # fmt: skip
    now = Evaluated(logps=(math.log(1.5) - 1.0) * one, entropies=3.0 * one, values=0.9 * one)
    config = PPOConfig(clip_low=0.1, clip_high=0.2, value_clip=0.1, value_weight=0.25, entropy_weight=0.01)
    found = ppo_objective(now, batch, config=config)
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

    down = replace(batch, advantages=-2.0 * one)
    assert ppo_objective(now, down, config=config).parts["policy_loss"].item() == pytest.approx(
        3.0
    )  # never clipped upwards
    low = Evaluated(logps=(math.log(0.5) - 1.0) * one, entropies=one, values=one)
    assert ppo_objective(low, down, config=config).parts["policy_loss"].item() == pytest.approx(
        1.8
    )  # 2 · (1 − clip_low)


# --- the loop on fakes ----------------------------------------------------------------------------------------------

PROMPTS = [Prompt.of(f"train {i}") for i in range(6)]
HELDOUT = [Prompt.of(f"held out {i}") for i in range(3)]
KEYS = {
    "reward", "score", "reward_std", "kl", "kl_k3", "beta", "shift_penalty", "entropy", "first_ratio", "policy_loss", "value_loss",
    "clip_fraction", "approx_kl", "gradient_norm", "explained_variance", "value", "length", "finished", "distinct_2", "step",
    "episodes", "phase_seconds", "seconds",
}  # fmt: skip


class Stage:
    """A loop on fakes: what was called, what was written."""

    def __init__(
        self, folder: Path, scores: list[float], kls: list[float], second: list[float] | None = None, **fields: Any
    ) -> None:
        self.config = PPOConfig(**{"batch": 2, "steps": 4, "epochs": 2, "evaluate_every": 2} | fields)
        self.calls: list[str] = []
        self.sampler, self.learner = FakeSampler(self.calls), FakeLearner(self.calls, kls)
        self.judges = Judges(
            FakeScorer(self.calls, scores), FakeScorer(self.calls, second, "second") if second else None
        )
        self.run = Run.create(folder / "run", "ppo", self.config, {})

    def play(self, heldout: list[Prompt] = HELDOUT) -> list[dict[str, Any]]:
        ppo_loop(self.config, PROMPTS, heldout, self.run, self.sampler, self.judges, self.learner)
        return self.run.metrics()

    def epochs_of(self, name: str) -> int:
        return int((self.run.checkpoint(name) / "epochs").read_text())


def test_a_step_is_sample_score_reference_values_and_then_the_epochs(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], steps=2, epochs=3)
    stage.play(heldout=[])
    step = ["sample", "score", "logprobs of the reference", "values", "step", "step", "step"]
    assert stage.calls == [*step, *step, "save final"]
    assert not stage.run.checkpoint("best").exists()


def test_a_look_at_the_held_out_prompts_samples_and_scores_once_more(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [0.0], [0.0], second=[5.0], steps=2, epochs=1)
    rows = stage.play()
    step = ["sample", "score", "logprobs of the reference", "values", "step"]
    assert stage.calls[:5] == step
    assert stage.calls[5:10] == step
    assert sorted(stage.calls[10:14]) == sorted(["sample", "logprobs of the reference", "score", "second"])
    assert stage.calls[14:] == ["save best", "save final"]
    assert "heldout_reward" not in rows[0]
    assert (rows[1]["heldout_reward"], rows[1]["heldout_second_judge"], rows[1]["best"]) == (0.0, 5.0, True)


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
    look = {"heldout_reward", "heldout_kl", "heldout_second_judge", "best"}
    assert [set(row) for row in rows] == [KEYS, KEYS | look, KEYS, KEYS | look | {"stopped"}]
    assert [(row["step"], row["episodes"]) for row in rows] == [(0, 2), (1, 4), (2, 6), (3, 8)]
    first = rows[0]
    assert {k: first[k] for k in ("reward", "kl", "beta", "length", "finished", "entropy", "first_ratio", "distinct_2", "value")} == (
        pytest.approx({"reward": 1.0, "kl": 0.5, "beta": 0.05, "length": 2.0, "finished": 1.0, "entropy": 1.0, "first_ratio": 1.0,
                       "distinct_2": 0.5, "value": 0.0})
    )  # fmt: skip
    assert first["shift_penalty"] == pytest.approx(0.025)
    assert first["kl_k3"] == pytest.approx(2 * (math.exp(-0.25) - 1 + 0.25))
    assert set(first["phase_seconds"]) == {"sample", "score", "reference", "value", "update"}
    assert set(rows[1]["phase_seconds"]) == {"sample", "score", "reference", "value", "update", "evaluate"}


def test_a_few_answers_of_each_step_are_kept_with_score_and_kl(tmp_path: Path) -> None:
    stage = Stage(tmp_path, [1.5], [0.5], steps=2, batch=5)
    stage.play(heldout=[])
    samples = stage.run.samples()
    assert [s["step"] for s in samples] == [0] * 4 + [1] * 4
    assert set(samples[0]) == {"step", "prompt", "completion", "reward", "kl"}
    assert (samples[0]["completion"], samples[0]["reward"], samples[0]["kl"]) == ("very well", 1.5, pytest.approx(0.5))
    assert samples[0]["prompt"] in {p.text for p in PROMPTS}


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
    assert stage.calls[-2:] == ["save best", "save final"]


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


def few_letters(seed: int = 1, train_layers: Any = 2) -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    return Trunk(tiny_model(vocabulary=len(tokenizer), seed=seed), tokenizer, train_layers, name="tiny")


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


def learn(folder: Path, function: Any = share_of_good, **fields: Any) -> tuple[Run, Trunk]:
    config = PPOConfig(**TINY | fields)
    run = Run.create(folder, "ppo", config, {})
    judges = Judges(TextScorer(FunctionJudge(function)), TextScorer(FunctionJudge(length_of)))
    return run, train_ppo(config, TRAIN, HELD, run, few_letters(train_layers=config.train_layers), judges)


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
    seen = look_at_heldout(config, HELD, LocalSampler(learner.trunk, POLICY), judges, learner)
    assert seen == pytest.approx({"heldout_reward": best["heldout_reward"], "heldout_kl": best["heldout_kl"]}, abs=1e-5)
    final = load_file(run.checkpoint("final") / "adapter_model.safetensors")
    assert all(torch.equal(v, final[k]) for k, v in learned[1].adapters.state(POLICY).items())


def numbers(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "phase_seconds")} for row in run.metrics()]


def test_the_same_seed_gives_the_same_run_and_another_seed_another(tmp_path: Path) -> None:
    short = {"steps": 2, "evaluate_every": 1}
    first, second, other = (
        learn(tmp_path / name, seed=seed, **short)[0] for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert numbers(first) == numbers(second)
    assert first.samples() == second.samples()
    assert numbers(first) != numbers(other)
    for name in ("best", "final"):
        a, b = (load_file(run.checkpoint(name) / "adapter_model.safetensors") for run in (first, second))
        assert all(torch.equal(v, b[k]) for k, v in a.items())


def test_a_dear_shift_keeps_the_policy_near_the_reference(tmp_path: Path, learned: tuple[Run, Trunk]) -> None:
    run, _ = learn(tmp_path / "dear", beta=2.0, steps=6)
    assert abs(run.metrics()[-1]["kl"]) < 0.3 * learned[0].metrics()[5]["kl"]


def test_without_looks_the_last_policy_is_what_there_is(tmp_path: Path) -> None:
    run, _ = learn(tmp_path / "run", steps=1, epochs=1, evaluate_prompts=0)
    assert "heldout_reward" not in run.metrics()[-1]
    assert [p.name for p in (run.path / "checkpoints").iterdir()] == ["final"]


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
