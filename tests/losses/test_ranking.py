from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise, permutations, product

import pytest
import torch
from torch import Tensor

from manners.losses.preference import davidson, outcome_loss, pair_loss
from manners.losses.ranking import best_of_loss, davidson_luce_loss, plackett_luce_loss


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def everyone(rewards: Tensor) -> Tensor:
    return torch.ones(rewards.shape, dtype=torch.bool)


def weak_orders(count: int) -> Iterator[tuple[int, ...]]:
    """Every way to put `count` answers into tiers, as the tier of each: 1, 3, 13, 75, … of them."""
    for ranks in product(range(count), repeat=count):
        if set(ranks) == set(range(max(ranks) + 1)):
            yield ranks


def one_by_one(rewards: Sequence[float], order: Sequence[int]) -> float:
    """P of an order by the definition: drawing without putting back."""
    worths = [math.exp(r) for r in rewards]
    left, p = sum(worths), 1.0
    for place in order:
        p *= worths[place] / left
        left -= worths[place]
    return p


def in_batch(rewards: Tensor, orders: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    many = rewards.expand(len(orders), -1)
    return many, torch.tensor(orders), everyone(many)


# --- Plackett-Luce --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_the_orders_are_all_that_can_happen(count: int) -> None:
    loss = plackett_luce_loss(*in_batch(drawn(count), list(permutations(range(count)))))
    assert (-loss).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_it_is_drawing_without_putting_back() -> None:
    rewards = drawn(4)
    for order in permutations(range(4)):
        ranks = [order.index(place) for place in range(4)]
        (loss,) = plackett_luce_loss(*in_batch(rewards, [ranks]))
        assert math.exp(-loss.item()) == pytest.approx(one_by_one(rewards.tolist(), order), rel=1e-9)


def test_two_answers_are_a_pair() -> None:
    rewards = drawn(30, 2)
    loss = plackett_luce_loss(rewards, torch.tensor([[0, 1]]).expand(30, 2), everyone(rewards))
    torch.testing.assert_close(loss, pair_loss(rewards[:, 0], rewards[:, 1]), rtol=0, atol=1e-12)


def test_equal_rewards_give_the_logarithm_of_the_number_of_orders() -> None:
    for count in range(1, 10):
        rewards = torch.full((1, count), 3.0, dtype=torch.float64)
        loss = plackett_luce_loss(rewards, torch.arange(count)[None], everyone(rewards))
        assert loss.item() == pytest.approx(math.log(math.factorial(count)))


def test_a_tie_sums_over_the_orders_that_agree_with_it() -> None:
    rewards = drawn(4)
    for ranks in weak_orders(4):
        wanted = sum(
            one_by_one(rewards.tolist(), order)
            for order in permutations(range(4))
            if all(ranks[a] <= ranks[b] for a, b in pairwise(order))
        )
        (loss,) = plackett_luce_loss(*in_batch(rewards, [ranks]))
        assert math.exp(-loss.item()) == pytest.approx(wanted, rel=1e-9)


def test_nine_answers_with_ties_against_the_integral_over_arrival_times() -> None:
    # P(all of the first tier before all others) for exponential clocks is ∫₀¹ Π (1 − u^(w/W)) du; here in two tiers of 4 and 5
    rewards = drawn(9, seed=3)
    ranks = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0, 1])
    worths = rewards.exp()
    first, rest = worths[ranks == 0], worths[ranks == 1].sum()
    middles = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    integral = (1 - middles[:, None] ** (first / rest)).prod(1).mean().item()
    loss = plackett_luce_loss(rewards[None], ranks[None], everyone(rewards[None]))
    assert math.exp(-loss.item()) == pytest.approx(integral, rel=1e-4)


def test_a_tie_of_all_says_nothing() -> None:
    rewards = drawn(5, 6).requires_grad_()
    loss = plackett_luce_loss(rewards, torch.zeros(5, 6, dtype=torch.long), everyone(rewards))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
    assert rewards.grad is not None
    assert rewards.grad.abs().max() < 1e-12


