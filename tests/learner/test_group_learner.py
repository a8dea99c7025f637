"""The learner of a method without a value function, and the three ways from token losses to one number."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import PolicyBatch
from manners.errors import MannersError
from manners.learner.local import POLICY, LocalLearner
from manners.learner.optimiser import Optimiser
from manners.losses.reduction import Shares, constant_length, sequence_mean, token_mean
from manners.models.trunk import Trunk
from manners.protocols import Evaluated, Objective
from manners.records import Prompt
from manners.sampling.local import LocalSampler

torch.set_num_threads(1)

PROMPTS = [Prompt.of("abcd"[i % 4] * (1 + 3 * i % 7)) for i in range(8)]
LONGEST = 14
REDUCTIONS: list[Callable[[Tensor], Shares]] = [token_mean, sequence_mean, partial(constant_length, max_tokens=LONGEST)]
NAMES = ["tokens", "sequences", "max_tokens"]


def learner(reduction: Callable[[Tensor], Shares] = token_mean, shaken: bool = True, **fields: Any) -> LocalLearner:
    tokenizer = tiny_tokenizer("abcd")  # few tokens: one in ten is the end of the turn, and answers have many lengths
    trunk = Trunk(tiny_model(vocabulary=len(tokenizer)), tokenizer, 2, name="tiny")
    settings = {"minibatches": 1, "micro_tokens": 4096} | fields
    made = LocalLearner(trunk, rank=4, alpha=8, temperature=0.7, seed=3, entropy_gradient=False, critic="none",
                        reduction=reduction, **settings)  # fmt: skip
    if shaken:
        shake(trunk, POLICY, std=0.15)
    # with ε = 1 and rate 1 the first step is −g/(|g| + 1) of each parameter
    made.optimise(partial(Optimiser, steps=1, final=1.0, max_grad_norm=1e9, eps=1.0), 1.0, 1.0)
    return made


def batch_of(made: LocalLearner) -> PolicyBatch:
    rollouts = LocalSampler(made.trunk, POLICY).sample(PROMPTS, max_tokens=LONGEST, temperature=0.7, seed=0)
    advantages = torch.linspace(-1, 1, 8)[:, None].expand_as(rollouts.logps)
    return PolicyBatch(
        rollouts.tokens, rollouts.prompt_lengths, rollouts.lengths, rollouts.states, rollouts.logps, 0 * rollouts.logps, advantages
    )  # fmt: skip


def reinforce(now: Evaluated, batch: PolicyBatch) -> Objective:
    loss = -batch.advantages * now.logps
    return Objective(loss, {"policy_loss": loss}, {})


def weights(made: LocalLearner) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in made.trunk.adapters.state(POLICY).items()}


@pytest.mark.parametrize(("reduction", "name"), list(zip(REDUCTIONS, NAMES, strict=True)), ids=NAMES)
def test_a_step_goes_along_the_gradient_of_the_loss_reduced_by_hand(
    reduction: Callable[[Tensor], Shares], name: str
) -> None:
    made = learner(reduction, micro_tokens=50)
    batch, before = batch_of(made), weights(made)
    assert len(batch.response_lengths.unique()) > 3
    with made.trunk.adapters.using(POLICY):
        logits = made.trunk.model(input_ids=batch.tokens, attention_mask=batch.mask.long()).logits
    logps = torch.log_softmax(logits[:, :-1] / 0.7, -1).gather(-1, batch.tokens[:, 1:, None].clone())[..., 0]
    answers = []
    for row in range(8):
        start, end = int(batch.prompt_lengths[row]), int(batch.lengths[row])
        answers.append(-batch.advantages[row, 0] * logps[row, start - 1 : end - 1])
    match name:
        case "tokens":
            loss = torch.cat(answers).mean()
        case "sequences":
            loss = torch.stack([answer.mean() for answer in answers]).mean()
        case _:
            loss = torch.stack([answer.sum() for answer in answers]).mean() / LONGEST
    gradients = torch.autograd.grad(loss, made.policy_parameters)
    norm = made.step(batch, reinforce)["gradient_norm"]
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-3)
    for parameter, old, gradient in zip(made.policy_parameters, before.values(), gradients, strict=True):
        torch.testing.assert_close(old - parameter, gradient / (gradient.abs() + 1), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=NAMES)
@pytest.mark.parametrize("minibatches", [1, 2])
def test_one_micro_batch_of_eight_is_eight_of_one(reduction: Callable[[Tensor], Shares], minibatches: int) -> None:
    results = []
    for micro_tokens in (1, 50, 10_000):
        made = learner(reduction, micro_tokens=micro_tokens, minibatches=minibatches)
        start, metrics = weights(made), made.step(batch_of(made), reinforce)
        assert max(float((v - start[k]).abs().max()) for k, v in weights(made).items()) > 0.003
        results.append((weights(made), metrics))
    (ones, one_metrics), *others = results
    for state, metrics in others:
        assert metrics == pytest.approx(one_metrics, rel=1e-3, abs=1e-6)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, ones[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=NAMES)
def test_what_is_logged_is_the_mean_over_tokens_whatever_the_reduction(reduction: Callable[[Tensor], Shares]) -> None:
    made = learner(reduction)
    batch = batch_of(made)

    def counting(now: Evaluated, part: PolicyBatch) -> Objective:
        ones = torch.ones_like(now.logps)
        return Objective(now.logps, {"one": ones}, {"length": ones * part.response_lengths[:, None]})

    found, lengths = made.step(batch, counting), batch.response_lengths.float()
    assert found["one"] == pytest.approx(1)
    assert found["length"] == pytest.approx(float((lengths**2).sum() / lengths.sum()))


def test_without_a_value_function_there_is_none_anywhere(tmp_path: Path) -> None:
    made = learner()
    batch = batch_of(made)
    assert made.critic_parameters == []
    assert made.evaluate(batch).values.shape == (8, 0)
    with pytest.raises(ValueError, match="no value function"):
        _ = made.value_head
    made.step(batch, reinforce)
    made.save(tmp_path / "best")
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "manners.json"
    ]  # fmt: skip
    (tmp_path / "state").mkdir()
    made.save_state(tmp_path / "state")
    kept = load_file(tmp_path / "state" / "learner.safetensors")
    assert {name.partition(".")[0] for name in kept} == {"policy", "adam", "generator"}


def test_what_it_saved_it_takes_up_again(tmp_path: Path) -> None:
    made = learner()
    batch = batch_of(made)
    made.step(batch, reinforce)
    made.save(tmp_path / "best")
    (tmp_path / "state").mkdir()
    made.save_state(tmp_path / "state")
    loaded, rolled = learner(shaken=False), learner(shaken=False)
    loaded.load_state(tmp_path / "state")
    rolled.roll_back(tmp_path / "best")
    for other in (loaded, rolled):
        assert all(torch.equal(v, weights(other)[k]) for k, v in weights(made).items())
    made.step(batch, reinforce)
    loaded.step(batch, reinforce)
    assert all(torch.equal(v, weights(loaded)[k]) for k, v in weights(made).items())


def test_a_weight_that_is_no_number_is_never_written(tmp_path: Path) -> None:
    made = learner()
    with torch.no_grad():
        made.policy_parameters[0][0, 0] = torch.nan
    with pytest.raises(MannersError, match="not a finite number"):
        made.save(tmp_path / "best")
    assert not (tmp_path / "best").exists()
