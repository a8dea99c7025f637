"""What an endpoint is asked, where it is, and what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from manners.config import Config
from manners.constitution.replies import Reply
from manners.records import Prompt


class EndpointConfig(Config):
    """Where an endpoint is, how hard it may be pressed, and what it costs."""

    base_url: str = Field(
        "", description="address up to and without /chat/completions, such as http://127.0.0.1:8000/v1"
    )
    model: str = Field("", description="name of the model, as the endpoint knows it")
    key_variable: str = Field("", description="environment variable that holds the key; empty: no key is sent")
    concurrency: int = Field(8, gt=0, le=256, description="calls at once")
    timeout: float = Field(60.0, gt=0, description="seconds that one call may take")
    attempts: int = Field(6, gt=0, description="how often one call is tried")
    first_wait: float = Field(0.5, gt=0, description="seconds before the second attempt; then twice as long each time")
    longest_wait: float = Field(
        60.0, gt=0, description="seconds; an endpoint that asks for a longer pause stops the run"
    )
    give_up_after: int = Field(20, gt=0, description="so many failures behind each other stop the run")
    top_logprobs: int = Field(10, ge=0, le=20, description="how many alternatives to ask for; 0: read the text alone")
    price_prompt: float = Field(0.0, ge=0, description="price of 1000 tokens read, in any currency")
    price_completion: float = Field(0.0, ge=0, description="price of 1000 tokens written")
    most_cost: float = Field(0.0, ge=0, description="stop before it starts where the estimate is higher; 0 = no limit")
    cache: str = Field("", description="file of answers that were paid for; empty: endpoint-cache.jsonl beside the run")

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if value and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("must be an address such as https://host/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no key or password; name an environment variable in key_variable")
        return value.rstrip("/")

    @property
    def named(self) -> bool:
        return bool(self.base_url)


@dataclass(frozen=True, slots=True)
class Call:
    """One request: a conversation, how its next turn is to be written, and how many alternatives of each token to name."""

    conversation: Prompt
    max_tokens: int
    temperature: float = 0.0
    seed: int | None = None
    top_logprobs: int = 0

    def body(self, model: str) -> dict[str, Any]:
        messages = [{"role": m.role, "content": m.content} for m in self.conversation.messages]
        body = {"model": model, "messages": messages, "max_tokens": self.max_tokens, "temperature": self.temperature}
        if self.seed is not None:
            body["seed"] = self.seed
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        return body


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls came to. `calls` of them were answered, `seconds` is the sum of how long each took."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, reply: Reply) -> Spent:
        return Spent(
            self.calls + 1,
            self.prompt_tokens + reply.prompt_tokens,
            self.completion_tokens + reply.completion_tokens,
            self.seconds + reply.seconds,
        )
