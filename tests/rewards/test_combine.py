from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.protocols import Committee
from manners.records import Completion, Prompt
from manners.rewards.combine import CombinedReward, Part, mean, uncertainty_weighted, with_floors, worst_case

OPINIONS = torch.tensor([[1.0, 3.0], [0.0, 0.0], [-1.0, 2.0]])


def drawn(members: int = 5) -> Tensor:
    return 2 * torch.randn(64, members, generator=torch.Generator().manual_seed(0))


# --- the members of an ensemble -------------------------------------------------------------------------------------


def test_combinations_by_hand() -> None:
    assert mean(OPINIONS).tolist() == [2.0, 0.0, 0.5]
    assert worst_case(OPINIONS).tolist() == [1.0, 0.0, -1.0]
    assert uncertainty_weighted(OPINIONS, weight=0.5).tolist() == [1.5, 0.0, 0.5 - 0.5 * 2.25]


def test_the_variance_has_the_number_of_members_as_its_divisor() -> None:
    opinions = drawn().double()
    expected = opinions.numpy().mean(1) - 0.7 * numpy.var(opinions.numpy(), axis=1)
    torch.testing.assert_close(uncertainty_weighted(opinions, weight=0.7), torch.from_numpy(expected))


def test_the_worst_case_is_never_above_the_mean() -> None:
    opinions = drawn()
    assert (worst_case(opinions) < mean(opinions)).all()
    assert (worst_case(opinions)[:, None] <= opinions).all()


def test_without_a_weight_uncertainty_costs_nothing() -> None:
    assert torch.equal(uncertainty_weighted(drawn(), weight=0.0), mean(drawn()))


def test_the_more_uncertainty_weighs_the_lower_the_score() -> None:
    scores = torch.stack([uncertainty_weighted(drawn(), weight=w) for w in (0.0, 0.1, 0.5, 2.0)])
    assert (scores.diff(dim=0) < 0).all()


COMBINATIONS = [mean, worst_case, lambda o: uncertainty_weighted(o, weight=0.5)]


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_members_that_agree_are_one_judge(combination: Any) -> None:
    scores = drawn(1)
    assert torch.equal(combination(scores), scores[:, 0])
    assert torch.equal(combination(scores.expand(-1, 4)), scores[:, 0])


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_the_order_of_members_says_nothing_and_a_common_shift_stays(combination: Any) -> None:
    opinions = drawn()
    torch.testing.assert_close(combination(opinions[:, [4, 2, 0, 1, 3]]), combination(opinions))
    torch.testing.assert_close(combination(opinions + 3), combination(opinions) + 3)


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_a_member_without_an_opinion_is_not_passed_over(combination: Any) -> None:
    assert combination(torch.tensor([[1.0, math.nan, 2.0]])).isnan().all()


# --- floors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("useful", "lacking", "score"),
    [
        (2.0, 0.0, 2.0), (-2.0, 0.0, -2.0),  # nothing lacking: what is useful
        (2.0, 0.25, 2 * 0.75 - 0.25), (2.0, 0.5, 0.5),  # the good counts less
        (2.0, 1.0, -1.0), (100.0, 1.0, -1.0), (100.0, 3.0, -3.0),  # and no longer
        (-2.0, 0.25, -2.25), (-2.0, 3.0, -5.0),  # the bad always counts
        (0.0, 0.7, -0.7),
    ],
)  # fmt: skip
def test_floors_by_hand(useful: float, lacking: float, score: float) -> None:
    assert float(with_floors(torch.tensor(useful), torch.tensor(lacking))) == pytest.approx(score)


def test_the_score_never_falls_with_what_is_useful_and_falls_with_what_is_lacking() -> None:
    useful, lacking = torch.linspace(-5, 5, 101, dtype=torch.double), torch.linspace(0, 3, 61, dtype=torch.double)
    scores = with_floors(useful[:, None], lacking[None, :])
    assert (scores.diff(dim=0) >= 0).all()
    assert (scores.diff(dim=1) < 0).all()
    assert (scores.diff(dim=1) <= -lacking[1] + 1e-12).all()  # a unit lacking costs at least a unit


