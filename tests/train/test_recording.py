from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fakes import FakeLearner, FakeSampler
from torch import Tensor

from manners.batches import PPOBatch, Rollouts, ScoredRollouts
from manners.records import Completion, Prompt
from manners.rewards.opinion import Opinion
from manners.train.recording import Clock, describe, describe_critic, judged, microscope, sampler_kl

FIRST_EPOCH = {"entropy": 2.0, "first_ratio": 1.0, "first_approx_kl": 0.0, "policy_loss": 9.0, "gradient_norm": 9.0}
LAST_EPOCH = {"entropy": 1.0, "first_ratio": 1.5, "first_approx_kl": 0.2, "policy_loss": -0.5, "gradient_norm": 0.7}


def four_answers(kls: tuple[float, ...] = (0.0, 0.1, 0.2, 0.9)) -> tuple[ScoredRollouts, PPOBatch]:
    """Answers "a" … "d" of 1, 2, 3 and 2 tokens behind prompts of 2, 1, 1 and 2; each token at log-probability −1, and the
    whole KL of each answer, in nats, at its first token."""
    prompt_lengths, sizes = torch.tensor([2, 1, 1, 2]), torch.tensor([1, 2, 3, 2])
    steps = torch.arange(5)[None]
    mask = (steps >= prompt_lengths[:, None]) & (steps < (prompt_lengths + sizes)[:, None])
    first = steps == prompt_lengths[:, None]
    logps = torch.where(mask, -1.0, 0.0)
    prompts = tuple(Prompt.of(f"ask {x}") for x in "abcd")
    rollouts = Rollouts(
        torch.arange(20).reshape(4, 5), prompt_lengths, prompt_lengths + sizes, logps, torch.tensor([True, True, False, True]),
        torch.zeros(4, 5, 0), prompts, tuple(Completion(p.id, x) for p, x in zip(prompts, "abcd", strict=True)), None,
    )  # fmt: skip
    reference = logps - torch.where(first, torch.tensor(kls)[:, None], 0)
    scored = ScoredRollouts(
        **vars(rollouts), scores=torch.tensor([1.0, 2.0, 3.0, 4.0]), reference_logps=reference, rewards=0 * logps
    )
    values = torch.where(mask, steps / 10, 0)
    returns = torch.where(mask, 1.0 * steps, 0)
    return scored, PPOBatch(scored.tokens, prompt_lengths, scored.lengths, scored.states, logps, reference, 12345.678 * mask,
                            returns, values)  # fmt: skip


def opened(
    scores: list[float], disagreement: list[float] | None, count: int, learner: FakeLearner
) -> list[dict[str, Any]]:
    scored, batch = four_answers()
    opinion = Opinion(torch.tensor(scores), None if disagreement is None else torch.tensor(disagreement))
    learned = {"value": batch.old_values, "advantage": batch.advantages}
    return list(microscope(scored, learned, opinion, None, learner, FakeSampler([]), 0.5, count))


@pytest.mark.parametrize(
    ("scores", "disagreement", "count", "chosen"),
    [
        ([0.0, 5.0, 1.0, 2.0], None, 4, "bdac"),  # highest reward, largest KL, then the first
        ([0.0, 5.0, 1.0, 2.0], [0.0, 0.0, 3.0, 1.0], 4, "bdca"),  # and the widest disagreement third
        ([0.0, 5.0, 1.0, 2.0], [0.0, 0.0, 3.0, 1.0], 2, "bd"),
        ([0.0, 1.0, 1.0, 9.0], [0.0, 0.0, 0.0, 1.0], 3, "dab"),  # one that is all of it is opened once
        ([0.0, 5.0, 1.0, 2.0], None, 99, "bdac"),
        ([0.0, 5.0, 1.0, 2.0], None, 0, ""),
    ],
)
def test_the_telling_answers_are_opened_first(
    scores: list[float], disagreement: list[float] | None, count: int, chosen: str
) -> None:
    calls: list[str] = []
    rows = opened(scores, disagreement, count, FakeLearner(calls))
    assert "".join(row["completion"] for row in rows) == chosen
    assert [row["prompt"] for row in rows] == [f"ask {x}" for x in chosen]
    assert calls == (["logprobs of the policy"] if count else [])


