from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_tiny, shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.evaluate.policy import EvaluateConfig, evaluate_policy, evaluate_run
from manners.models.trunk import Trunk
from manners.records import Completion, Pair, Prompt
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer
from manners.runs import Run, read_json
from manners.sampling.local import LocalSampler
from manners.train.ppo import PPOConfig, train_ppo
from manners.train.reward import RewardConfig, train_reward
from manners.train.sft import SFTConfig, train_sft

torch.set_num_threads(1)

POLICY = "policy"
LETTERS = "abcdefgh"
PROMPTS = [
    Prompt.of(a + b, category=name)
    for a, name in zip("abcd", ["vowel", "", "other", "other"], strict=True)
    for b in LETTERS[:3]
]
CONFIG = EvaluateConfig(samples_per_prompt=2, max_tokens=8, seed=5)


def few_letters(shaken: bool = True) -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer)), tokenizer, 2, name="tiny")
    trunk.adapters.add(POLICY, rank=4, alpha=8, seed=0)
    if shaken:
        shake(trunk, POLICY, std=0.2)
    return trunk


def share_of_a(_: list[str], completions: list[str]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def length_of(_: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


SHARE, LENGTH = TextScorer(FunctionJudge(share_of_a)), TextScorer(FunctionJudge(length_of))


class Told:
    """A judge that says of the answers before and of those after what it is told, whatever they are."""

    def __init__(self, before: Tensor, after: Tensor) -> None:
        self.scores = [before, after]
        self.seen: list[Rollouts] = []

    def score(self, rollouts: Rollouts) -> Tensor:
        self.seen.append(rollouts)
        return self.scores[len(self.seen) - 1]


def rows_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["rows"]}


# --- nothing changed, nothing gained --------------------------------------------------------------------------------


def test_a_policy_that_is_the_reference_gains_exactly_nothing() -> None:
    found = evaluate_policy(CONFIG, few_letters(shaken=False), POLICY, PROMPTS, SHARE, LENGTH)
    for row in found["rows"]:
        assert row["after"] == row["before"]
        assert (row["gain"], row["ci"]) == (0.0, [0.0, 0.0])
    assert rows_of(found)["kl"]["after"] == 0.0
    assert all(sample["before"] == sample["after"] for sample in found["samples"])
    assert all(row["reward_gain"] == row["second_judge_gain"] == 0.0 for row in found["by_category"].values())


# --- what is said ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared() -> tuple[Trunk, dict[str, Any]]:
    trunk = few_letters()
    return trunk, evaluate_policy(CONFIG, trunk, POLICY, PROMPTS, SHARE, LENGTH)


def answers(trunk: Trunk, adapter: str | None) -> Rollouts:
    twice = [p for p in PROMPTS for _ in range(2)]
    return LocalSampler(trunk, adapter).sample(twice, max_tokens=8, temperature=1.0, seed=5)


def test_it_says_what_the_report_reads(compared: tuple[Trunk, dict[str, Any]]) -> None:
    _, found = compared
    assert set(found) == {"prompts", "samples_per_prompt", "temperature", "rows", "by_category", "samples"}
    assert (found["prompts"], found["samples_per_prompt"], found["temperature"]) == (12, 2, 1.0)
    assert [row["name"] for row in found["rows"]] == [
        "reward",
        "second_judge",
        "kl",
        "length",
        "finished",
        "distinct_2",
    ]
    for row in found["rows"]:
        assert set(row) == {"name", "label", "unit", "better", "before", "after", "gain", "ci", "n"}
        assert row["gain"] == pytest.approx(row["after"] - row["before"], abs=1e-6)
        assert row["ci"][0] <= row["gain"] <= row["ci"][1]
        assert row["n"] == 12
    assert {row["name"]: row["better"] for row in found["rows"]} == {
        "reward": "higher", "second_judge": "higher", "kl": "neither", "length": "neither", "finished": "higher",
        "distinct_2": "higher",
    }  # fmt: skip
    assert len(found["samples"]) == 12  # one of the two answers to each prompt
    assert set(found["samples"][0]) == {
        "prompt", "category", "before", "after", "reward_before", "reward_after", "kl", "second_before", "second_after",
    }  # fmt: skip


def test_before_is_the_bare_base_and_after_the_adapter_with_the_same_random_numbers(
    compared: tuple[Trunk, dict[str, Any]],
) -> None:
    trunk, found = compared
    rows = rows_of(found)
    for side, rollouts in (("before", answers(trunk, None)), ("after", answers(trunk, POLICY))):
        texts = [c.text for c in rollouts.completions]
        assert [sample[side] for sample in found["samples"]] == texts[::2]
        assert rows["reward"][side] == pytest.approx(sum(share_of_a([], texts)) / 24, abs=1e-6)
        assert rows["second_judge"][side] == pytest.approx(sum(map(len, texts)) / 24, abs=1e-5)
        assert rows["length"][side] == pytest.approx(sum(rollouts.response_lengths.tolist()) / 24)
        assert rows["finished"][side] == pytest.approx(sum(rollouts.finished.tolist()) / 24)
        assert [sample[f"reward_{side}"] for sample in found["samples"]] == pytest.approx(share_of_a([], texts)[::2])
        assert [sample[f"second_{side}"] for sample in found["samples"]] == pytest.approx(length_of([], texts)[::2])
    assert [(s["prompt"], s["category"]) for s in found["samples"]] == [(p.text, p.category) for p in PROMPTS]
    assert any(sample["before"] != sample["after"] for sample in found["samples"])


def test_kl_is_the_log_ratio_of_the_whole_answer_under_both_models(compared: tuple[Trunk, dict[str, Any]]) -> None:
    trunk, found = compared
    rollouts = answers(trunk, POLICY)
    expected = []
    for row in range(len(rollouts)):
        ids = rollouts.tokens[row, : rollouts.lengths[row]]
        sums = []
        for adapter in (POLICY, None):
            with trunk.adapters.using(adapter), torch.no_grad():
                logps = torch.log_softmax(trunk.model(input_ids=ids[None]).logits[0], -1)
            sums.append(sum(float(logps[t - 1, ids[t]]) for t in range(int(rollouts.prompt_lengths[row]), len(ids))))
        expected.append(sums[0] - sums[1])
    assert [sample["kl"] for sample in found["samples"]] == pytest.approx(expected[::2], abs=1e-4)
    kl = rows_of(found)["kl"]
    assert kl["before"] == 0.0
    assert kl["after"] == pytest.approx(sum(expected) / 24, abs=1e-4)
    assert kl["after"] > 0.1


def test_the_comparison_repeats_itself_and_the_batch_does_not_matter(compared: tuple[Trunk, dict[str, Any]]) -> None:
    trunk, found = compared
    assert evaluate_policy(CONFIG, trunk, POLICY, PROMPTS, SHARE, LENGTH) == found
    small = evaluate_policy(CONFIG.model_copy(update={"batch": 5}), trunk, POLICY, PROMPTS, SHARE, LENGTH)
    assert [s["after"] for s in small["samples"]] == [s["after"] for s in found["samples"]]
    other = evaluate_policy(CONFIG.model_copy(update={"seed": 6}), trunk, POLICY, PROMPTS, SHARE, LENGTH)
    assert [s["after"] for s in other["samples"]] != [s["after"] for s in found["samples"]]


def test_without_a_second_judge_nothing_speaks_of_one() -> None:
    found = evaluate_policy(CONFIG, few_letters(), POLICY, PROMPTS, SHARE, None)
    assert "second_judge" not in rows_of(found)
    assert not [key for sample in found["samples"] for key in sample if key.startswith("second")]
    assert not [key for row in found["by_category"].values() for key in row if key.startswith("second")]


def test_samples_per_prompt_are_asked_for_each_prompt() -> None:
    told = Told(torch.zeros(36), torch.zeros(36))
    found = evaluate_policy(
        CONFIG.model_copy(update={"samples_per_prompt": 3}), few_letters(), POLICY, PROMPTS, told, None
    )
    for rollouts in told.seen:
        assert [rollouts.prompts.count(p) for p in PROMPTS] == [3] * 12
    assert len({c.text for c in told.seen[1].completions[:3]}) > 1  # three answers, not one thrice
    assert len(found["samples"]) == 12


# --- intervals ------------------------------------------------------------------------------------------------------


def test_gains_are_paired_so_that_prompts_of_their_own_level_do_not_blur_them() -> None:
    level = torch.linspace(-100, 100, 24)
    found = evaluate_policy(CONFIG, few_letters(), POLICY, PROMPTS, Told(level, level + 1), None)
    reward = rows_of(found)["reward"]
    assert reward["gain"] == pytest.approx(1.0, abs=1e-4)
    assert reward["ci"] == pytest.approx([1.0, 1.0], abs=1e-4)


def test_answers_to_one_prompt_are_not_independent_evidence() -> None:
    # The two answers of a prompt gain +1 and −1: no prompt gains anything, however the prompts are drawn.
    swing = torch.tensor([1.0, -1.0]).repeat(12)
    found = evaluate_policy(CONFIG, few_letters(), POLICY, PROMPTS, Told(torch.zeros(24), swing), None)
    assert (rows_of(found)["reward"]["gain"], rows_of(found)["reward"]["ci"]) == (0.0, [0.0, 0.0])
    # Both answers gain what their prompt gains: the interval is that of 12 prompts, wider by √2 than of 24 answers.
    draw = torch.randn(12, generator=torch.Generator().manual_seed(0))
    found = evaluate_policy(
        CONFIG, few_letters(), POLICY, PROMPTS, Told(torch.zeros(24), draw.repeat_interleave(2)), None
    )
    low, high = rows_of(found)["reward"]["ci"]
    assert high - low == pytest.approx(2 * 1.96 * float(draw.std(correction=0)) / 12**0.5, rel=0.1)


def test_a_category_is_compared_within_itself() -> None:
    gain = torch.tensor([3.0] * 6 + [9.0] * 6 + [1.0] * 6 + [2.0] * 6)  # two answers to three prompts of each letter
    second = Told(torch.zeros(24), -gain)
    found = evaluate_policy(CONFIG, few_letters(), POLICY, PROMPTS, Told(torch.zeros(24), gain), second)
    assert set(found["by_category"]) == {"vowel", "other"}
    vowel, other = found["by_category"]["vowel"], found["by_category"]["other"]
    assert (vowel["n"], vowel["reward_gain"], vowel["ci"]) == (3, 3.0, [3.0, 3.0])
    assert (other["n"], other["reward_gain"], other["second_judge_gain"]) == (6, 1.5, -1.5)
    assert 1.0 <= other["ci"][0] < 1.5 < other["ci"][1] <= 2.0


# --- runs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's own module with two judges in it, by its name."""
    name = "my_judges_of_this_test"
    (tmp_path / f"{name}.py").write_text(
        "def share(prompts, completions):\n    return [c.count('e') / max(1, len(c)) for c in completions]\n"
        "def length(prompts, completions):\n    return [len(c) for c in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    sys.modules.pop(name, None)


HELD = [Prompt.of(f"Question {i}?", category=["odd", "even"][i % 2]) for i in range(6)]


def ppo_run(folder: Path, module: str) -> Run:
    config = PPOConfig(
        model=str(save_tiny(folder / "base")), reward=ScorerConfig(function=f"{module}:share"),
        second_judge=ScorerConfig(function=f"{module}:length"), steps=2, batch=4, max_tokens=6, rank=2, alpha=4, epochs=1,
        learning_rate=3e-2, evaluate_every=1, evaluate_prompts=4, train_layers=2,
    )  # fmt: skip
    run = Run.create(folder / "run", "ppo", config, {})
    train_ppo(config, HELD, HELD, run)
    return run


def test_a_run_is_evaluated_from_its_files_alone(tmp_path: Path, module: str) -> None:
    run = ppo_run(tmp_path, module)
    found = evaluate_run(run, HELD, EvaluateConfig(max_tokens=6))
    assert read_json(run.path / "evaluation.json") == found
    assert found["policy"] == "best"
    assert (found["prompts"], set(found["by_category"])) == (6, {"odd", "even"})
    assert [row["name"] for row in found["rows"]][:2] == ["reward", "second_judge"]
    for sample in found["samples"]:
        assert sample["reward_after"] == pytest.approx(sample["after"].count("e") / max(1, len(sample["after"])))
        assert sample["second_before"] == len(sample["before"])

    (run.path / "checkpoints" / "best").rename(run.path / "checkpoints" / "other")
    assert evaluate_run(run, HELD, EvaluateConfig(max_tokens=6))["policy"] == "final"


def test_prompts_are_cut_as_they_were_in_training(tmp_path: Path, module: str) -> None:
    run = ppo_run(tmp_path, module)
    config = run.path / "config.yaml"
    config.write_text(config.read_text().replace("max_prompt_tokens: null", "max_prompt_tokens: 14"))
    found = evaluate_run(run, [Prompt.of("Question 0?\nA second line.")], EvaluateConfig(max_tokens=6))
    assert [sample["prompt"] for sample in found["samples"]] == ["Question 0?"]


def test_a_category_of_one_prompt_does_not_stop_the_evaluation(tmp_path: Path, module: str) -> None:
    run = ppo_run(tmp_path, module)
    prompts = [*HELD, replace(HELD[0], category="rare")]
    evaluate_run(run, prompts, EvaluateConfig(max_tokens=6))
    assert read_json(run.path / "evaluation.json")["by_category"]["rare"]["n"] == 1


def test_one_prompt_is_enough_for_an_evaluation(tmp_path: Path, module: str) -> None:
    run = ppo_run(tmp_path, module)
    assert evaluate_run(run, HELD[:1], EvaluateConfig(max_tokens=6))["prompts"] == 1


def test_without_prompts_there_is_nothing_to_evaluate(tmp_path: Path, module: str) -> None:
    run = ppo_run(tmp_path, module)
    with pytest.raises(MannersError, match="no held-out prompts to evaluate on"):
        evaluate_run(run, [], EvaluateConfig(max_tokens=6))


def test_a_run_of_another_kind_is_told(tmp_path: Path) -> None:
    base = str(save_tiny(tmp_path / "base"))
    fields: dict[str, Any] = {"model": base, "train_layers": 2, "rank": 2}
    prompt = HELD[0]
    good, bad = Completion(prompt.id, "good"), Completion(prompt.id, "bad")
    sft = Run.create(tmp_path / "sft", "sft", SFTConfig(**fields), {})
    train_sft(SFTConfig(**fields), [(prompt, good)], [], sft)
    reward = Run.create(tmp_path / "reward", "reward", RewardConfig(**fields), {})
    train_reward(RewardConfig(**fields), [Pair(prompt, good, bad)], [], reward)
    for run in (sft, reward):
        with pytest.raises(MannersError, match=f"kind '{run.kind}'; only a policy trained against a judge"):
            evaluate_run(run, HELD, EvaluateConfig())


def test_a_run_that_never_got_to_a_checkpoint_is_told(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "ppo", PPOConfig(reward=ScorerConfig(function="math:sqrt")), {})
    with pytest.raises(MannersError, match="has no checkpoint"):
        evaluate_run(run, HELD, EvaluateConfig())