@pytest.mark.parametrize("useful", [-3.0, 0.0, 0.5, 8.0])
@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_the_score_does_not_jump(useful: float, corner: float) -> None:
    step = 1e-6
    around = torch.tensor([max(0.0, corner - step), corner, corner + step]).double()
    assert with_floors(torch.tensor(useful).double().expand(3), around).diff().abs().max() < 20 * step
    across = torch.tensor([-step, 0.0, step]).double()
    assert with_floors(across, torch.tensor(corner).double().expand(3)).diff().abs().max() < 20 * step


# --- a combination --------------------------------------------------------------------------------------------------


class Says:
    """A judge that gives the scores it was told."""

    def __init__(self, *scores: float) -> None:
        self.scores = torch.tensor(scores)

    def score(self, rollouts: Rollouts) -> Tensor:  # noqa: ARG002 - the signature is Scorer's
        return self.scores


def rollouts(count: int) -> Rollouts:
    lengths, prompts = torch.full((count,), 2), tuple(Prompt.of(f"question {i}") for i in range(count))
    zeros = torch.zeros(count, 2)
    return Rollouts(zeros.long(), lengths - 1, lengths, zeros, lengths > 0, torch.zeros(count, 2, 0), prompts,
                    tuple(Completion(p.id, "yes") for p in prompts), None)  # fmt: skip


def test_weights_add_up() -> None:
    reward = CombinedReward([Part("helpful", Says(1.0, -2.0), 2.0), Part("short", Says(-10.0, -30.0), 0.1)])
    assert reward.score(rollouts(2)).tolist() == pytest.approx([2 - 1, -4 - 3])
    assert reward.part_scores(rollouts(2)).tolist() == [[1.0, -10.0], [-2.0, -30.0]]


def test_helpful_as_long_as_it_is_harmless() -> None:
    helpful, harmless = Says(2.0, 2.0, 2.0, 2.0, -2.0, -2.0), Says(5.0, 1.0, 0.9, 0.0, 1.5, 0.0)
    reward = CombinedReward([Part("helpful", helpful), Part("harmless", harmless, weight=5.0, floor=1.0)])
    # shortfalls 0, 0, 0.1, 1, 0, 1; lacking 0, 0, 0.5, 5, 0, 5
    assert reward.score(rollouts(6)).tolist() == pytest.approx([2.0, 2.0, 2 * 0.5 - 0.5, -5.0, -2.0, -2.0 - 5.0])


def test_two_floors_lack_together() -> None:
    reward = CombinedReward(
        [Part("harmless", Says(0.0), 0.5, floor=1.0), Part("helpful", Says(4.0), 1.0), Part("short", Says(-8.0), 0.1, floor=-6.0)]
    )  # fmt: skip
    assert reward.score(rollouts(1)).tolist() == pytest.approx([4 * (1 - 0.5 - 0.2) - 0.5 - 0.2])


def test_the_order_of_parts_says_nothing() -> None:
    parts = [
        Part("a", Says(1.0, -1.0, 3.0)), Part("b", Says(0.3, 2.0, -1.0), 3.0), Part("c", Says(0.0, 0.6, 0.9), 1.0, floor=0.8)
    ]  # fmt: skip
    scores = CombinedReward(parts).score(rollouts(3))
    torch.testing.assert_close(CombinedReward(parts[::-1]).score(rollouts(3)), scores)
    assert scores.dtype == torch.float32


def test_parts_do_not_disagree_for_they_speak_of_different_things() -> None:
    assert not isinstance(CombinedReward([Part("a", Says(1.0))]), Committee)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("floor", [None, 0.0])
def test_a_part_that_gives_no_number_is_told_by_its_name(bad: float, floor: float | None) -> None:
    reward = CombinedReward([Part("helpful", Says(1.0, 1.0)), Part("harmless", Says(1.0, bad), floor=floor)])
    with pytest.raises(MannersError, match="harmless gave a score that is not finite for 1 of 2"):
        reward.score(rollouts(2))


def test_a_part_that_gives_another_count_is_told_by_its_name() -> None:
    with pytest.raises(MannersError, match=r"helpful gave \(3,\) scores for 2 answers"):
        CombinedReward([Part("helpful", Says(1.0, 1.0, 1.0))]).score(rollouts(2))
