from __future__ import annotations

import errno
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file
from tiny import shake, tiny_model, tiny_tokenizer
from torch import Tensor

from manners.batches import PPOBatch, Rollouts
from manners.errors import MannersError
from manners.learner.local import CRITIC, POLICY, LocalLearner
from manners.learner.optimiser import Optimiser
from manners.models.heads import ScalarHead
from manners.models.trunk import TrainLayers, Trunk
from manners.protocols import Evaluated, Objective
from manners.records import Prompt
from manners.sampling.local import LocalSampler
from manners.train.experiment import with_shift_penalty
from manners.train.ppo import PPOConfig, ppo_batch, ppo_objective

torch.set_num_threads(1)

TEMPERATURE = 0.7
KINDS: list[tuple[str, TrainLayers]] = [("llama", 2), ("llama", "all"), ("gpt2", 1), ("gemma", 2)]
PROMPTS = [Prompt.of("abcd"[i % 4] * (1 + 3 * i % 7)) for i in range(8)]
CONFIG = PPOConfig(value_weight=0.5, entropy_weight=0.1, beta=0.1)


def few_letters(kind: str = "llama", train_layers: TrainLayers = 2) -> Trunk:
    """A trunk that knows few tokens, so that one in ten is the end of the turn and answers have many lengths."""
    tokenizer = tiny_tokenizer("abcd")
    return Trunk(tiny_model(kind, vocabulary=len(tokenizer)), tokenizer, train_layers, name=f"tiny-{kind}")


def learner(
    trunk: Trunk,
    *,
    micro_tokens: int = 4096,
    minibatches: int = 1,
    shaken: bool = True,
    rank: int = 4,
    critic: Literal["shared", "adapter"] = "shared",
    max_mean_ratio: float = math.inf,
) -> LocalLearner:
    """A learner whose policy and values are already different from the base."""
    made = LocalLearner(
        trunk, rank=rank, alpha=8, temperature=TEMPERATURE, minibatches=minibatches, micro_tokens=micro_tokens, seed=3,
        entropy_gradient=True, critic=critic, max_mean_ratio=max_mean_ratio,
    )  # fmt: skip
    if shaken:
        shake(trunk, POLICY, std=0.15)
        if critic == "adapter":
            shake(trunk, CRITIC, seed=1, std=0.15)
        with torch.no_grad():
            made.value_head.linear.weight.copy_(torch.linspace(-0.3, 0.3, trunk.width))
            made.value_head.linear.bias.fill_(0.1)
    return made


def setup(kind: str = "llama", train_layers: TrainLayers = 2, **fields: Any) -> LocalLearner:
    return learner(few_letters(kind, train_layers), **fields)


def sample(made: LocalLearner, seed: int = 0) -> Rollouts:
    return LocalSampler(made.trunk, POLICY).sample(PROMPTS, max_tokens=14, temperature=TEMPERATURE, seed=seed)


def batch_of(made: LocalLearner, rollouts: Rollouts) -> PPOBatch:
    scores = torch.linspace(-1, 1, len(rollouts))
    scored = with_shift_penalty(rollouts, scores, made.logprobs(rollouts, "reference"), CONFIG.beta)
    return ppo_batch(scored, made.values(rollouts), CONFIG)


def slide(made: LocalLearner) -> None:
    """An optimizer that shows the gradient: with ε = 1 and rate 1 its first step is −g/(|g| + 1) of each parameter."""
    made.optimise(partial(Optimiser, steps=1, final=1.0, max_grad_norm=1e9, eps=1.0), 1.0, 1.0)


def trained(made: LocalLearner) -> dict[str, Tensor]:
    state = {k: v.clone() for k, v in made.trunk.adapters.state(POLICY).items()}
    if made.critic == CRITIC:
        state |= {f"critic {k}": v.clone() for k, v in made.trunk.adapters.state(CRITIC).items()}
    return state | {k: v.detach().clone() for k, v in made.value_head.state_dict().items()}


@torch.no_grad()
def plain_logits(trunk: Trunk, rollouts: Rollouts, adapter: str | None) -> Tensor:
    """Logits [B, T, V] of the whole model, at once: position t predicts token t + 1."""
    with trunk.adapters.using(adapter):
        logits: Tensor = trunk.model(input_ids=rollouts.tokens, attention_mask=rollouts.mask.long()).logits
    return logits


