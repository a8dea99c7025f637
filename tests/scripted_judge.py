"""A judge whose verdicts follow from what it is told to like, with a pull of the first place that is set in advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from manners.constitution.judge import Failure, Question, Verdict
from manners.runs import Track, untracked


class ScriptedJudge:
    """Log-odds of (A): the worth of (A) less that of (B), and `bias`. An answer that holds "???" gets no verdict. Every question is
    written down; with `fails_at` the question of that number, from 0, raises."""

    name = "scripted"

    def __init__(
        self, worth: Callable[[str], float], bias: float = 0.0, *, thinks: bool = False, fails_at: int = -1
    ) -> None:
        self.worth, self.bias, self.thinks, self.fails_at = worth, bias, thinks, fails_at
        self.asked: list[Question] = []

    def compare(self, questions: Sequence[Question], track: Track = untracked) -> list[Verdict | Failure]:  # noqa: ARG002
        return [self._say(question) for question in questions]

    def forecast(self, questions: Sequence[Question], track: Track = untracked) -> str:  # noqa: ARG002
        return ""

    def _say(self, question: Question) -> Verdict | Failure:
        if len(self.asked) == self.fails_at:
            raise RuntimeError("the power is gone")
        self.asked.append(question)
        if "???" in question.a + question.b:
            return Failure("no verdict", "hm")
        return Verdict.of((self.worth(question.a) - self.worth(question.b) + self.bias, 0.0))
