"""A model in this process as the judge. Both options stand behind one context, so that what is long is computed once."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

from torch import Tensor

from manners.constitution import asking
from manners.constitution.asking import LEAD, OPTIONS, SCORE_LEAD, SCORES, Asking
from manners.constitution.judge import Failure, Question, Verdict, expected_score
from manners.constitution.writer import drawn
from manners.errors import MannersError
from manners.models.likelihood import continuation_logprobs
from manners.models.trunk import Trunk
from manners.records import Prompt
from manners.runs import Track, untracked
from manners.sampling.local import LocalSampler
from manners.text.chat import Chat

Form = Literal["chat", "text"]
Context = list[int]


class LocalJudge:
    """Judges with `trunk` under `adapter` (None: the bare base).

    `form`: questions go through the chat template, with the assistant's turn begun by "The answer is:", or are a plain text to be
    continued. With `thought_tokens` above 0 it first writes a thought of at most so many, through the chat template, drawn at
    temperature 1 by `seed`. A conversation that is too long loses its beginning; answers and principle stay whole.
    """

    def __init__(
        self,
        trunk: Trunk,
        asking: Asking,
        *,
        adapter: str | None = None,
        form: Form = "chat",
        thought_tokens: int = 0,
        seed: int = 0,
        name: str = "",
        max_tokens: int = 12_288,
    ) -> None:
        self.trunk, self.asking, self.adapter, self.form = trunk, asking, adapter, form
        self.thought_tokens, self.seed, self.max_tokens = thought_tokens, seed, max_tokens
        self.name = name or trunk.name
        # A plain language model needs no chat template; and what is too long is shortened here.
        self._chat = Chat(trunk.tokenizer, sys.maxsize) if form == "chat" or thought_tokens else None
        self._options = [self._ids(option) for option in OPTIONS]
        self._scores = [self._ids(score) for score in SCORES]

    @property
    def thinks(self) -> bool:
        return self.thought_tokens > 0

    def compare(self, questions: Sequence[Question], track: Track = untracked) -> list[Verdict | Failure]:
        """A verdict on each question; a Failure "too long" where answers and principle alone do not fit into the context."""
        thoughts = self._thoughts(questions, track) if self.thinks else [""] * len(questions)
        contexts = [
            self._fitting(question, partial(self._context, thought=thought))
            for question, thought in zip(questions, thoughts, strict=True)
        ]
        found = self._logps(contexts, self._options, track, "comparing")
        return [
            logps if isinstance(logps, Failure) else Verdict.of((float(logps[0]), float(logps[1])), thought)
            for logps, thought in zip(found, thoughts, strict=True)
        ]

    def forecast(self, questions: Sequence[Question], track: Track = untracked) -> str:  # noqa: ARG002 - the protocol's
        """Nothing: it runs here."""
        return ""

    def rate(
        self, prompts: Sequence[Prompt], answers: Sequence[str], principle: str, track: Track = untracked
    ) -> list[float | Failure]:
        """A score in [−1, 1] for each answer: the expectation over the ten score tokens."""
        contexts = [
            self._fitting(Question(prompt, principle, answer, ""), self._rating_context)
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        found = self._logps(contexts, self._scores, track, "rating")
        return [logps if isinstance(logps, Failure) else expected_score(self._whole(logps)) for logps in found]

    def _whole(self, logps: Tensor) -> list[float]:
        """Log-probabilities of the whole numbers "1" … "10": where "10" begins with the tokens of "1", its mass is taken off "1"."""
        found = [float(logp) for logp in logps]
        one, ten = self._scores[0], self._scores[-1]
        if ten[: len(one)] == one:
            rest = -math.expm1(min(found[-1] - found[0], 0.0))
            found[0] += math.log(rest) if rest > 0 else -math.inf
        return found

    def _logps(
        self, contexts: Sequence[Context | Failure], options: list[Context], track: Track, what: str
    ) -> list[Tensor | Failure]:
        """Log-probabilities [K] of the options behind each context, nats."""
        rows = [(context, options) for context in contexts if not isinstance(context, Failure)]
        found = iter(
            continuation_logprobs(self.trunk, self.adapter, rows, max_tokens=self.max_tokens, track=track, what=what)
        )
        return [context if isinstance(context, Failure) else next(found) for context in contexts]

    def _thoughts(self, questions: Sequence[Question], track: Track) -> list[str]:
        """What the model writes before it decides; nothing where the question does not fit."""
        asked: dict[int, Prompt] = {}
        for number, question in enumerate(questions):
            for shorter in _shorter(question):
                prompt = asking.to_think(self.asking, shorter)
                if self._room(self._rendered(prompt)) >= self.thought_tokens:
                    asked[number] = prompt
                    break
        if not asked:
            return [""] * len(questions)
        seed = drawn("thought", self.seed, [prompt.id for prompt in asked.values()]) % 2**31
        sampler = LocalSampler(self.trunk, self.adapter)
        written = sampler.sample(
            list(asked.values()), max_tokens=self.thought_tokens, temperature=1.0, seed=seed, track=track
        )
        texts = dict(zip(asked, (completion.text.strip() for completion in written.completions), strict=True))
        return [texts.get(number, "") for number in range(len(questions))]

    def _fitting(self, question: Question, context: Callable[[Question], Context]) -> Context | Failure:
        """The context of a question, its conversation shortened as far as it takes."""
        room = max(map(len, [*self._options, *self._scores]))
        for shorter in _shorter(question):
            found = context(shorter)
            if self._room(found) >= room:
                return found
        return Failure("too long", f"{len(found)} tokens in a context of {self.trunk.context}")

    def _room(self, context: Context) -> int:
        return self.trunk.context - len(context)

    def _context(self, question: Question, thought: str) -> Context:
        if self.form == "text":
            return self._ids(asking.as_text(self.asking, question, thought))
        return self._rendered(asking.to_decide(self.asking, question, thought)) + self._ids(LEAD)

    def _rating_context(self, question: Question) -> Context:
        if self.form == "text":
            text = self.asking.rating_text(question.prompt, question.principle, question.a)
            return self._ids(f"{text}\n\n{SCORE_LEAD}")
        asked = asking.to_rate(self.asking, question.prompt, question.principle, question.a)
        return self._rendered(asked) + self._ids(SCORE_LEAD)

    def _rendered(self, prompt: Prompt) -> Context:
        if self._chat is None:
            raise MannersError("the judge has no chat template; set form to text and thought_tokens to 0")
        return self._chat.prompt(prompt)

    def _ids(self, text: str) -> Context:
        ids: Context = self.trunk.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def _shorter(question: Question) -> list[Question]:
    """The question, and with less and less of the beginning of its conversation: turns first, then of the last message."""
    messages = question.prompt.messages
    last = messages[-1]
    kept = [messages[start:] for start in range(len(messages))]
    for share in (2, 4, 8):
        if (end := last.content[-max(1, len(last.content) // share) :]).strip():
            kept.append((replace(last, content=end),))
    return [replace(question, prompt=replace(question.prompt, messages=turns)) for turns in kept]
