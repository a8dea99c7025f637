"""What a judge of two answers says, and how that becomes a soft label.

Bai et al. 2022 (arXiv 2212.08073) ask a model for " (A)" or " (B)" and take the softmax over the two log-probabilities as the label.
Lee et al. 2023 (arXiv 2309.00267) ask in both orders and average the two probabilities, and score a single answer as the expectation
over ten tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from manners.records import Prompt
from manners.runs import Track

LOWEST, HIGHEST = 1, 10
# After a chain of thought nearly all mass is on one side; a label of 0 or 1 would say more than the judge knows (Bai et al. 2022).
CLAMP = (0.40, 0.60)


@dataclass(frozen=True, slots=True)
class Question:
    """Two answers to one prompt, compared under one principle, in the order in which they are shown."""

    prompt: Prompt
    principle: str
    a: str
    b: str

    @property
    def swapped(self) -> Question:
        return Question(self.prompt, self.principle, self.b, self.a)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How likely it is that (A) is the better answer, 0 to 1, as the judge says after reading one order.

    `logps`: of "(A)" and "(B)", nats; None where the judge gave only its choice, so that the probability is 0 or 1. `thought` is
    what it wrote before.
    """

    probability: float
    logps: tuple[float, float] | None = None
    thought: str = ""

    @classmethod
    def of(cls, logps: tuple[float, float], thought: str = "") -> Verdict:
        return cls(soft_label(logps), logps, thought)

    def to_json(self) -> dict[str, Any]:
        logps = list(self.logps) if self.logps else None
        return {"probability": self.probability, "logps": logps, "thought": self.thought}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Verdict:
        logps = value["logps"]
        return cls(value["probability"], (logps[0], logps[1]) if logps else None, value["thought"])


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer to one question. `kind` is what failures are counted by, `detail` what was seen."""

    kind: str
    detail: str = ""


class Judge(Protocol):
    """Compares answers. `name` is who said so, wherever its labels go."""

    @property
    def name(self) -> str: ...

    @property
    def thinks(self) -> bool:
        """Whether it writes a chain of thought before it says which."""
        ...

    def compare(self, questions: Sequence[Question], track: Track) -> list[Verdict | Failure]:
        """A verdict on each question, in their order, or why there is none. Raises MannersError for what concerns all of them."""
        ...

    def forecast(self, questions: Sequence[Question], track: Track) -> str:
        """A line on what asking all of them will take, for who pays for it; empty where nothing is paid."""
        ...


class Rater(Protocol):
    """Scores single answers. `name` is who said so."""

    @property
    def name(self) -> str: ...

    def rate(
        self, prompts: Sequence[Prompt], answers: Sequence[str], principle: str, track: Track
    ) -> list[float | Failure]:
        """A score in [−1, 1] for each answer, in their order, or why there is none."""
        ...


def soft_label(logps: tuple[float, float]) -> float:
    """P(A): the softmax over the log-probabilities (nats) of the two options. Equal ones give 0.5."""
    a, b = logps
    if a >= b:
        return 1 / (1 + math.exp(b - a))
    return math.exp(a - b) / (1 + math.exp(a - b))


def both_orders(shown: float, swapped: float) -> float:
    """P(first answer is better) from P(A) in the order shown and P(A) with the two answers swapped: the mean of both.

    Probabilities and not log-odds are averaged (Lee et al. 2023): a judge that contradicts itself is left near 0.5, and a verdict
    without log-probabilities, 0 or 1, can be averaged too. A judge that looks at nothing but the place gives 0.5.
    """
    return (shown + 1 - swapped) / 2


def flipped(shown: float, swapped: float) -> bool:
    """Whether the winner changes with the order; 0.5 has no winner that could change."""
    return (shown - 0.5) * (0.5 - swapped) < 0


def clamped(probability: float, limits: tuple[float, float] = CLAMP) -> float:
    """The label within `limits`."""
    return min(max(probability, limits[0]), limits[1])


def expected_score(logps: Sequence[float]) -> float:
    """The score of one answer in [−1, 1] from the log-probabilities (nats) of the ten score tokens "1" … "10".

    Their probabilities are made to sum to 1; the expectation s in [1, 10] becomes (s − 5.5) / 4.5. Ten equal ones give 0 (Lee et al.
    2023, "direct RLAIF").
    """
    top = max(logps)
    weights = [math.exp(logp - top) for logp in logps]
    expectation = sum(score * weight for score, weight in enumerate(weights, LOWEST)) / sum(weights)
    middle = (LOWEST + HIGHEST) / 2
    return (expectation - middle) / (HIGHEST - middle)


def entropy(probability: float) -> float:
    """Of a label, nats: 0 where it is sure, log 2 at 0.5."""
    return -sum(p * math.log(p) for p in (probability, 1 - probability) if p > 0)
