"""A model behind an endpoint: as the judge, with log-probabilities where it gives them, and as a writer."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from manners.constitution import asking
from manners.constitution.asking import Asking
from manners.constitution.calls import Call
from manners.constitution.endpoint import Endpoint
from manners.constitution.judge import HIGHEST, LOWEST, Failure, Question, Verdict, expected_score
from manners.constitution.replies import Choice, Reply
from manners.constitution.wording import boilerplate
from manners.constitution.writer import drawn
from manners.errors import MannersError
from manners.records import Completion, Prompt
from manners.runs import Track, untracked

VERDICT_TOKENS = 8
PROBES = 3
_ALONE = re.compile(r"\s*(?:\(([AB])\)?|\[\[([AB])\]\]|([AB]))[.:]?\s*")
_NAMED = re.compile(r"\s*\(([AB])\)")
_MARKED = re.compile(r"\[\[([AB])\]\]")
_NUMBER = re.compile(r"\s*(10|[1-9])(?:\s*/\s*10)?\.?\s*")
_AROUND = " \t\n()[]*:."


class RemoteJudge:
    """Judges through `endpoint`. With `thought_tokens` above 0 a first call writes a thought, and a second one decides."""

    def __init__(self, endpoint: Endpoint, asking: Asking, *, thought_tokens: int = 0, seed: int = 0) -> None:
        self.endpoint, self.asking = endpoint, asking
        self.thought_tokens, self.seed = thought_tokens, seed
        self.name = endpoint.config.model

    @property
    def thinks(self) -> bool:
        return self.thought_tokens > 0

    def compare(self, questions: Sequence[Question], track: Track = untracked) -> list[Verdict | Failure]:
        """A verdict on each question. One without log-probabilities is 0 or 1; one that has to be guessed at is a Failure."""
        thoughts: list[str | Failure] = [""] * len(questions)
        if self.thinks:
            replies = self.endpoint.ask([self._to_think(question) for question in questions], track, "thinking")
            thoughts = [reply if isinstance(reply, Failure) else _thought(reply) for reply in replies]
        calls = [
            Call(asking.to_decide(self.asking, question, thought), VERDICT_TOKENS, top_logprobs=self._alternatives)
            for question, thought in zip(questions, thoughts, strict=True)
            if not isinstance(thought, Failure)
        ]
        found = iter(self.endpoint.ask(calls, track, "comparing"))
        verdicts: list[Verdict | Failure] = []
        for question, thought in zip(questions, thoughts, strict=True):
            reply = thought if isinstance(thought, Failure) else next(found)
            verdicts.append(reply if isinstance(reply, Failure) else verdict_in(reply, question, str(thought)))
        return verdicts

    def rate(
        self, prompts: Sequence[Prompt], answers: Sequence[str], principle: str, track: Track = untracked
    ) -> list[float | Failure]:
        """A score in [−1, 1] for each answer: the expectation over the score tokens among the alternatives that the endpoint names,
        or the one that it gave."""
        calls = [
            Call(
                asking.to_rate(self.asking, prompt, principle, answer), VERDICT_TOKENS, top_logprobs=self._alternatives
            )
            for prompt, answer in zip(prompts, answers, strict=True)
        ]
        replies = self.endpoint.ask(calls, track, "rating")
        return [reply if isinstance(reply, Failure) else score_in(reply) for reply in replies]

    def forecast(self, questions: Sequence[Question], track: Track = untracked) -> str:
        """What asking all `questions` will take, from asking the first few of those that are still open; what these answer is kept.

        Raises MannersError where it would cost more than `most_cost`.
        """
        config = self.endpoint.config
        waiting = [question for question in questions if not self.endpoint.knows(self._first_call(question))]
        if len(waiting) <= PROBES:
            return ""
        before = self.endpoint.used
        self.compare(waiting[:PROBES], track)
        after, share = self.endpoint.used, (len(waiting) - PROBES) / PROBES
        calls, read, written = (
            round((now - then) * share)
            for now, then in (
                (after.calls, before.calls),
                (after.prompt_tokens, before.prompt_tokens),
                (after.completion_tokens, before.completion_tokens),
            )
        )
        seconds = (after.seconds - before.seconds) * share / config.concurrency
        cost = (read * config.price_prompt + written * config.price_completion) / 1000
        if config.most_cost and cost > config.most_cost:
            raise MannersError(
                f"asking {config.model} would cost about {cost:.4g}, more than most_cost {config.most_cost:g}; ask for less, or raise it"
            )
        priced = f", about {cost:.4g}" if config.price_prompt or config.price_completion else ""
        return (
            f"{config.model}: {calls} calls, {read} tokens to read, {written} to write{priced}, about {seconds:.0f} s"
        )

    @property
    def _alternatives(self) -> int:
        return self.endpoint.config.top_logprobs

    def _to_think(self, question: Question) -> Call:
        conversation = asking.to_think(self.asking, question)
        seed = drawn("thought", self.seed, conversation.id) % 2**31
        return Call(conversation, self.thought_tokens, temperature=1.0, seed=seed)

    def _first_call(self, question: Question) -> Call:
        if self.thinks:
            return self._to_think(question)
        return Call(asking.to_decide(self.asking, question), VERDICT_TOKENS, top_logprobs=self._alternatives)


class RemoteWriter:
    """Writes through `endpoint`. What could not be had is an empty text that is not finished; `failures` counts it by kind."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.failures: Counter[str] = Counter()

    def complete(
        self, conversations: Sequence[Prompt], max_tokens: int, temperature: float, seeds: Sequence[int]
    ) -> list[Completion]:
        """The assistant's next turn of each conversation."""
        calls = [Call(c, max_tokens, temperature, seed) for c, seed in zip(conversations, seeds, strict=True)]
        replies = self.endpoint.ask(calls, what="writing")
        settings = {"max_tokens": max_tokens, "temperature": temperature}
        found = []
        for conversation, reply, seed in zip(conversations, replies, seeds, strict=True):
            if isinstance(reply, Failure):
                self.failures[reply.kind] += 1
                reply = Reply("", False, False, (), 0, 0, 0.0)
            found.append(
                Completion(
                    conversation.id, reply.text.strip(), reply.finished, self.endpoint.config.model, settings, seed
                )
            )
        return found


