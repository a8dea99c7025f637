from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from tiny import KINDS, shake, tiny_model, tiny_tokenizer, tiny_trunk
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.models.heads import QValues, heads_of
from manners.models.shaping import QShaping
from manners.models.trunk import TrainLayers, Trunk
from manners.ops.logprobs import token_logprobs
from manners.records import Prompt
from manners.sampling.local import LocalSampler, _draw

END = 0
TEXTS = ["Hi", "What is a bee?", "x", "Tell me about the sea, please.", "Why?", "What is a bee?"]
PROMPTS = [Prompt.of(text) for text in TEXTS]
every_trunk = pytest.mark.parametrize(
    ("kind", "train_layers"), [(kind, layers) for kind in KINDS for layers in ("all", 1, 2)]
)


def few_letters(kind: str) -> Trunk:
    """A trunk that knows few tokens, so that one in ten is the end of the turn."""
    tokenizer = tiny_tokenizer("abcd")
    return Trunk(tiny_model(kind, vocabulary=len(tokenizer)), tokenizer, "all", name=f"tiny-{kind}")


@functools.cache
def plain(kind: str) -> Any:
    return tiny_model(kind)


def sample(trunk: Trunk, prompts: Sequence[Prompt] = PROMPTS, batch: int = 64, **settings: Any) -> Rollouts:
    settings = {"max_tokens": 12, "temperature": 1.0, "seed": 0, **settings}
    return LocalSampler(trunk, None, batch=batch).sample(prompts, **settings)


def responses(rollouts: Rollouts) -> list[list[int]]:
    rows = zip(rollouts.tokens, rollouts.prompt_lengths, rollouts.lengths, strict=True)
    return [tokens[start:stop].tolist() for tokens, start, stop in rows]


@torch.no_grad()
def plain_logps(model: Any, rollouts: Rollouts, temperature: float) -> Tensor:
    """Log-probabilities of response tokens, row by row without padding and without a cache; 0 elsewhere."""
    logps = torch.zeros(rollouts.tokens.shape)
    for row in range(len(rollouts)):
        start, stop = int(rollouts.prompt_lengths[row]), int(rollouts.lengths[row])
        logits = model(rollouts.tokens[row : row + 1, :stop]).logits[0]
        for t in range(start, stop):
            logps[row, t] = torch.log_softmax(logits[t - 1] / temperature, -1)[rollouts.tokens[row, t]]
    return logps


