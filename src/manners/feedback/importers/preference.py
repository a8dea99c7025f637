"""Two answers, the better one under `chosen`: hh-rlhf and the preference layouts of Hugging Face data sets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from manners.feedback.importers.rows import BadRowError, ImportOptions, Layout, need, row_by_row, text_of
from manners.feedback.importers.turns import (
    ANSWER,
    is_transcript,
    judgement_of,
    messages_of,
    prompt_from,
    prompt_of,
    turns_of,
)  # fmt: skip
from manners.records import Judgement, Message, Prompt


def _pair(prompt: Prompt, chosen: str, rejected: str, row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    chosen, rejected = text_of(chosen, "the chosen answer"), text_of(rejected, "the rejected answer")
    if chosen == rejected:
        raise BadRowError("chosen and rejected are the same")
    return judgement_of(prompt, [chosen, rejected], [[0], [1]], row, options)


# hh-rlhf: two transcripts that share everything but the last answer


def _hh_fits(row: Mapping[str, Any], _: ImportOptions) -> bool:
    return "prompt" not in row and all(isinstance(row.get(k), str) and ANSWER in row[k] for k in ("chosen", "rejected"))


def _hh(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "chosen", "rejected")
    before, chosen = _cut(row["chosen"], "chosen")
    before_rejected, rejected = _cut(row["rejected"], "rejected")
    if before != before_rejected:
        raise BadRowError("the conversations before the last answers differ")
    return _pair(prompt_from(turns_of(before), row, options), chosen, rejected, row, options)


def _cut(transcript: Any, what: str) -> tuple[str, str]:
    """The conversation and the last answer: what follows the right-most "Assistant:" that begins a paragraph."""
    text = f"\n\n{text_of(transcript, what)}"
    before, mark, answer = text.rpartition(ANSWER)
    if not mark:
        raise BadRowError(f"{what} has no 'Assistant:' turn")
    if "\n\nHuman:" in answer:
        raise BadRowError(f"{what} ends with a turn of the human")
    return before.strip(), answer


# Hugging Face: a prompt and two answers, or two whole conversations as messages


def _preference_fits(row: Mapping[str, Any], _: ImportOptions) -> bool:
    if not {"chosen", "rejected"} <= row.keys():
        return False
    return "prompt" in row or all(isinstance(row[key], list) for key in ("chosen", "rejected"))


def _preference(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "chosen", "rejected")
    chosen, rejected = row["chosen"], row["rejected"]
    if not isinstance(chosen, str) and not isinstance(rejected, str):
        return _conversations(row, options)
    need(row, "prompt")
    chosen, rejected = text_of(chosen, "the chosen answer"), text_of(rejected, "the rejected answer")
    prompt = row["prompt"]
    if isinstance(prompt, str) and is_transcript(prompt):
        # Some files repeat the transcript in front of both answers.
        start = prompt.strip()
        if chosen.startswith(start) and rejected.startswith(start):
            chosen, rejected = (
                text.removeprefix(start).strip().removeprefix(ANSWER.strip()) for text in (chosen, rejected)
            )
    return _pair(prompt_of(prompt, row, options), chosen, rejected, row, options)


def _conversations(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    before, chosen = _last(row["chosen"], "chosen")
    before_rejected, rejected = _last(row["rejected"], "rejected")
    if before != before_rejected:
        raise BadRowError("the conversations before the last answers differ")
    prompt = prompt_of(row["prompt"], row, options) if row.get("prompt") else None
    if prompt is None or prompt.messages == tuple(before):
        prompt = prompt_from(before, row, options)
    elif before:
        # The prompt is given a second time, often only its first or last message: the whole conversation knows more.
        if not any(message.content == prompt.text for message in before):
            raise BadRowError("the prompt is not part of the conversation that leads to the answers")
        prompt = prompt_from(before, row, options)
    return _pair(prompt, chosen, rejected, row, options)


def _last(value: Any, what: str) -> tuple[list[Message], str]:
    *before, answer = messages_of(value, what)
    if answer.role != "assistant":
        raise BadRowError(f"{what} ends with a turn of the {answer.role}")
    return before, answer.content


# Plain texts whose common beginning is the prompt


def _prefix(row: Mapping[str, Any], options: ImportOptions) -> Judgement:
    need(row, "chosen", "rejected")
    texts = [text_of(row[key], key) for key in ("chosen", "rejected")]
    if texts[0] == texts[1]:
        raise BadRowError("chosen and rejected are the same")
    alike = takewhile(lambda characters: characters[0] == characters[1], zip(*texts, strict=False))
    common = "".join(character for character, _ in alike)
    # A word that both begin with belongs to the answers.
    while common and not common[-1].isspace():
        common = common[:-1]
    if not common.strip():
        raise BadRowError("chosen and rejected have no common beginning that could be the prompt")
    chosen, rejected = (text.removeprefix(common) for text in texts)
    return _pair(prompt_of(common, row, options), chosen, rejected, row, options)


HH = Layout("hh", "chosen and rejected as 'Human: ... Assistant: ...' transcripts (hh-rlhf)", _hh_fits, row_by_row(_hh))
PREFERENCE = Layout(
    "preference", "prompt, chosen, rejected; or chosen and rejected as lists of messages (Hugging Face, CSV)",
    _preference_fits, row_by_row(_preference),
)  # fmt: skip
# Never guessed: two answers that happen to begin alike would lose their first words.
PREFIX = Layout(
    "prefix", "chosen and rejected as plain texts whose common beginning is the prompt (only by name)",
    lambda _row, _options: False, row_by_row(_prefix),
)  # fmt: skip
