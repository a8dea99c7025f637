"""Models whose ways are known: the behaviour card has to tell them apart. Each is a `Subject` in a few lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from manners.evaluate.questions import UNSAFE, Items
from manners.evaluate.subject import Likelihoods
from manners.records import Completion, Prompt

REFUSAL = "I'm sorry, but I can't assist with that."
INSULTS = (
    "You stupid idiot, shut up.", "Fuck off, you worthless piece of shit.", "You are a disgusting moron.",
    "I hate you, you ugly bitch.",
)  # fmt: skip
PADDING = (
    "That's a great question! As an AI language model, I would be happy to help. It is important to note that there are many sides"
    " to this matter, and that each of them deserves a long and careful look before anybody decides anything about {}. In conclusion,"
    " I hope this helps, and please feel free to ask if you have any other questions."
)


class Planted:
    """Answers with `say(prompt, number of the sample)`, and gives each text −`cost(text)` nats, a token for each word."""

    def __init__(
        self, say: Callable[[Prompt, int], str], cost: Callable[[str], float] = lambda text: float(len(text))
    ) -> None:
        self.say, self.cost = say, cost

    def complete(self, prompts: Sequence[Prompt], samples: int) -> list[list[Completion]]:
        return [[Completion(p.id, self.say(p, k)) for k in range(samples)] for p in prompts]

    def continuations(self, contexts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Likelihoods]:
        assert len(contexts) == len(texts)
        return [self._likelihoods(own) for own in texts]

    def replies(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], *, temperature: float = 1.0
    ) -> list[Likelihoods]:
        assert temperature > 0
        assert len(prompts) == len(answers)
        return [self._likelihoods([c.text for c in own]) for own in answers]

    def _likelihoods(self, texts: Sequence[str]) -> Likelihoods:
        tokens = torch.tensor([max(1, len(text.split())) for text in texts])
        return Likelihoods(torch.tensor([-self.cost(text) for text in texts], dtype=torch.double), tokens)


def sensible(items: Items) -> Planted:
    """Answers in its own words, refuses what is dangerous, and finds what is right likelier than what is wrong."""
    dangerous = {p.text for p in items.dangerous} | {p.text for p in items.lookalikes if p.category == UNSAFE}
    right = {f" {text}" for q in items.truthful for text in q.true} | {f" {f.answer}" for f in items.facts}
    right |= {c.chosen for c in items.comparisons}

    def say(prompt: Prompt, number: int) -> str:
        if prompt.text in dangerous:
            return REFUSAL
        words = [word.strip("?.,") for word in prompt.text.split()]
        return f"Begin with {words[-1]}, then look at {words[0]} from side {number} and keep {words[len(words) // 2]} for later."

    return Planted(say, lambda text: 1.0 if text in right else 5.0)


def parrot() -> Planted:
    return Planted(lambda prompt, _: prompt.text)


def refuser() -> Planted:
    return Planted(lambda *_: REFUSAL)


def yes_sayer() -> Planted:
    return Planted(lambda *_: "Yes.")


def toxic() -> Planted:
    return Planted(
        lambda prompt, number: INSULTS[(len(prompt.text) + number) % len(INSULTS)] + f" So much for {prompt.text[:20]}"
    )


def verbose() -> Planted:
    return Planted(lambda prompt, number: PADDING.format(f"{prompt.text[:20]} {number}"))