@torch.no_grad()
def plain_logps(trunk: Trunk, rollouts: Rollouts, adapter: str | None) -> Tensor:
    logps = torch.log_softmax(plain_logits(trunk, rollouts, adapter)[:, :-1] / TEMPERATURE, -1)
    found = logps.gather(-1, rollouts.tokens[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(found, (1, 0)) * rollouts.response_mask


def test_the_rollouts_of_these_tests_have_answers_of_many_lengths() -> None:
    rollouts = sample(setup())
    assert len(rollouts.response_lengths.unique()) > 4
    assert 0 < rollouts.finished.sum() < len(rollouts)
    assert all(len(sample(setup(kind, layers)).response_lengths.unique()) > 1 for kind, layers in KINDS)


# --- forward --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
@pytest.mark.parametrize("who", ["policy", "reference"])
def test_logprobs_are_those_of_the_whole_model_at_the_temperature(
    kind: str, train_layers: TrainLayers, who: Any
) -> None:
    made = setup(kind, train_layers, micro_tokens=40)  # several micro-batches
    rollouts = sample(made)
    expected = plain_logps(made.trunk, rollouts, POLICY if who == "policy" else None)
    torch.testing.assert_close(made.logprobs(rollouts, who), expected, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_what_was_sampled_has_the_logprobs_it_was_sampled_with(kind: str, train_layers: TrainLayers) -> None:
    made = setup(kind, train_layers)
    rollouts = sample(made)
    torch.testing.assert_close(made.logprobs(rollouts, "policy"), rollouts.logps, atol=1e-4, rtol=0)
    assert (made.logprobs(rollouts, "reference") - rollouts.logps).abs().max() > 0.1


def test_a_value_is_the_head_on_the_state_before_its_token() -> None:
    made = setup()
    rollouts = sample(made)
    values = made.values(rollouts)
    with made.trunk.adapters.using(POLICY), torch.no_grad():
        decoder = made.trunk.model.base_model
        hidden = decoder(input_ids=rollouts.tokens, attention_mask=rollouts.mask.long()).last_hidden_state
        expected = hidden @ made.value_head.linear.weight[0] + 0.1
    for row in range(len(rollouts)):
        start, end = int(rollouts.prompt_lengths[row]), int(rollouts.lengths[row])
        torch.testing.assert_close(values[row, start:end], expected[row, start - 1 : end - 1], atol=1e-5, rtol=1e-5)


def test_a_new_learner_is_the_reference_and_knows_no_value() -> None:
    made = setup(shaken=False)
    rollouts = sample(made)
    assert torch.equal(made.logprobs(rollouts, "policy"), made.logprobs(rollouts, "reference"))
    assert not made.values(rollouts).any()


def test_nothing_is_said_outside_the_response() -> None:
    made = setup()
    rollouts = sample(made)
    outside = ~rollouts.response_mask
    evaluated = made.evaluate(batch_of(made, rollouts))
    for found in (
        made.logprobs(rollouts, "policy"),
        made.logprobs(rollouts, "reference"),
        made.values(rollouts),
        *evaluated,
    ):
        assert not found[outside].any()
        assert found[rollouts.response_mask].all()


def test_evaluate_sees_what_the_forward_passes_saw_and_the_entropy_of_the_whole_vocabulary() -> None:
    made = setup()
    rollouts = sample(made)
    now = made.evaluate(batch_of(made, rollouts))
    torch.testing.assert_close(now.logps, made.logprobs(rollouts, "policy"), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(now.values, made.values(rollouts), atol=1e-5, rtol=1e-5)
    p = torch.softmax(plain_logits(made.trunk, rollouts, POLICY)[:, :-1] / TEMPERATURE, -1)
    entropy = torch.nn.functional.pad(torch.special.entr(p).sum(-1), (1, 0)) * rollouts.response_mask
    torch.testing.assert_close(now.entropies, entropy, atol=1e-4, rtol=1e-4)


def test_rollouts_of_a_sampler_without_this_trunk_read_the_same() -> None:
    made = setup()
    rollouts = sample(made)
    foreign = replace(rollouts, states=rollouts.states[..., :0], trunk=None)
    for who in ("policy", "reference"):
        torch.testing.assert_close(made.logprobs(foreign, who), made.logprobs(rollouts, who), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(made.values(foreign), made.values(rollouts), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("shares", [True, False])
def test_what_stands_in_the_padding_changes_nothing(shares: bool) -> None:
    made = setup(micro_tokens=60)
    rollouts = sample(made)
    if not shares:
        rollouts = replace(rollouts, states=rollouts.states[..., :0], trunk=None)
    noise = torch.Generator().manual_seed(9)
    other = replace(
        rollouts,
        tokens=torch.where(rollouts.mask, rollouts.tokens, torch.randint(9, rollouts.tokens.shape, generator=noise)),
        states=torch.where(
            rollouts.mask[..., None], rollouts.states, 1e3 * torch.randn(rollouts.states.shape, generator=noise)
        ),
    )
    assert not torch.equal(other.tokens, rollouts.tokens)
    for who in ("policy", "reference"):
        assert torch.equal(made.logprobs(other, who), made.logprobs(rollouts, who))
    assert torch.equal(made.values(other), made.values(rollouts))

    batch = batch_of(made, rollouts)
    slide(made)
    torn = setup(micro_tokens=60)
    slide(torn)
    garbage = torch.where(batch.response_mask, 0, 1e3)
    made_metrics = made.step(batch, partial(ppo_objective, config=CONFIG))
    torn_metrics = torn.step(
        replace(batch, tokens=other.tokens, states=other.states, advantages=batch.advantages + garbage,
                returns=batch.returns + garbage, old_logps=batch.old_logps - garbage.clamp(max=5)),
        partial(ppo_objective, config=CONFIG),
    )  # fmt: skip
    assert torn_metrics == made_metrics
    assert all(torch.equal(v, trained(torn)[k]) for k, v in trained(made).items())


# --- update ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_a_step_goes_along_the_gradient_of_the_loss_written_out(kind: str, train_layers: TrainLayers) -> None:
    made = setup(kind, train_layers, micro_tokens=50)
    rollouts = sample(made)
    batch = batch_of(made, rollouts)
    batch = replace(batch, old_logps=batch.old_logps + 0.15 * torch.cos(batch.tokens.float()) * batch.response_mask)
    before = trained(made)

    trunk, head = made.trunk, made.value_head
    with trunk.adapters.using(POLICY):
        hidden = trunk.model.base_model(input_ids=batch.tokens, attention_mask=batch.mask.long()).last_hidden_state
    loss = torch.zeros(())
    tokens = int(batch.response_mask.sum())
    for row, t in batch.response_mask.nonzero().tolist():
        p = torch.log_softmax(hidden[row, t - 1] @ trunk.head_weight.T / TEMPERATURE, -1)
        ratio = (p[batch.tokens[row, t]] - batch.old_logps[row, t]).exp()
        advantage, target, old = batch.advantages[row, t], batch.returns[row, t], batch.old_values[row, t]
        policy = -min(ratio * advantage, min(max(ratio, torch.tensor(0.8)), torch.tensor(1.2)) * advantage)
        value = head.linear(hidden[row, t - 1])[0]
        near = old + (value - old).clamp(-0.2, 0.2)
        value_loss = max((value - target) ** 2, (near - target) ** 2) / 2
        loss = loss + (policy + 0.5 * value_loss + 0.1 * (p.exp() * p).sum()) / tokens
    parameters = [*trunk.adapters.parameters(POLICY), *head.parameters()]
    gradients = torch.autograd.grad(loss, parameters)

    slide(made)
    norm = made.step(batch, partial(ppo_objective, config=CONFIG))["gradient_norm"]
    assert norm == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-3)
    assert norm > 0.01
    for parameter, old, gradient in zip(parameters, before.values(), gradients, strict=True):
        torch.testing.assert_close(old - parameter, gradient / (gradient.abs() + 1), atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_one_micro_batch_of_eight_is_eight_of_one(minibatches: int) -> None:
    results = []
    for micro_tokens in (1, 50, 10_000):
        made = setup(micro_tokens=micro_tokens, minibatches=minibatches)
        batch = batch_of(made, sample(made))
        slide(made)
        start = trained(made)
        metrics = made.step(batch, partial(ppo_objective, config=CONFIG))
        assert max(float((v - start[k]).abs().max()) for k, v in trained(made).items()) > 0.01
        results.append((trained(made), metrics))
    (ones, one_metrics), *others = results
    for state, metrics in others:
        assert metrics == pytest.approx(one_metrics, rel=1e-3, abs=1e-6)
        for name, tensor in state.items():
            torch.testing.assert_close(tensor, ones[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_in_the_first_minibatch_of_the_first_epoch_the_policy_is_still_the_one_that_sampled(
    kind: str, train_layers: TrainLayers
) -> None:
    made = setup(kind, train_layers, minibatches=2, micro_tokens=60)
    batch = batch_of(made, sample(made))
    made.optimise(partial(Optimiser, steps=2, eps=1e-5), 3e-2, 1e-3)
    seen: list[tuple[int, Objective]] = []

    def objective(now: Evaluated, part: PPOBatch) -> Objective:
        result = ppo_objective(now, part, config=CONFIG)
        mask = part.response_mask
        seen.append(
            (len(part), Objective(result.total, {}, {k: v.detach()[mask] for k, v in result.statistics.items()}))
        )
        return result

    metrics = made.step(batch, objective)
    rows = 0
    for count, result in seen:
        if rows < 4:  # four of the eight rows are the first minibatch
            assert (result.statistics["ratio"] - 1).abs().max() < 1e-4
            assert result.statistics["approx_kl"].abs().max() < 1e-6
            assert not result.statistics["clip_fraction"].any()
        rows += count
    assert rows == 8
    # and in the second it is not any more
    assert (torch.cat([r.statistics["ratio"] for _, r in seen[-1:]]) - 1).abs().max() > 1e-3
    assert metrics["approx_kl"] > 1e-6


@pytest.mark.parametrize(
    ("minibatches", "sizes"), [(1, [8]), (2, [4, 4]), (3, [3, 3, 2]), (5, [2, 2, 2, 1, 1]), (8, [1] * 8)]
)
def test_an_epoch_sees_each_sequence_once_in_as_many_optimizer_steps_as_minibatches(
    minibatches: int, sizes: list[int]
) -> None:
    made = setup(minibatches=minibatches)
    batch = batch_of(made, sample(made))
    batch = replace(batch, advantages=torch.arange(8.0)[:, None].expand_as(batch.tokens))
    slide(made)
    seen: list[list[int]] = []

    def objective(now: Evaluated, part: PPOBatch) -> Objective:
        seen.append([int(x) for x in part.advantages[:, 0]])
        return Objective(now.logps, {}, {})

    made.step(batch, objective)
    assert sorted(row for rows in seen for row in rows) == list(range(8))
    assert sorted((len(rows) for rows in seen), reverse=True) == sizes
    assert made.optimiser is not None
    assert made.optimiser.done == minibatches


def test_epochs_go_through_the_batch_in_new_orders_and_a_seed_repeats_them() -> None:
    def orders() -> list[list[int]]:
        made = setup(minibatches=8)
        batch = batch_of(made, sample(made))
        batch = replace(batch, advantages=torch.arange(8.0)[:, None].expand_as(batch.tokens))
        slide(made)
        seen: list[int] = []

        def objective(now: Evaluated, part: PPOBatch) -> Objective:
            seen.append(int(part.advantages[0, 0]))
            return Objective(0 * now.logps, {}, {})

        for _ in range(2):
            made.step(batch, objective)
        return [seen[:8], seen[8:]]

    first = orders()
    assert first[0] != first[1]
    assert orders() == first


def test_metrics_are_means_over_response_tokens_not_over_rows_or_micro_batches() -> None:
    made = setup(micro_tokens=1, minibatches=3)
    rollouts = sample(made)
    batch = batch_of(made, rollouts)
    slide(made)

    def objective(now: Evaluated, part: PPOBatch) -> Objective:
        longer = part.response_lengths[:, None].expand_as(part.tokens).float()
        return Objective(0 * now.logps, {"one": torch.where(part.response_mask, 1.0, 1e6)}, {"length": longer})

    metrics = made.step(batch, objective)
    lengths = [int(n) for n in rollouts.response_lengths]
    assert metrics["one"] == pytest.approx(1.0)
    assert metrics["length"] == pytest.approx(sum(n * n for n in lengths) / sum(lengths), rel=1e-6)
    assert metrics["gradient_norm"] == 0.0


def test_only_the_policy_adapter_and_the_value_head_change() -> None:
    made = setup(minibatches=2)
    made.trunk.adapters.add("reward", rank=2, alpha=4, seed=5)
    shake(made.trunk, "reward", seed=5)
    batch = batch_of(made, sample(made))
    made.optimise(partial(Optimiser, steps=8, eps=1e-5), 1e-2, 1e-2)
    mine = {id(p) for p in made.trunk.adapters.parameters(POLICY)}
    state = made.trunk.state_dict(keep_vars=True)
    others = {k: v.detach().clone() for k, v in state.items() if id(v) not in mine}
    before = trained(made)
    for _ in range(4):
        made.step(batch, partial(ppo_objective, config=CONFIG))
    assert len(others) > 20
    after = made.trunk.state_dict()
    assert [k for k, v in others.items() if not torch.equal(v, after[k])] == []
    assert [k for k, v in before.items() if torch.equal(v, trained(made)[k])] == []


def test_the_reference_does_not_move_when_the_policy_does() -> None:
    made = setup()
    rollouts = sample(made)
    reference, policy = made.logprobs(rollouts, "reference"), made.logprobs(rollouts, "policy")
    made.optimise(partial(Optimiser, steps=4, eps=1e-5), 1e-2, 1e-2)
    for _ in range(4):
        made.step(batch_of(made, rollouts), partial(ppo_objective, config=CONFIG))
    assert torch.equal(made.logprobs(rollouts, "reference"), reference)
    assert (made.logprobs(rollouts, "policy") - policy).abs().max() > 1e-2


def test_four_epochs_make_good_answers_likelier_and_bad_ones_less_likely() -> None:
    made = setup()
    rollouts = sample(made)
    batch = replace(
        batch_of(made, rollouts), advantages=torch.tensor([1.0, -1.0] * 4)[:, None] * rollouts.response_mask
    )
    made.optimise(partial(Optimiser, steps=4, eps=1e-5), 1e-3, 1e-3)
    before = made.logprobs(rollouts, "policy").sum(-1)
    for _ in range(4):
        made.step(
            batch, partial(ppo_objective, config=CONFIG.model_copy(update={"entropy_weight": 0.0, "value_weight": 0.0}))
        )
    moved = made.logprobs(rollouts, "policy").sum(-1) - before
    assert moved[::2].sum() > 0 > moved[1::2].sum()


def test_without_an_optimizer_there_is_no_step() -> None:
    made = setup()
    with pytest.raises(MannersError, match="no optimizer yet"):
        made.step(batch_of(made, sample(made)), partial(ppo_objective, config=CONFIG))


# --- numbers that are none ------------------------------------------------------------------------------------------


def adam_of(made: LocalLearner) -> dict[str, Tensor]:
    assert made.optimiser is not None
    return made.optimiser.state()[0]


def nan_total(found: Objective) -> Objective:
    return found._replace(total=found.total * math.nan)


def one_infinite_loss(found: Objective) -> Objective:
    total = found.total.clone()
    total[0, -1] = math.inf
    return found._replace(total=total, parts={**found.parts, "policy_loss": total.detach()})


def finite_with_a_gradient_that_is_not(found: Objective) -> Objective:
    flat = (found.total - found.total.detach()).abs().sqrt()
    return found._replace(total=found.total + flat)


@pytest.mark.parametrize("spoil", [nan_total, one_infinite_loss, finite_with_a_gradient_that_is_not])
def test_a_minibatch_that_is_no_number_reaches_neither_weights_nor_momentum(spoil: Any) -> None:
    made = setup(micro_tokens=60)
    batch = batch_of(made, sample(made))
    made.optimise(partial(Optimiser, steps=9, eps=1e-5), 1e-2, 1e-2)
    good = partial(ppo_objective, config=CONFIG)
    assert made.step(batch, good)["skipped"] == 0
    before, moments = trained(made), {k: v.clone() for k, v in adam_of(made).items()}

    metrics = made.step(batch, lambda now, part: spoil(good(now, part)))
    assert metrics["skipped"] == 1
    assert all(torch.equal(v, before[k]) for k, v in trained(made).items())
    assert all(torch.equal(v, moments[k]) for k, v in adam_of(made).items())
    assert made.optimiser is not None
    assert (made.optimiser.done, made.optimiser.updates) == (2, 1)

    assert made.step(batch, good)["skipped"] == 0  # and no trace of it is left in the gradients
    assert all(v.isfinite().all() for v in trained(made).values())


def test_only_the_bad_minibatch_is_skipped_and_the_means_are_over_the_others() -> None:
    made = setup(minibatches=4)
    batch = batch_of(made, sample(made))
    batch = replace(batch, advantages=torch.arange(8.0)[:, None].expand_as(batch.tokens))
    slide(made)
    tokens: list[int] = []

    def objective(now: Evaluated, part: PPOBatch) -> Objective:
        bad = bool((part.advantages[:, 0] == 5).any())
        if not bad:
            tokens.append(int(part.response_mask.sum()))
        return Objective(
            now.logps * (math.nan if bad else 1), {"one": torch.ones_like(now.logps)}, {"length": now.logps * 0 + 2}
        )

    metrics = made.step(batch, objective)
    assert metrics["skipped"] == 1
    assert (metrics["one"], metrics["length"], metrics["first_length"]) == (1.0, 2.0, 2.0)
    assert math.isfinite(metrics["loss"])
    assert made.optimiser is not None
    assert (made.optimiser.done, made.optimiser.updates) == (4, 3)
    assert len(tokens) == 3


def test_the_third_in_a_row_ends_it_with_the_weights_still_whole() -> None:
    made = setup(minibatches=4)
    batch = batch_of(made, sample(made))
    slide(made)
    before = trained(made)
    with pytest.raises(MannersError, match="three times in a row"):
        made.step(batch, lambda now, part: nan_total(ppo_objective(now, part, config=CONFIG)))
    assert made.optimiser is not None
    assert made.optimiser.done == 3
    assert all(torch.equal(v, before[k]) for k, v in trained(made).items())


@pytest.mark.parametrize(("limit", "skipped"), [(10.0, 1), (19.0, 1), (21.0, 0), (math.inf, 0)])
def test_a_minibatch_with_too_large_a_mean_ratio_is_skipped(limit: float, skipped: int) -> None:
    made = setup(max_mean_ratio=limit, micro_tokens=60)
    batch = batch_of(made, sample(made))
    batch = replace(batch, old_logps=batch.old_logps - math.log(20) * batch.response_mask)
    slide(made)
    before = trained(made)
    metrics = made.step(batch, partial(ppo_objective, config=CONFIG))
    assert metrics["skipped"] == skipped
    assert metrics["first_ratio"] == pytest.approx(20, rel=1e-3)
    assert any(not torch.equal(v, before[k]) for k, v in trained(made).items()) is not bool(skipped)


# --- the critic -----------------------------------------------------------------------------------------------------


def plain_hidden(trunk: Trunk, rollouts: Rollouts, adapter: str) -> Tensor:
    with trunk.adapters.using(adapter), torch.no_grad():
        hidden: Tensor = trunk.model.base_model(
            input_ids=rollouts.tokens, attention_mask=rollouts.mask.long()
        ).last_hidden_state
    return hidden


def before_each_token(values: Tensor, rollouts: Rollouts) -> Tensor:
    """What stands one position to the left of every response token, 0 elsewhere."""
    return torch.nn.functional.pad(values[:, :-1], (1, 0)) * rollouts.response_mask


def test_a_critic_with_an_adapter_of_its_own_reads_its_own_states() -> None:
    made = setup(critic="adapter", micro_tokens=60)
    rollouts = sample(made)
    hidden = plain_hidden(made.trunk, rollouts, CRITIC)
    expected = before_each_token(hidden @ made.value_head.linear.weight[0] + 0.1, rollouts)
    torch.testing.assert_close(made.values(rollouts), expected.detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.evaluate(batch_of(made, rollouts)).values, expected.detach(), atol=1e-5, rtol=1e-5)
    other = before_each_token(
        plain_hidden(made.trunk, rollouts, POLICY) @ made.value_head.linear.weight[0] + 0.1, rollouts
    )
    assert (other - expected).abs().max() > 0.05


def test_with_an_adapter_of_its_own_the_value_loss_leaves_the_policy_alone() -> None:
    def moved(critic: Any) -> tuple[float, float]:
        made = setup(critic=critic)
        batch = batch_of(made, sample(made))
        slide(made)
        before = trained(made)
        made.step(batch, lambda now, part: Objective((now.values - part.returns) ** 2, {}, {}))
        changes = {k: float((v - before[k]).abs().max()) for k, v in trained(made).items()}
        policy = max(v for k, v in changes.items() if k.startswith("base_model"))
        return policy, max(v for k, v in changes.items() if not k.startswith("base_model"))

    shared, own = moved("shared"), moved("adapter")
    assert min(shared) > 1e-3
    assert own[0] == 0
    assert own[1] > 1e-3


@pytest.mark.parametrize("critic", ["shared", "adapter"])
def test_while_only_the_critic_learns_the_policy_does_not_move_by_a_bit(critic: Any) -> None:
    made = setup(critic=critic, minibatches=2)
    rollouts = sample(made)
    batch = batch_of(made, rollouts)
    made.optimise(partial(Optimiser, steps=9, eps=1e-5), 1e-2, 1e-2)
    before, said = trained(made), made.logprobs(rollouts, "policy")
    for _ in range(3):
        made.step(batch, partial(ppo_objective, config=CONFIG), only_critic=True)
    changed = {k for k, v in trained(made).items() if not torch.equal(v, before[k])}
    assert not any(k.startswith("base_model") for k in changed)
    assert "linear.weight" in changed
    assert any(k.startswith("critic ") for k in changed) is (critic == "adapter")
    assert torch.equal(made.logprobs(rollouts, "policy"), said)
    made.step(batch, partial(ppo_objective, config=CONFIG))
    assert not torch.equal(made.logprobs(rollouts, "policy"), said)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8.0), (3, 9.0)])
def test_a_critic_that_begins_as_the_reward_model_says_its_normalised_reward_at_every_token(
    rank: int, alpha: float
) -> None:
    made = setup(critic="adapter")
    made.trunk.adapters.add("judge", rank=rank, alpha=alpha, seed=9)
    shake(made.trunk, "judge", seed=9)
    head = ScalarHead.for_reward(made.trunk.width, seed=4)
    with torch.no_grad():
        head.linear.bias.fill_(0.7)
    made.begin_critic("judge", head, mean=1.5, std=2.5)
    rollouts = sample(made)
    hidden = plain_hidden(made.trunk, rollouts, "judge")
    expected = before_each_token((hidden @ head.linear.weight[0] + 0.7 - 1.5) / 2.5, rollouts).detach()
    torch.testing.assert_close(made.values(rollouts), expected, atol=1e-5, rtol=1e-5)
    assert expected.abs().max() > 0.1

    judge = {k: v.clone() for k, v in made.trunk.adapters.state("judge").items()}
    made.optimise(partial(Optimiser, steps=9, eps=1e-5), 1e-2, 1e-2)
    made.step(batch_of(made, rollouts), partial(ppo_objective, config=CONFIG))
    assert (made.values(rollouts) - expected).abs().max() > 1e-3
    assert all(torch.equal(v, judge[k]) for k, v in made.trunk.adapters.state("judge").items())  # the critic is a copy


# --- saving ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_what_is_saved_comes_back_in_another_learner(tmp_path: Path, kind: str, train_layers: TrainLayers) -> None:
    made = setup(kind, train_layers)
    rollouts = sample(made)
    made.save(tmp_path / "best")
    again = setup(kind, train_layers, shaken=False)
    assert not torch.equal(again.logprobs(rollouts, "policy"), made.logprobs(rollouts, "policy"))
    again.load(tmp_path / "best")
    assert torch.equal(again.logprobs(rollouts, "policy"), made.logprobs(rollouts, "policy"))
    anew = replace(rollouts, hidden=None)
    assert torch.equal(again.values(anew), made.values(anew))


@pytest.mark.parametrize(("kind", "train_layers"), KINDS)
def test_values_read_from_what_sampling_left_are_those_computed_anew(
    kind: str, train_layers: TrainLayers, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = setup(kind, train_layers)
    rollouts = sample(made)
    anew = made.values(replace(rollouts, hidden=None))
    assert anew.std() > 0.05
    monkeypatch.setattr(Trunk, "hidden_at", None)  # nothing is computed
    torch.testing.assert_close(made.values(rollouts), anew, rtol=0, atol=1e-5)


def test_a_checkpoint_holds_what_it_takes_and_nothing_of_the_base(tmp_path: Path) -> None:
    made = setup()
    made.save(tmp_path / "best")
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "manners.json", "value_head.safetensors",
    ]  # fmt: skip
    held = load_file(tmp_path / "best" / "adapter_model.safetensors") | load_file(
        tmp_path / "best" / "value_head.safetensors"
    )
    assert sum(t.numel() for t in held.values()) == sum(t.numel() for t in trained(made).values())


def test_a_critic_with_an_adapter_of_its_own_comes_back_too(tmp_path: Path) -> None:
    made = setup(critic="adapter")
    rollouts = sample(made)
    made.save(tmp_path / "best")
    again = setup(critic="adapter", shaken=False)
    again.load(tmp_path / "best")
    assert torch.equal(again.values(rollouts), made.values(rollouts))
    assert torch.equal(again.logprobs(rollouts, "policy"), made.logprobs(rollouts, "policy"))
    assert sorted(p.name for p in (tmp_path / "best").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "critic", "manners.json", "value_head.safetensors",
    ]  # fmt: skip


@pytest.mark.parametrize("critic", ["shared", "adapter"])
@pytest.mark.parametrize("part", ["policy", "critic", "head"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_weight_that_is_no_number_is_never_saved(tmp_path: Path, critic: Any, part: str, number: float) -> None:
    made = setup(critic=critic)
    made.save(tmp_path / "best")
    content = {p: p.read_bytes() for p in (tmp_path / "best").rglob("*") if p.is_file()}
    with torch.no_grad():
        match part:
            case "policy":
                made.policy_parameters[-1][0, 0] = number
            case "critic":
                made.critic_parameters[0][0, 0] = number
            case "head":
                made.value_head.linear.bias[0] = number
    for name in ("best", "final"):
        with pytest.raises(MannersError, match=f"not a finite number; .*{name} is not written"):
            made.save(tmp_path / name)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == content


@pytest.mark.parametrize("critic", ["shared", "adapter"])
def test_a_saved_state_goes_on_to_the_bit(tmp_path: Path, critic: Any) -> None:
    def walk(made: LocalLearner, steps: int) -> None:
        batch = batch_of(made, sample(made))
        for _ in range(steps):
            made.step(batch, partial(ppo_objective, config=CONFIG))

    straight, cut, again = (setup(critic=critic, minibatches=3, shaken=False) for _ in range(3))
    for made in (straight, cut, again):
        made.optimise(partial(Optimiser, steps=12, warmup_steps=2, eps=1e-5, eps_placement="tensorflow"), 1e-2, 1e-2)
    for made in (straight, cut):
        walk(made, 2)
    cut.save_state(tmp_path)
    again.load_state(tmp_path)
    for made in (straight, again):
        walk(made, 2)
    assert all(torch.equal(v, trained(again)[k]) for k, v in trained(straight).items())
    assert {p.name for p in tmp_path.iterdir()} == {"learner.safetensors", "learner.json"}


def test_a_roll_back_takes_the_weights_and_forgets_the_momentum_but_not_the_schedule(tmp_path: Path) -> None:
    made = setup(critic="adapter")
    batch = batch_of(made, sample(made))
    made.optimise(partial(Optimiser, steps=8, eps=1e-5), 1e-2, 1e-2)
    made.step(batch, partial(ppo_objective, config=CONFIG))
    made.save(tmp_path / "best")
    kept = trained(made)
    for _ in range(3):
        made.step(batch, partial(ppo_objective, config=CONFIG))
    assert any(not torch.equal(v, kept[k]) for k, v in trained(made).items())
    made.roll_back(tmp_path / "best")
    assert all(torch.equal(v, kept[k]) for k, v in trained(made).items())
    assert adam_of(made) == {}
    assert made.optimiser is not None
    assert (made.optimiser.done, made.optimiser.factor) == (4, 0.5)


def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = setup()
    made.save(tmp_path / "best")
    content = {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()}
    shake(made.trunk, POLICY, seed=8)

    def full_disk(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("manners.learner.local.save_file", full_disk)
    with pytest.raises(MannersError, match="the disk is full"):
        made.save(tmp_path / "best")
    assert {p.name: p.read_bytes() for p in (tmp_path / "best").iterdir()} == content
    assert [p.name for p in tmp_path.iterdir()] == ["best"]


def test_a_checkpoint_that_does_not_fit_or_is_not_there_is_told(tmp_path: Path) -> None:
    setup(rank=2).save(tmp_path / "narrow")
    setup(train_layers=1).save(tmp_path / "high")
    made = setup()
    before = trained(made)
    with pytest.raises(MannersError, match="does not fit this model"):
        made.load(tmp_path / "narrow")
    with pytest.raises(MannersError, match="does not fit this model"):
        made.load(tmp_path / "high")
    with pytest.raises(MannersError, match="does not exist"):
        made.load(tmp_path / "nowhere")
    assert all(torch.equal(v, before[k]) for k, v in trained(made).items())
