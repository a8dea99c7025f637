from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import pytest
import torch
from fakes import FakeSampler
from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.records import Prompt
from manners.rewards.opinion import ask

SAID = [[1.0, 2.0, 6.0], [3.0, 3.0, 3.0]]


def rollouts(count: int = 2) -> Rollouts:
    return FakeSampler([]).sample([Prompt.of(str(i)) for i in range(count)], max_tokens=2, temperature=1, seed=0)


class Single:
    """A judge that gives these scores."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores

    def score(self, _: Rollouts) -> Tensor:
        return self.scores


class Three:
    """A committee of three whose score is the lowest of them."""

    def __init__(self, said: list[list[float]], combine: Callable[[Tensor], Tensor] = lambda o: o.amin(-1)) -> None:
        self.said, self.combined = torch.tensor(said), combine

    def opinions(self, _: Rollouts) -> Tensor:
        return self.said

    def combine(self, opinions: Tensor) -> Tensor:
        return self.combined(opinions)

    def score(self, _: Rollouts) -> Tensor:
        raise AssertionError("a committee is asked for its members' opinions, once")


def test_a_single_judge_has_a_score_and_nobody_to_disagree_with() -> None:
    found = ask(Single(torch.tensor([1.0, -2.0], dtype=torch.float64)), rollouts(), "the judge")
    assert found.scores.tolist() == [1, -2]
    assert found.scores.dtype == torch.float32
    assert found.disagreement is None


def test_a_committee_is_asked_once_and_its_members_spread_is_the_disagreement() -> None:
    found = ask(Three(SAID), rollouts(), "the judge")
    assert found.scores.tolist() == [1, 3]
    assert found.disagreement is not None
    assert found.disagreement.tolist() == pytest.approx([statistics.pstdev(row) for row in SAID])


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_told_with_how_many_there_are(number: float) -> None:
    with pytest.raises(MannersError, match=r"^the judge gave a score that is not finite for 2 of 3 answers$"):
        ask(Single(torch.tensor([number, 0.0, number])), rollouts(3), "the judge")
    with pytest.raises(MannersError, match="not finite for 1 of 2 answers"):
        ask(Three([[number] * 3, [0.0] * 3]), rollouts(), "the second judge")


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), ()])
def test_a_wrong_count_of_scores_is_told_with_both_counts(shape: tuple[int, ...]) -> None:
    with pytest.raises(MannersError, match=r"^the second judge gave \(.*\) scores for 2 answers$"):
        ask(Single(torch.zeros(shape)), rollouts(), "the second judge")
    with pytest.raises(MannersError, match="scores for 2 answers"):
        ask(Three(SAID, lambda _: torch.zeros(shape)), rollouts(), "the judge")
