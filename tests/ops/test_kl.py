from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, kl_divergence

from manners.ops.kl import adaptive_coefficient, importance_weights, k1, k2, k3, shift_penalised_rewards

Estimator = Callable[[Tensor, Tensor], Tensor]


def policy_and_reference() -> tuple[Tensor, Tensor]:
    """Log-probabilities of two categoricals over five tokens; those of the policy come from logits with a gradient."""
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(5, generator=g, dtype=torch.float64).requires_grad_()
    reference = torch.log_softmax(torch.randn(5, generator=g, dtype=torch.float64), -1)
    return logits, reference


def gradient_of_expected_loss(estimator: Estimator) -> Tensor:
    """Σ_x π(x) ∇ k(x): what minimising the estimator on samples of π does on average."""
    logits, reference = policy_and_reference()
    logps = torch.log_softmax(logits, -1)
    (logps.detach().exp() * estimator(logps, reference)).sum().backward()
    assert logits.grad is not None
    return logits.grad


def gradient_of_kl(forward: bool) -> Tensor:
    logits, reference = policy_and_reference()
    policy, other = Categorical(logits=logits), Categorical(logits=reference)
    kl = kl_divergence(other, policy) if forward else kl_divergence(policy, other)
    kl.backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_unbiased(estimator: Estimator) -> None:
    logits, reference = policy_and_reference()
    logps = torch.log_softmax(logits, -1)
    expected = (logps.exp() * estimator(logps, reference)).sum()
    kl = kl_divergence(Categorical(logits=logits), Categorical(logits=reference))
    assert kl.item() > 0.5
    assert expected.item() == pytest.approx(kl.item(), abs=1e-12)


