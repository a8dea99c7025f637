"""Prompts and completions as tokens, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from jinja2 import TemplateError

from manners.errors import MannersError
from manners.records import Completion, Prompt


class Chat:
    """A tokenizer with its chat template. `end` is the token that ends the assistant's turn; `pad` fills rows (never read)."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        if not tokenizer.chat_template:
            raise MannersError(
                "the tokenizer has no chat template; use an instruct model, or put a chat_template.jinja beside its tokenizer.json"
            )
        if tokenizer.eos_token_id is None:
            raise MannersError(
                "the tokenizer has no end-of-turn token (eos_token); set one in its tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self.context = context
        self.end = int(tokenizer.eos_token_id)
        self.pad = int(tokenizer.pad_token_id) if tokenizer.pad_token_id is not None else self.end

    def prompt(self, prompt: Prompt, room: int = 0) -> list[int]:
        """Tokens of the prompt up to where the assistant begins. `room` is how many response tokens must still fit.

        Raises MannersError for a prompt longer than the context.
        """
        ids = self._rendered(prompt)
        if len(ids) + room > self.context:
            raise MannersError(
                f"a prompt of {len(ids)} tokens and {room} for the answer do not fit into the model's context of {self.context}"
                f" tokens: {prompt.text[:60]!r}; shorten or remove it"
            )
        return ids

    def shortened(self, prompt: Prompt, limit: int) -> Prompt:
        """The prompt, or, where it has more than `limit` tokens, one whose last message ends at an earlier line break.

        As Stiennon et al. 2020 (arXiv 2009.01325) cut posts. Raises MannersError where no line break is early enough.
        """
        *before, last = prompt.messages
        lines = last.content.split("\n")
        for count in range(len(lines), 0, -1):
            content = "\n".join(lines[:count])
            if content.strip():
                shorter = replace(prompt, messages=(*before, replace(last, content=content)))
                if len(self._rendered(shorter)) <= limit:
                    return shorter
        raise MannersError(
            f"the prompt {prompt.text[:60]!r} has more than {limit} tokens and no line break to cut it at; shorten or remove it"
        )

    def judged(
        self,
        prompt: Prompt,
        completions: Sequence[Completion],
        max_prompt_tokens: int | None = None,
        max_tokens: int | None = None,
    ) -> tuple[list[int], list[list[int]]]:
        """Tokens of a prompt and of its answers as a judge reads them.

        An answer is cut to `max_tokens`; a prompt longer than `max_prompt_tokens`, or than the context leaves room for beside the
        longest answer, loses its beginning: the judge sees the whole answer. Raises MannersError for an answer that alone fills
        the context.
        """
        answers = [self.completion(c, max_tokens) for c in completions]
        left = self.context - max(map(len, answers))
        if left < 1:
            raise MannersError(
                f"an answer to {prompt.text[:60]!r} fills the model's context of {self.context} tokens; shorten it"
            )
        return self._rendered(prompt)[-min(left, max_prompt_tokens or left) :], answers

    def _rendered(self, prompt: Prompt) -> list[int]:
        turns = [asdict(m) for m in prompt.messages]
        try:
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise MannersError(
                f"the chat template refuses the prompt {prompt.text[:60]!r}: {error}; change or remove it"
            ) from None
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def completion(self, completion: Completion, limit: int | None = None) -> list[int]:
        """Tokens of the answer, with the end-of-turn token where the answer is finished; cut to `limit` tokens (and then
        without that token)."""
        ids: list[int] = self.tokenizer(completion.text, add_special_tokens=False)["input_ids"]
        if completion.finished:
            ids = [*ids, self.end]
        return ids if limit is None else ids[:limit]

    def text(self, response: Sequence[int]) -> str:
        """The text of response tokens, without the end-of-turn token."""
        ids = list(response[:-1]) if response and response[-1] == self.end else list(response)
        text: str = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token by itself; marks are shown as they are written."""
        return [self.tokenizer.decode([i], skip_special_tokens=False, clean_up_tokenization_spaces=False) for i in ids]
