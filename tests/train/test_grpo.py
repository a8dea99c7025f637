from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import HELDOUT, PROMPTS, FakeLearner, FakeSampler, FakeScorer
from tiny import tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import PolicyBatch, Rollouts, ScoredRollouts
from manners.config import load_config
from manners.errors import MannersError
from manners.guards import Guard
from manners.learner.local import POLICY
from manners.losses.reduction import constant_length
from manners.models.trunk import Trunk
from manners.protocols import Evaluated
from manners.records import Completion, Prompt
from manners.rewards.load import FunctionJudge, ScorerConfig, TextScorer
from manners.runs import Run
from manners.sampling.local import LocalSampler
from manners.train.experiment import Judges, with_shift_penalty
from manners.train.grpo import GRPOConfig, grpo_loop, grpo_objective, make_learner, policy_batch, train_grpo

torch.set_num_threads(1)

GARBAGE = 77.0  # what stands where nothing counts


def four_answers(rewards: list[list[float]]) -> ScoredRollouts:
    """Two prompts of one and two tokens, with two answers each, of 3, 1, 2 and 2 tokens."""
    prompt_lengths, sizes = torch.tensor([1, 1, 2, 2]), torch.tensor([3, 1, 2, 2])
    prompts = tuple(Prompt.of(x) for x in "aabb")
    zero = torch.zeros(4, 5)
    rollouts = Rollouts(
        torch.arange(20).reshape(4, 5), prompt_lengths, prompt_lengths + sizes, zero, torch.ones(4).bool(), torch.zeros(4, 5, 0),
        prompts, tuple(Completion(p.id, "x") for p in prompts), None,
    )  # fmt: skip
    mask = rollouts.response_mask
    assert mask.int().tolist() == [[0, 1, 1, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
    return ScoredRollouts(
        **vars(rollouts),
        scores=torch.zeros(4),
        reference_logps=zero,
        rewards=torch.where(mask, torch.tensor(rewards), 0),
    )


REWARDS = [
    [GARBAGE, -0.5, 0.5, 3.0, GARBAGE],  # return 3
    [GARBAGE, 1.0, GARBAGE, GARBAGE, GARBAGE],  # 1
    [GARBAGE, GARBAGE, 1.0, 1.0, GARBAGE],  # 2
    [GARBAGE, GARBAGE, 0.5, 1.5, GARBAGE],  # 2
]


def advantages(
    kind: str, greedy: list[float] | None = None, **fields: Any
) -> tuple[list[list[float]], dict[str, float]]:
    """The advantages of `four_answers`, without what stands outside the answers, and the numbers beside them."""
    config = GRPOConfig(**{"advantage": kind, "answers": 2, "batch": 4} | fields)
    batch, beside = policy_batch(four_answers(REWARDS), config, None if greedy is None else torch.tensor(greedy))
    mask = batch.response_mask
    assert not batch.advantages[~mask].any()
    return [row[own].tolist() for row, own in zip(batch.advantages, mask, strict=True)], beside


@pytest.mark.parametrize(
    ("kind", "first", "second"),
    [("grpo", 1 / (math.sqrt(2) + 1e-4), -1 / (math.sqrt(2) + 1e-4)), ("grpo_without_std", 1, -1), ("rloo", 2, -2)],
)
def test_every_token_of_an_answer_gets_the_advantage_of_its_answer(kind: str, first: float, second: float) -> None:
    found, beside = advantages(kind)
    assert found[0] == pytest.approx([first] * 3)
    assert found[1] == pytest.approx([second])
    assert found[2:] == [[0, 0], [0, 0]]  # both answers to the second prompt are worth the same
    assert beside == {"equal_groups": 1}


def test_reinforce_whitens_the_rewards_to_come_over_all_tokens_of_the_batch() -> None:
    found, beside = advantages("reinforce")
    to_come = [3, 3.5, 3, 1, 2, 1, 2, 1.5]
    expected = [(x - statistics.mean(to_come)) / statistics.pstdev(to_come) for x in to_come]
    assert [x for row in found for x in row] == pytest.approx(expected, rel=1e-5)
    assert beside == {}
    assert advantages("reinforce", answers=1)[0] == found


def test_remax_takes_off_the_score_of_the_greedy_answer() -> None:
    assert advantages("remax", greedy=[0.5, 3.0]) == ([[2.5, 3.0, 2.5], [0.5], [-1, -2], [-1, -1.5]], {})
    assert advantages("remax", greedy=[0.5, 1.0, 0.0, 2.0], answers=1)[0] == [[2.5, 3.0, 2.5], [0.0], [2, 1], [0, -0.5]]


def test_importance_weights_scale_the_advantage_of_each_token() -> None:
    weights = torch.tensor([[9, 2, 0.5, 1, 9], [9, 3.0, 9, 9, 9], [9, 9, 1, 1, 9], [9, 9, 1, 1, 9]])
    batch, _ = policy_batch(four_answers(REWARDS), GRPOConfig(advantage="rloo", answers=2), None, weights)
    assert batch.advantages[0].tolist() == [0, 4, 1, 2, 0]
    assert batch.advantages[1].tolist() == [0, -6, 0, 0, 0]


# --- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grpo", "grpo_without_std", "rloo"])
def test_a_single_answer_is_no_group_and_is_refused_with_what_to_do(kind: str) -> None:
    with pytest.raises(MannersError, match=f"advantage {kind} compares .* set answers to 2 or more"):
        load_config(GRPOConfig, None, [f"advantage={kind}", "answers=1"])


@pytest.mark.parametrize("kind", ["reinforce", "remax"])
def test_other_baselines_need_no_group(kind: str) -> None:
    assert load_config(GRPOConfig, None, [f"advantage={kind}", "answers=1"]).answers == 1


def test_a_batch_that_is_no_whole_number_of_groups_and_a_scale_for_remax_are_refused() -> None:
    with pytest.raises(MannersError, match="batch 60 is no multiple of answers 8"):
        load_config(GRPOConfig, None, ["batch=60"])
    with pytest.raises(MannersError, match="no scale for remax's greedy answer"):
        load_config(GRPOConfig, None, ["advantage=remax", "scale_scores=true"])


def test_no_guard_watches_a_value_function_that_is_not_there() -> None:
    assert "value_loss" not in {guard.signal for guard in GRPOConfig().guards}


# --- the objective --------------------------------------------------------------------------------------------------


def two_tokens(advantage: float) -> PolicyBatch:
    """One answer of two tokens behind a prompt of one."""
    mask = torch.tensor([[False, True, True]])
    one = torch.ones(1).long()
    return PolicyBatch(
        torch.ones(1, 3).long(), one, 3 * one, torch.zeros(1, 3, 0), torch.where(mask, -1.0, 0), torch.where(mask, -1.5, 0),
        torch.where(mask, advantage, 0.0),
    )  # fmt: skip


def now(first: float, second: float, entropy: float = 0.0) -> Evaluated:
    """The policy as it is, by the ratio of each token to the policy that sampled."""
    logps = torch.tensor([[0, math.log(first) - 1, math.log(second) - 1]])
    return Evaluated(logps, torch.tensor([[0, entropy, entropy]]), torch.zeros(1, 0))


@pytest.mark.parametrize(
    ("ratio", "loss"),
    [("token", [-1.2, -0.5]), ("sequence", [-math.sqrt(0.75)] * 2), ("answer", [-0.75] * 2)],
)
def test_the_ratio_is_of_the_token_of_the_mean_or_of_the_whole_answer(ratio: Any, loss: list[float]) -> None:
    found = grpo_objective(now(1.5, 0.5), two_tokens(1.0), config=GRPOConfig(ratio=ratio))
    assert found.total[0, 1:].tolist() == pytest.approx(loss)
    assert found.parts["policy_loss"][0, 1:].tolist() == pytest.approx(loss)


def test_what_is_clipped_has_two_sides_and_a_second_bound() -> None:
    config = GRPOConfig(clip_low=0.1, clip_high=0.3, dual_clip=3.0)
    up = grpo_objective(now(1.25, 2.0), two_tokens(1.0), config=config)
    assert up.total[0, 1:].tolist() == pytest.approx([-1.25, -1.3])
    assert up.statistics["clip_fraction"][0, 1:].tolist() == [False, True]
    down = grpo_objective(now(0.5, 8.0), two_tokens(-1.0), config=config)
    assert down.total[0, 1:].tolist() == pytest.approx([0.9, 3.0])


APART = math.log(1.5) + 0.5  # log π − log π_ref of a first token that is 1.5 times as likely as when it was drawn


@pytest.mark.parametrize(
    ("kind", "loss"), [("reverse", 1.5 * 0.5 * APART**2), ("forward", 1.5 * (math.exp(-APART) - 1 + APART))]
)
def test_entropy_and_kl_loss_are_added_with_their_weights(kind: Any, loss: float) -> None:
    config = GRPOConfig(kl_loss=kind, kl_loss_weight=2, entropy_weight=0.1)
    found = grpo_objective(now(1.5, 1.0, entropy=3.0), two_tokens(0.0), config=config)
    assert found.parts["kl_loss"][0, 1].item() == pytest.approx(loss, rel=1e-4)
    assert found.total[0, 1].item() == pytest.approx(2 * loss - 0.3, rel=1e-4)
    assert set(found.parts) == {"policy_loss", "entropy", "kl_loss"}
    assert set(found.statistics) == {"ratio", "clip_fraction", "approx_kl"}


# --- the whole estimator, by summing over everything that can be sampled --------------------------------------------

REWARD_OF = {(0, 0): 1.0, (0, 1): -2.0, (1, 0): 0.5, (1, 1): 3.0}
BETA = 0.4


class Toy:
    """Answers of two tokens out of two letters; the second one's distribution depends on the first."""

    def __init__(self) -> None:
        g = torch.Generator().manual_seed(5)
        self.first, self.second = (
            torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_() for shape in ((2,), (2, 2))
        )
        reference = torch.randn(3, 2, generator=g, dtype=torch.float64)
        self.reference = torch.log_softmax(reference, -1)

    def logps(self, answer: tuple[int, int]) -> Tensor:
        a, b = answer
        return torch.stack([torch.log_softmax(self.first, -1)[a], torch.log_softmax(self.second[a], -1)[b]])

    def reference_logps(self, answer: tuple[int, int]) -> Tensor:
        a, b = answer
        return torch.stack([self.reference[0, a], self.reference[1 + a, b]])

    def gradient(self) -> Tensor:
        found = [tensor.grad for tensor in (self.first, self.second)]
        assert found[0] is not None
        assert found[1] is not None
        return torch.cat([found[0].reshape(-1), found[1].reshape(-1)])


def exact(beta: float) -> Tensor:
    """The gradient of E[reward] − β·KL(π ‖ π_ref)."""
    toy = Toy()
    value = torch.zeros((), dtype=torch.float64)
    for answer, reward in REWARD_OF.items():
        logps = toy.logps(answer).sum()
        value = value + logps.exp() * (reward - beta * (logps - toy.reference_logps(answer).sum()))
    value.backward()
    return toy.gradient()


def expected(config: GRPOConfig) -> Tensor:
    """Minus the gradient of the loss, expected over all groups of two answers; the loss is the sum over the tokens of an answer."""
    toy, total = Toy(), torch.zeros((), dtype=torch.float64)
    greedy = max(REWARD_OF, key=lambda answer: float(greedily(toy, answer)))
    for group in itertools.product(REWARD_OF, repeat=2):
        logps = torch.stack([torch.cat([torch.zeros(1), toy.logps(answer)]) for answer in group])
        old = logps.detach()
        reference = torch.stack([torch.cat([torch.zeros(1), toy.reference_logps(answer)]) for answer in group])
        ones = torch.ones(2).long()
        prompts = (Prompt.of("a"),) * 2
        rollouts = Rollouts(
            torch.zeros(2, 3).long(), ones, 3 * ones, old, ones.bool(), torch.zeros(2, 3, 0), prompts,
            tuple(Completion(p.id, "x") for p in prompts), None,
        )  # fmt: skip
        scores = torch.tensor([REWARD_OF[answer] for answer in group], dtype=torch.float64)
        scored = with_shift_penalty(rollouts, scores, reference, config.beta)
        batch, _ = policy_batch(scored, config, torch.tensor([REWARD_OF[greedy]], dtype=torch.float64))
        loss = grpo_objective(Evaluated(logps, 0 * logps, logps[:, :0]), batch, config=config).total
        weights, denominator = constant_length(batch.response_lengths, max_tokens=1)
        loss = torch.where(batch.response_mask, loss * weights[:, None], 0).sum() / denominator
        total = total - old.sum().exp() * loss
    total.backward()
    return toy.gradient()


def greedily(toy: Toy, answer: tuple[int, int]) -> bool:
    return answer[0] == int(toy.first.argmax()) and answer[1] == int(toy.second[answer[0]].argmax())


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("kind", ["rloo", "remax"])
def test_the_expected_gradient_is_that_of_the_reward_less_the_price_of_the_kl(kind: Any, beta: float) -> None:
    config = GRPOConfig(advantage=kind, answers=2, batch=2, beta=beta)
    torch.testing.assert_close(expected(config), exact(beta), rtol=0, atol=1e-12)
    assert (exact(BETA) - exact(0.0)).abs().max() > 0.01


def test_an_answers_own_return_in_the_mean_shortens_the_gradient_and_the_standard_deviation_bends_it() -> None:
    plain = expected(GRPOConfig(advantage="grpo_without_std", answers=2, batch=2, beta=BETA))
    torch.testing.assert_close(plain, exact(BETA) / 2, rtol=0, atol=1e-12)
    bent = expected(GRPOConfig(advantage="grpo", answers=2, batch=2, beta=BETA))
    assert 0.3 < torch.cosine_similarity(bent, exact(BETA), 0).item() < 0.999


@pytest.mark.parametrize("ratio", ["sequence", "answer"])
def test_at_the_policy_that_sampled_the_ratio_of_the_answer_has_its_gradient_once_per_token(ratio: Any) -> None:
    # the loss is summed over two tokens: the mean ratio pulls once at each token, the whole ratio twice
    config = GRPOConfig(advantage="rloo", answers=2, batch=2, beta=0, ratio=ratio)
    times = 1 if ratio == "sequence" else 2
    torch.testing.assert_close(expected(config), times * exact(0.0), rtol=0, atol=1e-12)


# --- the loop on fakes ----------------------------------------------------------------------------------------------


class Told:
    """A judge that gives every answer of the n-th call the n-th list of scores, over and over."""

    def __init__(self, *scores: list[float]) -> None:
        self.scores, self.asked = scores, 0

    def score(self, rollouts: Rollouts) -> Tensor:
        scores = self.scores[self.asked % len(self.scores)]
        self.asked += 1
        return torch.tensor(list(itertools.islice(itertools.cycle(scores), len(rollouts))))


class Stage:
    """A group method on fakes."""

    def __init__(self, folder: Path, judge: Any, **fields: Any) -> None:
        self.config = GRPOConfig(**{"batch": 4, "answers": 2, "steps": 2, "epochs": 1, "evaluate_every": 2} | fields)
        self.calls: list[str] = []
        self.sampler, self.learner = FakeSampler(self.calls), FakeLearner(self.calls, [0.5])
        self.judges = Judges(judge, FakeScorer(self.calls, [5.0], "second"))
        self.run = Run.create(folder / "run", "grpo", self.config, {})

    def play(self, heldout: Sequence[Prompt] = ()) -> list[dict[str, Any]]:
        grpo_loop(self.config, PROMPTS, heldout, self.run, self.sampler, self.judges, self.learner)
        return self.run.metrics()


KEYS = {
    "step", "episodes", "reward", "reward_std", "score", "score_std", "second_judge", "second_judge_std", "skipped", "kl", "kl_k3",
    "beta", "shift_penalty", "logp", "reference_logp", "entropy", "first_ratio", "first_approx_kl", "policy_loss", "clip_fraction",
    "approx_kl", "gradient_norm", "epochs", "length", "finished", "distinct_2", "repetition", "alarms", "equal_groups",
}  # fmt: skip


def test_no_value_is_asked_for_or_written_down(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Told([1.0, 2.0]))
    rows = stage.play(HELDOUT)
    assert "values" not in stage.calls
    look = {"heldout_reward", "heldout_kl", "heldout_second_judge", "best", "stopped"}
    assert [set(row) for row in rows] == [KEYS | {"unwatched"}, KEYS | look]
    for sample in stage.run.samples():
        assert set(sample["trace"]) == {"logp", "reference_logp", "penalty", "advantage", "ratio"}


def test_answers_to_one_prompt_stand_side_by_side(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Told([0.0]), batch=6, answers=3, steps=3)
    stage.play()
    rounds = [[prompts[i : i + 3] for i in (0, 3)] for prompts, _ in stage.sampler.asked]
    assert all(len(set(group)) == 1 for groups in rounds for group in groups)
    assert {group[0] for groups in rounds for group in groups} == set(PROMPTS)  # each once, before any comes again


def test_groups_without_a_difference_are_counted(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Told([1.0, 2.0, 3.0, 3.0], [1.0, 1.0, 7.0, 7.0]))
    rows = stage.play()
    assert [row["equal_groups"] for row in rows] == [1, 2]
    assert not stage.learner.batches[1].advantages.any()


def test_the_shift_penalty_is_part_of_what_groups_compare(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Told([1.0, 3.0]), advantage="rloo", beta=0.1, steps=1)
    stage.play()
    (batch,) = stage.learner.batches
    # each answer pays the same penalty, which the difference forgets
    assert batch.advantages[:2, 3:].tolist() == [pytest.approx([-2, -2]), pytest.approx([2, 2])]


def test_remax_asks_for_one_greedy_answer_to_each_prompt_and_has_it_judged_as_the_others(tmp_path: Path) -> None:
    # first the four answers, then the two greedy ones
    stage = Stage(
        tmp_path, Told([1.0, 2.0, 3.0, 4.0], [9.0, 1.0]), advantage="remax", beta=0.0, score_clip=3.0, steps=1
    )
    temperatures: list[tuple[int, float]] = []
    plain = stage.sampler.sample

    def sample(prompts: Sequence[Prompt], **fields: Any) -> Rollouts:
        temperatures.append((len(prompts), fields["temperature"]))
        return plain(prompts, **fields)

    stage.sampler.sample = sample  # type: ignore[method-assign]
    stage.play()
    assert temperatures == [(4, 1.0), (2, 0.0)]
    drawn, greedy = (prompts for prompts, _ in stage.sampler.asked)
    assert greedy == drawn[::2]
    (batch,) = stage.learner.batches
    # 9 is clipped to 3, and so is 4
    assert batch.advantages[:, 3].tolist() == [-2, -1, 2, 2]


def test_a_judge_that_fails_on_a_greedy_answer_is_told(tmp_path: Path) -> None:
    stage = Stage(tmp_path, Told([1.0], [math.nan]), advantage="remax")
    with pytest.raises(
        MannersError,
        match=r"step 0: the judge of the greedy answers gave a score that is not finite .*; the batch is in",
    ):
        stage.play()
    assert len(list((stage.run.path / "offending").iterdir())) == 1


# --- the loop on a tiny model ---------------------------------------------------------------------------------------

LETTERS = "abcd"
ASKED = [Prompt.of(a + b) for a in LETTERS for b in LETTERS]
TRAIN, HELD = ASKED[::2], ASKED[1::2]
TINY: dict[str, Any] = {
    "steps": 12, "batch": 32, "answers": 4, "max_tokens": 4, "rank": 8, "alpha": 16, "epochs": 2, "learning_rate": 0.1, "beta": 0.0,
    "evaluate_every": 6, "evaluate_prompts": 8, "evaluate_samples": 2, "log_rollouts": 2, "train_layers": 2, "guards": (),
}  # fmt: skip


def few_letters(seed: int = 0) -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    return Trunk(tiny_model(vocabulary=len(tokenizer), seed=seed), tokenizer, 2, name="tiny")


def share_of_a(_: list[str], completions: list[str]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def learn(folder: Path, judge: Any = share_of_a, **fields: Any) -> tuple[Run, Trunk]:
    config = GRPOConfig(**TINY | fields)
    run = Run.create(folder, "grpo", config, {})
    return run, train_grpo(config, TRAIN, HELD, run, few_letters(), Judges(TextScorer(FunctionJudge(judge)), None))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"advantage": "grpo_without_std", "normalise": "max_tokens"},
        {"advantage": "rloo", "ratio": "answer", "normalise": "sequences"},
        {"advantage": "reinforce", "answers": 1},
        {"advantage": "remax", "answers": 1},
        {
            "ratio": "sequence",
            "normalise": "sequences",
            "kl_loss_weight": 0.05,
            "kl_loss": "forward",
            "learning_rate": 0.05,
            "seed": 1,
        },
    ],
    ids=["grpo", "dr_grpo", "rloo", "reinforce", "remax", "gspo"],
)
def test_every_method_learns_what_a_rule_rewards(tmp_path: Path, fields: Mapping[str, Any]) -> None:
    run, _ = learn(tmp_path / "run", **fields)
    rows = run.metrics()
    start, end = (statistics.mean(row["reward"] for row in part) for part in (rows[:2], rows[-2:]))
    assert end > start + 0.12
    assert rows[-1]["heldout_reward"] > start + 0.1
    assert [row["first_ratio"] for row in rows] == pytest.approx([1.0] * 12, abs=1e-4)
    assert not (run.checkpoint("best") / "value_head.safetensors").exists()


