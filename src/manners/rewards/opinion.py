"""Asking a judge: its scores, how far its members disagree where it has several, and never a number that is none."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from manners.batches import Rollouts
from manners.errors import MannersError
from manners.protocols import Committee, Scorer


class Opinion(NamedTuple):
    """scores [B]; disagreement [B]: standard deviation over the members of a committee, None for a single judge."""

    scores: Tensor
    disagreement: Tensor | None


def ask(judge: Scorer, rollouts: Rollouts, name: str) -> Opinion:
    """The judge's opinion of every answer. Raises MannersError for a score that is not finite, or for a wrong count of them."""
    if isinstance(judge, Committee):
        members = judge.opinions(rollouts).float()
        opinion = Opinion(judge.combine(members), members.std(-1, correction=0))
    else:
        opinion = Opinion(judge.score(rollouts).float(), None)
    if opinion.scores.shape != (len(rollouts),):
        raise MannersError(f"{name} gave {tuple(opinion.scores.shape)} scores for {len(rollouts)} answers")
    if bad := int((~opinion.scores.isfinite()).sum()):
        raise MannersError(f"{name} gave a score that is not finite for {bad} of {len(rollouts)} answers")
    return opinion