def test_k2_is_biased_and_right_to_second_order() -> None:
    direction = torch.randn(5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    reference = torch.log_softmax(torch.zeros(5, dtype=torch.float64), -1)
    errors = []
    for size in (1.0, 0.01):
        logps = torch.log_softmax(size * direction, -1)
        kl = (logps.exp() * (logps - reference)).sum()
        errors.append(abs((logps.exp() * k2(logps, reference)).sum().item() / kl.item() - 1))
    assert errors[0] > 0.05
    assert errors[1] < 0.01


def test_signs_and_hand_numbers() -> None:
    # the policy is twice as sure of the first token as the reference and half as sure of the second
    policy, reference = torch.tensor([0.5, 0.25]).log(), torch.tensor([0.25, 0.5]).log()
    assert k1(policy, reference).tolist() == pytest.approx([math.log(2), -math.log(2)])
    assert k2(policy, reference).tolist() == pytest.approx([0.240226507, 0.240226507])
    assert k3(policy, reference).tolist() == pytest.approx([-0.5 + math.log(2), 1 - math.log(2)])
    far = torch.linspace(-20, 20, 41)
    assert (k3(far, torch.zeros(41)) >= 0).all()
    assert k3(torch.zeros(1), torch.zeros(1)).item() == 0


def test_k3_keeps_its_digits_where_the_ratio_is_near_1() -> None:
    gap = torch.tensor([1e-4])
    assert k3(torch.zeros(1), gap).item() == pytest.approx(0.5e-8, rel=1e-2)


def test_k1_as_a_loss_has_no_expected_gradient() -> None:
    torch.testing.assert_close(gradient_of_expected_loss(k1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_k2_as_a_loss_has_the_gradient_of_the_reverse_kl() -> None:
    reverse, forward = gradient_of_kl(forward=False), gradient_of_kl(forward=True)
    torch.testing.assert_close(gradient_of_expected_loss(k2), reverse, rtol=0, atol=1e-12)
    assert (reverse - forward).abs().max() > 0.05


def test_k3_as_a_loss_has_the_gradient_of_the_forward_kl() -> None:
    torch.testing.assert_close(gradient_of_expected_loss(k3), gradient_of_kl(forward=True), rtol=0, atol=1e-12)


def adapted(kl: float, coefficient: float = 1.0, episodes: int = 256) -> float:
    return adaptive_coefficient(coefficient, kl, target_per_sequence=6, horizon_episodes=10_000, episodes=episodes)


def test_adaptive_coefficient_known_value() -> None:
    assert adapted(12) == pytest.approx(1.00512, abs=1e-12)
    assert adapted(12, coefficient=0.15) == pytest.approx(0.15 * 1.00512, abs=1e-12)


def test_adaptive_coefficient_is_clipped_on_both_sides_and_rests_at_the_target() -> None:
    assert adapted(6) == 1
    assert adapted(6.6) == pytest.approx(1 + 0.1 * 0.0256)  # inside the clip: 10 % above
    assert adapted(5.4) == pytest.approx(1 - 0.1 * 0.0256)
    assert adapted(7.2) == pytest.approx(adapted(1e9))
    assert adapted(4.8) == pytest.approx(adapted(-50.0)) == pytest.approx(1 - 0.00512)


def test_adaptive_coefficient_counts_episodes() -> None:
    assert adapted(12, episodes=10_000) == pytest.approx(1.2)
    two = adapted(12, coefficient=adapted(12, episodes=1), episodes=1)
    assert two == pytest.approx(1.00004, abs=1e-8)


def shift_case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores [4], logps, reference_logps, mask [4, 7]: responses of 3, 1, 5 and 0 tokens behind prompts."""
    g = torch.Generator().manual_seed(0)
    logps, reference = torch.randn(2, 4, 7, generator=g, dtype=torch.float64).neg().exp().neg()
    steps = torch.arange(7)[None]
    start, stop = torch.tensor([2, 3, 1, 4])[:, None], torch.tensor([5, 4, 6, 4])[:, None]
    scores = torch.tensor([2.0, -1.0, 0.5, 9.0], dtype=torch.float64)
    return scores, logps, reference, (steps >= start) & (steps < stop)


def test_rewards_of_a_row_add_up_to_score_less_beta_times_kl() -> None:
    scores, logps, reference, mask = shift_case()
    rewards = shift_penalised_rewards(scores, logps, reference, mask, beta=0.3)
    for row in range(3):
        kl = sum((logps[row, t] - reference[row, t]).item() for t in range(7) if mask[row, t])
        assert rewards[row].sum().item() == pytest.approx(scores[row].item() - 0.3 * kl, abs=1e-12)


def test_the_score_sits_on_the_last_response_token_alone() -> None:
    scores, logps, reference, mask = shift_case()
    with_scores = shift_penalised_rewards(scores, logps, reference, mask, beta=0.3)
    without = shift_penalised_rewards(torch.zeros(4, dtype=torch.float64), logps, reference, mask, beta=0.3)
    wanted = torch.zeros(4, 7, dtype=torch.float64)
    wanted[0, 4], wanted[1, 3], wanted[2, 5] = 2.0, -1.0, 0.5
    torch.testing.assert_close(with_scores - without, wanted, rtol=0, atol=1e-12)
    for t, reward in ((2, -0.3 * (logps[0, 2] - reference[0, 2])), (3, -0.3 * (logps[0, 3] - reference[0, 3]))):
        assert with_scores[0, t].item() == pytest.approx(reward.item(), abs=1e-12)


def test_hand_numbers_of_the_penalty() -> None:
    # one response of two tokens, twice and four times as likely as before; β = 1
    logps = torch.tensor([[0.0, math.log(0.5), math.log(0.8)]])
    reference = torch.tensor([[0.0, math.log(0.25), math.log(0.2)]])
    mask = torch.tensor([[False, True, True]])
    got = shift_penalised_rewards(torch.tensor([3.0]), logps, reference, mask, beta=1.0)
    assert got.tolist() == [pytest.approx([0, -math.log(2), 3 - math.log(4)], abs=1e-6)]


def test_a_row_without_response_gets_no_reward_and_padding_is_never_read() -> None:
    scores, logps, reference, mask = shift_case()
    clean = shift_penalised_rewards(scores, logps, reference, mask, beta=0.3)
    assert not clean[3].any()
    assert not clean[~mask].any()
    nan = float("nan")
    spoilt = shift_penalised_rewards(
        scores, logps.masked_fill(~mask, nan), reference.masked_fill(~mask, nan), mask, beta=0.3
    )
    torch.testing.assert_close(spoilt, clean, rtol=0, atol=0)


def test_without_shift_only_the_score_is_left() -> None:
    scores, logps, _, mask = shift_case()
    rewards = shift_penalised_rewards(scores, logps, logps, mask, beta=5.0)
    assert rewards.sum(1).tolist() == [2.0, -1.0, 0.5, 0.0]


def test_importance_weights_by_hand() -> None:
    # twice, half, ten times and exactly as probable to the learner as to the engine that sampled
    learner = torch.tensor([[0.0, math.log(0.4), math.log(0.1), math.log(0.5), math.log(0.3)]])
    sampler = torch.tensor([[9.0, math.log(0.2), math.log(0.2), math.log(0.05), math.log(0.3)]])
    mask = torch.tensor([[False, True, True, True, True]])
    assert importance_weights(learner, sampler, mask, cap=2.5)[0].tolist() == pytest.approx([0, 2, 0.5, 2.5, 1])
    assert importance_weights(learner, sampler, mask, cap=1e3)[0].tolist() == pytest.approx(
        [0, 2, 0.5, 10, 1], rel=1e-5
    )
    far = importance_weights(torch.tensor([[0.0]]), torch.tensor([[-1e4]]), torch.tensor([[True]]), cap=3.0)
    assert far.item() == 3.0


def test_weighted_by_importance_what_another_engine_sampled_has_the_mean_of_the_learners_own() -> None:
    g = torch.Generator().manual_seed(2)
    learner, sampler, values = torch.randn(3, 6, generator=g, dtype=torch.float64)
    learner, sampler = torch.log_softmax(learner, -1), torch.log_softmax(sampler, -1)
    weights = importance_weights(learner, sampler, torch.ones(6, dtype=torch.bool), cap=1e9)
    assert (sampler.exp() * weights * values).sum().item() == pytest.approx(
        (learner.exp() * values).sum().item(), abs=1e-12
    )
    assert (sampler.exp() * values).sum().item() != pytest.approx((learner.exp() * values).sum().item(), abs=1e-2)
