"""A conversation with a model at the terminal."""

from __future__ import annotations

import sys

from manners.cli.talk import say
from manners.records import Message, Prompt
from manners.sampling.local import LocalSampler


def converse(model: str, message: str | None, temperature: float, max_tokens: int, seed: int) -> None:
    """Answer one `message` on stdout, or go on until an empty line or the end of input."""
    sampler = LocalSampler.of(model, say=say)
    turns: list[Message] = []
    interactive = message is None and sys.stdin.isatty()
    if interactive:
        say("say something; an empty line ends the conversation")
    while text := message if message is not None else _ask(interactive):
        turns.append(Message("user", text))
        rollouts = sampler.sample(
            [Prompt(tuple(turns))], max_tokens=max_tokens, temperature=temperature, seed=seed + len(turns)
        )
        answer = rollouts.completions[0].text
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
        if message is not None:
            return
        turns.append(Message("assistant", answer))


def _ask(interactive: bool) -> str:
    if interactive:
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline().strip()