def test_a_judge_to_whom_all_answers_are_alike_moves_nothing_by_a_bit(tmp_path: Path) -> None:
    def indifferent(_: list[str], completions: list[str]) -> list[float]:
        return [0.1] * len(completions)

    run, trunk = learn(tmp_path / "run", indifferent, steps=2, answers=8)
    fresh = few_letters()
    make_learner(GRPOConfig(**TINY), fresh)
    before, after = fresh.adapters.state(POLICY), trunk.adapters.state(POLICY)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert [row["equal_groups"] for row in run.metrics()] == [4, 4]
    assert [row["gradient_norm"] for row in run.metrics()] == [0, 0]


def test_a_guard_that_rolls_back_and_one_that_stops_work_without_a_value_function(tmp_path: Path) -> None:
    far = Guard(signal="kl", limit=0.05, action="roll_back")
    run, _ = learn(tmp_path / "run", guards=(far,), steps=8, max_roll_backs=1, evaluate_every=1)
    rows = run.metrics()
    assert [row["rolled_back_to"] for row in rows if "rolled_back_to" in row][:1] == ["best"]
    assert rows[-1]["stopped"] == "guard: kl"


def test_the_greedy_answers_are_those_of_the_policy_as_it_is(tmp_path: Path) -> None:
    trunk = few_letters()
    config = GRPOConfig(**TINY | {"advantage": "remax", "steps": 1, "batch": 8, "answers": 1, "epochs": 1})
    learner = make_learner(config, trunk)
    judged: list[list[str]] = []

    def listen(_: list[str], completions: list[str]) -> list[float]:
        judged.append(list(completions))
        return share_of_a(_, completions)

    sampler = LocalSampler(trunk, POLICY)
    run = Run.create(tmp_path / "run", "grpo", config, {})
    grpo_loop(config, TRAIN, [], run, sampler, Judges(TextScorer(FunctionJudge(listen)), None), learner)
    likeliest = LocalSampler(few_letters(), None).sample(TRAIN, max_tokens=4, temperature=0, seed=99)
    assert sorted(judged[1]) == sorted(c.text for c in likeliest.completions)


