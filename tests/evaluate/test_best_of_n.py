from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tiny import shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.evaluate.best_of_n import best_of_n, evaluate_best_of_n
from manners.evaluate.policy import EvaluateConfig, evaluate_policy
from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.rewards.load import FunctionJudge, TextScorer
from manners.sampling.local import LocalSampler

torch.set_num_threads(1)

LETTERS = "abcd"
PROMPTS = [Prompt.of(a + b, category="x" if a == "a" else "") for a in LETTERS for b in LETTERS]
SETTINGS: dict[str, Any] = {"max_tokens": 6, "temperature": 1.0, "seed": 3}


def share_of_a(_: list[str], completions: list[str]) -> list[float]:
    return [text.count("a") / max(1, len(text)) for text in completions]


def length_of(_: list[str], completions: list[str]) -> list[float]:
    return [float(len(text)) for text in completions]


SHARE, LENGTH = TextScorer(FunctionJudge(share_of_a)), TextScorer(FunctionJudge(length_of))


def few_letters() -> Trunk:
    tokenizer = tiny_tokenizer(LETTERS)
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer)), tokenizer, 2, name="tiny")
    trunk.adapters.add("policy", rank=4, alpha=8, seed=0)
    shake(trunk, "policy", std=0.2)
    return trunk


class Watching:
    """A judge that writes down all the answers it is asked about."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, float]] = []

    def score(self, rollouts: Rollouts) -> Tensor:
        scores = SHARE.score(rollouts)
        self.seen += zip([c.text for c in rollouts.completions], scores.tolist(), strict=True)
        return scores


def test_the_winner_of_each_n_is_the_best_of_them_and_the_first_of_equals() -> None:
    judge, n = Watching(), 5
    winners = best_of_n(LocalSampler(few_letters(), None), judge, PROMPTS, n, **SETTINGS)
    assert [w.prompt for w in winners] == PROMPTS
    assert len(judge.seen) == len(PROMPTS) * n
    for place, winner in enumerate(winners):
        answers = judge.seen[place * n : (place + 1) * n]
        assert (winner.completion.text, winner.score) == max(answers, key=lambda answer: answer[1])
        assert winner.completion.prompt_id == winner.prompt.id
        assert len({text for text, _ in answers}) > 1


def test_more_prompts_than_fit_at_once_all_draw_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from manners.evaluate import best_of_n as module

    monkeypatch.setattr(module, "AT_ONCE", 6)
    judge = Watching()
    winners = best_of_n(LocalSampler(few_letters(), None), judge, [PROMPTS[0]] * 40, 3, **SETTINGS)
    assert len(winners) == 40
    assert len({tuple(judge.seen[i : i + 3]) for i in range(0, 120, 3)}) > 30


def test_best_of_1_is_the_policy_and_more_is_never_worse_on_average() -> None:
    sampler = LocalSampler(few_letters(), None)
    means = [
        sum(w.score for w in best_of_n(sampler, SHARE, PROMPTS * 6, n, **SETTINGS)) / (6 * len(PROMPTS))
        for n in (1, 2, 4, 16)
    ]
    assert means == sorted(means)
    assert means[-1] > means[0] + 0.1


def test_winners_follow_the_distribution_of_the_best_of_n() -> None:
    # one token of eight, ranked by its letter: the best of n is r-th or worse with probability P(r-th or worse)^n
    tokenizer = tiny_tokenizer("abc")
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer), seed=2), tokenizer, 1)
    prompt, n, count = Prompt.of("ab"), 3, 1500
    rank = {token: number for number, token in enumerate(["a", "b", "c"])}

    def alphabet(_: list[str], completions: list[str]) -> list[float]:
        return [float(rank.get(text, -1)) for text in completions]

    winners = best_of_n(
        LocalSampler(trunk, None, batch=1000), TextScorer(FunctionJudge(alphabet)), [prompt] * count, n,
        max_tokens=1, temperature=1.0, seed=0,
    )  # fmt: skip
    start = tokenizer("<|user|>ab<|end|><|assistant|>")["input_ids"]
    with torch.no_grad():
        logits = tiny_model(vocabulary=len(tokenizer), seed=2)(torch.tensor([start])).logits[0, -1]
    p = dict(
        zip(tokenizer.convert_ids_to_tokens(list(range(8))), torch.softmax(logits.double(), -1).tolist(), strict=True)
    )
    mass = [sum(p[t] for t in p if t not in rank), p["a"], p["b"], p["c"]]
    cumulative = [x**n for x in itertools.accumulate(mass)]
    wanted = [count * (upper - lower) for lower, upper in zip([0.0, *cumulative], cumulative, strict=False)]
    seen = Counter(int(w.score) for w in winners)
    assert min(wanted) > 5
    assert chisquare([seen[r] for r in (-1, 0, 1, 2)], wanted).pvalue > 0.005


def rows_of(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in found["rows"]}


def test_the_evaluation_says_what_it_gains_over_a_plain_answer_and_how_far_it_is() -> None:
    trunk, config = few_letters(), EvaluateConfig(samples_per_prompt=2, max_tokens=6, seed=5)
    found = evaluate_best_of_n(config, 8, LocalSampler(trunk, None), PROMPTS, SHARE, LENGTH)
    rows = rows_of(found)
    assert (found["best_of"], found["prompts"]) == (8, len(PROMPTS))
    # ln 8 − 7/8
    assert rows["kl"]["after"] == pytest.approx(1.2044415, abs=1e-5)
    assert rows["kl"]["before"] == 0
    assert rows["reward"]["ci"][0] > 0
    plain = rows_of(evaluate_policy(config, trunk, "policy", PROMPTS, SHARE, LENGTH))
    assert {name: row["before"] for name, row in rows.items()} == {name: row["before"] for name, row in plain.items()}
    again = evaluate_best_of_n(config, 8, LocalSampler(trunk, None, batch=5), PROMPTS, SHARE, LENGTH)
    assert again == found
    for sample in found["samples"]:
        assert sample["reward_after"] == pytest.approx(share_of_a([], [sample["after"]])[0])
        assert sample["second_after"] == len(sample["after"])


def test_of_a_policy_that_has_moved_the_distance_of_its_winners_comes_on_top() -> None:
    trunk, config = few_letters(), EvaluateConfig(samples_per_prompt=2, max_tokens=6, seed=5)
    same = TextScorer(FunctionJudge(lambda _, completions: [0.0] * len(completions)))
    one = rows_of(evaluate_best_of_n(config, 1, LocalSampler(trunk, "policy"), PROMPTS, same, None))["kl"]
    many = rows_of(evaluate_best_of_n(config, 4, LocalSampler(trunk, "policy"), PROMPTS, same, None))["kl"]
    assert one["after"] > 0.2
    # a judge without an opinion takes the first of four: plain answers of the policy again
    assert many["after"] - 0.6362944 == pytest.approx(one["after"], abs=0.6)
    assert one["before"] > 0.2


def test_a_score_that_is_no_number_is_refused() -> None:
    class Broken:
        def score(self, rollouts: Rollouts) -> Tensor:
            return torch.full((len(rollouts),), float("nan"))

    with pytest.raises(MannersError, match="not finite"):
        best_of_n(LocalSampler(few_letters(), None), Broken(), PROMPTS, 2, **SETTINGS)
