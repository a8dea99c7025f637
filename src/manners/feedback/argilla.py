"""Records for Argilla 2: the layout that `dataset.records.from_json` reads, for a dataset with a ranking question.

Fields are `prompt` (a chat field) and `answer-1` to `answer-K`; the question is `ranking` over these K. People's rankings are responses,
with equal ranks for ties; a model's or a rule's ranking is the record's suggestion. All records of a dataset need the same K, which is in
the metadata.
"""

from __future__ import annotations

import uuid
from typing import Any

from manners.feedback.judged import Judged, Opinion

QUESTION = "ranking"


def record_of(item: Judged) -> dict[str, Any]:
    """One record: fields, responses, suggestions and metadata, under the item's id."""
    names = [f"answer-{number}" for number in range(1, len(item.completions) + 1)]
    # One response for a user: a judge's latest ranking. Judges without a name are each somebody else.
    people = {
        opinion.judge or f"nobody {number}": opinion
        for number, opinion in enumerate(item.opinions)
        if opinion.source == "human"
    }
    # A suggestion is an order without ties or gaps, and there is one for a question: the latest that is such an order.
    suggested = [
        o for o in item.opinions if o.source != "human" and [len(tier) for tier in o.tiers] == [1] * len(names)
    ]
    responses = [_response(judge, opinion, names) for judge, opinion in people.items()]
    suggestion = suggested[-1] if suggested else None
    return {
        "id": item.id,
        "fields": {
            "prompt": [{"role": message.role, "content": message.content} for message in item.prompt.messages],
            **{name: completion.text for name, completion in zip(names, item.completions, strict=True)},
        },
        "metadata": {
            "answers": len(names),
            "category": item.prompt.category,
            "all_bad": sum(opinion.all_bad for opinion in item.opinions),
        },
        "suggestions": {QUESTION: _suggestion(suggestion, names)} if suggestion else {},
        "responses": {QUESTION: responses} if responses else {},
    }


def user_of(judge: str) -> str:
    """The id under which Argilla has to know a judge: a UUID that is always the same for the same pseudonym."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"manners:judge:{judge}"))


def _response(judge: str, opinion: Opinion, names: list[str]) -> dict[str, Any]:
    """A whole ranking is submitted, one with gaps is a draft, and where no answer is acceptable the record is discarded."""
    ranked = [{"value": names[place], "rank": rank} for rank, tier in enumerate(opinion.tiers, 1) for place in tier]
    status = "discarded" if not ranked else "submitted" if len(ranked) == len(names) else "draft"
    return {"value": ranked or None, "user_id": user_of(judge), "status": status}


def _suggestion(opinion: Opinion, names: list[str]) -> dict[str, Any]:
    return {
        "value": [names[tier[0]] for tier in opinion.tiers],
        "agent": opinion.judge or opinion.source,
        "type": "model",
    }
