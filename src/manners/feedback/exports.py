"""What was collected, in the layouts of others and in our own, line by line, so that a large store needs little memory.

judgements.jsonl   our own: `manners import` reads it back, ids and all
submissions.jsonl  everything that was said, superseded and skipped ones too, with order, seed, ratings, flags and times
preference.jsonl   prompt, chosen, rejected as messages: what TRL and `datasets` read
rewardbench.jsonl  prompt as text, chosen and rejected as whole conversations, subset: what `rewardbench --load_json` reads
thumbs.jsonl       prompt, completion, label: one answer a line, for KTO
demonstrations.jsonl  prompt, completion: preferred and written answers, for supervised fine-tuning
pairs.csv          for spreadsheets
argilla.json       records for Argilla (see `argilla`)
label-studio-ranker.json, label-studio-pairwise.json  tasks for Label Studio (see `label_studio`)
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from manners.feedback.argilla import record_of
from manners.feedback.judged import gathered
from manners.feedback.label_studio import MOST_RANKS, pairwise_task, ranker_task
from manners.feedback.pairs import demonstrations, pairs_of
from manners.feedback.remarks import NOTE
from manners.feedback.store import Store
from manners.feedback.tables import RANKINGS, REMARKS, SETTLEMENTS, SUBMISSIONS
from manners.records import Completion, Judgement, Pair, Prompt

_JSONL = "application/jsonl; charset=utf-8"
_JSON = "application/json; charset=utf-8"
_COLUMNS = ("prompt", "chosen", "rejected", "chosen_model", "rejected_model", "margin", "weight", "judge", "ranking_id")


@dataclass(frozen=True, slots=True)
class Export:
    """One layout. `lines` gives the text of the file for a store, narrowed to a batch where that is not empty."""

    about: str
    type: str
    lines: Callable[[Store, str], Iterator[str]]


def current(store: Store, batch_id: str = "") -> Iterator[Judgement]:
    """The judgements that count (see `feedback.current`): all of them, or those of the questions that a batch asked."""
    return (judgement for _, judgement in _current(store, batch_id))


def _current(store: Store, batch_id: str) -> Iterator[tuple[str, Judgement]]:
    """The same, each with the id of its ranking in the log."""
    wanted = _rankings_of(store, batch_id) if batch_id else None
    for event in store.events(current_only=True):
        if wanted is None or event.id in wanted:
            yield event.id, event.judgement


def _rankings_of(store: Store, batch_id: str) -> set[str | None]:
    """What was handed in to a batch, and how its questions were settled."""
    given = sa.select(SUBMISSIONS.c.ranking_id).where(SUBMISSIONS.c.batch_id == batch_id)
    asked = sa.select(SUBMISSIONS.c.question).where(SUBMISSIONS.c.batch_id == batch_id)
    settled = sa.select(SETTLEMENTS.c.ranking_id).where(SETTLEMENTS.c.question.in_(asked))
    with store.reading() as connection:
        return {*connection.scalars(given), *connection.scalars(settled)}


def submissions(store: Store, batch_id: str = "", after: int = 0, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """Everything that was handed in, the oldest first, from behind place `after`; rankings come with their tiers."""
    said = (RANKINGS.c.tiers, RANKINGS.c.all_bad, NOTE, RANKINGS.c.supersedes, RANKINGS.c.prompt_id)
    query = (
        sa.select(SUBMISSIONS, *said)
        .join(RANKINGS, RANKINGS.c.id == SUBMISSIONS.c.ranking_id, isouter=True)
        .join(REMARKS, REMARKS.c.id == SUBMISSIONS.c.id, isouter=True)
    )
    if batch_id:
        query = query.where(SUBMISSIONS.c.batch_id == batch_id)
    left = limit
    while left is None or left > 0:
        size = 500 if left is None else min(500, left)
        page = query.where(SUBMISSIONS.c.sequence > after).order_by(SUBMISSIONS.c.sequence).limit(size)
        with store.reading() as connection:
            rows = [dict(row) for row in connection.execute(page).mappings()]
        yield from rows
        if len(rows) < size:
            return
        after = rows[-1]["sequence"]
        left = None if left is None else left - len(rows)


def preference_row(prompt: Prompt, chosen: Completion, rejected: Completion) -> dict[str, Any]:
    """One pair as TRL's conversational preference layout."""
    return {
        "prompt": _messages(prompt),
        "chosen": [{"role": "assistant", "content": chosen.text}],
        "rejected": [{"role": "assistant", "content": rejected.text}],
    }


def _judgement_lines(store: Store, batch_id: str) -> Iterator[str]:
    return (_line(judgement.to_json()) for judgement in current(store, batch_id))


def _submission_lines(store: Store, batch_id: str) -> Iterator[str]:
    return (_line(row) for row in submissions(store, batch_id))


def _preference_lines(store: Store, batch_id: str) -> Iterator[str]:
    for judgement in current(store, batch_id):
        for pair in pairs_of(judgement):
            # Not called margin: TRL's reward trainer would subtract a column of that name from the difference of the rewards.
            more = {"tiers_apart": pair.margin, "weight": pair.weight, "judge": judgement.ranking.judge}
            yield _line({**preference_row(pair.prompt, pair.chosen, pair.rejected), **more})


