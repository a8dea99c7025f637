"""What an endpoint answered, read with care: any shape may come, and only the right one is taken."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

# An alternative at one place: its text and log-probability, nats.
Choice = tuple[str, float]
CHARACTERS_PER_TOKEN = 4


class BrokenReplyError(ValueError):
    """An answer that is no chat completion."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The text of one answer. `finished`: it ended by itself; `refused`: the endpoint says it declined or filtered the answer.

    `tokens`: for each token its text and the likeliest alternatives there, itself among them; empty where the endpoint gives none.
    """

    text: str
    finished: bool
    refused: bool
    tokens: tuple[tuple[str, tuple[Choice, ...]], ...]
    prompt_tokens: int
    completion_tokens: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"text": self.text, "finished": self.finished, "refused": self.refused, "tokens": self.tokens,
                "prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens,
                "seconds": self.seconds}  # fmt: skip

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Reply:
        tokens = tuple((text, tuple((t, p) for t, p in choices)) for text, choices in value["tokens"])
        return cls(value["text"], value["finished"], value["refused"], tokens, value["prompt_tokens"],
                   value["completion_tokens"], value["seconds"])  # fmt: skip


def reply_of(content: bytes, seconds: float, clean: Callable[[str], str]) -> Reply:
    """The reply in the body of a chat completion. Raises BrokenReplyError for anything else."""
    try:
        value = json.loads(content)
        choice = value["choices"][0]
        message = choice["message"]
        text = message.get("content")
        reason = choice.get("finish_reason")
        refusal = message.get("refusal")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise BrokenReplyError(f"no chat completion: {type(error).__name__}") from None
    if not isinstance(text, str | None):
        raise BrokenReplyError(f"its text is of kind {type(text).__name__}")
    text = clean(text or "")
    usage = value.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text,
        finished=reason == "stop",
        refused=bool(refusal) or reason == "content_filter",
        tokens=_tokens(choice.get("logprobs"), clean),
        prompt_tokens=_count(counts.get("prompt_tokens"), 0),
        completion_tokens=_count(counts.get("completion_tokens"), -(-len(text) // CHARACTERS_PER_TOKEN)),
        seconds=round(seconds, 3),
    )


def _count(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else otherwise


def _tokens(logprobs: Any, clean: Callable[[str], str]) -> tuple[tuple[str, tuple[Choice, ...]], ...]:
    """Tokens with their alternatives; none at all where any of it is not as it should be."""
    try:
        found = []
        for token in logprobs["content"]:
            named = {clean(c["token"]): _logp(c["logprob"]) for c in (*(token.get("top_logprobs") or []), token)}
            found.append((clean(token["token"]), tuple(named.items())))
    except (KeyError, TypeError, ValueError, AttributeError):
        return ()
    return tuple(found)


def _logp(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        raise ValueError("no log-probability")
    return max(float(value), -1e4)  # servers write −∞ as −9999, as null, or as −Infinity


def detail_of(content: bytes, clean: Callable[[str], str]) -> str:
    """What the body of an error says, on one short line."""
    text = content.decode("utf-8", "replace")
    try:
        value = json.loads(text)
        error = value.get("error", value.get("detail", value.get("message", text)))
        text = error["message"] if isinstance(error, dict) and "message" in error else str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    return " ".join(clean(str(text)).split())[:200]


def retry_after(value: str) -> float | None:
    """Seconds to wait by a Retry-After header: a number, or a date (RFC 9110, 10.2.3); None where it says neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
