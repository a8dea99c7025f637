"""From the ways in which files write conversations to prompts and answers.

White space around prompts, turns and answers is removed, so that the same text from two sources is the same prompt.
What the turns say is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from manners.feedback.importers.rows import BadRowError, ImportOptions, list_of, text_of
from manners.records import SPLITS, Completion, Judgement, Message, Prompt, Ranking, Role

ANSWER = "\n\nAssistant:"
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
}


def prompt_of(value: Any, row: Mapping[str, Any], options: ImportOptions) -> Prompt:
    """The prompt that `value` writes: a text, a "Human: ... Assistant: ..." transcript, or a list of messages.

    Category and split are the row's own, else those of the options. Raises BadRowError when the last turn is no user's.
    """
    if isinstance(value, str):
        messages = turns_of(value) if is_transcript(value) else [Message("user", text_of(value, "the prompt"))]
    else:
        messages = messages_of(value, "the prompt")
    return prompt_from(messages, row, options)


def prompt_from(messages: Sequence[Message], row: Mapping[str, Any], options: ImportOptions) -> Prompt:
    if not messages:
        raise BadRowError("the prompt is empty")
    if messages[-1].role != "user":
        raise BadRowError(f"the last turn of the prompt is the {messages[-1].role}'s, not the user's")
    if not messages[-1].content:
        raise BadRowError("the last turn of the prompt is empty")
    split = own_text(row, "split") or options.split
    if split and split not in SPLITS:
        raise BadRowError(f"the split must be one of {', '.join(SPLITS)}, not {split!r}")
    return Prompt(tuple(messages), own_text(row, "category") or options.category, split)


def messages_of(value: Any, what: str) -> list[Message]:
    """The messages of [{"role": ..., "content": ...}, ...]; the roles human and prompter are the user's."""
    messages = []
    for item in list_of(value, what):
        if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
            raise BadRowError(f"{what} must be a list of messages with role and content")
        role = _ROLES.get(item["role"]) if isinstance(item["role"], str) else None
        if role is None:
            raise BadRowError(f"{what} has the role {item['role']!r}; known are {', '.join(_ROLES)}")
        if not isinstance(item["content"], str):
            raise BadRowError(f"{what} has a message whose content is {type(item['content']).__name__}, not text")
        messages.append(Message(role, item["content"].strip()))
    if not messages:
        raise BadRowError(f"{what} is empty")
    return messages


def is_transcript(text: str) -> bool:
    return text.lstrip().startswith("Human:")


def turns_of(transcript: str) -> list[Message]:
    """The turns of "Human: ...", a blank line, "Assistant: ...", and so on; an open "Assistant:" at the end is none."""
    transcript = transcript.strip()
    if transcript.endswith(ANSWER):
        transcript = transcript.removesuffix(ANSWER)
    before, *rest = _TURN.split(transcript)
    if before.strip() or not rest:
        raise BadRowError("the conversation does not begin with 'Human:'")
    speakers, texts = rest[::2], rest[1::2]
    return [Message(_ROLES[speaker.lower()], text.strip()) for speaker, text in zip(speakers, texts, strict=True)]


def judgement_of(
    prompt: Prompt, texts: Sequence[str], tiers: Sequence[Sequence[int]], row: Mapping[str, Any], options:
    ImportOptions, models: Sequence[str] = (), all_bad: bool = False, note: str = "",
) -> Judgement:  # fmt: skip
    """The judgement that answers `texts` to `prompt` stand in `tiers`, which hold places in `texts` from 0, best first.

    The order on the screen stays unknown (`shown` is empty): files list the answers by outcome or by system, and taking
    that for the order on the screen would make every judge look biased. The same text by two models is two answers;
    raises BadRowError when it is twice by the same one.
    """
    models = models or [""] * len(texts)
    completions = tuple(Completion(prompt.id, t, model=m) for t, m in zip(texts, models, strict=True))
    ids = [completion.id for completion in completions]
    for place, completion_id in enumerate(ids):
        if ids.index(completion_id) != place:
            raise BadRowError(f"answers {ids.index(completion_id)} and {place} (from 0) are the same text")
    ranking = Ranking(
        prompt.id,
        tuple(tuple(ids[place] for place in tier) for tier in tiers),
        source=options.source,
        judge=own_text(row, "judge") or options.judge,
        all_bad=all_bad,
        note=note,
    )
    return Judgement(prompt, completions, ranking)


def own_text(row: Mapping[str, Any], key: str) -> str:
    """What the row itself says under `key`, empty when it says nothing. Raises BadRowError when that is no text."""
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRowError(f"{key!r} must be text, not {type(value).__name__}")
    return value.strip()