def verdict_in(reply: Reply, question: Question, thought: str = "") -> Verdict | Failure:
    """The verdict in an answer that is nothing but "(A)" or "A", or "(A)" and then the text of that answer, or that holds "[[A]]" and
    no "[[B]]"; or the other way round.

    With log-probabilities it is soft: an option that is not among the alternatives named is taken to be as likely as the least likely
    of these. An answer that begins with "(A)" or "(B)" and whose alternatives there name both has said all that is asked, whatever it
    goes on to say. A Failure is "refusal", "empty", or, for a verdict in prose or none, "no verdict".
    """
    if reply.refused or boilerplate(reply.text):
        return Failure("refusal", reply.text[:200])
    if not reply.text.strip():
        return Failure("empty")
    if (opening := _NAMED.match(reply.text)) and (logps := _logps_at(reply, opening.group(1), both=True)):
        return Verdict.of(logps, thought)
    marked = set(_MARKED.findall(reply.text))
    if letter := _alone(reply.text, question):
        if logps := _logps_at(reply, letter):
            return Verdict.of(logps, thought)
    elif len(marked) == 1:
        letter = marked.pop()
    else:
        return Failure("no verdict", reply.text[:200])
    return Verdict(float(letter == "A"), None, thought)


def _alone(text: str, question: Question) -> str:
    """The letter of a text that is nothing but a verdict, be it with the beginning of the answer that it names; else nothing."""
    if found := _ALONE.fullmatch(text):
        return next(group for group in found.groups() if group)
    named = _NAMED.match(text)
    if not named:
        return ""
    letter, rest = named.group(1), " ".join(text[named.end() :].split())
    own, other = (" ".join(answer.split()) for answer in _in_order(question, letter))
    return letter if own.startswith(rest) and not other.startswith(rest) else ""


def _in_order(question: Question, letter: str) -> tuple[str, str]:
    """The answer that goes by the letter, and the other one."""
    return (question.a, question.b) if letter == "A" else (question.b, question.a)


def score_in(reply: Reply) -> float | Failure:
    """The score in [−1, 1] in an answer that is nothing but a whole number from 1 to 10."""
    if reply.refused or boilerplate(reply.text):
        return Failure("refusal", reply.text[:200])
    if not reply.text.strip():
        return Failure("empty")
    number = _NUMBER.fullmatch(reply.text)
    if not number:
        return Failure("no score", reply.text[:200])
    given = {int(number.group(1)): 0.0}
    if (place := _place_of(reply, number.group(1))) is not None:
        given = _numbers(reply.tokens[place][1]) or given
    elif number.group(1) == "10" and (place := _place_of(reply, "1")) is not None:
        given = _with_ten(_numbers(reply.tokens[place][1]), _follows(reply, place, "0")) or given
    return expected_score([given.get(score, -math.inf) for score in range(LOWEST, HIGHEST + 1)])


def _thought(reply: Reply) -> str | Failure:
    if reply.refused:
        return Failure("refusal", reply.text[:200])
    return reply.text.strip()


def _logps_at(reply: Reply, letter: str, *, both: bool = False) -> tuple[float, float] | None:
    """Log-probabilities of A and B where the letter of the verdict stands; None without log-probabilities, or, with `both`, where not
    both are among the alternatives."""
    place = _place_of(reply, letter)
    if place is None:
        return None
    choices = reply.tokens[place][1]
    least = min(logp for _, logp in choices)
    found = []
    for option in ("A", "B"):
        own = [logp for text, logp in choices if text.strip(_AROUND) == option]
        if both and not own:
            return None
        found.append(math.log(sum(map(math.exp, own))) if own and max(own) > -700 else least)
    return found[0], found[1]


def _numbers(choices: Sequence[Choice]) -> dict[int, float]:
    """The log-probability of each whole number from 1 to 10 among the alternatives."""
    mass: dict[int, float] = defaultdict(float)
    for text, logp in choices:
        if found := _NUMBER.fullmatch(text):
            mass[int(found.group(1))] += math.exp(logp)
    return {number: math.log(weight) for number, weight in mass.items() if weight > 0}


def _follows(reply: Reply, place: int, digit: str) -> float:
    """Log-probability that `digit` follows the token at `place`; 0 where nothing is known of it."""
    choices = reply.tokens[place + 1][1] if place + 1 < len(reply.tokens) else ()
    return next((logp for text, logp in choices if text == digit), 0.0)


def _with_ten(numbers: dict[int, float], zero: float) -> dict[int, float]:
    """The same where digits are tokens of their own: what stands at 1 is shared between 1 and 10 by how likely the 0 is."""
    if 1 not in numbers:
        return numbers
    one = numbers.pop(1)
    rest = -math.expm1(min(zero, 0.0))
    return numbers | {10: one + zero} | ({1: one + math.log(rest)} if rest > 0 else {})


def _place_of(reply: Reply, word: str) -> int | None:
    """The first token that is `word` but for signs around it."""
    return next((i for i, (text, _) in enumerate(reply.tokens) if text.strip(_AROUND) == word), None)
