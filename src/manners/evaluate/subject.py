"""The model that is evaluated, as the behaviour card sees it: it answers, and it says how likely it finds a text.

The protocol is small, so that anything can stand behind it: a trunk in this process, a server, a fake of a few lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from manners.models.likelihood import continuation_logprobs
from manners.records import Completion, Prompt
from manners.runs import Track, untracked
from manners.sampling.local import LocalSampler


class Likelihoods(NamedTuple):
    """logps [K]: log-probabilities of K texts, nats; tokens [K]: how many tokens each has."""

    logps: Tensor
    tokens: Tensor


class Subject(Protocol):
    """A model under evaluation."""

    def complete(self, prompts: Sequence[Prompt], samples: int) -> list[list[Completion]]:
        """So many answers to each prompt."""
        ...

    def continuations(self, contexts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Likelihoods]:
        """How likely each of the texts is behind its context, as plain text. Behind an empty context a text's first token is given and not
        counted."""
        ...

    def replies(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], *, temperature: float = 1.0
    ) -> list[Likelihoods]:
        """How likely each of the answers is as the assistant's turn at `temperature`, its end included where it is finished."""
        ...


class TrunkSubject:
    """The policy that `sampler` draws from, at one temperature; texts longer than the model's context lose their beginning."""

    def __init__(
        self, sampler: LocalSampler, *, max_tokens: int, temperature: float, seed: int, track: Track = untracked
    ) -> None:
        self.sampler, self.track = sampler, track
        self.trunk, self.chat = sampler.trunk, sampler.chat
        self.max_tokens, self.temperature, self.seed = max_tokens, temperature, seed

    def complete(self, prompts: Sequence[Prompt], samples: int) -> list[list[Completion]]:
        asked = [prompt for prompt in prompts for _ in range(samples)]
        drawn = self.sampler.sample(
            asked, max_tokens=self.max_tokens, temperature=self.temperature, seed=self.seed, track=self.track
        ).completions
        return [list(drawn[start : start + samples]) for start in range(0, len(drawn), samples)]

    def continuations(self, contexts: Sequence[str], texts: Sequence[Sequence[str]]) -> list[Likelihoods]:
        rows = [
            [self._behind(context, text) for text in following]
            for context, following in zip(contexts, texts, strict=True)
        ]
        return self._ask(rows)

    def replies(
        self, prompts: Sequence[Prompt], answers: Sequence[Sequence[Completion]], *, temperature: float = 1.0
    ) -> list[Likelihoods]:
        rows = []
        for prompt, given in zip(prompts, answers, strict=True):
            context, replies = self.chat.judged(prompt, given, max_tokens=self.trunk.context - 1)
            rows.append([(context, reply) for reply in replies])
        return self._ask(rows, temperature)

    def _behind(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """Tokens of the context and of the text, encoded together, so that their border is where the tokenizer puts it."""
        whole: list[int] = self.trunk.tokenizer(context + text)["input_ids"]
        given = len(self.trunk.tokenizer(context)["input_ids"]) if context else 1
        room = self.trunk.context
        following = whole[given:][: room - 1]
        return whole[:given][-(room - len(following)) :], following

    def _ask(
        self, rows: Sequence[Sequence[tuple[list[int], list[int]]]], temperature: float = 1.0
    ) -> list[Likelihoods]:
        """One packed row for the texts of one context, where the tokenizer gives that context the same tokens before all of them."""
        packed: list[tuple[list[int], list[list[int]]]] = []
        places: list[list[tuple[int, int]]] = []
        for row in rows:
            start = len(packed)
            where = []
            for context, text in row:
                same = next((i for i in range(start, len(packed)) if packed[i][0] == context), None)
                if same is None:
                    same = len(packed)
                    packed.append((context, []))
                where.append((same, len(packed[same][1])))
                packed[same][1].append(text)
            places.append(where)
        found = continuation_logprobs(self.trunk, None, packed, temperature=temperature, track=self.track)
        return [
            Likelihoods(
                torch.stack([found[i][k] for i, k in where]).double(),
                torch.tensor([len(packed[i][1][k]) for i, k in where]),
            )
            for where in places
        ]
