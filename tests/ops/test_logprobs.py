from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from manners.ops import logprobs
from manners.ops.logprobs import token_logprobs

DOUBLE = torch.float64


def drawn(count: int = 7, width: int = 5, vocabulary: int = 11, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, width, generator=g, dtype=DOUBLE)
    weight = torch.randn(vocabulary, width, generator=g, dtype=DOUBLE)
    return hidden, weight, torch.randint(vocabulary, (count,), generator=g)


def cut(monkeypatch: pytest.MonkeyPatch, block: tuple[int, int]) -> None:
    """Into blocks of so many rows and tokens of the vocabulary."""
    monkeypatch.setattr(logprobs, "ROWS", block[0])
    monkeypatch.setattr(logprobs, "TOKENS", block[1])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
def test_values_equal_log_softmax_and_its_entropy(temperature: float) -> None:
    hidden, weight, tokens = drawn()
    got = token_logprobs(hidden, weight, tokens, temperature=temperature)
    distribution = torch.distributions.Categorical(logits=hidden @ weight.T / temperature)
    assert got.logps.dtype == DOUBLE
    torch.testing.assert_close(got.logps, distribution.log_prob(tokens), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.entropies, distribution.entropy(), rtol=0, atol=1e-12)


def test_hand_numbers_of_two_tokens() -> None:
    # logits ln 3 and 0: probabilities 3/4 and 1/4
    hidden, weight = torch.tensor([[math.log(3)]] * 2, dtype=DOUBLE), torch.tensor([[1.0], [0.0]], dtype=DOUBLE)
    got = token_logprobs(hidden, weight, torch.tensor([0, 1]))
    assert got.logps.tolist() == pytest.approx([math.log(0.75), math.log(0.25)], abs=1e-12)
    assert got.entropies.tolist() == pytest.approx([0.5623351446188083] * 2, abs=1e-12)
    # at temperature ½ the odds are squared: 9 to 1
    got = token_logprobs(hidden, weight, torch.tensor([0, 1]), temperature=0.5)
    assert got.logps.tolist() == pytest.approx([math.log(0.9), math.log(0.1)], abs=1e-12)


def test_zero_hidden_gives_the_uniform_distribution() -> None:
    _, weight, tokens = drawn(vocabulary=11)
    got = token_logprobs(torch.zeros(7, 5, dtype=DOUBLE), weight, tokens)
    assert got.logps.tolist() == pytest.approx([-math.log(11)] * 7, abs=1e-12)
    assert got.entropies.tolist() == pytest.approx([math.log(11)] * 7, abs=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("block", [(2, 3), (512, 4096)])
def test_gradients_of_logps_and_entropies(
    temperature: float, block: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(monkeypatch, block)
    hidden, weight, tokens = drawn(count=5)
    hidden.requires_grad_()

    def both(h: Tensor) -> tuple[Tensor, ...]:
        return tuple(token_logprobs(h, weight, tokens, temperature=temperature, entropy_gradient=True))

    def logps(h: Tensor) -> Tensor:
        return token_logprobs(h, weight, tokens, temperature=temperature).logps

    assert torch.autograd.gradcheck(both, hidden)
    assert torch.autograd.gradcheck(logps, hidden)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_gradient_equals_autograd_through_the_plain_formula_in_float32(temperature: float) -> None:
    hidden, weight, tokens = (x.float() if x.is_floating_point() else x for x in drawn(count=40, vocabulary=50))
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    coefficients = torch.randn(2, 40, generator=torch.Generator().manual_seed(1))
    got = token_logprobs(ours, weight, tokens, temperature=temperature, entropy_gradient=True)
    (coefficients[0] * got.logps + coefficients[1] * got.entropies).sum().backward()
    wanted = torch.distributions.Categorical(logits=plain @ weight.T / temperature)
    (coefficients[0] * wanted.log_prob(tokens) + coefficients[1] * wanted.entropy()).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_entropies_carry_no_gradient_unless_asked() -> None:
    hidden, weight, tokens = drawn()
    got = token_logprobs(hidden.requires_grad_(), weight, tokens)
    assert got.logps.requires_grad
    assert not got.entropies.requires_grad


@pytest.mark.parametrize("block", [(1, 1), (3, 4), (7, 11), (512, 10)])
def test_blocks_equal_the_whole(block: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight, tokens = drawn()
    rows = [token_logprobs(hidden[i : i + 1], weight, tokens[i : i + 1]) for i in range(len(tokens))]
    cut(monkeypatch, block)
    got = token_logprobs(hidden, weight, tokens)
    torch.testing.assert_close(got.logps, torch.cat([r.logps for r in rows]), rtol=0, atol=1e-12)
    torch.testing.assert_close(got.entropies, torch.cat([r.entropies for r in rows]), rtol=0, atol=1e-12)


def test_no_tokens_give_nothing_and_a_zero_gradient() -> None:
    hidden, weight, tokens = drawn()
    hidden.requires_grad_()
    got = token_logprobs(hidden[:0], weight, tokens[:0], entropy_gradient=True)
    (got.logps.sum() + got.entropies.sum()).backward()
    assert got.logps.shape == got.entropies.shape == (0,)
    assert hidden.grad is not None
    assert not hidden.grad.any()


def test_half_precision_states_are_summed_up_in_float32() -> None:
    hidden, weight, tokens = (x.bfloat16() if x.is_floating_point() else x for x in drawn(vocabulary=300))
    got = token_logprobs(hidden.requires_grad_(), weight, tokens)
    logits = (hidden.detach() @ weight.T).float()
    assert got.logps.dtype == got.entropies.dtype == torch.float32
    wanted = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(got.logps.double(), wanted.gather(1, tokens[:, None])[:, 0], rtol=0, atol=1e-5)
    got.logps.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("scale", [1e3, -1e3])
def test_extreme_logits_stay_finite(scale: float) -> None:
    hidden = torch.full((2, 1), scale).requires_grad_()
    weight = torch.tensor([[1.0], [-1.0], [0.0]])
    got = token_logprobs(hidden, weight, torch.tensor([0, 1]), entropy_gradient=True)
    sure, never = (0, 1) if scale > 0 else (1, 0)
    assert got.logps[sure] == 0
    assert got.logps[never] == -2e3
    assert got.entropies.tolist() == [0, 0]
    (got.logps.sum() + got.entropies.sum()).backward()
    assert hidden.grad is not None
    assert hidden.grad[sure].item() == 0
    assert hidden.grad[never].item() == pytest.approx(-2 * math.copysign(1, scale))


def test_a_head_that_learns_is_refused() -> None:
    hidden, weight, tokens = drawn()
    with pytest.raises(ValueError, match="frozen"):
        token_logprobs(hidden, weight.requires_grad_(), tokens)