# --- best of K ------------------------------------------------------------------------------------------------------


def test_best_of_is_cross_entropy_with_the_best() -> None:
    rewards = drawn(20, 4)
    best = torch.arange(20) % 4
    ranks = torch.where(torch.arange(4) == best[:, None], 0, 1)
    wanted = torch.nn.functional.cross_entropy(rewards, best, reduction="none")
    torch.testing.assert_close(best_of_loss(rewards, ranks, everyone(rewards)), wanted, rtol=0, atol=1e-12)


def test_best_of_is_what_all_orders_with_that_best_have_in_common() -> None:
    rewards = drawn(4)
    orders = [(0, *rest) for rest in permutations(range(1, 4))]
    together = (-plackett_luce_loss(*in_batch(rewards, orders))).exp().sum()
    best = best_of_loss(*in_batch(rewards, [(0, 1, 1, 1)]))
    assert math.exp(-best.item()) == pytest.approx(together.item())
    two = best_of_loss(*in_batch(rewards, [(0, 1, 1, 1), (1, 0, 1, 1), (0, 0, 1, 2)]))
    assert (-two).exp()[2].item() == pytest.approx((-two).exp()[:2].sum().item())


# --- Davidson-Luce --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
def test_the_weak_orders_are_all_that_can_happen(count: int) -> None:
    orders = list(weak_orders(count))
    assert len(orders) == {2: 3, 3: 13, 4: 75}[count]
    loss = davidson_luce_loss(*in_batch(drawn(count), orders), drawn(count - 1, seed=1))
    assert (-loss).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_two_answers_are_davidsons_pair() -> None:
    rewards = drawn(30, 2)
    ranks = torch.tensor([[0, 1], [1, 0], [0, 0]]).repeat(10, 1)
    log_tie = torch.tensor([-0.7], dtype=torch.float64)
    better = torch.where((ranks[:, 0] <= ranks[:, 1])[:, None], rewards, rewards.flip(1))
    wanted = outcome_loss(davidson(better[:, 0], better[:, 1], log_tie[0]), ranks[:, 0] == ranks[:, 1])
    torch.testing.assert_close(davidson_luce_loss(rewards, ranks, everyone(rewards), log_tie), wanted)


def test_a_tier_of_three_by_hand() -> None:
    # worths 8, 1, 1, 2 and δ₂ = 1, δ₃ = 3, δ₄ = 5: {0, 1, 2} has 3 · 8^(1/3) = 6
    rewards = torch.tensor([[8.0, 1.0, 1.0, 2.0]], dtype=torch.float64).log()
    log_ties = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64).log()
    pairs = 2 * math.sqrt(8) + 4 + 1 + 2 * math.sqrt(2)
    triples = 3 * (2 + 2 * 16 ** (1 / 3) + 2 ** (1 / 3))
    total = 8 + 1 + 1 + 2 + pairs + triples + 5 * 2
    (loss,) = davidson_luce_loss(rewards, torch.tensor([[0, 0, 0, 1]]), everyone(rewards), log_ties)
    assert math.exp(-loss.item()) == pytest.approx(6 / total)


def test_without_ties_it_is_plackett_and_luce() -> None:
    rewards = drawn(24, 4)
    ranks = torch.tensor(list(permutations(range(4))))
    never = torch.full((3,), float("-inf"), dtype=torch.float64)
    wanted = plackett_luce_loss(rewards, ranks, everyone(rewards))
    for log_ties in (never, never.clamp(min=-50)):
        found = davidson_luce_loss(rewards, ranks, everyone(rewards), log_ties)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


# --- all of them ----------------------------------------------------------------------------------------------------

LOSSES = {
    "plackett_luce": plackett_luce_loss,
    "best_of": best_of_loss,
    "davidson_luce": lambda r, ranks, mask: davidson_luce_loss(
        r, ranks, mask, torch.linspace(-1, 1, r.shape[1] - 1, dtype=r.dtype)
    ),
}
WITH_TIES = torch.tensor([[0, 1, 2, 3, 4], [0, 0, 1, 1, 2], [2, 1, 0, 0, 0], [1, 1, 0, 2, 1]])