class Further(FakeLearner):
    """A learner whose policy now gives every token twice the probability."""

    def logprobs(self, rollouts: Rollouts, who: Any) -> Tensor:
        return super().logprobs(rollouts, who) + math.log(2)


def test_an_answer_is_opened_token_by_token() -> None:
    row = opened([0.0, 0.0, 7.0, 0.0], None, 2, Further([]))[1]
    assert (row["completion"], row["reward"], row["score"], row["kl"]) == ("d", 0.0, 4.0, pytest.approx(0.9))
    assert row["tokens"] == ["<17>", "<18>"]
    assert row["trace"] == {
        "logp": [-1.0, -1.0], "reference_logp": [-1.9, -1.0], "penalty": [-0.45, -0.0], "value": [0.2, 0.3],
        "advantage": [12350.0, 12350.0], "ratio": [2.0, 2.0],
    }  # fmt: skip


def test_a_row_of_metrics_by_hand() -> None:
    scored, batch = four_answers()
    row = describe(scored, [FIRST_EPOCH, LAST_EPOCH], beta=0.5)
    assert row["kl"] == pytest.approx((0 + 0.1 + 0.2 + 0.9) / 4)
    assert row["kl_k3"] == pytest.approx(sum(math.exp(-k) - 1 + k for k in (0.1, 0.2, 0.9)) / 4, rel=1e-5)
    assert (row["beta"], row["shift_penalty"]) == (0.5, pytest.approx(0.15))
    assert (row["score"], row["score_std"]) == (2.5, pytest.approx(math.sqrt(5 / 3)))  # unbiased
    assert (row["logp"], row["reference_logp"]) == (-1.0, pytest.approx(-1 - 1.2 / 8))
    assert (row["length"], row["finished"]) == (2.0, 0.75)
    critic = describe_critic(batch)
    assert critic["value"] == pytest.approx((2 + 3 + 6 + 5) / 80)
    # values are a tenth of the returns, so that 0.9² of the variance is left
    assert critic["explained_variance"] == pytest.approx(1 - 0.81)


def test_what_shows_that_sampling_and_training_agree_is_of_the_first_epoch_and_the_rest_of_the_last() -> None:
    row = describe(four_answers()[0], [FIRST_EPOCH, LAST_EPOCH], beta=0.5)
    found = {
        name: row[name]
        for name in ("first_ratio", "first_approx_kl", "entropy", "policy_loss", "gradient_norm", "epochs")
    }
    assert found == {
        "first_ratio": 1.0, "first_approx_kl": 0.0, "entropy": 2.0, "policy_loss": -0.5, "gradient_norm": 0.7, "epochs": 2
    }  # fmt: skip
    assert "kl_loss" not in row
    assert describe(four_answers()[0], [FIRST_EPOCH | {"kl_loss": 3.0}], beta=0.5)["kl_loss"] == 3.0


def test_how_far_the_engine_that_sampled_is_from_the_learner_is_a_mean_over_tokens() -> None:
    scored, _ = four_answers()
    own = replace(scored, logps=scored.logps + math.log(2) * (scored.tokens == int(scored.tokens[2, 1])))
    # one of eight tokens is twice as probable to the learner: r − 1 − log r with r = 2
    assert sampler_kl(scored, own) == pytest.approx((1 - math.log(2)) / 8, rel=1e-5)
    assert sampler_kl(scored, scored) == 0


def test_judges_are_shown_with_mean_spread_and_disagreement() -> None:
    scores = torch.tensor([1.0, 2.0, 6.0])
    assert judged(Opinion(scores, None), None) == pytest.approx({"reward": 3.0, "reward_std": math.sqrt(7)})
    both = judged(Opinion(scores, torch.tensor([0.0, 1.0, 2.0])), Opinion(-scores, None))
    assert both == pytest.approx(
        {
            "reward": 3.0,
            "reward_std": math.sqrt(7),
            "disagreement": 1.0,
            "second_judge": -3.0,
            "second_judge_std": math.sqrt(7),
        }
    )


def test_the_clock_tells_each_phase_apart() -> None:
    clock = Clock()
    for name in ("one", "two"):
        clock.lap(name)
    assert list(clock.laps) == ["one", "two"]
    assert sum(clock.laps.values()) <= clock.total + 0.002
