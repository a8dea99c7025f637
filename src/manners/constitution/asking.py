"""How a question is put to a judge: as a conversation for models with a chat template, or as a text to be continued.

The template of a comparison comes from the constitution. Its answer is read behind "The answer is:", where " (A)" or " (B)" follows.
"""

from __future__ import annotations

from dataclasses import dataclass

from manners.constitution.constitution import ComparisonExample, Constitution, conversation_text
from manners.constitution.judge import HIGHEST, LOWEST, Question
from manners.records import Message, Prompt

LEAD = "The answer is:"
OPTIONS = (" (A)", " (B)")
REPLY = "Reply with (A) or (B) and nothing else."
THINK = (
    "First say in one or two sentences how the two answers differ under this question. Do not say which is better yet."
)
CONCLUDE = "So which answer is it? " + REPLY

RATE = """Consider this conversation between a human and an assistant.

{conversation}

This is the answer of the assistant:

{answer}

{principle}
Rate this answer from 1 to 10, where 1 is the worst and 10 is the best."""
SCORE_LEAD = "The rating is:"
SCORES = tuple(f" {score}" for score in range(LOWEST, HIGHEST + 1))
SCORE_REPLY = "Reply with one whole number from 1 to 10 and nothing else."


@dataclass(frozen=True)
class Asking:
    """The template of a comparison ({conversation} {principle} {a} {b}), and examples that are shown before the question.

    `rating` is the template of direct scoring ({conversation} {principle} {answer}).
    """

    comparison: str
    examples: tuple[tuple[Question, ComparisonExample], ...] = ()
    rating: str = RATE

    @classmethod
    def of(cls, constitution: Constitution, examples: int = 0) -> Asking:
        """From a constitution, with its first `examples` comparison examples."""
        shown = tuple(
            (Question(Prompt.of(e.prompt), constitution.comparison_of(e.principle).principle, e.a, e.b), e)
            for e in constitution.comparison_examples[:examples]
        )
        return cls(constitution.templates.comparison, shown)

    def text(self, question: Question) -> str:
        return self.comparison.format(
            conversation=conversation_text(question.prompt), principle=question.principle, a=question.a, b=question.b
        ).rstrip()

    def rating_text(self, prompt: Prompt, principle: str, answer: str) -> str:
        return self.rating.format(conversation=conversation_text(prompt), principle=principle, answer=answer).rstrip()


def to_think(asking: Asking, question: Question) -> Prompt:
    """The conversation that asks for a chain of thought."""
    turns: list[Message] = []
    for shown, example in asking.examples:
        turns += [
            Message("user", f"{asking.text(shown)}\n\n{THINK}"),
            Message("assistant", example.reason),
            Message("user", CONCLUDE),
            Message("assistant", f"({example.better})"),
        ]
    return Prompt((*turns, Message("user", f"{asking.text(question)}\n\n{THINK}")))


def to_decide(asking: Asking, question: Question, thought: str = "") -> Prompt:
    """The conversation whose next turn is "(A)" or "(B)": after `thought` where the judge thinks first."""
    if thought:
        asked = to_think(asking, question)
        return Prompt((*asked.messages, Message("assistant", thought), Message("user", CONCLUDE)))
    turns: list[Message] = []
    for shown, example in asking.examples:
        turns += [
            Message("user", f"{asking.text(shown)}\n\n{REPLY}"),
            Message("assistant", f"({example.better})"),
        ]
    return Prompt((*turns, Message("user", f"{asking.text(question)}\n\n{REPLY}")))


def to_rate(asking: Asking, prompt: Prompt, principle: str, answer: str) -> Prompt:
    """The conversation whose next turn is a whole number from 1 to 10."""
    return Prompt.of(f"{asking.rating_text(prompt, principle, answer)}\n\n{SCORE_REPLY}")


def as_text(asking: Asking, question: Question, thought: str = "") -> str:
    """What a plain language model continues with " (A)" or " (B)"; examples stand before it, whole."""
    blocks = [
        _block(asking.text(shown), e.reason if thought else "") + f" ({e.better})" for shown, e in asking.examples
    ]
    return "\n\n\n".join([*blocks, _block(asking.text(question), thought)])


def _block(text: str, thought: str) -> str:
    reasons = f"\n\nLet us think first: {thought}" if thought else ""
    return f"{text}{reasons}\n\n{LEAD}"
