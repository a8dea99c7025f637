from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from manners.errors import MannersError
from manners.losses.preference import pair_loss
from manners.losses.ranking import best_of_loss, davidson_luce_loss, plackett_luce_loss
from manners.rewards.groups import Compared, Group, Ranked
from manners.rewards.objective import Objective, weighted_right

PLAIN: dict[str, Any] = {"loss": "pairs", "ties": "drop", "margin": 0.0, "label_smoothing": 0.0, "centring": 0.0}


def group(
    pairs: list[Compared] | None = None, ties: list[Compared] | None = None, rankings: list[Ranked] | None = None
) -> Group:
    return Group("id", "", [1], [[1]] * 4, pairs or [], ties or [], rankings or [])


def pair(j: int, k: int, weight: float = 1.0, apart: float = 1.0, probability: float = 1.0) -> Compared:
    return Compared(j, k, weight, apart, probability, "")


def objective_of(groups: list[Group], **fields: Any) -> Objective:
    return Objective(groups, **PLAIN | fields)


def loss_of(rewards: Tensor, groups: list[Group], **fields: Any) -> float:
    return objective_of(groups, **fields)(rewards, groups, groups).detach().item()


def softplus(x: float) -> float:
    return math.log1p(math.exp(-abs(x))) + max(x, 0)


REWARDS = torch.tensor([[1.0, -0.5, 2.0, 0.3], [0.2, 0.1, -1.0, 0.7]])