def test_a_users_own_function_can_be_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_of_this_test.py").write_text(
        "def many_b(prompts, completions):\n    return [c.count('b') for c in completions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = GRPOConfig(**TINY | {"steps": 1, "reward": ScorerConfig(function="judge_of_this_test:many_b")})
    run = Run.create(tmp_path / "run", "grpo", config, {})
    train_grpo(config, TRAIN, HELD, run, few_letters())
    for sample in run.samples():
        assert sample["reward"] == sample["completion"].count("b")


def test_no_prompts_is_told(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "grpo", GRPOConfig(), {})
    with pytest.raises(MannersError, match="no prompts to train on"):
        train_grpo(GRPOConfig(), [], [], run, few_letters())


def test_the_settings_reach_the_optimizer_and_the_learner() -> None:
    fields = {
        "steps": 5,
        "epochs": 3,
        "minibatches": 2,
        "warmup": 0.2,
        "max_mean_ratio": 4.0,
        "normalise": "max_tokens",
        "entropy_weight": 0.1,
    }
    learner = make_learner(GRPOConfig(**TINY | fields), few_letters())
    made = learner.optimiser
    assert made is not None
    assert (made.steps, made.warmup_steps, made.rates) == (30, 6, [0.1])
    assert (learner.max_mean_ratio, learner.minibatches, learner.entropy_gradient) == (4.0, 2, True)
    assert learner.reduction(torch.tensor([1, 2])).denominator == 2 * 4
