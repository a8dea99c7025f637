from __future__ import annotations

import math

import pytest
import torch

from manners.models.heads import QHead, QValues, ScalarHead, heads_of


def test_a_value_head_starts_at_zero_everywhere() -> None:
    hidden = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(0))
    assert not ScalarHead.for_value(16)(hidden).any()


def test_a_reward_head_gives_unit_variance_on_states_of_unit_variance() -> None:
    # w ~ N(0, 1/(H + 1)), h ~ N(0, 1): w·h has variance H/(H + 1); over 400 heads the estimate is good to about 7 %
    hidden = torch.randn(400, 255, generator=torch.Generator().manual_seed(1_000))
    outputs = torch.stack([ScalarHead.for_reward(255, seed)(hidden[seed]) for seed in range(400)])
    assert outputs.var().item() == pytest.approx(1, abs=0.2)
    weights = ScalarHead.for_reward(4095, seed=0).linear.weight
    assert weights.std().item() == pytest.approx(1 / 64, rel=0.05)
    assert math.isclose(weights.mean().item(), 0, abs_tol=0.001)
    assert ScalarHead.for_reward(16, seed=0).linear.bias.item() == 0


def test_the_seed_decides() -> None:
    assert torch.equal(ScalarHead.for_reward(16, 1).linear.weight, ScalarHead.for_reward(16, 1).linear.weight)
    assert not torch.equal(ScalarHead.for_reward(16, 1).linear.weight, ScalarHead.for_reward(16, 2).linear.weight)


def test_one_number_from_each_state_in_float32() -> None:
    head = ScalarHead.for_value(3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.tensor([[1.0, 10.0, 100.0]]))
        head.linear.bias.fill_(0.5)
    got = head(torch.tensor([[[1, 2, 3], [0, 0, 1]]], dtype=torch.bfloat16))
    assert got.tolist() == [[321.5, 100.5]]
    assert got.dtype == torch.float32


# --- Q heads --------------------------------------------------------------------------------------------------------


def shaken_head(width: int, seed: int) -> QHead:
    head = QHead(width, seed)
    generator = torch.Generator().manual_seed(100 + seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return head


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_q_head_starts_at_zero_for_every_token_and_two_of_them_differ_in_what_they_read() -> None:
    hidden, weight = draw(4, 8), draw(11, 8, seed=1)
    one, other = QHead(8, 0), QHead(8, 1)
    assert not one.all(hidden, weight).any()
    chosen, partition = one.chosen_and_partition(hidden, weight, torch.arange(4))
    assert not chosen.any()
    assert partition.tolist() == pytest.approx([math.log(11)] * 4)
    assert not torch.equal(one.inner.weight, other.inner.weight)


def test_q_of_a_token_is_a_level_and_a_product_with_its_embedding() -> None:
    head = QHead(2)
    with torch.no_grad():
        head.inner.weight.copy_(torch.eye(2))
        head.direction.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 4.0]]))
        head.level.linear.weight.copy_(torch.tensor([[10.0, 100.0]]))
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, -1.0]])
    # features are (3, 0): what is negative is cut off; level 30, direction (6, 0) over the width, 2
    assert head.all(torch.tensor([[3.0, -5.0]]), weight).tolist() == [[33.0, 30.0, 33.0]]
    assert head.chosen(torch.tensor([[3.0, -5.0]]), weight, torch.tensor([0])).tolist() == [33.0]


def test_a_step_of_adam_moves_q_no_further_than_a_few_times_the_value() -> None:
    """Q of a token adds up as many entries as the trunk is wide: undivided, the first step would throw it hundreds of rewards away."""
    width, rate = 576, 1e-3
    hidden, weight = draw(1, width), 0.1 * draw(50, width)
    head = QHead(width)
    adam = torch.optim.Adam(head.parameters(), lr=rate)
    (head.chosen(hidden, weight, torch.tensor([7])) - 1).square().sum().backward()
    adam.step()
    with torch.no_grad():
        level, direction = head(hidden)
    assert 0.05 < float(level) < 1
    assert 0 < float((direction * weight[7]).sum()) < 3 * float(level)


def test_the_partition_is_over_the_whole_vocabulary_with_its_gradient() -> None:
    weight, hidden, tokens = draw(700, 6, seed=1), draw(9, 6), torch.tensor([0, 5, 699, 3, 3, 1, 2, 600, 4])
    head = shaken_head(6, 0)
    found = head.chosen_and_partition(hidden, weight, tokens)
    everything = head.all(hidden, weight)
    torch.testing.assert_close(found[0], everything[torch.arange(9), tokens])
    torch.testing.assert_close(found[0], head.chosen(hidden, weight, tokens))
    torch.testing.assert_close(found[1], everything.logsumexp(-1))
    for one, other in ((found[0], everything[torch.arange(9), tokens]), (found[1], everything.logsumexp(-1))):
        mixed = draw(9, seed=4)
        gradients = [
            torch.autograd.grad((mixed * x).sum(), list(head.parameters()), retain_graph=True) for x in (one, other)
        ]
        for got, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_lesser_of_two_targets_counts_token_by_token() -> None:
    values = QValues(8)
    values.targets = torch.nn.ModuleList([shaken_head(8, 0), shaken_head(8, 1)])
    hidden, weight = draw(5, 8), draw(13, 8, seed=1)
    one, other = (head.all(hidden, weight) for head in heads_of(values.targets))
    assert (one < other).any()
    assert (other < one).any()
    torch.testing.assert_close(values.target_of_all(hidden, weight), torch.where(one < other, one, other))
    torch.testing.assert_close(
        values.target(hidden, weight, torch.tensor([1, 2, 3, 4, 12])),
        torch.where(one < other, one, other)[torch.arange(5), torch.tensor([1, 2, 3, 4, 12])],
    )


def test_the_two_q_heads_err_differently_from_the_start_and_so_do_those_of_another_seed() -> None:
    read = [head.inner.weight for seed in (0, 1) for head in heads_of(QValues(8, seed).q)]
    assert len({tuple(weight.flatten().tolist()) for weight in read}) == 4


def test_targets_follow_only_when_they_are_told_and_only_so_far() -> None:
    values = QValues(4)
    assert all(torch.equal(a, b) for a, b in zip(values.q.parameters(), values.targets.parameters(), strict=True))
    start = [p.clone() for p in values.targets.parameters()]
    values.q = torch.nn.ModuleList([shaken_head(4, 0), shaken_head(4, 1)])
    assert all(torch.equal(a, b) for a, b in zip(start, values.targets.parameters(), strict=True))
    values.sync(0.25)
    for before, own, now in zip(start, values.q.parameters(), values.targets.parameters(), strict=True):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * own)
    values.sync(1.0)
    assert all(torch.equal(a, b) for a, b in zip(values.q.parameters(), values.targets.parameters(), strict=True))
    assert not any(p.requires_grad for p in values.targets.parameters())