def rewardbench_row(pair: Pair, number: int) -> dict[str, Any]:
    """One pair as rewardbench reads a local file: the conversation stands in both answers, and the prompt is a text."""
    before = _without_system(_messages(pair.prompt))
    chosen, rejected = (
        [*before, {"role": "assistant", "content": answer.text}] for answer in (pair.chosen, pair.rejected)
    )
    rest = {"subset": pair.prompt.category, "id": number}
    return {"prompt": pair.prompt.text, "chosen": chosen, "rejected": rejected, **rest}


def _rewardbench_lines(store: Store, batch_id: str) -> Iterator[str]:
    pairs = (pair for judgement in current(store, batch_id) for pair in pairs_of(judgement))
    return (_line(rewardbench_row(pair, number)) for number, pair in enumerate(pairs))


def _without_system(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same with a system message in front of the first user's: rewardbench tells turns by their place, user and assistant by turns."""
    if messages[0]["role"] != "system" or len(messages) == 1:
        return messages
    first = {"role": "user", "content": f"{messages[0]['content']}\n\n{messages[1]['content']}"}
    return [first, *messages[2:]]


def _thumb_lines(store: Store, batch_id: str) -> Iterator[str]:
    """Thumbs as they were given; in the other modes nobody said good or bad of a single answer, so they give no lines."""
    judged = dict(_current(store, batch_id))
    for row in submissions(store, batch_id):
        judgement = judged.get(row["ranking_id"])
        if row["mode"] != "thumbs" or judgement is None:
            continue
        texts = {c.id: c.text for c in judgement.completions}
        for completion_id, given in row["ratings"].items():
            if "thumb" in given:
                answer = [{"role": "assistant", "content": texts[completion_id]}]
                yield _line({"prompt": _messages(judgement.prompt), "completion": answer, "label": given["thumb"] == 1})


def _demonstration_lines(store: Store, batch_id: str) -> Iterator[str]:
    for prompt, completion in demonstrations(current(store, batch_id)):
        yield _line({"prompt": _messages(prompt), "completion": [{"role": "assistant", "content": completion.text}]})


def _csv_lines(store: Store, batch_id: str) -> Iterator[str]:
    yield _csv(_COLUMNS)
    for judgement in current(store, batch_id):
        for pair in pairs_of(judgement):
            prompt = "\n\n".join(f"{m.role}: {m.content}" for m in pair.prompt.messages)
            yield _csv((prompt, pair.chosen.text, pair.rejected.text, pair.chosen.model, pair.rejected.model, pair.margin,
                        pair.weight, judgement.ranking.judge, pair.ranking_id))  # fmt: skip


def _argilla_lines(store: Store, batch_id: str) -> Iterator[str]:
    return _array(record_of(item) for item in gathered(current(store, batch_id)))


def _ranker_lines(store: Store, batch_id: str) -> Iterator[str]:
    items = gathered(current(store, batch_id))
    return _array(ranker_task(item) for item in items if len(item.completions) <= MOST_RANKS)


def _pairwise_lines(store: Store, batch_id: str) -> Iterator[str]:
    items = gathered(current(store, batch_id))
    return _array(pairwise_task(item) for item in items if len(item.completions) == 2)


def _array(values: Iterator[Mapping[str, Any]]) -> Iterator[str]:
    """One JSON list, an element a line."""
    lead = "[\n"
    for value in values:
        yield lead + json.dumps(value, ensure_ascii=False)
        lead = ",\n"
    yield "[]\n" if lead == "[\n" else "\n]\n"


def _csv(cells: tuple[Any, ...]) -> str:
    out = io.StringIO()
    csv.writer(out).writerow([_harmless(cell) for cell in cells])
    return out.getvalue()


def _harmless(cell: Any) -> Any:
    """A text that a spreadsheet would compute gets an apostrophe in front, as spreadsheets themselves write it."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in prompt.messages]


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


EXPORTS: Mapping[str, Export] = {
    "judgements.jsonl": Export("our own layout; manners import reads it back", _JSONL, _judgement_lines),
    "submissions.jsonl": Export(
        "everything that was said, with order, seed, ratings, flags and times", _JSONL, _submission_lines
    ),
    "preference.jsonl": Export("prompt, chosen, rejected: Hugging Face, TRL", _JSONL, _preference_lines),
    "rewardbench.jsonl": Export("pairs as whole conversations: rewardbench --load_json", _JSONL, _rewardbench_lines),
    "thumbs.jsonl": Export("prompt, completion, label: for KTO, from batches of mode thumbs", _JSONL, _thumb_lines),
    "demonstrations.jsonl": Export("prompt, completion: preferred and written answers", _JSONL, _demonstration_lines),
    "argilla.json": Export("records for Argilla, with a ranking question", _JSON, _argilla_lines),
    "label-studio-ranker.json": Export("tasks for Label Studio, with its Ranker", _JSON, _ranker_lines),
    "label-studio-pairwise.json": Export(
        "tasks for Label Studio, with its Pairwise: items of two answers", _JSON, _pairwise_lines
    ),
    "pairs.csv": Export("pairs for a spreadsheet", "text/csv; charset=utf-8", _csv_lines),
}
