"""A judge's scores of texts that nobody sampled here: each answer to each prompt is judged once, however often it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manners.evaluate.bench import texts
from manners.evaluate.preferences import Preference
from manners.protocols import Scorer
from manners.records import Completion
from manners.rewards.ensemble import RewardEnsemble
from manners.rewards.model import RewardModel
from manners.rewards.opinion import ask
from manners.runs import Track, untracked

AT_ONCE = 256  # answers between two looks at the progress


@dataclass(frozen=True)
class Scored:
    """A preference with the scores of its answers: chosen [C] and rejected [R], float64."""

    preference: Preference
    chosen: Tensor
    rejected: Tensor


def score_preferences(scorer: Scorer, preferences: Sequence[Preference], track: Track = untracked) -> list[Scored]:
    """Every preference with its scores. Raises MannersError for a score that is not finite."""
    answers = list(
        {(c.prompt.id, text): (c.prompt, text) for c in preferences for text in (*c.chosen, *c.rejected)}.values()
    )
    scores: dict[tuple[str, str], float] = {}
    for start in track(range(0, len(answers), AT_ONCE), "judging"):
        part = answers[start : start + AT_ONCE]
        rollouts = texts([prompt for prompt, _ in part], [Completion(prompt.id, text) for prompt, text in part])
        found = ask(scorer, rollouts, "the judge").scores.tolist()
        scores |= {(prompt.id, text): score for (prompt, text), score in zip(part, found, strict=True)}

    def of(preference: Preference, answers: Sequence[str]) -> Tensor:
        return torch.tensor([scores[preference.prompt.id, text] for text in answers], dtype=torch.double)

    return [Scored(c, of(c, c.chosen), of(c, c.rejected)) for c in preferences]


def log_odds_per_unit(scorer: Scorer) -> float:
    """By how much a difference of 1 in score is meant to raise the log-odds of being preferred: what makes it a probability.

    A reward model's raw reward is such log-odds, its score was divided by a deviation. Any other judge is taken at its word.
    """
    match scorer:
        case RewardModel():
            return scorer.std
        case RewardEnsemble():
            return sum(member.std for member in scorer.members) / len(scorer.members)
        case _:
            return 1.0