def close(got: Tensor, wanted: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_those_of_the_plain_model(kind: str, temperature: float) -> None:
    rollouts = sample(tiny_trunk(kind), temperature=temperature)
    close(rollouts.logps, plain_logps(plain(kind), rollouts, temperature))
    assert rollouts.logps[rollouts.response_mask].max() < 0
    assert not rollouts.logps[~rollouts.response_mask].any()


@every_trunk
def test_states_are_those_of_the_trunk_up_to_the_last_token(kind: str, train_layers: TrainLayers) -> None:
    trunk = tiny_trunk(kind, train_layers)
    rollouts = sample(trunk)
    assert rollouts.states.shape == (*rollouts.tokens.shape, trunk.width)
    close(rollouts.states[rollouts.mask], trunk.states(rollouts.tokens)[rollouts.mask], atol=2e-5)
    assert rollouts.trunk is trunk


@every_trunk
def test_hidden_from_the_kept_states_gives_the_behaviour_log_probabilities(
    kind: str, train_layers: TrainLayers
) -> None:
    trunk = tiny_trunk(kind, train_layers)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    sampler = LocalSampler(trunk, "policy")
    rollouts = sampler.sample(PROMPTS, max_tokens=8, temperature=0.8, seed=0)
    rows, columns = rollouts.response_mask.nonzero(as_tuple=True)
    tokens = rollouts.tokens[rows, columns]
    with torch.no_grad():
        with trunk.adapters.using("policy"):
            hidden = trunk.hidden(rollouts.states.clone())[rows, columns - 1]
        close(token_logprobs(hidden, trunk.head_weight, tokens, temperature=0.8).logps, rollouts.logps[rows, columns])
        reference = trunk.hidden(rollouts.states.clone())[rows, columns - 1]
        bare = token_logprobs(reference, trunk.head_weight, tokens, temperature=0.8).logps
    close(bare, plain_logps(plain(kind), rollouts, 0.8)[rows, columns])
    assert (bare - rollouts.logps[rows, columns]).abs().max() > 0.1


def test_the_base_is_untouched_by_sampling_with_an_adapter() -> None:
    trunk = tiny_trunk("llama", 2)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    before = {name: (p, p.detach().clone()) for name, p in trunk.model.named_parameters()}
    bare = responses(sample(trunk))
    other = LocalSampler(trunk, "policy").sample(PROMPTS, max_tokens=12, temperature=1.0, seed=0)
    assert responses(other) != bare
    assert responses(sample(trunk)) == bare == responses(sample(tiny_trunk("llama", 2)))
    for name, parameter in trunk.model.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_rollouts_can_be_learnt_from_as_they_are() -> None:
    trunk = tiny_trunk("llama", 2)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy")
    rollouts = sample(trunk)
    with trunk.adapters.using("policy"):
        trunk.hidden(rollouts.states).sum().backward()
    assert all(p.grad is not None for p in trunk.adapters.parameters("policy"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_does_not_depend_on_the_size_of_the_batch(kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    whole = sample(trunk)
    for batch in (1, 2, 4):
        parts = sample(trunk, batch=batch)
        assert responses(parts) == responses(whole)
        close(parts.logps, whole.logps, atol=2e-5)
        close(parts.states[parts.mask], whole.states[whole.mask], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_prompts_are_computed_once_and_answered_as_if_each_stood_alone(kind: str) -> None:
    trunk = tiny_trunk(kind, 2)
    prompts = [PROMPTS[i] for i in (2, 1, 2, 1, 2)]
    alone = sample(trunk, prompts, batch=1)
    seen: list[tuple[int, ...]] = []
    forward = trunk.forward_cached

    def spy(tokens: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        seen.append(tuple(tokens.shape))
        return forward(tokens, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk, "forward_cached", spy)
        together = sample(trunk, prompts)
    assert seen[0][0] == 2
    assert seen[1] == (5, 1)
    assert responses(together) == responses(alone)
    close(together.logps, alone.logps, atol=2e-5)
    close(together.states[together.mask], alone.states[alone.mask], atol=2e-5)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    trunk = tiny_trunk("llama")
    whole = responses(sample(trunk))
    for row in range(len(PROMPTS)):
        others = [Prompt.of("something else altogether, " * (i % 3 + 1)) for i in range(len(PROMPTS))]
        others[row] = PROMPTS[row]
        assert responses(sample(trunk, others))[row] == whole[row]
    assert responses(sample(trunk, PROMPTS[:3])) == whole[:3]


def test_rows_belong_to_their_prompts() -> None:
    trunk = tiny_trunk("llama")
    for order in (list(range(6)), [3, 0, 5, 1, 4, 2]):
        prompts = [PROMPTS[i] for i in order]
        rollouts = sample(trunk, prompts, batch=2)
        assert rollouts.prompts == tuple(prompts)
        assert [c.prompt_id for c in rollouts.completions] == [p.id for p in prompts]
        for row, prompt in enumerate(prompts):
            length = int(rollouts.prompt_lengths[row])
            wanted = f"<|user|>{prompt.text}<|end|><|assistant|>"
            assert trunk.tokenizer.decode(rollouts.tokens[row, :length]) == wanted


def test_the_seed_decides_and_equal_prompts_get_different_answers() -> None:
    trunk = tiny_trunk("llama")
    torch.manual_seed(1)
    first = responses(sample(trunk, seed=5))
    torch.manual_seed(2)
    assert responses(sample(trunk, seed=5)) == first
    assert responses(sample(trunk, seed=6)) != first
    assert PROMPTS[1] == PROMPTS[5]
    assert first[1] != first[5]


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_0_takes_the_likeliest_token_each_time(kind: str) -> None:
    trunk = tiny_trunk(kind, 1)
    rollouts = sample(trunk, temperature=0.0)
    for row, response in enumerate(responses(rollouts)):
        tokens = rollouts.tokens[row, : int(rollouts.prompt_lengths[row])].tolist()
        wanted: list[int] = []
        while len(wanted) < 12 and (not wanted or wanted[-1] != END):
            with torch.no_grad():
                wanted.append(int(plain(kind)(torch.tensor([[*tokens, *wanted]])).logits[0, -1].argmax()))
        assert response == wanted
    close(rollouts.logps, plain_logps(plain(kind), rollouts, 1.0))
    assert responses(sample(trunk, temperature=0.0, seed=9)) == responses(rollouts)


def test_a_low_temperature_comes_near_the_likeliest() -> None:
    trunk = tiny_trunk("llama")
    assert responses(sample(trunk, temperature=1e-4)) == responses(sample(trunk, temperature=0.0))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution_of_the_model(temperature: float) -> None:
    # a vocabulary of eight, four thousand draws of two tokens; all sequences: an end, or one of 7 · 8
    tokenizer = tiny_tokenizer("abc")
    model = tiny_model("llama", seed=2, vocabulary=len(tokenizer))
    prompt = Prompt.of("ab")
    count = 4000
    trunk = Trunk(tiny_model("llama", seed=2, vocabulary=len(tokenizer)), tokenizer, 1)
    drawn = responses(sample(trunk, [prompt] * count, batch=1000, max_tokens=2, temperature=temperature, seed=3))
    start = tokenizer(f"<|user|>{prompt.text}<|end|><|assistant|>")["input_ids"]

    @torch.no_grad()
    def following(tokens: list[int]) -> list[float]:
        return torch.softmax(model(torch.tensor([tokens])).logits[0, -1].double() / temperature, -1).tolist()

    first = following(start)
    expected: dict[tuple[int, ...], float] = {(END,): first[END]}
    for a in range(1, 8):
        expected |= {(a, b): first[a] * p for b, p in enumerate(following([*start, a]))}
    assert sum(expected.values()) == pytest.approx(1)
    assert {tuple(response) for response in drawn} <= expected.keys()
    seen = {key: 0 for key in expected}
    for response in drawn:
        seen[tuple(response)] += 1
    common = [key for key in expected if expected[key] * count >= 5]
    rare = 1 - sum(expected[key] for key in common)
    observed = [seen[key] for key in common] + [count - sum(seen[key] for key in common)]
    wanted = [expected[key] * count for key in common] + [rare * count]
    assert len(common) > 15
    assert chisquare(observed, wanted).pvalue > 0.005


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_policy_times_the_exponential_of_its_advantage(temperature: float) -> None:
    tokenizer = tiny_tokenizer("abc")
    model = tiny_model("llama", seed=2, vocabulary=len(tokenizer))
    trunk = Trunk(tiny_model("llama", seed=2, vocabulary=len(tokenizer)), tokenizer, 1)
    values, beta, count = QValues(trunk.width), 1.5, 4000
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in values.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        for head in heads_of(values.targets):
            head.direction.weight *= trunk.width
    sampler = LocalSampler(trunk, None, batch=1000, shape=QShaping(values, trunk.head_weight, beta))
    rollouts = sampler.sample([Prompt.of("ab")] * count, max_tokens=2, temperature=temperature, seed=3)
    embedding = model.lm_head.weight.detach().double().numpy()
    parts = {name: tensor.double().numpy() for name, tensor in values.targets.state_dict().items()}

    def advantage(h: Any) -> Any:
        """min of both Q of every token, by plain matrices; a V that is the same for all tokens changes nothing."""
        found = []
        for head in ("0", "1"):
            inside = np.maximum(parts[f"{head}.inner.weight"] @ h + parts[f"{head}.inner.bias"], 0)
            level = parts[f"{head}.level.linear.weight"][0] @ inside + parts[f"{head}.level.linear.bias"][0]
            found.append(level + embedding @ (parts[f"{head}.direction.weight"] @ inside) / trunk.width)
        return np.minimum(*found) - 12.3

    @torch.no_grad()
    def following(tokens: list[int]) -> list[float]:
        h = model.model(torch.tensor([tokens])).last_hidden_state[0, -1].double().numpy()
        pi = np.exp(embedding @ h) / np.exp(embedding @ h).sum()
        shaped = (pi * np.exp(beta * advantage(h))) ** (1 / temperature)
        return list(shaped / shaped.sum())

    start = tokenizer("<|user|>ab<|end|><|assistant|>")["input_ids"]
    first = following(start)
    expected: dict[tuple[int, ...], float] = {(END,): first[END]}
    for a in range(1, 8):
        expected |= {(a, b): first[a] * p for b, p in enumerate(following([*start, a]))}
    seen = dict.fromkeys(expected, 0)
    for response in responses(rollouts):
        seen[tuple(response)] += 1
    common = [key for key in expected if expected[key] * count >= 5]
    rare = 1 - sum(expected[key] for key in common)
    observed = [seen[key] for key in common] + [count - sum(seen[key] for key in common)]
    assert len(common) > 10
    assert chisquare(observed, [expected[key] * count for key in common] + [rare * count]).pvalue > 0.005
    # and its log-probabilities are those of what was drawn from
    for row in range(20):
        response = tuple(responses(rollouts)[row])
        assert float(rollouts.logps[row].sum()) == pytest.approx(float(np.log(expected[response])), abs=1e-4)


def test_a_token_without_probability_is_never_drawn_even_by_the_ends_of_the_interval() -> None:
    logits = torch.tensor([[-1e4, 0.0, -1e4, 1.0, -1e4]]).expand(3, 5)
    tokens, logps = _draw(logits, 1.0, torch.tensor([0.0, 0.5, 1 - 2**-24]))
    assert tokens.tolist() == [1, 3, 3]
    assert logps.tolist() == pytest.approx([-1.3132617, -0.3132617, -0.3132617])  # −log(1 + e), 1 − log(1 + e)


def test_consecutive_tokens_of_a_row_are_drawn_independently() -> None:
    # a model whose head is zero: every token is uniform whatever came before, so pairs of neighbours are too
    tokenizer = tiny_tokenizer("abc")
    model = tiny_model("llama", vocabulary=len(tokenizer))
    with torch.no_grad():
        model.lm_head.weight.zero_()
    rollouts = sample(Trunk(model, tokenizer, 1), [Prompt.of("a")] * 600, batch=600, max_tokens=10)
    pairs = [pair for response in responses(rollouts) for pair in itertools.pairwise(response)]
    counts = torch.zeros(8, 8)
    for a, b in pairs:
        counts[a, b] += 1
    assert not counts[END].any()
    assert chisquare(counts[1:].flatten().tolist()).pvalue > 0.005
    # a response of ten uniform draws out of eight ends with probability 1 − (7/8)^10
    assert rollouts.finished.double().mean().item() == pytest.approx(1 - (7 / 8) ** 10, abs=0.06)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_response_ends_with_the_end_token_or_at_the_limit(kind: str) -> None:
    tokenizer = tiny_tokenizer("abcd")  # nine tokens: about one in nine is the end
    trunk = Trunk(tiny_model(kind, vocabulary=len(tokenizer), seed=1), tokenizer, 1)
    rollouts = sample(trunk, [Prompt.of("ab" * (i % 4 + 1)) for i in range(60)], max_tokens=9, batch=25)
    assert 5 < int(rollouts.finished.sum()) < 55
    for response, finished, completion in zip(
        responses(rollouts), rollouts.finished.tolist(), rollouts.completions, strict=True
    ):
        assert END not in response[:-1]
        assert finished is (response[-1] == END)
        assert completion.finished is finished
        assert len(response) == 9 or finished
        assert 1 <= len(response) <= 9
        assert completion.text == tokenizer.decode(response[:-1] if finished else response)
    # rows that went on after their neighbours had finished kept their own cache
    model = tiny_model(kind, vocabulary=len(tokenizer), seed=1)
    close(rollouts.logps, plain_logps(model, rollouts, 1.0))
    close(rollouts.states[rollouts.mask], trunk.states(rollouts.tokens)[rollouts.mask], atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sampling_past_the_end_and_cutting_there_gives_the_very_same_answers(kind: str) -> None:
    # the first code for learning from human feedback always drew as many tokens as there was room for, and cut afterwards
    sampler = LocalSampler(few_letters(kind), None)
    settings: dict[str, Any] = {"max_tokens": 14, "temperature": 1.0, "seed": 4}
    prompts = [Prompt.of("abcd"[i % 4] * (1 + i % 5)) for i in range(40)]
    stopped = sampler.sample(prompts, **settings)
    sampler.chat.end = -1  # no token ends an answer
    full = sampler.sample(prompts, **settings)
    assert full.response_lengths.tolist() == [14] * 40
    assert 5 < int(stopped.finished.sum()) < 40
    for row, (whole, short) in enumerate(zip(responses(full), responses(stopped), strict=True)):
        cut = whole.index(END) + 1 if END in whole else len(whole)
        assert whole[:cut] == short
        span = slice(int(stopped.prompt_lengths[row]), int(stopped.lengths[row]))
        close(full.logps[row, span], stopped.logps[row, span])


def test_a_single_token_and_its_state() -> None:
    trunk = tiny_trunk("llama", 2)
    rollouts = sample(trunk, max_tokens=1)
    assert rollouts.response_lengths.tolist() == [1] * 6
    close(rollouts.states[rollouts.mask], trunk.states(rollouts.tokens)[rollouts.mask], atol=2e-5)


def test_completions_say_how_they_were_made() -> None:
    trunk = tiny_trunk("llama")
    sampler = LocalSampler(trunk, None, model_name="the policy")
    made = sampler.sample(PROMPTS[:1], max_tokens=3, temperature=0.5, seed=7).completions[0]
    assert (made.model, made.seed) == ("the policy", 7)
    assert dict(made.sampling) == {"max_tokens": 3, "temperature": 0.5}
    assert sample(trunk, PROMPTS[:1]).completions[0].model == "tiny-llama"


def test_a_sampled_answer_becomes_the_same_tokens_again() -> None:
    trunk = tiny_trunk("llama")
    sampler = LocalSampler(trunk, None)
    rollouts = sampler.sample(PROMPTS * 3, max_tokens=20, temperature=1.0, seed=0)
    for prompt, completion, length, response in zip(
        rollouts.prompts, rollouts.completions, rollouts.prompt_lengths.tolist(), responses(rollouts), strict=True
    ):
        assert sampler.chat.completion(completion) == response
        assert len(sampler.chat.prompt(prompt)) == length


def test_a_prompt_that_leaves_no_room_is_an_error_before_anything_is_sampled() -> None:
    long = Prompt.of("x" * 250)  # 253 tokens with its marks, of 256
    assert sample(tiny_trunk("llama"), [long], max_tokens=3).response_lengths.tolist() == [3]
    with pytest.raises(MannersError, match="context"):
        sample(tiny_trunk("llama"), [*PROMPTS, long], max_tokens=4)


def test_a_base_in_half_precision_gives_log_probabilities_in_single() -> None:
    trunk = Trunk(tiny_model("llama").bfloat16(), tiny_tokenizer(), 2)
    trunk.adapters.add("policy", rank=2, alpha=4, seed=0)
    shake(trunk, "policy", std=0.1)
    rollouts = LocalSampler(trunk, "policy").sample(PROMPTS, max_tokens=8, temperature=1.0, seed=0)
    assert rollouts.logps.dtype == torch.float32
    assert rollouts.states.dtype == torch.bfloat16
    with trunk.adapters.using("policy"), torch.no_grad():
        got = trunk.predict(rollouts, trunk.states(rollouts.tokens))
    # merged weights are rounded to eight bits, the adapter that is on is not
    close(got.spread(got.logps, rollouts.tokens), rollouts.logps, atol=0.2)


def test_progress_is_told_for_every_batch() -> None:
    told: list[int] = []

    def track(items: Sequence[Any], description: str) -> Sequence[Any]:
        told.append(len(items))
        assert description
        return items

    LocalSampler(tiny_trunk("llama"), None, batch=4).sample(PROMPTS, max_tokens=2, temperature=1.0, seed=0, track=track)
    assert told == [2]