def test_pairs_by_hand_with_margin_smoothing_soft_label_and_centring() -> None:
    groups = [group([pair(0, 1, 0.5, 1), pair(2, 3, 0.25, 3)]), group([pair(3, 2, 1.0, 2, 0.8)])]
    r = REWARDS.tolist()
    wanted = total = 0.0
    for row, j, k, weight, apart, label in ((0, 0, 1, 0.5, 1, 1.0), (0, 2, 3, 0.25, 3, 1.0), (1, 3, 2, 1.0, 2, 0.8)):
        x = r[row][j] - r[row][k] - 0.4 * apart
        q = 0.9 * label + 0.1 * (1 - label)
        wanted += weight * (q * softplus(-x) + (1 - q) * softplus(x) + 0.3 * (r[row][j] + r[row][k]) ** 2)
        total += weight
    found = loss_of(REWARDS, groups, margin=0.4, label_smoothing=0.1, centring=0.3)
    assert found == pytest.approx(wanted / total, rel=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ties": "davidson"},
        {"ties": "rao_kupper"},
        {"loss": "ranking"},
        {"loss": "ranking", "ties": "davidson"},
        {"loss": "best_of"},
    ],
)
def test_parts_of_a_step_add_up_to_the_step(fields: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    groups = [
        group([pair(0, 1), pair(2, 1, 0.3)], [pair(0, 2, 0.4, 0)], [Ranked((0, 2, 1), (0, 0, 1))]),
        group([pair(3, 0)], rankings=[Ranked((3, 0), (0, 1)), Ranked((1, 2, 3, 0), (0, 1, 2, 3))]),
        group(ties=[pair(1, 2, 1, 0)], rankings=[Ranked((1, 2), (0, 0))]),
    ]
    objective = objective_of(groups, **{"centring": 0.2} | fields)
    whole = objective(rewards, groups, groups)
    parts = [objective(rewards[i : i + 1], groups[i : i + 1], groups) for i in range(3)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_shares_of_several_judges_are_soft_labels() -> None:
    # seven judges say one thing and three the other, in ten pairs or in one pair with a label of 0.7
    ten = [group([pair(0, 1)] * 7 + [pair(1, 0)] * 3)]
    one = [group([pair(0, 1, probability=0.7)])]
    assert loss_of(REWARDS, ten) == pytest.approx(loss_of(REWARDS, one), rel=1e-6)


@pytest.mark.parametrize("ties", ["davidson", "rao_kupper"])
def test_ties_are_data(ties: Any) -> None:
    # one tie in four comparisons of equal answers: the likelihood begins where it expects just that
    equal = torch.zeros(1, 4)
    groups = [group([pair(0, 1), pair(1, 2), pair(2, 0)], [pair(0, 3, apart=0)])]
    objective = objective_of(groups, ties=ties)
    found = objective(equal, groups, groups).detach().item()
    assert found == pytest.approx((-3 * math.log(3 / 8) - math.log(1 / 4)) / 4, rel=1e-5)
    (gradient,) = torch.autograd.grad(objective(equal, groups, groups), [objective.log_ties])
    assert float(gradient.abs()) < 1e-6
    apart = torch.tensor([[0.0, 0.0, 0.0, 5.0]])
    assert (
        objective(apart, groups, groups).detach().item() > found + 0.3
    )  # a tie between answers far apart is a surprise
    (parameter,) = objective.tie_parameters()
    # at equal rewards: ν/(2 + ν) = 1/4, (θ − 1)/(θ + 1) = 1/4
    assert parameter == pytest.approx({"davidson": 2 / 3, "rao_kupper": 5 / 3}[ties], rel=1e-5)


def test_dropped_ties_count_for_nothing() -> None:
    groups = [group([pair(0, 1, 0.5)], [pair(2, 3, 0.5, 0)])]
    assert loss_of(REWARDS, groups) == pytest.approx(softplus(-1.5), rel=1e-6)
    assert objective_of(groups).tie_parameters() == []
    assert list(objective_of(groups).parameters()) == []


def test_whole_rankings_are_gathered_from_their_places() -> None:
    rankings = [Ranked((3, 0, 2), (0, 1, 1)), Ranked((1, 2), (0, 1)), Ranked((0, 1, 2, 3), (1, 0, 3, 2))]
    groups = [group([pair(0, 1)], rankings=rankings[:2]), group([pair(0, 1)], rankings=rankings[2:])]
    rows = (REWARDS[0, [3, 0, 2]], REWARDS[0, [1, 2]], REWARDS[1])
    for name, function in (("ranking", plackett_luce_loss), ("best_of", best_of_loss)):
        losses = [
            function(row[None], torch.tensor([r.ranks]), torch.ones(1, len(row)).bool()).item()
            for row, r in zip(rows, rankings, strict=True)
        ]
        assert loss_of(REWARDS, groups, loss=name) == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_rankings_of_two_are_pairs() -> None:
    both = [group([pair(0, 1), pair(3, 2)], rankings=[Ranked((0, 1), (0, 1)), Ranked((3, 2), (0, 1))])]
    for fields in ({}, {"centring": 0.4}):
        pairs = loss_of(REWARDS, both, **fields)
        assert loss_of(REWARDS, both, loss="ranking", **fields) == pytest.approx(pairs, rel=1e-6)
        assert loss_of(REWARDS, both, loss="best_of", **fields) == pytest.approx(pairs, rel=1e-6)
    tied = [group(both[0].pairs, [pair(0, 2, apart=0)], [*both[0].rankings, Ranked((0, 2), (0, 0))])]
    as_pairs = loss_of(REWARDS, tied, ties="davidson", centring=0.4)
    assert loss_of(REWARDS, tied, loss="ranking", ties="davidson", centring=0.4) == pytest.approx(as_pairs, rel=1e-6)


def test_the_frequency_of_longer_ties_is_learned_apart() -> None:
    rankings = [Ranked((0, 1, 2, 3), (0, 0, 0, 1)), Ranked((0, 1), (0, 1))]
    groups = [group([pair(0, 3)], [pair(0, 1, apart=0)], rankings)]
    objective = objective_of(groups, loss="ranking", ties="davidson")
    # half of the weight is tied: δ₂ = 2, δ₃ = 4, δ₄ = 8 to begin with
    assert objective.tie_parameters() == pytest.approx([2, 4, 8])
    (gradient,) = torch.autograd.grad(objective(REWARDS[:1], groups, groups), [objective.log_ties])
    assert gradient[1] < 0 < gradient[0]  # a tie of three was seen, one of two was not
    masks = torch.ones(1, 4).bool(), torch.ones(1, 2).bool()
    by_hand = [
        davidson_luce_loss(REWARDS[:1], torch.tensor([[0, 0, 0, 1]]), masks[0], objective.log_ties),
        davidson_luce_loss(REWARDS[:1, :2], torch.tensor([[0, 1]]), masks[1], objective.log_ties[:1]),
    ]
    found = objective(REWARDS[:1], groups, groups)
    torch.testing.assert_close(found, torch.cat(by_hand).mean())


def test_a_long_ranking_with_ties_is_refused_and_one_without_is_not() -> None:
    places = tuple(range(13))
    with_tie, without = Ranked(places, (*range(12), 11)), Ranked(places, places)
    with pytest.raises(MannersError, match="a ranking of 13 answers is too long"):
        objective_of([group([pair(0, 1)], rankings=[with_tie])], loss="ranking")
    with pytest.raises(MannersError, match="a ranking of 13 answers is too long"):
        objective_of([group([pair(0, 1)], rankings=[without])], loss="ranking", ties="davidson")
    groups = [group([pair(0, 1)], rankings=[without])]
    rewards = torch.zeros(1, 13)
    assert loss_of(rewards, groups, loss="ranking") == pytest.approx(math.lgamma(14), rel=1e-5)


@pytest.mark.parametrize("fields", [{}, {"loss": "ranking"}, {"ties": "davidson"}])
def test_a_part_with_nothing_to_say_is_0_and_has_a_gradient(fields: dict[str, Any]) -> None:
    full = group([pair(0, 1)], [pair(1, 2, apart=0)], [Ranked((0, 1), (0, 1))])
    objective = objective_of([full], **fields)
    rewards = REWARDS[:1].clone().requires_grad_()
    loss = objective(rewards, [group()], [full, group()])
    assert loss.detach().item() == 0
    loss.backward()


def test_weighted_right_counts_weights_and_not_ties() -> None:
    groups = [group([pair(0, 1, 0.5), pair(3, 2, 0.25)], [pair(0, 1, 5, 0)]), group([pair(0, 1, 2.0), pair(2, 2, 9.0)])]
    assert weighted_right(REWARDS, groups) == pytest.approx(2.5)


def test_a_pair_of_a_file_is_plain_bradley_and_terry() -> None:
    groups = [group([pair(0, 1, apart=0)])]  # made by hand, without a margin
    wanted = pair_loss(torch.tensor([1.0]), torch.tensor([-0.5])).item()
    assert loss_of(REWARDS, groups) == pytest.approx(wanted)
