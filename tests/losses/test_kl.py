"""Whose gradient a KL loss has, by summing over everything that can be sampled: no estimate, no tolerance but rounding."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from manners.losses.kl import forward_kl_loss, reverse_kl_loss

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
REVERSE, FORWARD = reverse_kl_loss, forward_kl_loss


def three_distributions(rows: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [rows, 5] of the policy, with gradient, and log-probabilities of the policy that sampled and of the reference."""
    g = torch.Generator().manual_seed(7)
    logits, old, reference = torch.randn(3, rows, 5, generator=g, dtype=torch.float64)
    return logits.requires_grad_(), torch.log_softmax(0.7 * old, -1), torch.log_softmax(reference, -1)


def expected_gradient(loss: Loss, sampled_by_itself: bool) -> Tensor:
    """Σ_x q(x) ∇ loss(x), q the policy itself or the one that sampled."""
    logits, old, reference = three_distributions()
    logps = torch.log_softmax(logits, -1)
    sampler = logps.detach() if sampled_by_itself else old
    (sampler.exp() * loss(logps, sampler, reference)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def gradient_of_kl(forward: bool) -> Tensor:
    logits, _, reference = three_distributions()
    policy, other = Categorical(logits=logits), Categorical(logits=reference)
    (kl_divergence(other, policy) if forward else kl_divergence(policy, other)).sum().backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("itself", [True, False], ids=["on samples of the policy", "on samples of an older policy"])
@pytest.mark.parametrize(("loss", "forward"), [(REVERSE, False), (FORWARD, True)])
def test_the_expected_gradient_is_that_of_the_kl_it_is_named_after(loss: Loss, forward: bool, itself: bool) -> None:
    expected, other = gradient_of_kl(forward), gradient_of_kl(not forward)
    torch.testing.assert_close(expected_gradient(loss, itself), expected, rtol=0, atol=1e-12)
    assert (expected - other).abs().max() > 0.05


@pytest.mark.parametrize("loss", [REVERSE, FORWARD])
def test_without_the_ratio_an_older_policys_samples_give_the_gradient_of_no_kl(loss: Loss) -> None:
    logits, old, reference = three_distributions()
    logps = torch.log_softmax(logits, -1)
    (old.exp() * loss(logps, logps.detach(), reference)).sum().backward()  # as if it had sampled itself
    assert logits.grad is not None
    for forward in (True, False):
        assert (logits.grad - gradient_of_kl(forward)).abs().max() > 0.02


def test_k1_as_a_loss_holds_nothing_back() -> None:
    def k1_loss(logps: Tensor, _: Tensor, reference: Tensor) -> Tensor:
        return logps - reference

    assert expected_gradient(k1_loss, sampled_by_itself=True).abs().max() < 1e-12


@pytest.mark.parametrize(("loss", "forward"), [(REVERSE, False), (FORWARD, True)])
def test_over_whole_answers_it_is_the_sum_over_the_states_that_are_visited(loss: Loss, forward: bool) -> None:
    # two tokens of three letters: the second one's distribution depends on the first; all nine answers are summed over
    g = torch.Generator().manual_seed(1)
    first, second = (torch.randn(*shape, generator=g, dtype=torch.float64).requires_grad_() for shape in ((3,), (3, 3)))
    reference = [
        torch.log_softmax(torch.randn(*shape, generator=g, dtype=torch.float64), -1) for shape in ((3,), (3, 3))
    ]
    total = torch.zeros((), dtype=torch.float64)
    for a, b in itertools.product(range(3), range(3)):
        logps = torch.stack([torch.log_softmax(first, -1)[a], torch.log_softmax(second[a], -1)[b]])
        weight = logps.detach().sum().exp()
        total = total + weight * loss(logps, logps.detach(), torch.stack([reference[0][a], reference[1][a, b]])).sum()
    total.backward()
    found = torch.cat([first.grad.reshape(-1), second.grad.reshape(-1)])  # type: ignore[union-attr]
    here = [tensor.detach().clone().requires_grad_() for tensor in (first, second)]
    chances = torch.softmax(here[0].detach(), -1)
    pairs = [(here[0], reference[0], torch.ones((), dtype=torch.float64))]
    pairs += [(here[1][a], reference[1][a], chances[a]) for a in range(3)]
    for logits, other, chance in pairs:
        policy, frozen = Categorical(logits=logits), Categorical(logits=other)
        (chance * (kl_divergence(frozen, policy) if forward else kl_divergence(policy, frozen))).backward()
    expected = torch.cat([here[0].grad.reshape(-1), here[1].grad.reshape(-1)])  # type: ignore[union-attr]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", [REVERSE, FORWARD])
def test_the_reference_itself_costs_nothing_and_pulls_nowhere(loss: Loss) -> None:
    logps = torch.tensor([-0.5, -2.0], requires_grad=True)
    found = loss(logps, logps.detach() - 1, logps.detach())
    found.sum().backward()
    assert found.tolist() == [0, 0]
    assert logps.grad is not None
    assert logps.grad.tolist() == [0, 0]


@pytest.mark.parametrize("loss", [REVERSE, FORWARD])
def test_a_ratio_out_of_all_bounds_stays_finite(loss: Loss) -> None:
    logps = torch.tensor([0.0], requires_grad=True)
    found = loss(logps, torch.tensor([-1e4]), torch.tensor([-1.0]))
    found.sum().backward()
    assert found.isfinite().all()
    assert logps.grad is not None
    assert logps.grad.isfinite().all()