@pytest.fixture(params=LOSSES)
def loss_of(request: pytest.FixtureRequest) -> object:
    return LOSSES[request.param]


def test_a_masked_answer_is_as_good_as_none(loss_of) -> None:  # type: ignore[no-untyped-def]
    rewards = drawn(4, 5)
    mask = torch.tensor([[1, 1, 1, 0, 1], [1, 0, 1, 1, 1], [0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
    for row in range(4):
        keep = mask[row]
        alone = loss_of(rewards[row : row + 1, keep], WITH_TIES[row : row + 1, keep], torch.ones(1, 4).bool())
        if loss_of is LOSSES["davidson_luce"]:
            log_ties = torch.linspace(-1, 1, 4, dtype=torch.float64)
            alone = davidson_luce_loss(
                rewards[row : row + 1, keep], WITH_TIES[row : row + 1, keep], torch.ones(1, 4).bool(), log_ties[:3]
            )
        changed = torch.where(mask, rewards, 1e3)
        for rank in (0, 1, 7):
            both = loss_of(changed, torch.where(mask, WITH_TIES, rank), mask)
            assert both[row].item() == pytest.approx(alone.item(), abs=1e-10)


def test_answers_may_stand_in_any_order_and_only_differences_count(loss_of) -> None:  # type: ignore[no-untyped-def]
    rewards = drawn(4, 5)
    here = loss_of(rewards, WITH_TIES, everyone(rewards))
    order = torch.tensor([3, 0, 4, 2, 1])
    torch.testing.assert_close(loss_of(rewards[:, order], WITH_TIES[:, order], everyone(rewards)), here)
    torch.testing.assert_close(loss_of(rewards + 17, WITH_TIES, everyone(rewards)), here)


def test_rows_do_not_see_each_other(loss_of) -> None:  # type: ignore[no-untyped-def]
    rewards = drawn(4, 5)
    alone = torch.cat([loss_of(rewards[i : i + 1], WITH_TIES[i : i + 1], torch.ones(1, 5).bool()) for i in range(4)])
    torch.testing.assert_close(loss_of(rewards, WITH_TIES, everyone(rewards)), alone)


@pytest.mark.parametrize("sign", [1, -1])
def test_extremes(loss_of, sign: int) -> None:  # type: ignore[no-untyped-def]
    rewards = (sign * torch.tensor([[1e3, -1e3, 0.0, 1e3, -1e3]]).repeat(4, 1)).requires_grad_()
    loss = loss_of(rewards, WITH_TIES, everyone(rewards))
    loss.sum().backward()
    assert rewards.grad is not None
    assert loss.isfinite().all()
    assert (loss >= 0).all()
    assert rewards.grad.isfinite().all()


def test_gradients_are_right(loss_of) -> None:  # type: ignore[no-untyped-def]
    rewards = drawn(4, 5).requires_grad_()
    mask = torch.ones(4, 5).bool()
    mask[0, 4] = mask[2, 1] = False
    assert torch.autograd.gradcheck(lambda r: loss_of(r, WITH_TIES, mask), (rewards,))


def test_the_gradient_of_the_frequency_of_ties_is_right() -> None:
    rewards, log_ties = drawn(4, 5), drawn(4, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: davidson_luce_loss(rewards, WITH_TIES, everyone(rewards), t), (log_ties,))


def test_a_ranking_pulls_the_better_up_and_the_worse_down(loss_of) -> None:  # type: ignore[no-untyped-def]
    rewards = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    loss_of(rewards, torch.tensor([[0, 1, 2, 3]]), everyone(rewards)).sum().backward()
    assert rewards.grad is not None
    assert rewards.grad[0, 0] < 0 < rewards.grad[0, 3]
    assert rewards.grad.sum().item() == pytest.approx(0, abs=1e-12)
